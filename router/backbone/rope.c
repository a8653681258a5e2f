/* See rope.h. */
#include "router/backbone/rope.h"

#include "core/base/bytes.h"

enum { ROWS_AT_LEAST = 256 };

void um_rope_open(um_rope *r, um_dev *dev, int head_dim, float theta, float factor)
{
    *r = (um_rope){.dev = dev, .head_dim = head_dim, .theta = theta, .factor = factor};
}

void um_rope_close(um_rope *r)
{
    if (r->cs != NULL) r->dev->ops->free(r->dev, r->cs);
    *r = (um_rope){0};
}

/* Positions from..to-1 into cs[to-from][head_dim]. */
static void angles(const um_rope *r, float *cs, int from, int to)
{
    size_t D = (size_t)r->head_dim;
    int half = r->head_dim / 2;
    for (int j = 0; j < half; j++) {
        float power = (float)um_exp(um_log((double)r->theta) * (2.0 * j / r->head_dim));
        float freq = 1.0f / power;
        for (int pos = from; pos < to; pos++) {
            float angle = (float)pos / r->factor * freq;
            double s = 0, c = 0;
            um_sincos((double)angle, &s, &c);
            cs[um_at((size_t)(pos - from), (size_t)j, D)] = (float)c;
            cs[um_at((size_t)(pos - from), (size_t)(half + j), D)] = (float)s;
        }
    }
}

void um_rope_reserve(um_rope *r, int n)
{
    if (n <= r->rows) return;
    um_dev *d = r->dev;
    int rows = um_max_int(um_max_int(n, 2 * r->rows), ROWS_AT_LEAST);
    size_t row = (size_t)r->head_dim * sizeof(float), old = (size_t)r->rows * row;
    float *cs = d->ops->alloc(d, (size_t)rows * row);
    float *more = um_alloc_aligned((size_t)(rows - r->rows) * row);
    UM_CHECK(cs != NULL);
    angles(r, more, r->rows, rows);
    d->ops->put(d, (char *)cs + old, more, (size_t)(rows - r->rows) * row);
    if (r->cs != NULL) {
        d->ops->copy(d, cs, r->cs, old);
        d->ops->sync(d);
        d->ops->free(d, r->cs);
    }
    um_free(more);
    r->cs = cs;
    r->rows = rows;
}
