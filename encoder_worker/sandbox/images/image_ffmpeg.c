/* Images of the formats that have no library of their own here, by FFmpeg's decoders: BMP, TGA, PNM, PCX, SGI, Sun raster, QOI and
 * JPEG 2000. The file is one packet, its frame is turned into RGB here and not by libswscale, since the reference rounds otherwise. */
#include "encoder_worker/sandbox/images/image_file.h"

#include "core/base/bytes.h"

#include <libavcodec/avcodec.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>

#include <string.h>

enum { BMP_SLACK = 4 }; /* zero bytes behind a BMP: the padding of its last row may be missing */

typedef struct job {
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    const char *format;
    int64_t max_pixels;
    um_err *err;
    bool refused; /* the limit on pixels was passed, and err says so */
} job;

/* Called by a decoder that knows the size and has not yet allocated its frame. */
static int on_buffer(AVCodecContext *c, AVFrame *f, int flags)
{
    job *j = c->opaque;
    if (um_image_size(f->width, f->height, j->max_pixels, j->err) != UM_OK) {
        j->refused = true;
        return AVERROR(EINVAL);
    }
    return avcodec_default_get_buffer2(c, f, flags);
}

static um_status failed(const job *j, int rc)
{
    if (j->refused) return UM_E_DATA;
    if (rc == AVERROR(ENOMEM)) return UM_FAIL(j->err, UM_E_MEMORY, "no memory for its pixels");
    if (rc == AVERROR_PATCHWELCOME)
        return UM_FAIL(j->err, UM_E_DATA, "%s of a kind that is not read: convert it to PNG",
                       j->format);
    return UM_FAIL(j->err, UM_E_DATA, "corrupt %s: cut off, or its bytes break the format",
                   j->format);
}

static um_status decode(job *j, enum AVCodecID id, const uint8_t *bytes, size_t n)
{
    const AVCodec *c = avcodec_find_decoder(id);
    size_t slack = id == AV_CODEC_ID_BMP ? BMP_SLACK : 0;
    if (c == NULL)
        return UM_FAIL(j->err, UM_E_DATA,
                       "%s: this machine's FFmpeg does not read it; convert it to PNG", j->format);
    j->codec = avcodec_alloc_context3(c);
    j->packet = av_packet_alloc();
    j->frame = av_frame_alloc();
    if (j->codec == NULL || j->packet == NULL || j->frame == NULL)
        return failed(j, AVERROR(ENOMEM));
    j->codec->opaque = j;
    j->codec->get_buffer2 = on_buffer;
    j->codec->thread_count = 1; /* threads cannot be made in the sandbox */
    j->codec->err_recognition = AV_EF_EXPLODE | AV_EF_CRCCHECK;
    j->codec->flags |= AV_CODEC_FLAG_BITEXACT;
    int rc = avcodec_open2(j->codec, c, NULL);
    if (rc >= 0) rc = av_new_packet(j->packet, (int)(n + slack));
    if (rc >= 0) {
        memcpy(j->packet->data, bytes, n);
        memset(j->packet->data + n, 0, slack);
        /* what the header of a BMP says of the file's size is often wrong, and libavcodec believes it */
        if (id == AV_CODEC_ID_BMP) um_put_u32(j->packet->data + 2, (uint32_t)(n + slack));
        rc = avcodec_send_packet(j->codec, j->packet);
    }
    if (rc >= 0) rc = avcodec_receive_frame(j->codec, j->frame);
    return rc < 0 ? failed(j, rc) : UM_OK;
}

/* A sample of `depth` bits as PIL brings it to 8: cut off for 5 and 6 bits, rounded for 16, and 16-bit gray is clipped. */
static uint8_t to_8(unsigned v, int depth, bool gray)
{
    unsigned most = (1u << depth) - 1;
    if (depth == 8) return (uint8_t)v;
    if (depth > 8) return (uint8_t)(!gray ? (v * 255 + most / 2) / most : v < 255 ? v : 255);
    return (uint8_t)(v * 255 / most);
}

/* Numbers of colours by the table, whose entries are 0xAARRGGBB. */
static void palette_rows(um_image *p, const AVFrame *f)
{
    for (int y = 0; y < p->h; y++)
        for (int x = 0; x < p->w; x++) {
            uint8_t *rgb = p->rgb + um_at((size_t)y, (size_t)x, (size_t)p->w) * 3;
            uint32_t argb;
            memcpy(&argb, f->data[1] + 4 * f->data[0][y * f->linesize[0] + x], sizeof argb);
            for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(argb >> (16 - 8 * c));
        }
}

/* The three samples of a pixel are its own, or all its gray. */
static void sample_rows(um_image *p, const AVFrame *f, const AVPixFmtDescriptor *d, uint16_t *line)
{
    bool gray = d->nb_components < 3, flip = f->format == AV_PIX_FMT_MONOWHITE;
    for (int y = 0; y < p->h; y++)
        for (int c = 0; c < 3; c++) {
            uint8_t *to = p->rgb + um_at((size_t)y, 0, (size_t)p->w) * 3 + c;
            int from = gray ? 0 : c, depth = d->comp[from].depth;
            av_read_image_line2(line, (const uint8_t **)(uintptr_t)f->data, f->linesize, d, 0, y,
                                from, p->w, 0, sizeof *line);
            for (int x = 0; x < p->w; x++) to[3 * x] = to_8(line[x] ^ flip, depth, gray);
        }
}

static um_status convert(um_image *p, const job *j, um_arena *arena)
{
    const AVFrame *f = j->frame;
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get((enum AVPixelFormat)f->format);
    uint64_t not_read = AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BAYER;
    bool palette = d != NULL && (d->flags & AV_PIX_FMT_FLAG_PAL) != 0;
    bool rgb = d != NULL && (d->flags & AV_PIX_FMT_FLAG_RGB) != 0;
    if (d == NULL || (d->flags & not_read) != 0 || d->comp[0].depth > 16 ||
        (!palette && !rgb && d->nb_components > 2))
        return UM_FAIL(j->err, UM_E_DATA, "%s with pixels of kind %s: convert it to PNG", j->format,
                       d == NULL ? "unknown" : d->name);
    UM_TRY(um_image_new(p, f->width, f->height, j->max_pixels, arena, j->err));
    um_mark mark = um_arena_mark(arena);
    if (palette)
        palette_rows(p, f);
    else
        sample_rows(p, f, d, um_arena_alloc(arena, (size_t)p->w * sizeof(uint16_t)));
    um_arena_reset(arena, mark);
    return UM_OK;
}

static um_status read_as(enum AVCodecID id, const char *format, um_image *out, const uint8_t *bytes,
                         size_t n, int64_t max_pixels, um_arena *arena, um_err *err)
{
    job j = {.format = format, .max_pixels = max_pixels, .err = err};
    um_image p = {0};
    av_log_set_level(AV_LOG_QUIET);
    um_status st = decode(&j, id, bytes, n);
    if (st == UM_OK) st = convert(&p, &j, arena);
    avcodec_free_context(&j.codec);
    av_packet_free(&j.packet);
    av_frame_free(&j.frame);
    if (st == UM_OK) *out = p;
    return st;
}

/* libavcodec takes a BMP that is too short for one whose rows are not padded, so the length is checked here, after the size. */
static um_status bmp_whole(const uint8_t *bytes, size_t n, int64_t max_pixels, um_err *err)
{
    enum { HEAD = 14, OS2 = 12, DIB = 40, FIELDS = 3 };
    if (n < HEAD + DIB) return UM_OK; /* or too short for any */
    const uint8_t *dib = bytes + HEAD;
    bool os2 = um_get_u32(dib) == OS2;
    int64_t w = os2 ? um_get_u16(dib + 4) : (int32_t)um_get_u32(dib + 4);
    int64_t h = os2 ? um_get_u16(dib + 6) : (int32_t)um_get_u32(dib + 8);
    int64_t bits = um_get_u16(dib + (os2 ? 10 : 14)), from = um_get_u32(bytes + 10);
    uint32_t kind = os2 ? 0 : um_get_u32(dib + 16);
    h = h < 0 ? -h : h; /* negative: the top row comes first */
    UM_TRY(um_image_size(w, h, max_pixels, err));
    if (kind != 0 && kind != FIELDS) return UM_OK;
    int64_t all = (w * bits + 31) / 32 * 4 * h;
    if (all / 4 > UINT32_MAX || from + all <= (int64_t)n + BMP_SLACK - 1) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "corrupt BMP: the file is cut off");
}

um_status um_image_bmp(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    UM_TRY(bmp_whole(bytes, n, max_pixels, err));
    return read_as(AV_CODEC_ID_BMP, "BMP", out, bytes, n, max_pixels, arena, err);
}

um_status um_image_tga(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    return read_as(AV_CODEC_ID_TARGA, "TGA", out, bytes, n, max_pixels, arena, err);
}

um_status um_image_pnm(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    static const enum AVCodecID ids[] = {AV_CODEC_ID_PBM, AV_CODEC_ID_PGM, AV_CODEC_ID_PPM};
    UM_ASSERT(n >= 2 && bytes[1] >= '1' && bytes[1] <= '6');
    return read_as(ids[(bytes[1] - '1') % 3], "PNM", out, bytes, n, max_pixels, arena, err);
}

um_status um_image_pcx(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    return read_as(AV_CODEC_ID_PCX, "PCX", out, bytes, n, max_pixels, arena, err);
}

um_status um_image_qoi(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    return read_as(AV_CODEC_ID_QOI, "QOI", out, bytes, n, max_pixels, arena, err);
}

um_status um_image_sgi(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    return read_as(AV_CODEC_ID_SGI, "SGI", out, bytes, n, max_pixels, arena, err);
}

um_status um_image_jpeg2000(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                            um_arena *arena, um_err *err)
{
    return read_as(AV_CODEC_ID_JPEG2000, "JPEG 2000", out, bytes, n, max_pixels, arena, err);
}
