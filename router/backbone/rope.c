/* See rope.h. */
#include "router/backbone/rope.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/tensor/ops.h"

void um_rope_open(um_rope *r, int head_dim, float theta, float factor)
{
    *r = (um_rope){.head_dim = head_dim, .theta = theta, .factor = factor};
}

void um_rope_close(um_rope *r)
{
    um_free(r->cs);
    *r = (um_rope){0};
}

void um_rope_reserve(um_rope *r, int n)
{
    if (n <= r->rows) return;
    int rows = um_max_int(n, 2 * r->rows), half = r->head_dim / 2;
    r->cs = um_realloc(r->cs, (size_t)rows * (size_t)r->head_dim * sizeof(float));
    for (int j = 0; j < half; j++) {
        float power = (float)um_exp(um_log((double)r->theta) * (2.0 * j / r->head_dim));
        float freq = 1.0f / power;
        for (int pos = r->rows; pos < rows; pos++) {
            float angle = (float)pos / r->factor * freq;
            double s = 0, c = 0;
            um_sincos((double)angle, &s, &c);
            r->cs[um_at((size_t)pos, (size_t)j, (size_t)r->head_dim)] = (float)c;
            r->cs[um_at((size_t)pos, (size_t)(half + j), (size_t)r->head_dim)] = (float)s;
        }
    }
    r->rows = rows;
}
