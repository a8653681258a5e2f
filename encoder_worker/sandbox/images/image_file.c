/* See image_file.h. The way from bytes to the decoder of their format, and what all decoders share. */
#include "encoder_worker/sandbox/images/image_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char reads[] = "PNG, JPEG, WebP, GIF, BMP, TIFF and AVIF are read, and some more";

static um_status unreadable(const uint8_t *bytes, size_t n, const um_image_format *f, um_err *err)
{
    if (n == 0) return UM_FAIL(err, UM_E_DATA, "the file is empty");
    if (f != NULL) return UM_FAIL(err, UM_E_DATA, "%s: %s", f->name, f->remedy);
    char first[3 * 8 + 1] = "";
    size_t shown = n < 8 ? n : 8;
    for (size_t i = 0; i < shown; i++) snprintf(first + 3 * i, 4, " %02x", bytes[i]);
    return UM_FAIL(err, UM_E_DATA, "not an image of a known format (first bytes%s): %s", first,
                   reads);
}

um_status um_image_read(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err)
{
    um_mark mark = um_arena_mark(arena);
    um_image p = {0};
    const um_image_format *f = um_image_format_of(bytes, n);
    um_status st = f != NULL && f->read != NULL ? f->read(&p, bytes, n, max_pixels, arena, err)
                                                : unreadable(bytes, n, f, err);
    if (st == UM_OK)
        *out = p;
    else
        um_arena_reset(arena, mark);
    return st;
}

um_status um_image_decode(um_image *out, const char *name, const uint8_t *bytes, size_t n,
                          int64_t max_pixels, um_arena *arena, um_err *err)
{
    return um_wrap(err, um_image_read(out, bytes, n, max_pixels, arena, err), "image %s", name);
}

um_status um_image_size(int64_t w, int64_t h, int64_t max_pixels, um_err *err)
{
    if (w < 1 || h < 1 || w > UM_IMAGE_SIDE || h > UM_IMAGE_SIDE)
        return UM_FAIL(err, UM_E_DATA, "%" PRId64 " x %" PRId64 " pixels: a side must be 1..%d", w,
                       h, UM_IMAGE_SIDE);
    if (w * h > max_pixels)
        return UM_FAIL(err, UM_E_DATA,
                       "%" PRId64 " x %" PRId64 " = %" PRId64 " pixels, limit %" PRId64
                       ": make the image smaller or raise --image-max-pixels",
                       w, h, w * h, max_pixels);
    return UM_OK;
}

um_status um_image_new(um_image *out, int64_t w, int64_t h, int64_t max_pixels, um_arena *arena,
                       um_err *err)
{
    UM_TRY(um_image_size(w, h, max_pixels, err));
    size_t bytes = (size_t)w * (size_t)h * 3;
    if (!um_arena_reserve(arena, bytes))
        return UM_FAIL(err, UM_E_MEMORY, "no memory for %" PRId64 " x %" PRId64 " pixels", w, h);
    *out = (um_image){.w = (int)w, .h = (int)h, .rgb = um_arena_alloc(arena, bytes)};
    return UM_OK;
}

static uint8_t times_255(unsigned a, unsigned b) /* a * b / 255, rounded */
{
    unsigned t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

/* PIL's formula: ink off the paper left white by black, (255 - K) (255 - C) / 255, in two rounded steps. */
void um_image_cmyk(uint8_t *rgb, const uint8_t *cmyk, int n, uint8_t flip)
{
    for (int i = 0; i < n; i++) {
        unsigned white = 255u - (cmyk[4 * i + 3] ^ flip);
        for (int c = 0; c < 3; c++) {
            unsigned ink = times_255(cmyk[4 * i + c] ^ flip, white);
            rgb[3 * i + c] = (uint8_t)(white > ink ? white - ink : 0);
        }
    }
}
