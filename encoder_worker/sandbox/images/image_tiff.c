/* First page of a TIFF to RGB: the one door to libtiff.
 *
 * libtiff unpacks strips and tiles, whatever their compression and byte order; what their samples mean is decided here, as PIL
 * decides it: 16-bit gray and real numbers are clipped to 0..255, 16-bit colour keeps its high byte, palettes are cut to 8 bits,
 * colour that was multiplied by alpha is divided again, and other alpha is dropped. PIL turns a TIFF by its orientation whether
 * asked or not, so this does too. */
#include "encoder_worker/sandbox/images/image_file.h"

#include "core/base/bytes.h"

#include <tiffio.h>

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    SAMPLES_MAX = 8,
    TILE_PIXELS = 1 << 22, /* of a tile, which may be larger than the image */
};

typedef enum colours { GRAY, WHITE_IS_ZERO, RGB, PALETTE, CMYK } colours;

typedef struct job {
    const uint8_t *bytes;
    size_t n, at;
    TIFF *tiff;
    uint32_t w, h;
    uint16_t bits, samples, format; /* of one sample; samples of a pixel; SAMPLEFORMAT_... */
    colours colours;
    bool planes; /* each sample of all pixels by itself */
    bool divide; /* colour was multiplied by alpha */
    uint16_t *palette[3];
    char why[200]; /* libtiff's last error */
} job;

/* ---- libtiff's view of the file ---- */

static tmsize_t on_read(thandle_t ctx, void *to, tmsize_t n)
{
    job *j = ctx;
    size_t left = j->at < j->n ? j->n - j->at : 0, take = (size_t)n < left ? (size_t)n : left;
    memcpy(to, j->bytes + (take > 0 ? j->at : 0), take);
    j->at += take;
    return (tmsize_t)take;
}

static tmsize_t on_write(thandle_t ctx, void *from, tmsize_t n)
{
    (void)ctx, (void)from, (void)n;
    return 0;
}

static toff_t on_seek(thandle_t ctx, toff_t to, int whence)
{
    job *j = ctx;
    if (whence == SEEK_CUR) to += j->at;
    if (whence == SEEK_END) to += j->n;
    j->at = to < j->n ? (size_t)to : j->n;
    return to;
}

static int on_close(thandle_t ctx)
{
    (void)ctx;
    return 0;
}

static toff_t on_size(thandle_t ctx) { return ((job *)ctx)->n; }

static int on_map(thandle_t ctx, void **base, toff_t *size)
{
    job *j = ctx;
    *base = (void *)(uintptr_t)j->bytes;
    *size = j->n;
    return 1;
}

static void on_unmap(thandle_t ctx, void *base, toff_t size) { (void)ctx, (void)base, (void)size; }

static int on_error(TIFF *t, void *ctx, const char *where, const char *format, va_list args)
{
    job *j = ctx;
    (void)t, (void)where;
    vsnprintf(j->why, sizeof j->why, format, args);
    return 1;
}

static int on_warning(TIFF *t, void *ctx, const char *where, const char *format, va_list args)
{
    (void)t, (void)ctx, (void)where, (void)format, (void)args;
    return 1;
}

static void open_tiff(job *j)
{
    TIFFOpenOptions *o = TIFFOpenOptionsAlloc();
    if (o == NULL) return;
    TIFFOpenOptionsSetErrorHandlerExtR(o, on_error, j);
    TIFFOpenOptionsSetWarningHandlerExtR(o, on_warning, j);
    j->tiff = TIFFClientOpenExt("image", "r", j, on_read, on_write, on_seek, on_close, on_size,
                                on_map, on_unmap, o);
    TIFFOpenOptionsFree(o);
}

static um_status failed(const job *j, um_err *err)
{
    const char *why = j->why[0] != '\0' ? j->why : "its bytes break the format";
    return UM_FAIL(err, UM_E_DATA, "corrupt TIFF, or cut off: %s", why);
}

/* ---- what the samples mean ---- */

static um_status unknown(const job *j, const char *what, int value, um_err *err)
{
    (void)j;
    return UM_FAIL(err, UM_E_DATA, "TIFF with %s %d, which is not read: convert it to PNG", what,
                   value);
}

static um_status colours_of(job *j, uint16_t photometric, um_err *err)
{
    switch (photometric) {
    case PHOTOMETRIC_MINISWHITE:
        /* the reference inverts only these */
        j->colours = j->bits <= 8 ? WHITE_IS_ZERO : GRAY;
        return UM_OK;
    case PHOTOMETRIC_MINISBLACK:
        j->colours = GRAY;
        return UM_OK;
    case PHOTOMETRIC_RGB:
        j->colours = RGB;
        return UM_OK;
    case PHOTOMETRIC_PALETTE:
        j->colours = PALETTE;
        if (TIFFGetField(j->tiff, TIFFTAG_COLORMAP, &j->palette[0], &j->palette[1],
                         &j->palette[2]) != 1)
            return UM_FAIL(err, UM_E_DATA, "corrupt TIFF: its colour table is missing");
        return UM_OK;
    case PHOTOMETRIC_SEPARATED:
        j->colours = CMYK;
        return UM_OK;
    default:
        return unknown(j, "colours of kind", photometric, err);
    }
}

static um_status depth_ok(const job *j, um_err *err)
{
    bool narrow = j->bits == 1 || j->bits == 2 || j->bits == 4;
    bool one = j->colours != RGB && j->colours != CMYK;
    bool number = j->format == SAMPLEFORMAT_UINT || j->format == SAMPLEFORMAT_VOID;
    if (j->bits == 8 && (number || one)) return UM_OK;
    if (j->bits == 16 && number && j->colours != PALETTE) return UM_OK;
    if (j->colours == GRAY && (j->bits == 16 || j->bits == 32) && j->format != SAMPLEFORMAT_IEEEFP)
        return UM_OK;
    if (j->colours == GRAY && j->bits == 32 && j->format == SAMPLEFORMAT_IEEEFP) return UM_OK;
    if ((narrow || j->bits == 12) && one && number && (j->samples == 1 || j->planes)) return UM_OK;
    return unknown(j, j->format == SAMPLEFORMAT_IEEEFP ? "real samples of bits" : "samples of bits",
                   j->bits, err);
}

static um_status read_tags(job *j, int64_t max_pixels, um_err *err)
{
    uint16_t photometric = 0, planes = 0, extras = 0, *extra = NULL;
    TIFF *t = j->tiff;
    if (TIFFGetField(t, TIFFTAG_IMAGEWIDTH, &j->w) != 1 ||
        TIFFGetField(t, TIFFTAG_IMAGELENGTH, &j->h) != 1)
        return failed(j, err);
    UM_TRY(um_image_size(j->w, j->h, max_pixels, err));
    TIFFGetFieldDefaulted(t, TIFFTAG_BITSPERSAMPLE, &j->bits);
    TIFFGetFieldDefaulted(t, TIFFTAG_SAMPLESPERPIXEL, &j->samples);
    TIFFGetFieldDefaulted(t, TIFFTAG_SAMPLEFORMAT, &j->format);
    TIFFGetFieldDefaulted(t, TIFFTAG_PLANARCONFIG, &planes);
    TIFFGetFieldDefaulted(t, TIFFTAG_EXTRASAMPLES, &extras, &extra);
    TIFFGetField(t, TIFFTAG_PHOTOMETRIC, &photometric);
    if (photometric == PHOTOMETRIC_YCBCR) photometric = PHOTOMETRIC_RGB; /* of JPEG: converted */
    j->planes = planes == PLANARCONFIG_SEPARATE && j->samples > 1;
    UM_TRY(colours_of(j, photometric, err));
    if (j->samples < (j->colours == RGB    ? 3
                      : j->colours == CMYK ? 4
                                           : 1) ||
        j->samples > SAMPLES_MAX)
        return unknown(j, "samples a pixel:", j->samples, err);
    j->divide = j->colours == RGB && extras > 0 && extra[0] == EXTRASAMPLE_ASSOCALPHA;
    return depth_ok(j, err);
}

/* ---- samples to RGB ---- */

/* Where the samples of a row are: sample s of pixel x at at[s] + x * step bytes. Narrow samples are bits of one row. */
typedef struct row {
    const uint8_t *at[SAMPLES_MAX];
    size_t step;
} row;

static unsigned narrow(const uint8_t *at, size_t x, unsigned bits)
{
    size_t bit = x * bits;
    unsigned two =
        (unsigned)at[bit / 8] << 8 | (bits > 8 || bit % 8 + bits > 8 ? at[bit / 8 + 1] : 0u);
    return two >> (16 - bit % 8 - bits) & ((1u << bits) - 1);
}

static uint8_t clip(double v) { return (uint8_t)(v >= 255 ? 255 : v > 0 ? v : 0); }

static uint8_t gray_of(const job *j, const row *r, size_t x)
{
    const uint8_t *at = r->at[0] + x * r->step;
    bool sign = j->format == SAMPLEFORMAT_INT;
    uint16_t v16;
    uint32_t v32;
    float real;
    switch (j->bits) {
    case 1:
    case 2:
    case 4:
        return (uint8_t)(narrow(r->at[0], x, j->bits) * 255 / ((1u << j->bits) - 1));
    case 8:
        return *at;
    case 12:
        return clip(narrow(r->at[0], x, 12));
    case 16:
        memcpy(&v16, at, sizeof v16);
        return clip(sign ? (int16_t)v16 : v16);
    default:
        memcpy(&v32, at, sizeof v32);
        memcpy(&real, at, sizeof real);
        return clip(j->format == SAMPLEFORMAT_IEEEFP ? (double)real : (double)(int32_t)v32);
    }
}

/* An 8-bit sample, or the high byte of a 16-bit one. */
static uint8_t byte_of(const job *j, const row *r, int s, size_t x)
{
    const uint8_t *at = r->at[s] + x * r->step;
    uint16_t v;
    if (j->bits == 8) return *at;
    memcpy(&v, at, sizeof v);
    return (uint8_t)(v >> 8);
}

static uint8_t divided(unsigned v, unsigned alpha)
{
    if (alpha == 0) return 0;
    v = v * 255 / alpha;
    return (uint8_t)(v < 255 ? v : 255);
}

static void pixel(uint8_t rgb[3], const job *j, const row *r, size_t x)
{
    unsigned index;
    uint8_t ink[4];
    switch (j->colours) {
    case GRAY:
        memset(rgb, gray_of(j, r, x), 3);
        break;
    case WHITE_IS_ZERO:
        memset(rgb, 255 - gray_of(j, r, x), 3);
        break;
    case PALETTE:
        index = j->bits == 8 ? r->at[0][x * r->step] : narrow(r->at[0], x, j->bits);
        for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(j->palette[c][index] >> 8);
        break;
    case RGB:
        for (int c = 0; c < 3; c++) rgb[c] = byte_of(j, r, c, x);
        for (int c = 0; c < 3 && j->divide; c++) rgb[c] = divided(rgb[c], byte_of(j, r, 3, x));
        break;
    case CMYK:
        for (int c = 0; c < 4; c++) ink[c] = byte_of(j, r, c, x);
        um_image_cmyk(rgb, ink, 1, 0);
        break;
    }
}

/* ---- strips and tiles ---- */

typedef struct block {
    uint32_t w, h; /* pixels of a whole one */
    size_t bytes;  /* of one plane */
    uint8_t *data; /* planes one behind the other */
} block;

/* The block whose first pixel is (x0, y0), to the image. */
static um_status block_read(const um_image *p, job *j, const block *b, uint32_t x0, uint32_t y0,
                            um_err *err)
{
    bool tiles = TIFFIsTiled(j->tiff) != 0;
    int planes = j->planes ? j->samples : 1;
    uint32_t w = b->w < j->w - x0 ? b->w : j->w - x0, h = b->h < j->h - y0 ? b->h : j->h - y0;
    size_t step = (size_t)j->bits / 8 * (j->planes ? 1u : j->samples);
    size_t line = b->bytes / b->h; /* bytes of a row of a plane */
    for (int s = 0; s < planes; s++) {
        uint32_t number = tiles ? TIFFComputeTile(j->tiff, x0, y0, 0, (uint16_t)s)
                                : TIFFComputeStrip(j->tiff, y0, (uint16_t)s);
        uint8_t *to = b->data + (size_t)s * b->bytes;
        size_t want = tiles ? b->bytes : line * h;
        tmsize_t got = tiles ? TIFFReadEncodedTile(j->tiff, number, to, (tmsize_t)want)
                             : TIFFReadEncodedStrip(j->tiff, number, to, (tmsize_t)want);
        if (got != (tmsize_t)want) return failed(j, err);
    }
    for (uint32_t y = 0; y < h; y++) {
        row r = {.step = step};
        for (int s = 0; s < j->samples; s++)
            r.at[s] =
                b->data + y * line + (j->planes ? (size_t)s * b->bytes : (size_t)s * (j->bits / 8));
        uint8_t *rgb = p->rgb + um_at((size_t)y0 + y, x0, j->w) * 3;
        for (size_t x = 0; x < w; x++) pixel(rgb + 3 * x, j, &r, x);
    }
    return UM_OK;
}

static um_status block_make(block *b, const job *j, um_arena *arena, um_err *err)
{
    bool tiles = TIFFIsTiled(j->tiff) != 0;
    b->w = j->w;
    b->h = j->h;
    if (tiles) {
        TIFFGetField(j->tiff, TIFFTAG_TILEWIDTH, &b->w);
        TIFFGetField(j->tiff, TIFFTAG_TILELENGTH, &b->h);
    } else {
        uint32_t rows = 0;
        TIFFGetFieldDefaulted(j->tiff, TIFFTAG_ROWSPERSTRIP, &rows);
        b->h = rows < j->h ? rows : j->h;
    }
    uint64_t all = (uint64_t)b->w * b->h, most = (uint64_t)j->w * j->h;
    if (b->w == 0 || b->h == 0 || (all > most && all > TILE_PIXELS))
        return UM_FAIL(err, UM_E_DATA, "corrupt TIFF: tiles of %" PRIu32 " x %" PRIu32 " pixels",
                       b->w, b->h);
    uint64_t bits = (uint64_t)b->w * j->bits * (j->planes ? 1u : j->samples);
    b->bytes = (size_t)((bits + 7) / 8 * b->h);
    size_t total = b->bytes * (j->planes ? j->samples : 1u) + 1; /* narrow() may look one ahead */
    if (!um_arena_reserve(arena, total)) return UM_FAIL(err, UM_E_MEMORY, "no memory for a TIFF");
    b->data = um_arena_zero(arena, total);
    uint64_t theirs = tiles ? TIFFTileSize64(j->tiff) : TIFFVStripSize64(j->tiff, b->h);
    return theirs == b->bytes ? UM_OK : failed(j, err);
}

/* YCbCr that is not JPEG: libtiff's own conversion, as in PIL. */
static um_status read_converted(const um_image *p, job *j, um_arena *arena, um_err *err)
{
    size_t n = (size_t)j->w * j->h;
    if (!um_arena_reserve(arena, n * 4)) return UM_FAIL(err, UM_E_MEMORY, "no memory for a TIFF");
    uint32_t *abgr = um_arena_alloc(arena, n * 4);
    TIFFSetField(j->tiff, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);
    if (TIFFReadRGBAImageOriented(j->tiff, j->w, j->h, abgr, ORIENTATION_TOPLEFT, 1) != 1)
        return failed(j, err);
    for (size_t i = 0; i < n; i++) {
        p->rgb[3 * i] = (uint8_t)TIFFGetR(abgr[i]);
        p->rgb[3 * i + 1] = (uint8_t)TIFFGetG(abgr[i]);
        p->rgb[3 * i + 2] = (uint8_t)TIFFGetB(abgr[i]);
    }
    return UM_OK;
}

static um_status read_blocks(const um_image *p, job *j, um_arena *arena, um_err *err)
{
    block b = {0};
    UM_TRY(block_make(&b, j, arena, err));
    for (uint32_t y = 0; y < j->h; y += b.h)
        for (uint32_t x = 0; x < j->w; x += b.w) UM_TRY(block_read(p, j, &b, x, y, err));
    return UM_OK;
}

static um_status read_image(um_image *out, job *j, int64_t max_pixels, um_arena *arena, um_err *err)
{
    uint16_t photometric = 0, compression = 0, orientation = 0, planes = 0;
    if (j->tiff == NULL) return failed(j, err);
    TIFFGetFieldDefaulted(j->tiff, TIFFTAG_COMPRESSION, &compression);
    TIFFGetFieldDefaulted(j->tiff, TIFFTAG_ORIENTATION, &orientation);
    TIFFGetFieldDefaulted(j->tiff, TIFFTAG_PLANARCONFIG, &planes);
    TIFFGetField(j->tiff, TIFFTAG_PHOTOMETRIC, &photometric);
    if (TIFFIsCODECConfigured(compression) != 1) return unknown(j, "compression", compression, err);
    bool ycbcr = photometric == PHOTOMETRIC_YCBCR || compression == COMPRESSION_OJPEG;
    bool jpeg = ycbcr && compression == COMPRESSION_JPEG && planes == PLANARCONFIG_CONTIG;
    if (jpeg) TIFFSetField(j->tiff, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    UM_TRY(read_tags(j, max_pixels, err));
    UM_TRY(um_image_new(out, j->w, j->h, max_pixels, arena, err));
    um_mark mark = um_arena_mark(arena);
    UM_TRY(ycbcr && !jpeg ? read_converted(out, j, arena, err) : read_blocks(out, j, arena, err));
    um_arena_reset(arena, mark);
    return um_image_turn(out, orientation, arena, err);
}

um_status um_image_tiff(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err)
{
    job j = {.bytes = bytes, .n = n};
    um_image p = {0};
    open_tiff(&j);
    um_status st = read_image(&p, &j, max_pixels, arena, err);
    if (j.tiff != NULL) TIFFClose(j.tiff);
    if (st == UM_OK) *out = p;
    return st;
}
