/* PNG to RGB: the one door to libpng.
 *
 * libpng leaves by longjmp when it meets an error. The jump starts in on_error and ends in decode, both here, and everything
 * that must outlive it is in the job. Warnings of libpng are kept only to explain an error that follows. */
#include "encoder_worker/sandbox/image_file.h"

#include <png.h>

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

typedef struct job {
    png_structp png;
    png_infop info;
    const uint8_t *at; /* what libpng has not read yet */
    size_t left;
    int64_t max_pixels;
    um_arena *arena;
    um_err *err;
    um_image image;
    char why[160], warning[160];
} job;

static void on_error(png_structp png, png_const_charp text) __attribute__((noreturn));
static void on_error(png_structp png, png_const_charp text)
{
    job *j = png_get_error_ptr(png);
    snprintf(j->why, sizeof j->why, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    job *j = png_get_error_ptr(png);
    snprintf(j->warning, sizeof j->warning, "%s", text);
}

static void on_read(png_structp png, png_bytep to, size_t n)
{
    job *j = png_get_io_ptr(png);
    if (n > j->left) png_error(png, "the file is cut off");
    memcpy(to, j->at, n);
    j->at += n;
    j->left -= n;
}

/* Has libpng give 8-bit RGB for every kind but 16-bit gray, whose 2 bytes a pixel we video ourselves. */
static void ask_for_rgb(png_structp png, int kind, int depth)
{
    if (kind == PNG_COLOR_TYPE_GRAY && depth == 16) return;
    if (depth == 16) png_set_strip_16(png);
    if (kind == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (kind == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (kind == PNG_COLOR_TYPE_GRAY || kind == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
}

/* PIL reads 16-bit gray as whole numbers and its RGB is those clipped at 255, odd as the image then looks. */
static void clip_gray16(uint8_t *rgb, const uint8_t *gray, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++)
        memset(rgb + 3 * i, gray[2 * i] != 0 ? 255 : gray[2 * i + 1], 3);
}

/* Reads the whole image, interlaced or not. Everything that libpng calls an error leaves by the jump. */
static um_status read_image(job *j)
{
    png_read_info(j->png, j->info);
    size_t w = png_get_image_width(j->png, j->info), h = png_get_image_height(j->png, j->info);
    UM_TRY(um_image_new(&j->image, (int64_t)w, (int64_t)h, j->max_pixels, j->arena, j->err));
    int kind = png_get_color_type(j->png, j->info), depth = png_get_bit_depth(j->png, j->info);
    ask_for_rgb(j->png, kind, depth);
    int passes = png_set_interlace_handling(j->png);
    png_read_update_info(j->png, j->info);
    bool gray16 = kind == PNG_COLOR_TYPE_GRAY && depth == 16;
    size_t row_bytes = w * (gray16 ? 2 : 3);
    if (png_get_rowbytes(j->png, j->info) != row_bytes)
        png_error(j->png, "a colour type that is not known");
    um_mark mark = um_arena_mark(j->arena);
    if (gray16 && !um_arena_reserve(j->arena, h * row_bytes)) png_error(j->png, "no memory");
    uint8_t *rows = gray16 ? um_arena_alloc(j->arena, h * row_bytes) : j->image.rgb;
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < h; y++) png_read_row(j->png, rows + y * row_bytes, NULL);
    png_read_end(j->png, NULL); /* the checks of what follows the pixels */
    if (gray16) clip_gray16(j->image.rgb, rows, w * h);
    um_arena_reset(j->arena, mark);
    return UM_OK;
}

static uint32_t u32_be(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* An animation says so by a chunk acTL in front of the pixels. */
static bool animated(const uint8_t *bytes, size_t n)
{
    for (size_t at = 8; n - at >= 12;) {
        size_t length = (size_t)u32_be(bytes + at);
        if (memcmp(bytes + at + 4, "acTL", 4) == 0) return true;
        if (memcmp(bytes + at + 4, "IDAT", 4) == 0 || length > n - at - 12) break;
        at += 12 + length;
    }
    return false;
}

static um_status decode(job *j)
{
    if (setjmp(png_jmpbuf(j->png)) != 0) {
        bool more = j->warning[0] != '\0';
        return UM_FAIL(j->err, UM_E_DATA, "corrupt PNG: %s%s%s%s", j->why, more ? " (" : "",
                       j->warning, more ? ")" : "");
    }
    png_set_read_fn(j->png, j, on_read);
    png_set_user_limits(j->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* um_image_new has the limits */
    png_set_crc_action(j->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    /* Texts, profiles, gamma and the like are passed over unread: they do not change the image and may be built to bloat. */
    png_set_keep_unknown_chunks(j->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    return read_image(j);
}

um_status um_image_png(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    job j = {.at = bytes, .left = n, .max_pixels = max_pixels, .arena = arena, .err = err};
    um_status st = UM_OK;
    if (animated(bytes, n))
        return UM_FAIL(err, UM_E_DATA, "animated PNG: give a still image, or give it as a video");
    j.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning);
    if (j.png != NULL) j.info = png_create_info_struct(j.png);
    if (j.info == NULL)
        st = UM_FAIL(err, UM_E_MEMORY, "libpng could not start (built for %s, found %s)",
                     PNG_LIBPNG_VER_STRING, png_get_libpng_ver(NULL));
    else
        st = decode(&j);
    png_destroy_read_struct(&j.png, &j.info, NULL);
    if (st == UM_OK) *out = j.image;
    return st;
}
