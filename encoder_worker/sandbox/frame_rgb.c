/* See frame_rgb.h. */
#include "encoder_worker/sandbox/frame_rgb.h"

#include "core/base/bytes.h"
#include "encoder_worker/sandbox/images/image_file.h"

#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

#include <string.h>

enum { ALIGN = 64 }; /* of a row: vector stores of libswscale may go past its end */

static struct SwsContext *converter(const AVFrame *f)
{
    int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT;
    struct SwsContext *c =
        sws_getContext(f->width, f->height, (enum AVPixelFormat)f->format, f->width, f->height,
                       AV_PIX_FMT_RGB24, flags, NULL, NULL, NULL);
    if (c == NULL) return NULL;
    const int *matrix = sws_getCoefficients(f->colorspace);
    int full = f->color_range == AVCOL_RANGE_JPEG;
    /* refused (-1) for frames that are RGB already: nothing to set there */
    sws_setColorspaceDetails(c, matrix, full, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16,
                             1 << 16);
    return c;
}

/* rows [h, stride] to rgb [h, w, 3] or, turned by an odd number of quarters, [w, h, 3]. */
static void turn_rows(uint8_t *rgb, const uint8_t *rows, size_t stride, int w, int h, um_turn turn)
{
    size_t W = (size_t)w, H = (size_t)h;
    for (size_t y = 0; y < H; y++) {
        const uint8_t *row = rows + y * stride;
        if (turn.quarters == 0 && !turn.mirrored) {
            memcpy(rgb + y * W * 3, row, W * 3);
            continue;
        }
        for (size_t from = 0; from < W; from++) {
            size_t x = turn.mirrored ? W - 1 - from : from;
            size_t at = turn.quarters == 0   ? um_at(y, x, W)
                        : turn.quarters == 1 ? um_at(x, H - 1 - y, H)
                        : turn.quarters == 2 ? um_at(H - 1 - y, W - 1 - x, W)
                                             : um_at(W - 1 - x, y, H);
            memcpy(rgb + at * 3, row + from * 3, 3);
        }
    }
}

um_status um_frame_rgb(um_image *out, const AVFrame *f, um_turn turn, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    um_image p = {0};
    bool odd = turn.quarters % 2 != 0;
    UM_TRY(um_image_new(&p, odd ? f->height : f->width, odd ? f->width : f->height, max_pixels,
                        arena, err));
    um_mark mark = um_arena_mark(arena);
    size_t stride = um_round_up((size_t)f->width * 3, ALIGN) + ALIGN;
    if (!um_arena_reserve(arena, stride * (size_t)f->height))
        return UM_FAIL(err, UM_E_MEMORY, "no memory for a frame of %d x %d pixels", f->width,
                       f->height);
    uint8_t *rows = um_arena_alloc(arena, stride * (size_t)f->height);
    struct SwsContext *c = converter(f);
    int done = c == NULL ? -1
                         : sws_scale(c, (const uint8_t *const *)f->data, f->linesize, 0, f->height,
                                     (uint8_t *const[]){rows, NULL, NULL, NULL},
                                     (const int[]){(int)stride, 0, 0, 0});
    sws_freeContext(c);
    if (done != f->height) {
        const char *name = av_get_pix_fmt_name((enum AVPixelFormat)f->format);
        return UM_FAIL(err, UM_E_DATA, "frames of kind %s cannot be turned into RGB",
                       name != NULL ? name : "unknown");
    }
    turn_rows(p.rgb, rows, stride, f->width, f->height, turn);
    um_arena_reset(arena, mark);
    *out = p;
    return UM_OK;
}
