/* The ops of training on rows and arrays, each with a plain double reference. Gradients are added to old values. */
#include "tests/core/tensor/test_ops.h"

#include "core/base/rng.h"

#include <math.h>
#include <string.h>

static const float EPS = 1e-5f;

static size_t area(const op_case *c) { return (size_t)c->T * (size_t)c->D; }

/* n values that a gradient is added to. */
static float *started(float *out, size_t n, um_arena *a)
{
    memcpy(out, op_values(a, n, 4, 1.0f), n * sizeof *out);
    return out;
}

static void started_double(double *out, size_t n, um_arena *a)
{
    const float *old = op_values(a, n, 4, 1.0f);
    for (size_t i = 0; i < n; i++) out[i] = (double)old[i];
}

/* layernorm backward: out = dx [T,D], dw [D], db [D]; flag 1: without dw, 2: without db */
static void layernorm_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f);
    float *dw = out + area(c), *db = dw + c->D;
    const float *old = op_values(a, c->n, 4, 1.0f);
    memcpy(out, old, area(c) * sizeof *out);
    if (!(c->flag & 1)) memcpy(dw, old + (dw - out), (size_t)c->D * sizeof *dw);
    if (!(c->flag & 2)) memcpy(db, old + (db - out), (size_t)c->D * sizeof *db);
    d->ops->layernorm_bwd(d, out, c->flag & 1 ? NULL : dw, c->flag & 2 ? NULL : db,
                          op_values(a, area(c), 3, 1.0f), x, w, c->T, c->D, EPS);
}

static void layernorm_bwd_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 2.0f), *w = op_values(a, (size_t)c->D, 2, 1.0f),
                *dy = op_values(a, area(c), 3, 1.0f);
    const size_t D = (size_t)c->D;
    double *dw = out + area(c), *db = dw + D;
    started_double(out, c->n, a);
    for (size_t t = 0; t < area(c); t += D) {
        double mean = 0, var = 0, g = 0, gz = 0;
        for (size_t i = 0; i < D; i++) mean += (double)x[t + i] / c->D;
        for (size_t i = 0; i < D; i++) var += pow((double)x[t + i] - mean, 2) / c->D;
        const double r = 1.0 / sqrt(var + (double)EPS);
        for (size_t i = 0; i < D; i++) {
            const double z = ((double)x[t + i] - mean) * r, gi = (double)dy[t + i] * (double)w[i];
            g += gi / c->D;
            gz += gi * z / c->D;
            dw[i] += (double)dy[t + i] * z;
            db[i] += (double)dy[t + i];
        }
        for (size_t i = 0; i < D; i++)
            out[t + i] +=
                r * ((double)dy[t + i] * (double)w[i] - g - ((double)x[t + i] - mean) * r * gz);
    }
    for (size_t i = 0; i < D; i++) {
        if (c->flag & 1) dw[i] = (double)NAN;
        if (c->flag & 2) db[i] = (double)NAN;
    }
}

static void gelu_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f), *dy = op_values(a, area(c), 3, 1.0f);
    (c->flag ? d->ops->quick_gelu_bwd : d->ops->gelu_bwd)(d, started(out, area(c), a), dy, x,
                                                          area(c));
}

static void gelu_bwd_want(const op_case *c, double *out, um_arena *a)
{
    const float *xs = op_values(a, area(c), 1, 3.0f), *dy = op_values(a, area(c), 3, 1.0f);
    started_double(out, area(c), a);
    for (size_t i = 0; i < area(c); i++) {
        const double x = (double)xs[i], k = (double)1.702f, s = 1.0 / (1.0 + exp(-k * x));
        const double slope =
            0.5 * erfc(-x / sqrt(2.0)) + x * exp(-x * x / 2) / sqrt(2.0 * acos(-1.0));
        out[i] += (double)dy[i] * (c->flag ? s * (1.0 + k * x * (1.0 - s)) : slope);
    }
}

/* K heads of width D, rows K*D + 3 floats apart; the gap keeps the sentinel */
static void rope_inputs(const op_case *c, float **cs, int32_t **pos, um_arena *a)
{
    *pos = um_arena_i32(a, (size_t)c->T);
    *cs = op_values(a, 3 * area(c), 2, 1.0f); /* any numbers: the op knows nothing of angles */
    for (int t = 0; t < c->T; t++) (*pos)[t] = t * 7 % (c->T * 3);
}

static void rope_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    float *cs;
    int32_t *pos;
    rope_inputs(c, &cs, &pos, a);
    const size_t width = (size_t)c->K * (size_t)c->D;
    const float *x = op_values(a, (size_t)c->T * width, 1, 1.0f);
    for (size_t t = 0; t < (size_t)c->T; t++)
        memcpy(out + t * (width + 3), x + t * width, width * sizeof *out);
    d->ops->rope_bwd(d, out, (int)width + 3, cs, pos, c->T, c->K, c->D);
}

static void rope_bwd_want(const op_case *c, double *out, um_arena *a)
{
    float *cs;
    int32_t *pos;
    rope_inputs(c, &cs, &pos, a);
    const size_t half = (size_t)c->D / 2, width = (size_t)c->K * (size_t)c->D;
    const float *x = op_values(a, (size_t)c->T * width, 1, 1.0f);
    for (size_t i = 0; i < c->n; i++) out[i] = (double)NAN;
    for (size_t t = 0; t < (size_t)c->T; t++)
        for (size_t i = 0; i < width; i++) {
            const size_t j = i % (size_t)c->D, pair = j < half ? i + half : i - half;
            const float *row = cs + (size_t)pos[t] * (size_t)c->D;
            const double co = (double)row[j % half], si = (double)row[half + j % half];
            const double own = (double)x[t * width + i], other = (double)x[t * width + pair];
            out[t * (width + 3) + i] = own * co + (j < half ? other : -other) * si;
        }
}

/* out = dx [T,D,8], da [D] for D heads of T rows; flag 1: without da, 2: without dx */
static void bias_gate_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *old = op_values(a, c->n, 4, 1.0f);
    float *da = out + 8 * area(c);
    if (!(c->flag & 2)) memcpy(out, old, 8 * area(c) * sizeof *out);
    if (!(c->flag & 1)) memcpy(da, old + 8 * area(c), (size_t)c->D * sizeof *out);
    d->ops->bias_gate_bwd(d, c->flag & 2 ? NULL : out, c->flag & 1 ? NULL : da,
                          op_values(a, area(c), 3, 1.0f), op_values(a, 8 * area(c), 1, 1.0f),
                          op_values(a, (size_t)c->D, 2, 1.0f), c->T, c->D);
}

static void bias_gate_bwd_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, 8 * area(c), 1, 1.0f), *by = op_values(a, (size_t)c->D, 2, 1.0f),
                *dgate = op_values(a, area(c), 3, 1.0f);
    double *da = out + 8 * area(c);
    started_double(out, c->n, a);
    for (size_t i = 0; i < area(c); i++) {
        double s[2] = {0.0, 0.0};
        for (size_t k = 0; k < 8; k++) s[k / 4] += (double)x[8 * i + k];
        const double ga = 1.0 / (1.0 + exp(-s[0])), gb = 1.0 / (1.0 + exp(-s[1]));
        const double dy = (double)dgate[i], h = (double)by[i % (size_t)c->D];
        for (size_t k = 0; k < 8; k++)
            out[8 * i + k] += dy * (k < 4 ? (gb * h - 1) * ga * (1 - ga) : ga * h * gb * (1 - gb));
        da[i % (size_t)c->D] += dy * ga * gb;
    }
    for (size_t i = 0; i < c->n; i++)
        if (c->flag & (i < 8 * area(c) ? 2 : 1)) out[i] = (double)NAN;
}

/* flag 1: in place */
static void softmax_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f);
    if (c->flag) memcpy(out, x, area(c) * sizeof *out);
    d->ops->softmax(d, out, c->flag ? out : x, c->T, c->D);
}

static void softmax_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f);
    const size_t D = (size_t)c->D;
    for (size_t t = 0; t < area(c); t += D) {
        double sum = 0;
        for (size_t i = 0; i < D; i++) sum += exp((double)x[t + i]);
        for (size_t i = 0; i < D; i++) out[t + i] = exp((double)x[t + i]) / sum;
    }
}

/* flag 1: one row of gradients for all */
static void softmax_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    float *p = um_arena_f32(a, (size_t)c->T, (size_t)c->D);
    d->ops->softmax(d, p, op_values(a, area(c), 1, 3.0f), c->T, c->D);
    d->ops->softmax_bwd(d, started(out, area(c), a), op_values(a, area(c) + 2 * (size_t)c->T, 3, 1),
                        c->flag ? 0 : c->D + 2, p, c->T, c->D);
}

static void softmax_bwd_want(const op_case *c, double *out, um_arena *a)
{
    const size_t D = (size_t)c->D;
    const float *dp = op_values(a, area(c) + 2 * (size_t)c->T, 3, 1);
    double *p = um_arena_alloc(a, area(c) * sizeof *p);
    softmax_want(c, p, a);
    started_double(out, area(c), a);
    for (size_t t = 0; t < (size_t)c->T; t++) {
        const float *g = dp + (c->flag ? 0 : t * (D + 2));
        double mean = 0;
        for (size_t i = 0; i < D; i++) mean += p[t * D + i] * (double)g[i];
        for (size_t i = 0; i < D; i++) out[t * D + i] += p[t * D + i] * ((double)g[i] - mean);
    }
}

/* out = dlogits [T,D], loss [T]; every fifth row has no target; flag 1: losses only, 2: dlogits = logits */
static const float SLOPE = 0.25f;

static int32_t *targets(const op_case *c, um_arena *a)
{
    int32_t *target = um_arena_i32(a, (size_t)c->T);
    um_rng rng = um_rng_seed(8, 1);
    for (int t = 0; t < c->T; t++)
        target[t] = t % 5 == 3 ? -1 : (int32_t)um_rng_below(&rng, (uint64_t)c->D);
    return target;
}

static void cross_entropy_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f);
    if (c->flag == 2) memcpy(out, x, area(c) * sizeof *out);
    d->ops->cross_entropy(d, out + area(c), c->flag == 1 ? NULL : out, c->flag == 2 ? out : x,
                          targets(c, a), c->T, c->D, SLOPE);
}

static void cross_entropy_want(const op_case *c, double *out, um_arena *a)
{
    const float *x = op_values(a, area(c), 1, 3.0f);
    const size_t D = (size_t)c->D;
    const int32_t *target = targets(c, a);
    double *loss = out + area(c);
    softmax_want(c, out, a);
    for (size_t t = 0; t < (size_t)c->T; t++) {
        loss[t] = 0;
        double *p = out + t * D;
        for (size_t i = 0; i < D; i++) loss[t] += exp((double)x[t * D + i]);
        loss[t] = target[t] < 0 ? 0.0 : log(loss[t]) - (double)x[t * D + (size_t)target[t]];
        for (size_t i = 0; i < D; i++) {
            const double hot = (int32_t)i == target[t] ? 1.0 : 0.0;
            p[i] = target[t] < 0 ? 0.0 : (double)SLOPE * (p[i] - hot);
            if (c->flag == 1) p[i] = (double)NAN;
        }
    }
}

/* out = drows [T*K + 2, D], dweight [T,K]; flag 1: with holes, 2: without drows, 4: without dweight */
static size_t combine_rows(const op_case *c) { return (size_t)c->T * (size_t)c->K + 2; }

/* Slots in another order than rows; two rows belong to no slot. */
static int32_t *combine_index(const op_case *c, um_arena *a)
{
    const size_t n = (size_t)c->T * (size_t)c->K;
    int32_t *index = um_arena_i32(a, n);
    for (size_t i = 0; i < n; i++) index[i] = (int32_t)(n - i);
    for (size_t i = 0; i < n && c->flag & 1; i++)
        if (i % 3 == 0 || i / (size_t)c->K % 4 == 2) index[i] = UM_NO_EXPERT;
    return index;
}

static void combine_bwd_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const size_t n = combine_rows(c) * (size_t)c->D;
    d->ops->combine_bwd(d, c->flag & 2 ? NULL : out, c->flag & 4 ? NULL : out + n,
                        op_values(a, area(c), 3, 1.0f), op_values(a, n, 1, 1.0f),
                        combine_index(c, a), op_values(a, combine_rows(c), 2, 1.0f), c->T, c->K,
                        c->D);
}

static void combine_bwd_want(const op_case *c, double *out, um_arena *a)
{
    const size_t D = (size_t)c->D, n = combine_rows(c) * D, K = (size_t)c->K;
    const float *dy = op_values(a, area(c), 3, 1.0f), *rows = op_values(a, n, 1, 1.0f),
                *weight = op_values(a, combine_rows(c), 2, 1.0f);
    const int32_t *index = combine_index(c, a);
    for (size_t i = 0; i < c->n; i++) out[i] = (double)NAN;
    for (size_t s = 0; s < (size_t)c->T * K; s++) {
        double dot = 0;
        for (size_t i = 0; i < D && index[s] >= 0; i++) {
            const size_t at = (size_t)index[s] * D + i;
            const double g = (double)dy[s / K * D + i];
            dot += g * (double)rows[at];
            if (!(c->flag & 2)) out[at] = (double)weight[s] * g;
        }
        if (!(c->flag & 4)) out[n + s] = dot;
    }
}

/* T rows of D into 9 rows; flag 1: every third row into none */
static void scatter_add_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    int32_t *index = um_arena_i32(a, (size_t)c->T);
    for (int i = 0; i < c->T; i++) index[i] = c->flag && i % 3 == 0 ? -1 : i * i % 9;
    started(out, c->n, a);
    d->ops->scatter_add(d, out, op_values(a, area(c), 1, 1.0f), index, c->T, c->D);
}

static void scatter_add_want(const op_case *c, double *out, um_arena *a)
{
    const size_t D = (size_t)c->D;
    const float *x = op_values(a, area(c), 1, 1.0f);
    started_double(out, c->n, a);
    for (size_t i = 0; i < (size_t)c->T; i++)
        for (size_t k = 0; k < D; k++)
            if (!c->flag || i % 3 != 0) out[i * i % 9 * D + k] += (double)x[i * D + k];
}

/* T windows of D, K apart */
static void windows_add_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    d->ops->windows_add(d, started(out, c->n, a), op_values(a, area(c), 1, 1.0f), c->T, c->D, c->K);
}

static void windows_add_want(const op_case *c, double *out, um_arena *a)
{
    const size_t D = (size_t)c->D;
    const float *cols = op_values(a, area(c), 1, 1.0f);
    started_double(out, c->n, a);
    for (size_t i = 0; i < area(c); i++) out[i / D * (size_t)c->K + i % D] += (double)cols[i];
}

/* out = p, m, v [T*D each] after K steps */
static um_adamw adamw_numbers(int s)
{
    return (um_adamw){.lr = 1e-2,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .eps = 1e-8,
                      .weight_decay = 0.1,
                      .scale = 0.5,
                      .bias1 = 1.0 - pow(0.9, s),
                      .bias2 = 1.0 - pow(0.99, s)};
}

static void adamw_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const size_t n = area(c);
    started(out, n, a);
    memset(out + n, 0, 2 * n * sizeof *out);
    for (int s = 1; s <= c->K; s++) {
        const um_adamw how = adamw_numbers(s);
        d->ops->adamw(d, out, op_values(a, n, (uint64_t)s, 1.0f), out + n, out + 2 * n, n, &how);
    }
}

static void adamw_want(const op_case *c, double *out, um_arena *a)
{
    const size_t n = area(c);
    started_double(out, n, a);
    for (size_t i = n; i < 3 * n; i++) out[i] = 0;
    for (int s = 1; s <= c->K; s++) {
        const um_adamw how = adamw_numbers(s);
        const float *g = op_values(a, n, (uint64_t)s, 1.0f);
        for (size_t i = 0; i < n; i++) {
            const double h = how.scale * (double)g[i];
            double *m = out + n + i, *v = m + n;
            *m = how.beta1 * *m + (1 - how.beta1) * h;
            *v = how.beta2 * *v + (1 - how.beta2) * h * h;
            out[i] *= 1 - how.lr * how.weight_decay;
            out[i] -= how.lr * (*m / how.bias1) / (sqrt(*v / how.bias2) + how.eps);
        }
    }
}

#define EIGHT(T, D, K) ((size_t)(T) * (D)*8 + (D))
#define LAYERNORM(T, D, K) ((size_t)(T) * (D) + 2 * (size_t)(D))
#define SLOTS(T, D, K) (((size_t)(T) * (K) + 2) * (D) + (size_t)(T) * (K))
#define NINE(T, D, K) ((size_t)9 * (D))
#define WINDOWS(T, D, K) ((size_t)((T)-1) * (K) + (D))
#define THREE(T, D, K) ((size_t)(T) * (D)*3)

static const op_case cases[] = {
    OP_SHAPES("layernorm backward", layernorm_bwd, LAYERNORM, 1e-4, 0, 0),
    OP_SHAPES("layernorm backward without dw", layernorm_bwd, LAYERNORM, 1e-4, 0, 1),
    OP_SHAPES("layernorm backward without db", layernorm_bwd, LAYERNORM, 1e-4, 0, 2),
    OP_SHAPES("layernorm backward, dx only", layernorm_bwd, LAYERNORM, 1e-4, 0, 3),
    OP_SHAPES("gelu backward", gelu_bwd, OP_JUST, 2e-6, 0, 0),
    OP_SHAPES("quick gelu backward", gelu_bwd, OP_JUST, 2e-6, 0, 1),
    OP_ROWS("rope backward", rope_bwd, OP_GAPS, 2e-6, 1, 0, 1, 2),
    OP_ROWS("rope backward", rope_bwd, OP_GAPS, 2e-6, 3, 0, 5, 20),
    OP_ROWS("rope backward", rope_bwd, OP_GAPS, 2e-6, 9, 0, 130, 128),
    OP_SHAPES("bias gate backward", bias_gate_bwd, EIGHT, 2e-5, 0, 0),
    OP_SHAPES("bias gate backward, dx only", bias_gate_bwd, EIGHT, 2e-5, 0, 1),
    OP_SHAPES("bias gate backward, da only", bias_gate_bwd, EIGHT, 2e-5, 0, 2),
    OP_SHAPES("softmax", softmax, OP_JUST, 1e-6, 0, 0),
    OP_SHAPES("softmax in place", softmax, OP_JUST, 1e-6, 0, 1),
    OP_SHAPES("softmax backward", softmax_bwd, OP_JUST, 1e-6, 0, 0),
    OP_SHAPES("softmax backward of one row", softmax_bwd, OP_JUST, 1e-6, 0, 1),
    OP_SHAPES("cross-entropy", cross_entropy, OP_PLUS_T, 2e-6, 0, 0),
    OP_SHAPES("cross-entropy, losses only", cross_entropy, OP_PLUS_T, 2e-6, 0, 1),
    OP_SHAPES("cross-entropy in place", cross_entropy, OP_PLUS_T, 2e-6, 0, 2),
    OP_SHAPES("combine backward 1", combine_bwd, SLOTS, 2e-5, 1, 0),
    OP_SHAPES("combine backward 3", combine_bwd, SLOTS, 2e-5, 3, 0),
    OP_SHAPES("combine backward with holes", combine_bwd, SLOTS, 2e-5, 2, 1),
    OP_SHAPES("combine backward of weights", combine_bwd, SLOTS, 2e-5, 2, 3),
    OP_SHAPES("combine backward of rows", combine_bwd, SLOTS, 2e-5, 2, 5),
    OP_SHAPES("scatter and add", scatter_add, NINE, 2e-5, 0, 0),
    OP_SHAPES("scatter and add with holes", scatter_add, NINE, 2e-5, 0, 1),
    OP_SHAPES("windows 1 apart", windows_add, WINDOWS, 5e-5, 1, 0),
    OP_SHAPES("windows 12 apart", windows_add, WINDOWS, 5e-5, 12, 0),
    OP_SHAPES("windows 1500 apart", windows_add, WINDOWS, 1e-6, 1500, 0),
    OP_SHAPES("adamw 1 step", adamw, THREE, 2e-6, 1, 0),
    OP_SHAPES("adamw 3 steps", adamw, THREE, 2e-6, 3, 0),
};

const op_case *op_train_cases(size_t *count)
{
    *count = sizeof cases / sizeof *cases;
    return cases;
}
