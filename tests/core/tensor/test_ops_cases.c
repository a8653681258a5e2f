/* The ops on rows and arrays, each with a plain double reference. */
#include "tests/core/tensor/test_ops.h"

#include "core/base/rng.h"

#include <math.h>
#include <string.h>

float *op_values(um_arena *arena, size_t n, uint64_t stream, float std)
{
    float *x = um_arena_f32(arena, 1, n);
    um_rng rng = um_rng_seed(7, stream);
    um_rng_normal_f32(&rng, x, n, std);
    return x;
}

static const float EPS = 1e-5f;

static size_t area(const op_case *c) { return (size_t)c->T * (size_t)c->D; }

/* rmsnorm: out = y, then rstd; flag 1: without rstd */
static void rmsnorm_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f);
    d->ops->rmsnorm_fwd(d, out, c->flag ? NULL : out + area(c), x, w, c->T, c->D, EPS);
}

static void rmsnorm_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f);
    for (int t = 0; t < c->T; t++) {
        const float *r = x + (size_t)t * (size_t)c->D;
        double sum = 0;
        for (int i = 0; i < c->D; i++) sum += (double)r[i] * (double)r[i];
        const double rstd = 1.0 / sqrt(sum / c->D + (double)EPS);
        for (int i = 0; i < c->D; i++)
            out[(size_t)t * (size_t)c->D + (size_t)i] = (double)r[i] * rstd * (double)w[i];
        out[area(c) + (size_t)t] = c->flag ? (double)NAN : rstd;
    }
}

/* rmsnorm backward: out = dx [T,D], dw [D], both start at old values; flag 1: without dw */
static void rmsnorm_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f);
    const float *dy = op_values(a, area(c), 3, 1.0f),
                *old = op_values(a, area(c) + (size_t)c->D, 4, 1.0f);
    float *y = um_arena_f32(a, (size_t)c->T, (size_t)c->D),
          *rstd = um_arena_f32(a, (size_t)c->T, 1);
    d->ops->rmsnorm_fwd(d, y, rstd, x, w, c->T, c->D, EPS);
    for (size_t i = 0; i < area(c) + (c->flag ? 0 : (size_t)c->D); i++) out[i] = old[i];
    d->ops->rmsnorm_bwd(d, out, c->flag ? NULL : out + area(c), dy, x, w, rstd, c->T, c->D);
}

static void rmsnorm_bwd_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f);
    const float *dy = op_values(a, area(c), 3, 1.0f),
                *old = op_values(a, area(c) + (size_t)c->D, 4, 1.0f);
    double *dw = out + area(c);
    for (int i = 0; i < c->D; i++) dw[i] = c->flag ? (double)NAN : (double)old[area(c) + (size_t)i];
    for (int t = 0; t < c->T; t++) {
        const size_t at = (size_t)t * (size_t)c->D;
        double sq = 0, dot = 0;
        for (int i = 0; i < c->D; i++) {
            const double xi = (double)x[at + (size_t)i];
            sq += xi * xi;
            dot += (double)dy[at + (size_t)i] * (double)w[i] * xi;
        }
        const double r = 1.0 / sqrt(sq / c->D + (double)EPS);
        for (int i = 0; i < c->D; i++) {
            const double xi = (double)x[at + (size_t)i], g = (double)dy[at + (size_t)i];
            out[at + (size_t)i] =
                (double)old[at + (size_t)i] + r * (g * (double)w[i] - xi * r * r / c->D * dot);
            dw[i] += g * xi * r;
        }
    }
}

static void layernorm_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f);
    d->ops->layernorm_fwd(d, out, x, w, op_values(a, (size_t)c->D, 3, 1.0f), c->T, c->D, EPS);
}

static void layernorm_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f);
    const float *b = op_values(a, (size_t)c->D, 3, 1.0f);
    for (int t = 0; t < c->T; t++) {
        const float *r = x + (size_t)t * (size_t)c->D;
        double mean = 0, var = 0;
        for (int i = 0; i < c->D; i++) mean += (double)r[i] / c->D;
        for (int i = 0; i < c->D; i++) var += ((double)r[i] - mean) * ((double)r[i] - mean) / c->D;
        for (int i = 0; i < c->D; i++)
            out[(size_t)t * (size_t)c->D + (size_t)i] =
                ((double)r[i] - mean) / sqrt(var + (double)EPS) * (double)w[i] + (double)b[i];
    }
}

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static void swiglu_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    d->ops->swiglu_fwd(d, out, op_values(a, area(c), 1, 3.0f), op_values(a, area(c), 2, 1.0f),
                       area(c));
}

static void swiglu_want(const op_case *c, double *out, um_arena *a)
{
    const float *g = op_values(a, area(c), 1, 3.0f), *u = op_values(a, area(c), 2, 1.0f);
    for (size_t i = 0; i < area(c); i++)
        out[i] = (double)g[i] * sigmoid((double)g[i]) * (double)u[i];
}

/* out = dg, du, both start at old values */
static void swiglu_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const size_t n = area(c);
    const float *old = op_values(a, 2 * n, 4, 1.0f);
    for (size_t i = 0; i < 2 * n; i++) out[i] = old[i];
    d->ops->swiglu_bwd(d, out, out + n, op_values(a, n, 3, 1.0f), op_values(a, n, 1, 3.0f),
                       op_values(a, n, 2, 1.0f), n);
}

static void swiglu_bwd_want(const op_case *c, double *out, um_arena *a)
{
    const size_t n = area(c);
    const float *old = op_values(a, 2 * n, 4, 1.0f), *dy = op_values(a, n, 3, 1.0f);
    const float *gate = op_values(a, n, 1, 3.0f), *up = op_values(a, n, 2, 1.0f);
    for (size_t i = 0; i < n; i++) {
        const double g = (double)gate[i], s = sigmoid(g);
        out[i] = (double)old[i] + (double)dy[i] * (double)up[i] * s * (1.0 + g * (1.0 - s));
        out[n + i] = (double)old[n + i] + (double)dy[i] * g * s;
    }
}

static void gelu_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    d->ops->gelu(d, out, op_values(a, area(c), 1, 3.0f), area(c));
}

static void gelu_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f);
    for (size_t i = 0; i < area(c); i++)
        out[i] = 0.5 * (double)x[i] * erfc(-(double)x[i] / sqrt(2.0));
}

/* in place */
static void quick_gelu_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f);
    for (size_t i = 0; i < area(c); i++) out[i] = x[i];
    d->ops->quick_gelu(d, out, out, area(c));
}

static void quick_gelu_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f);
    for (size_t i = 0; i < area(c); i++)
        out[i] = (double)x[i] * sigmoid((double)1.702f * (double)x[i]);
}

/* y += x, y *= s */
static void add_scale_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *y = op_values(a, area(c), 1, 1.0f);
    for (size_t i = 0; i < area(c); i++) out[i] = y[i];
    d->ops->add(d, out, op_values(a, area(c), 2, 1.0f), area(c));
    d->ops->scale(d, out, 0.7f, area(c));
}

static void add_scale_want(const op_case *c, double *out, um_arena *a)
{
    const float *y = op_values(a, area(c), 1, 1.0f), *x = op_values(a, area(c), 2, 1.0f);
    for (size_t i = 0; i < area(c); i++) out[i] = ((double)y[i] + (double)x[i]) * (double)0.7f;
}

/* K heads of width D, rows K*D + 3 floats apart; the gap keeps the sentinel */
static size_t rope_ld(const op_case *c) { return (size_t)c->K * (size_t)c->D + 3; }

static void rope_inputs(const op_case *c, const float **x, float **cs, int32_t **pos, um_arena *a)
{
    *x = op_values(a, area(c) * (size_t)c->K, 1, 1.0f);
    *pos = um_arena_i32(a, (size_t)c->T);
    *cs = um_arena_f32(a, (size_t)c->T * 3, (size_t)c->D);
    for (int t = 0; t < c->T; t++) (*pos)[t] = t * 7 % (c->T * 3);
    for (int p = 0; p < c->T * 3; p++)
        for (int i = 0; i < c->D / 2; i++) {
            double s, co;
            um_sincos((double)p * exp(-(double)i), &s, &co);
            (*cs)[p * c->D + i] = (float)co;
            (*cs)[p * c->D + c->D / 2 + i] = (float)s;
        }
}

static void rope_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x;
    float *cs;
    int32_t *pos;
    rope_inputs(c, &x, &cs, &pos, a);
    const size_t width = (size_t)c->K * (size_t)c->D;
    for (size_t t = 0; t < (size_t)c->T; t++)
        for (size_t i = 0; i < width; i++) out[t * rope_ld(c) + i] = x[t * width + i];
    d->ops->rope(d, out, (int)rope_ld(c), cs, pos, c->T, c->K, c->D);
}

static void rope_want(const op_case *c, double *out, um_arena *a)
{
    const float *x;
    float *cs;
    int32_t *pos;
    rope_inputs(c, &x, &cs, &pos, a);
    const size_t half = (size_t)c->D / 2, width = (size_t)c->K * (size_t)c->D;
    for (size_t i = 0; i < c->n; i++) out[i] = (double)NAN;
    for (size_t t = 0; t < (size_t)c->T; t++)
        for (size_t i = 0; i < width; i++) {
            const size_t j = i % (size_t)c->D, pair = j < half ? i + half : i - half;
            const float *row = cs + (size_t)pos[t] * (size_t)c->D;
            const double co = (double)row[j % half], si = (double)row[half + j % half];
            const double own = (double)x[t * width + i], other = (double)x[t * width + pair];
            out[t * rope_ld(c) + i] = own * co + (j < half ? -other : other) * si;
        }
}

/* T rows of D into rows D + 3 apart, whose gaps keep the sentinel; from rows D + 1 apart, or flag 1: from one row */
static void copy_2d_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c) + (size_t)c->T, 1, 1.0f);
    d->ops->copy_2d(d, out, c->D + 3, x, c->flag ? 0 : c->D + 1, c->T, c->D);
}

static void copy_2d_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c) + (size_t)c->T, 1, 1.0f);
    const size_t D = (size_t)c->D;
    for (size_t i = 0; i < c->n; i++) {
        const size_t t = i / (D + 3), col = i % (D + 3);
        out[i] = col < D ? (double)x[(c->flag ? 0 : t * (D + 1)) + col] : (double)NAN;
    }
}

static const int32_t *some_rows(const op_case *c, um_arena *a)
{
    int32_t *index = um_arena_i32(a, (size_t)c->T * (size_t)c->K);
    um_rng rng = um_rng_seed(8, 0);
    for (size_t i = 0; i < (size_t)c->T * (size_t)c->K; i++)
        index[i] = (int32_t)um_rng_below(&rng, 9);
    return index;
}

/* The same with every third slot empty, and all slots of every fourth row. */
static const int32_t *rows_with_holes(const op_case *c, um_arena *a)
{
    size_t K = (size_t)c->K, n = (size_t)c->T * K;
    int32_t *index = um_arena_i32(a, n);
    memcpy(index, some_rows(c, a), n * sizeof *index);
    for (size_t i = 0; i < n; i++)
        if (i % 3 == 0 || i / K % 4 == 2) index[i] = -1;
    return index;
}

static const int32_t *combine_index(const op_case *c, um_arena *a)
{
    return c->flag ? rows_with_holes(c, a) : some_rows(c, a);
}

static void gather_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    d->ops->gather(d, out, op_values(a, 9 * (size_t)c->D, 1, 1.0f), some_rows(c, a), c->T, c->D);
}

static void gather_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, 9 * (size_t)c->D, 1, 1.0f);
    const int32_t *index = some_rows(c, a);
    for (size_t i = 0; i < area(c); i++)
        out[i] = (double)x[(size_t)index[i / (size_t)c->D] * (size_t)c->D + i % (size_t)c->D];
}

static void combine_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *weight = op_values(a, (size_t)c->T * (size_t)c->K, 2, 1.0f);
    d->ops->combine(d, out, op_values(a, 9 * (size_t)c->D, 1, 1.0f), combine_index(c, a), weight,
                    c->T, c->K, c->D);
}

static void combine_want(const op_case *c, double *out, um_arena *a)
{
    const size_t D = (size_t)c->D, K = (size_t)c->K;
    const float *rows = op_values(a, 9 * D, 1, 1.0f),
                *weight = op_values(a, (size_t)c->T * K, 2, 1.0f);
    const int32_t *index = combine_index(c, a);
    for (size_t i = 0; i < area(c); i++) {
        out[i] = 0;
        for (size_t s = i / D * K; s < (i / D + 1) * K; s++)
            if (index[s] >= 0)
                out[i] += (double)weight[s] * (double)rows[(size_t)index[s] * D + i % D];
    }
}

/* D heads of T rows; K is not used. */
static void bias_gate_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    d->ops->bias_gate(d, out, op_values(a, 8 * area(c), 1, 1.0f),
                      op_values(a, (size_t)c->D, 2, 1.0f), c->T, c->D);
}

static void bias_gate_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, 8 * area(c), 1, 1.0f), *by = op_values(a, (size_t)c->D, 2, 1.0f);
    for (size_t i = 0; i < area(c); i++) {
        double s[2] = {0.0, 0.0};
        for (size_t k = 0; k < 8; k++) s[k / 4] += (double)x[8 * i + k];
        const double ga = 1.0 / (1.0 + exp(-s[0])), gb = 1.0 / (1.0 + exp(-s[1]));
        out[i] = ga * (gb * (double)by[i % (size_t)c->D] - 1.0) + 2.0;
    }
}

static const op_case cases[] = {
    OP_SHAPES("rmsnorm", rmsnorm, OP_PLUS_T, 5e-6, 0, 0),
    OP_SHAPES("rmsnorm without rstd", rmsnorm, OP_PLUS_T, 5e-6, 0, 1),
    OP_SHAPES("rmsnorm backward", rmsnorm_bwd, OP_PLUS_D, 1e-4, 0, 0),
    OP_SHAPES("rmsnorm backward without dw", rmsnorm_bwd, OP_PLUS_D, 5e-5, 0, 1),
    OP_SHAPES("layernorm", layernorm, OP_JUST, 1e-5, 0, 0),
    OP_SHAPES("swiglu", swiglu, OP_JUST, 1e-5, 0, 0),
    OP_SHAPES("swiglu backward", swiglu_bwd, OP_TWICE, 1e-5, 0, 0),
    OP_SHAPES("gelu", gelu, OP_JUST, 2e-6, 0, 0),
    OP_SHAPES("quick gelu", quick_gelu, OP_JUST, 2e-6, 0, 0),
    OP_SHAPES("add and scale", add_scale, OP_JUST, 1e-6, 0, 0),
    OP_ROWS("rope", rope, OP_GAPS, 2e-6, 1, 0, 1, 2),
    OP_ROWS("rope", rope, OP_GAPS, 2e-6, 3, 0, 5, 20),
    OP_ROWS("rope", rope, OP_GAPS, 2e-6, 4, 0, 7, 64),
    OP_ROWS("rope", rope, OP_GAPS, 2e-6, 9, 0, 130, 128),
    OP_SHAPES("copy of columns", copy_2d, OP_GAPS, 0.0, 1, 0),
    OP_SHAPES("copy of one row", copy_2d, OP_GAPS, 0.0, 1, 1),
    OP_SHAPES("bias gate", bias_gate, OP_JUST, 2e-6, 0, 0),
    OP_SHAPES("gather", gather, OP_JUST, 0.0, 1, 0),
    OP_SHAPES("combine 1", combine, OP_JUST, 1e-6, 1, 0),
    OP_SHAPES("combine 3", combine, OP_JUST, 5e-6, 3, 0),
    OP_SHAPES("combine 1 with holes", combine, OP_JUST, 1e-6, 1, 1),
    OP_SHAPES("combine 5 with holes", combine, OP_JUST, 5e-6, 5, 1),
};

const op_case *op_cases(size_t *count)
{
    *count = sizeof cases / sizeof *cases;
    return cases;
}
