/* PNG to RGB: the one door to libpng.
 *
 * As strict as PIL: up to the pixels every checksum counts; in the pixels their own (Adler-32) counts, and that of the chunks does
 * not if the former is right; behind them only a chunk that is cut off is an error. A missing end mark, a wrong checksum of the last
 * chunks, and zlib data whose header claims a smaller window than they use are common in the wild and lose nothing. Of an animated
 * PNG the default image is read.
 *
 * libpng leaves by longjmp when it meets an error. The jump starts in on_error and ends in decode, both here, and everything
 * that must outlive it is in the job. Warnings of libpng are kept only to explain an error that follows. */
#include "encoder_worker/sandbox/images/image_file.h"

#include <png.h>

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK_HEAD = 8 }; /* length and name */

static const char cut_off[] = "the file is cut off";

typedef struct job {
    png_structp png;
    png_infop info;
    const uint8_t *at; /* what libpng has not read yet */
    size_t left;
    const uint8_t *cut; /* a chunk of pixels that is cut off, or NULL */
    int64_t max_pixels;
    um_arena *arena;
    um_err *err;
    um_image image;
    uint8_t *gray16;   /* [h, w, 2] of 16-bit gray, else NULL */
    um_mark mark;      /* behind the image */
    bool bad_checksum; /* of a chunk of pixels */
    bool odd_end;      /* the zlib data of the pixels do not end as they should */
    png_uint_32 rows;  /* of all passes, those that carry pixels */
    png_uint_32 rows_done;
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
    *(strstr(text, "CRC error") != NULL ? &j->bad_checksum : &j->odd_end) = true;
    snprintf(j->warning, sizeof j->warning, "%s", text);
}

/* A chunk of pixels that is cut off gets the length that is there: perhaps all pixels are. */
static void on_read(png_structp png, png_bytep to, size_t n)
{
    job *j = png_get_io_ptr(png);
    if (n > j->left) png_error(png, cut_off);
    memcpy(to, j->at, n);
    if (j->at == j->cut && n == CHUNK_HEAD) png_save_uint_32(to, (png_uint_32)(j->left - n));
    j->at += n;
    j->left -= n;
}

/* Has libpng give 8-bit RGB for every kind but 16-bit gray, whose two bytes a pixel clip_gray16 converts. */
static void ask_for_rgb(png_structp png, int kind, int depth)
{
    if (kind == PNG_COLOR_TYPE_GRAY && depth == 16) return;
    if (depth == 16) png_set_strip_16(png);
    if (kind == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (kind == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (kind == PNG_COLOR_TYPE_GRAY || kind == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
}

/* PIL reads 16-bit gray as integers and clips them at 255 for RGB: a 16-bit photo becomes mostly white, for the reference too. */
static void clip_gray16(uint8_t *rgb, const uint8_t *gray, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++)
        memset(rgb + 3 * i, gray[2 * i] != 0 ? 255 : gray[2 * i + 1], 3);
}

/* Called by libpng for every row that it has decoded, before it looks at what follows. */
static void on_row(png_structp png, png_row_infop row, png_bytep data)
{
    job *j = png_get_user_transform_ptr(png);
    (void)row, (void)data;
    j->rows_done++;
}

/* Rows that libpng decodes: of an interlaced image those of all seven passes that are not empty. */
static png_uint_32 rows_of(size_t w, size_t h, int passes)
{
    png_uint_32 rows = 0;
    if (passes == 1) return (png_uint_32)h;
    for (int pass = 0; pass < passes; pass++)
        if (PNG_PASS_COLS(w, pass) > 0) rows += (png_uint_32)PNG_PASS_ROWS(h, pass);
    return rows;
}

/* Reads the whole image, interlaced or not. Everything that libpng calls an error leaves by the jump. */
static um_status read_image(job *j)
{
    png_read_info(j->png, j->info);
    size_t w = png_get_image_width(j->png, j->info), h = png_get_image_height(j->png, j->info);
    UM_TRY(um_image_new(&j->image, (int64_t)w, (int64_t)h, j->max_pixels, j->arena, j->err));
    j->mark = um_arena_mark(j->arena);
    int kind = png_get_color_type(j->png, j->info), depth = png_get_bit_depth(j->png, j->info);
    ask_for_rgb(j->png, kind, depth);
    png_set_read_user_transform_fn(j->png, on_row);
    png_set_user_transform_info(j->png, j, 0, 0);
    int passes = png_set_interlace_handling(j->png);
    j->rows = rows_of(w, h, passes);
    png_read_update_info(j->png, j->info);
    bool gray16 = kind == PNG_COLOR_TYPE_GRAY && depth == 16;
    size_t row_bytes = w * (gray16 ? 2 : 3);
    if (png_get_rowbytes(j->png, j->info) != row_bytes) png_error(j->png, "unknown colour type");
    if (gray16 && !um_arena_reserve(j->arena, h * row_bytes)) png_error(j->png, "no memory");
    j->gray16 = gray16 ? um_arena_alloc(j->arena, h * row_bytes) : NULL;
    uint8_t *rows = gray16 ? j->gray16 : j->image.rgb;
    png_set_crc_action(j->png, PNG_CRC_WARN_USE, PNG_CRC_WARN_USE);
    j->bad_checksum = j->odd_end = false; /* warnings so far were not about pixels */
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < h; y++) png_read_row(j->png, rows + y * row_bytes, NULL);
    return UM_OK;
}

static bool is_letter(uint8_t c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/* The chunk that promises more bytes than the file has, or NULL. Further images of an animation do not matter, nor do bytes behind
 * the others that are no chunk. */
static const uint8_t *cut_chunk(const uint8_t *bytes, size_t n)
{
    enum { MAGIC = 8 };
    bool pixels = false;
    for (size_t at = MAGIC; at <= n && n - at >= CHUNK_HEAD;) {
        const uint8_t *p = bytes + at;
        size_t length = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (!is_letter(p[4]) || !is_letter(p[5]) || !is_letter(p[6]) || !is_letter(p[7]))
            return NULL;
        if (memcmp(p + 4, "IEND", 4) == 0 || (pixels && memcmp(p + 4, "fcTL", 4) == 0)) return NULL;
        if (length > n - at - CHUNK_HEAD) return p;
        pixels = pixels || memcmp(p + 4, "IDAT", 4) == 0;
        at += CHUNK_HEAD + length + 4;
    }
    return NULL;
}

/* Behind the last row little matters. But a wrong checksum and zlib data that end oddly are a sign that the rows are damaged too. */
static um_status end_ok(const job *j)
{
    if (!j->bad_checksum || !j->odd_end) return UM_OK;
    return UM_FAIL(j->err, UM_E_DATA, "corrupt PNG: the checksums of its pixels are wrong");
}

static um_status decode(job *j)
{
    if (setjmp(png_jmpbuf(j->png)) != 0) {
        bool more = j->warning[0] != '\0';
        j->odd_end = j->odd_end || strcmp(j->why, cut_off) != 0;
        if (j->rows > 0 && j->rows_done == j->rows) return end_ok(j);
        return UM_FAIL(j->err, UM_E_DATA, "corrupt PNG: %s%s%s%s", j->why, more ? " (" : "",
                       j->warning, more ? ")" : "");
    }
    png_set_read_fn(j->png, j, on_read);
    png_set_user_limits(j->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* um_image_new has the limits */
    png_set_crc_action(j->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_option(j->png, PNG_MAXIMUM_INFLATE_WINDOW, PNG_OPTION_ON);
    /* Texts, profiles, gamma and the like are skipped: they do not change the image and may be made to use up memory. */
    png_set_keep_unknown_chunks(j->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    UM_TRY(read_image(j));
    return end_ok(j);
}

um_status um_image_png(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    job j = {.at = bytes, .left = n, .max_pixels = max_pixels, .arena = arena, .err = err};
    um_status st = UM_OK;
    j.cut = cut_chunk(bytes, n);
    if (j.cut != NULL && memcmp(j.cut + 4, "IDAT", 4) != 0)
        return UM_FAIL(err, UM_E_DATA, "corrupt PNG: the file is cut off");
    j.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning);
    if (j.png != NULL) j.info = png_create_info_struct(j.png);
    if (j.info == NULL)
        st = UM_FAIL(err, UM_E_MEMORY, "libpng could not start (built for %s, found %s)",
                     PNG_LIBPNG_VER_STRING, png_get_libpng_ver(NULL));
    else
        st = decode(&j);
    png_destroy_read_struct(&j.png, &j.info, NULL);
    if (st == UM_OK && j.gray16 != NULL) {
        clip_gray16(j.image.rgb, j.gray16, (size_t)j.image.w * (size_t)j.image.h);
        um_arena_reset(arena, j.mark);
    }
    if (st == UM_OK) *out = j.image;
    return st;
}
