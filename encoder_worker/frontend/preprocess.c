/* See preprocess.h. Source of every step: transformers 4.31, CLIPImageProcessor and image_transforms; LLaVA's expand2square. */
#include "encoder_worker/frontend/preprocess.h"

#include "core/base/bytes.h"
#include "encoder_worker/frontend/resample.h"

#include <inttypes.h>
#include <string.h>

/* Limit for padding to a square: a canvas with more pixels is an error. The padding of a very long strip is created here, not read from
 * a file, so the limits on files do not cover it. 2^28 is a square of 16384. */
enum { SQUARE_PIXELS = 1 << 28 };

static um_status canvas_of(um_canvas *c, const um_image *p, const um_vision_model *v, um_err *err)
{
    *c = (um_canvas){.image = p, .w = p->w, .h = p->h};
    if (!v->pad_square) return UM_OK;
    int side = um_max_int(p->w, p->h);
    if ((int64_t)side * side > SQUARE_PIXELS)
        return UM_FAIL(err, UM_E_DATA,
                       "padding %d x %d pixels to a square of %d x %d: limit is %d pixels", p->w,
                       p->h, side, side, SQUARE_PIXELS);
    c->w = c->h = side;
    c->left = (side - p->w) / 2;
    c->top = (side - p->h) / 2;
    for (int i = 0; i < 3; i++)
        c->fill[i] = (uint8_t)um_max_int(0, um_min_int(255, (int)((double)v->fill[i] * 255)));
    return UM_OK;
}

/* Computes the resized size. int(a * b / c) as in Python: a true division, then truncated. */
static void size_after_resize(int64_t *w, int64_t *h, const um_canvas *c, const um_vision_model *v)
{
    *w = c->w;
    *h = c->h;
    if (!v->resize) return;
    if (v->resize_w > 0 && v->resize_h > 0) {
        *w = v->resize_w;
        *h = v->resize_h;
    } else if (c->w <= c->h) {
        *w = v->resize_short;
        *h = (int64_t)((double)((int64_t)v->resize_short * c->h) / c->w);
    } else {
        *h = v->resize_short;
        *w = (int64_t)((double)((int64_t)v->resize_short * c->w) / c->h);
    }
}

/* One axis of the crop: [from, from+n) of the resized axis is copied to position `at` of the output. */
typedef struct span {
    int64_t from;
    int at, n;
} span;

static span crop_span(int64_t size, int crop)
{
    if (size >= crop) return (span){.from = (size - crop) / 2, .at = 0, .n = crop};
    return (span){.from = 0, .at = (int)((crop - size + 1) / 2), .n = (int)size};
}

/* The reference's order: x * rescale in double, rounded to float, then float arithmetic. */
static void normalise(float *out, const uint8_t *rgb, int S, const um_vision_model *v)
{
    float table[256];
    /* when the model's factor is 1/255, the double is used: a float is not precise enough */
    double rescale = v->rescale == (float)(1.0 / 255.0) ? 1.0 / 255.0 : (double)v->rescale;
    size_t plane = (size_t)S * (size_t)S;
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < 256; i++) table[i] = ((float)(i * rescale) - v->mean[c]) / v->std[c];
        for (size_t i = 0; i < plane; i++)
            out[(size_t)c * plane + i] = table[rgb[3 * i + (size_t)c]];
    }
}

static um_status pixels(float *out, const um_image *p, const um_vision_model *v, um_arena *scratch,
                        um_err *err)
{
    um_canvas canvas;
    int64_t w = 0, h = 0;
    int S = v->image_size;
    UM_TRY(canvas_of(&canvas, p, v, err));
    size_after_resize(&w, &h, &canvas, v);
    int64_t end_w = v->crop ? v->crop_w : w, end_h = v->crop ? v->crop_h : h;
    if (w < 1 || h < 1 || end_w != S || end_h != S)
        return UM_FAIL(err, UM_E_MODEL,
                       "preprocessor_config.json makes %" PRId64 " x %" PRId64
                       " pixels of an image of %d x %d, the tower wants %d x %d",
                       end_w, end_h, p->w, p->h, S, S);
    span x = crop_span(w, S), y = crop_span(h, S);
    uint8_t *rgb = um_arena_zero(scratch, (size_t)S * (size_t)S * 3);
    uint8_t *part = um_arena_alloc(scratch, (size_t)x.n * (size_t)y.n * 3);
    um_resample(part, &canvas, w, h, (um_window){.x = x.from, .y = y.from, .w = x.n, .h = y.n},
                scratch);
    for (int i = 0; i < y.n; i++)
        memcpy(rgb + um_at((size_t)(y.at + i), (size_t)x.at, (size_t)S) * 3,
               part + um_at((size_t)i, 0, (size_t)x.n) * 3, (size_t)x.n * 3);
    normalise(out, rgb, S, v);
    return UM_OK;
}

um_status um_image_pixels(float *out, const um_image *p, const um_vision_model *v,
                          um_arena *scratch, um_err *err)
{
    um_mark mark = um_arena_mark(scratch);
    um_status st = pixels(out, p, v, scratch, err);
    um_arena_reset(scratch, mark);
    return st;
}
