/* Backward of the ops against central differences along random directions: the forward in double at x + h v and x - h v gives
 * the slope that the gradient must give as g . v. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/tensor/ops.h"

#include <math.h>
#include <string.h>

enum { PARTS = 2, DIRECTIONS = 5 };

/* A loss sum(dy * f(inputs)) over up to PARTS inputs, in double. */
typedef struct problem {
    int T, D;
    size_t n[PARTS]; /* values of each input */
    float *in[PARTS], *grad[PARTS];
    float *dy;
    double (*loss)(const struct problem *p, double *const x[PARTS]);
} problem;

static float *values(um_arena *a, size_t n, uint64_t stream)
{
    float *x = um_arena_f32(a, 1, n);
    um_rng rng = um_rng_seed(10, stream);
    um_rng_normal_f32(&rng, x, n, 1.0f);
    return x;
}

static double loss_at(const problem *p, float *const v[PARTS], double h, um_arena *a)
{
    um_mark m = um_arena_mark(a);
    double *x[PARTS];
    for (int i = 0; i < PARTS; i++) {
        x[i] = um_arena_alloc(a, p->n[i] * sizeof **x);
        for (size_t j = 0; j < p->n[i]; j++) x[i][j] = (double)p->in[i][j] + h * (double)v[i][j];
    }
    const double loss = p->loss(p, x);
    um_arena_reset(a, m);
    return loss;
}

/* Each input alone, then all together. */
static void check(const problem *p, um_arena *a)
{
    for (int which = 0; which <= PARTS; which++)
        for (int dir = 0; dir < DIRECTIONS; dir++) {
            float *v[PARTS];
            double slope = 0, size = 0;
            for (int i = 0; i < PARTS; i++) {
                v[i] = values(a, p->n[i], 100 + (uint64_t)(dir * PARTS + i));
                if (which < PARTS && which != i) memset(v[i], 0, p->n[i] * sizeof **v);
                for (size_t j = 0; j < p->n[i]; j++) {
                    slope += (double)p->grad[i][j] * (double)v[i][j];
                    size += fabs((double)p->grad[i][j] * (double)v[i][j]);
                }
            }
            const double h = 1e-5, want = (loss_at(p, v, h, a) - loss_at(p, v, -h, a)) / (2 * h);
            if (!(fabs(slope - want) <= 1e-6 * size + 1e-6))
                fail_msg("input %d direction %d: gradient gives %.9g, differences %.9g", which, dir,
                         slope, want);
        }
}

static double rmsnorm_loss(const problem *p, double *const x[PARTS])
{
    double loss = 0;
    for (int t = 0; t < p->T; t++) {
        const double *r = x[0] + t * p->D;
        double sum = 0;
        for (int i = 0; i < p->D; i++) sum += r[i] * r[i];
        const double rstd = 1.0 / sqrt(sum / p->D + 1e-5);
        for (int i = 0; i < p->D; i++) loss += (double)p->dy[t * p->D + i] * r[i] * rstd * x[1][i];
    }
    return loss;
}

static void rmsnorm(um_dev *d, int T, int D)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const size_t n = (size_t)T * (size_t)D;
    problem p = {T,
                 D,
                 {n, (size_t)D},
                 {values(&a, n, 1), values(&a, (size_t)D, 2)},
                 {0},
                 values(&a, n, 3),
                 rmsnorm_loss};
    p.grad[0] = um_arena_zero(&a, n * sizeof(float));
    p.grad[1] = um_arena_zero(&a, (size_t)D * sizeof(float));
    float *y = um_arena_f32(&a, 1, n), *rstd = um_arena_f32(&a, 1, (size_t)T);
    d->ops->rmsnorm_fwd(d, y, rstd, p.in[0], p.in[1], T, D, 1e-5f);
    d->ops->rmsnorm_bwd(d, p.grad[0], p.grad[1], p.dy, p.in[0], p.in[1], rstd, T, D);
    check(&p, &a);
    um_arena_free(&a);
}

static double swiglu_loss(const problem *p, double *const x[PARTS])
{
    double loss = 0;
    for (size_t i = 0; i < p->n[0]; i++)
        loss += (double)p->dy[i] * x[0][i] / (1.0 + exp(-x[0][i])) * x[1][i];
    return loss;
}

static void swiglu(um_dev *d, int T, int D)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const size_t n = (size_t)T * (size_t)D;
    problem p = {T,          D, {n, n}, {values(&a, n, 1), values(&a, n, 2)}, {0}, values(&a, n, 3),
                 swiglu_loss};
    p.grad[0] = um_arena_zero(&a, n * sizeof(float));
    p.grad[1] = um_arena_zero(&a, n * sizeof(float));
    d->ops->swiglu_bwd(d, p.grad[0], p.grad[1], p.dy, p.in[0], p.in[1], n);
    check(&p, &a);
    um_arena_free(&a);
}

static double layernorm_loss(const problem *p, double *const x[PARTS])
{
    double loss = 0;
    for (int t = 0; t < p->T; t++) {
        const double *r = x[0] + t * p->D;
        double mean = 0, var = 0;
        for (int i = 0; i < p->D; i++) mean += r[i] / p->D;
        for (int i = 0; i < p->D; i++) var += (r[i] - mean) * (r[i] - mean) / p->D;
        const double rstd = 1.0 / sqrt(var + 1e-2);
        for (int i = 0; i < p->D; i++)
            loss += (double)p->dy[t * p->D + i] * (r[i] - mean) * rstd * x[1][i];
    }
    return loss;
}

/* Of two inputs of n and m values, gradients from zero. */
static problem problem_make(um_arena *a, int T, int D, size_t n, size_t m,
                            double (*loss)(const problem *p, double *const x[PARTS]))
{
    problem p = {T, D, {n, m}, {values(a, n, 1), values(a, m, 2)}, {0}, values(a, n, 3), loss};
    p.grad[0] = um_arena_zero(a, n * sizeof(float));
    p.grad[1] = um_arena_zero(a, m * sizeof(float));
    return p;
}

static void layernorm(um_dev *d, int T, int D)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    problem p = problem_make(&a, T, D, (size_t)T * (size_t)D, (size_t)D, layernorm_loss);
    d->ops->layernorm_bwd(d, p.grad[0], p.grad[1], NULL, p.dy, p.in[0], p.in[1], T, D, 1e-2f);
    check(&p, &a);
    um_arena_free(&a);
}

/* The first input through gelu, the second through quick gelu. */
static double gelus_loss(const problem *p, double *const x[PARTS])
{
    double loss = 0;
    for (size_t i = 0; i < p->n[0]; i++) {
        const double g = x[0][i], q = x[1][i];
        loss += (double)p->dy[i] *
                (0.5 * g * erfc(-g / sqrt(2.0)) + q / (1.0 + exp(-(double)1.702f * q)));
    }
    return loss;
}

static void gelus(um_dev *d, int T, int D)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const size_t n = (size_t)T * (size_t)D;
    problem p = problem_make(&a, T, D, n, n, gelus_loss);
    d->ops->gelu_bwd(d, p.grad[0], p.dy, p.in[0], n);
    d->ops->quick_gelu_bwd(d, p.grad[1], p.dy, p.in[1], n);
    check(&p, &a);
    um_arena_free(&a);
}

/* The first input through softmax, the second through the cross-entropy of target t % D in row t. */
static double softmaxes_loss(const problem *p, double *const x[PARTS])
{
    double loss = 0;
    for (int t = 0; t < p->T; t++) {
        const double *r = x[0] + t * p->D, *z = x[1] + t * p->D;
        double sum = 0, all = 0;
        for (int i = 0; i < p->D; i++) sum += exp(r[i]);
        for (int i = 0; i < p->D; i++) all += exp(z[i]);
        for (int i = 0; i < p->D; i++) loss += (double)p->dy[t * p->D + i] * exp(r[i]) / sum;
        loss += log(all) - z[t % p->D];
    }
    return loss;
}

static void softmaxes(um_dev *d, int T, int D)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const size_t n = (size_t)T * (size_t)D;
    problem p = problem_make(&a, T, D, n, n, softmaxes_loss);
    float *y = um_arena_f32(&a, 1, n), *loss = um_arena_f32(&a, 1, (size_t)T);
    int32_t *target = um_arena_i32(&a, (size_t)T);
    for (int t = 0; t < T; t++) target[t] = t % D;
    d->ops->softmax(d, y, p.in[0], T, D);
    d->ops->softmax_bwd(d, p.grad[0], p.dy, D, y, T, D);
    d->ops->cross_entropy(d, loss, p.grad[1], p.in[1], target, T, D, 1.0f);
    check(&p, &a);
    um_arena_free(&a);
}

/* Two slots a row: rows 2t and 2t + 1, each with its weight. */
static double combine_loss(const problem *p, double *const x[PARTS])
{
    double loss = 0;
    for (int t = 0; t < p->T; t++)
        for (int i = 0; i < p->D; i++)
            for (int s = 0; s < 2; s++)
                loss +=
                    (double)p->dy[t * p->D + i] * x[1][2 * t + s] * x[0][(2 * t + s) * p->D + i];
    return loss;
}

static void combine(um_dev *d, int T, int D)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    problem p = problem_make(&a, T, D, (size_t)(2 * T) * (size_t)D, (size_t)T * 2, combine_loss);
    int32_t *index = um_arena_i32(&a, (size_t)T * 2);
    for (int i = 0; i < 2 * T; i++) index[i] = i;
    d->ops->combine_bwd(d, p.grad[0], p.grad[1], p.dy, p.in[0], index, p.in[1], T, 2, D);
    check(&p, &a);
    um_arena_free(&a);
}

static double bias_gate_loss(const problem *p, double *const x[PARTS])
{
    double loss = 0;
    for (int i = 0; i < p->T * p->D; i++) {
        double s[2] = {0, 0};
        for (int k = 0; k < 8; k++) s[k / 4] += x[0][8 * i + k];
        const double ga = 1.0 / (1.0 + exp(-s[0])), gb = 1.0 / (1.0 + exp(-s[1]));
        loss += (double)p->dy[i] * (ga * (gb * x[1][i % p->D] - 1.0) + 2.0);
    }
    return loss;
}

static void bias_gate(um_dev *d, int T, int D)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    problem p = problem_make(&a, T, D, 8 * (size_t)T * (size_t)D, (size_t)D, bias_gate_loss);
    d->ops->bias_gate_bwd(d, p.grad[0], p.grad[1], p.dy, p.in[0], p.in[1], T, D);
    check(&p, &a);
    um_arena_free(&a);
}

static void gradients(void **state)
{
    (void)state;
    static const int sizes[][2] = {{1, 1}, {2, 15}, {3, 17}, {5, 33}, {9, 64}};
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        um_dev d;
        um_err err;
        if (um_dev_open_cpu(&d, isa, 2, &err) != UM_OK) continue;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            rmsnorm(&d, sizes[i][0], sizes[i][1]);
            swiglu(&d, sizes[i][0], sizes[i][1]);
            layernorm(&d, sizes[i][0], sizes[i][1]);
            gelus(&d, sizes[i][0], sizes[i][1]);
            softmaxes(&d, sizes[i][0], sizes[i][1]);
            combine(&d, sizes[i][0], sizes[i][1]);
            bias_gate(&d, sizes[i][0], sizes[i][1]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
