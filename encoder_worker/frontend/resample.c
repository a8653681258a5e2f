/* See resample.h. The arithmetic is that of Pillow's resampling of 8-bit images (its documentation: filter BICUBIC). */
#include "encoder_worker/frontend/resample.h"

#include <math.h>
#include <string.h>

enum {
    FRACTION_BITS = 32 - 8 - 2
}; /* a sum of products of 8-bit pixels and weights, which may exceed 1, fits 32 bits */

/* How to compute n consecutive outputs of one axis: output i sums inputs first[i] .. first[i]+taps[i]-1 with weight[i*most ...]. */
typedef struct axis {
    int n, most;
    int32_t *first, *taps, *weight;
    int from, to; /* the inputs that any output needs: [from, to) */
} axis;

static double cubic(double x)
{
    const double a = -0.5;
    if (x < 0.0) x = -x;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static int32_t to_fixed(double w)
{
    double scaled = w * (double)(1 << FRACTION_BITS);
    return (int32_t)(w < 0 ? scaled - 0.5 : scaled + 0.5);
}

/* Outputs start .. start+n-1 of an axis that goes from `in` to `out` pixels. */
static axis axis_plan(int in, int64_t out, int64_t start, int n, um_arena *scratch)
{
    double scale = (double)in / (double)out, stretch = scale < 1.0 ? 1.0 : scale,
           support = 2.0 * stretch;
    axis a = {.n = n, .most = (int)ceil(support) * 2 + 1};
    a.first = um_arena_i32(scratch, (size_t)n);
    a.taps = um_arena_i32(scratch, (size_t)n);
    a.weight = um_arena_i32(scratch, (size_t)n * (size_t)a.most);
    double *w = um_arena_alloc(scratch, (size_t)a.most * sizeof *w);
    double inverse = 1.0 / stretch;
    for (int i = 0; i < n; i++) {
        double centre = ((double)(start + i) + 0.5) * scale, sum = 0.0;
        int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > in) hi = in;
        for (int k = 0; k < hi - lo; k++) {
            w[k] = cubic((k + lo - centre + 0.5) * inverse);
            sum += w[k];
        }
        for (int k = 0; k < hi - lo; k++)
            a.weight[(size_t)i * (size_t)a.most + (size_t)k] =
                to_fixed(sum != 0.0 ? w[k] / sum : w[k]);
        a.first[i] = lo;
        a.taps[i] = hi - lo;
    }
    a.from = a.first[0];
    a.to = a.first[n - 1] + a.taps[n - 1];
    return a;
}

static uint8_t from_fixed(int32_t sum)
{
    int32_t v = sum >> FRACTION_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Row y of the canvas, pixels from..to-1: a pointer into the image where possible, else a copy. */
static const uint8_t *canvas_row(uint8_t *room, const um_canvas *c, int y, int from, int to)
{
    const um_image *p = c->image;
    int row = y - c->top;
    bool inside = row >= 0 && row < p->h;
    const uint8_t *src = inside ? p->rgb + (size_t)row * (size_t)p->w * 3 : NULL;
    if (inside && c->left == 0 && c->w == p->w) return src + (size_t)from * 3;
    for (int x = from; x < to; x++) {
        int col = x - c->left;
        memcpy(room + (size_t)(x - from) * 3,
               inside && col >= 0 && col < p->w ? src + (size_t)col * 3 : c->fill, 3);
    }
    return room;
}

/* Computes out[n,3] from a row whose first pixel is input a->from. */
static void resample_row(uint8_t *out, const uint8_t *row, const axis *a)
{
    for (int i = 0; i < a->n; i++) {
        const uint8_t *src = row + (size_t)(a->first[i] - a->from) * 3;
        const int32_t *w = a->weight + (size_t)i * (size_t)a->most;
        int32_t r = 1 << (FRACTION_BITS - 1), g = r, b = r;
        for (int k = 0; k < a->taps[i]; k++) {
            r += src[3 * k] * w[k];
            g += src[3 * k + 1] * w[k];
            b += src[3 * k + 2] * w[k];
        }
        out[3 * i] = from_fixed(r);
        out[3 * i + 1] = from_fixed(g);
        out[3 * i + 2] = from_fixed(b);
    }
}

/* First pass: rows [ya->from, ya->to) of the canvas become rows[.., xa->n, 3]. Rows above and below the image are all alike and
 * computed once. */
static void pass_rows(uint8_t *rows, const um_canvas *c, const axis *xa, const axis *ya,
                      um_arena *scratch)
{
    size_t wide = (size_t)xa->n * 3;
    uint8_t *room = um_arena_alloc(scratch, (size_t)(xa->to - xa->from) * 3);
    const uint8_t *plain = NULL;
    for (int y = ya->from; y < ya->to; y++) {
        uint8_t *to = rows + (size_t)(y - ya->from) * wide;
        bool inside = y >= c->top && y < c->top + c->image->h;
        if (!inside && plain != NULL) {
            memcpy(to, plain, wide);
            continue;
        }
        resample_row(to, canvas_row(room, c, y, xa->from, xa->to), xa);
        if (!inside) plain = to;
    }
}

/* Second pass: rows of `wide` bytes along the columns. */
static void pass_columns(uint8_t *out, const uint8_t *rows, size_t wide, const axis *ya,
                         um_arena *scratch)
{
    int32_t *sum = um_arena_i32(scratch, wide);
    for (int i = 0; i < ya->n; i++) {
        const int32_t *w = ya->weight + (size_t)i * (size_t)ya->most;
        for (size_t x = 0; x < wide; x++) sum[x] = 1 << (FRACTION_BITS - 1);
        for (int k = 0; k < ya->taps[i]; k++) {
            const uint8_t *row = rows + (size_t)(ya->first[i] - ya->from + k) * wide;
            for (size_t x = 0; x < wide; x++) sum[x] += row[x] * w[k];
        }
        for (size_t x = 0; x < wide; x++) out[(size_t)i * wide + x] = from_fixed(sum[x]);
    }
}

void um_resample(uint8_t *rgb, const um_canvas *canvas, int64_t out_w, int64_t out_h, um_window win,
                 um_arena *scratch)
{
    UM_ASSERT(win.x >= 0 && win.y >= 0 && win.w > 0 && win.h > 0);
    UM_ASSERT(win.x + win.w <= out_w && win.y + win.h <= out_h);
    um_mark mark = um_arena_mark(scratch);
    axis xa = axis_plan(canvas->w, out_w, win.x, win.w, scratch);
    axis ya = axis_plan(canvas->h, out_h, win.y, win.h, scratch);
    size_t wide = (size_t)win.w * 3;
    uint8_t *rows = um_arena_alloc(scratch, (size_t)(ya.to - ya.from) * wide);
    pass_rows(rows, canvas, &xa, &ya, scratch);
    pass_columns(rgb, rows, wide, &ya, scratch);
    um_arena_reset(scratch, mark);
}
