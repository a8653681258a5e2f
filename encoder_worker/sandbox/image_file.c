/* See image_file.h. Which format the bytes are, and the limits that all decoders share. */
#include "encoder_worker/sandbox/image_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Formats told apart by their first bytes: mark at offset. Those we do not read are named, so that a person knows what to do. */
typedef struct magic {
    const char *format, *mark;
    size_t offset, n;
} magic;

static const magic magics[] = {
    {"PNG", "\x89PNG\r\n\x1a\n", 0, 8},
    {"JPEG", "\xff\xd8\xff", 0, 3},
    {"WebP", "WEBP", 8, 4},
    {"GIF", "GIF8", 0, 4},
    {"BMP", "BM", 0, 2},
    {"TIFF", "II*\0", 0, 4},
    {"TIFF", "MM\0*", 0, 4},
    {"AVIF", "ftypavif", 4, 8},
    {"HEIC", "ftyphei", 4, 7},
    {"HEIF", "ftypmif1", 4, 8},
    {"JPEG XL", "\xff\x0a", 0, 2},
    {"JPEG XL", "JXL ", 4, 4},
    {"JPEG 2000", "jP  ", 4, 4},
    {"SVG", "<svg", 0, 4},
    {"PDF", "%PDF", 0, 4},
    {"Photoshop", "8BPS", 0, 4},
};

const char *um_image_format(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++) {
        const magic *m = &magics[i];
        if (n >= m->offset + m->n && memcmp(bytes + m->offset, m->mark, m->n) == 0)
            return m->format;
    }
    return NULL;
}

/* Steps over the sub-blocks of a GIF that begin at `at`, up to their end mark. */
static size_t gif_data_end(const uint8_t *bytes, size_t n, size_t at)
{
    while (at < n && bytes[at] != 0) at += 1 + (size_t)bytes[at];
    return at + 1;
}

/* Bytes of the colour table that the flags of a GIF announce. */
static size_t gif_table(uint8_t flags)
{
    return (flags & 0x80) != 0 ? (size_t)3 << ((flags & 7) + 1) : 0;
}

/* Whether a second image follows the first one. */
static bool gif_animated(const uint8_t *bytes, size_t n)
{
    if (n < 13) return false;
    size_t at = 13 + gif_table(bytes[10]);
    for (int images = 0; at < n;) {
        if (bytes[at] == 0x21) { /* extension: label, data */
            at = gif_data_end(bytes, n, at + 2);
        } else if (bytes[at] == 0x2c && n - at > 10) { /* place, flags, colours, code size, data */
            if (++images == 2) return true;
            at = gif_data_end(bytes, n, at + 10 + gif_table(bytes[at + 9]) + 1);
        } else {
            break;
        }
    }
    return false;
}

static um_status unreadable(const uint8_t *bytes, size_t n, const char *format, um_err *err)
{
    if (n == 0) return UM_FAIL(err, UM_E_DATA, "empty: want a PNG, JPEG or WebP image");
    if (format != NULL && strcmp(format, "GIF") == 0)
        return UM_FAIL(err, UM_E_DATA,
                       "%s: only PNG, JPEG and WebP are read as images; it can be given as a video",
                       gif_animated(bytes, n) ? "animated GIF" : "GIF image");
    if (format != NULL)
        return UM_FAIL(err, UM_E_DATA, "%s image: only PNG, JPEG and WebP are read", format);
    char first[3 * 8 + 1] = "";
    size_t shown = n < 8 ? n : 8;
    for (size_t i = 0; i < shown; i++) snprintf(first + 3 * i, 4, " %02x", bytes[i]);
    return UM_FAIL(err, UM_E_DATA,
                   "not an image that is known (first bytes%s): only PNG, JPEG and WebP are read",
                   first);
}

um_status um_image_read(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err)
{
    um_mark mark = um_arena_mark(arena);
    um_image p = {0};
    um_status st = UM_OK;
    const char *format = um_image_format(bytes, n);
    if (format == magics[0].format)
        st = um_image_png(&p, bytes, n, max_pixels, arena, err);
    else if (format == magics[1].format)
        st = um_image_jpeg(&p, bytes, n, max_pixels, arena, err);
    else if (format == magics[2].format)
        st = um_image_webp(&p, bytes, n, max_pixels, arena, err);
    else
        st = unreadable(bytes, n, format, err);
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
