/* Gradients of whole blocks: um_linear_bwd and um_ffn_bwd against central differences of a double forward, along random
 * directions and at odd sizes. */
#include "core/nn/ffn.h"

#include "core/base/rng.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static um_arena arena;
static um_rng rng;
static um_dev dev;

static float *normal(size_t n)
{
    float *x = um_arena_f32(&arena, 1, n);
    um_rng_normal_f32(&rng, x, n, 0.5f);
    return x;
}

static float *zeros(size_t n)
{
    float *x = um_arena_f32(&arena, 1, n);
    memset(x, 0, n * sizeof *x);
    return x;
}

/* y[T,N] = x[T,K] w[N,K]^T + b, in double. */
static void linear_double(double *y, const double *x, const double *w, const double *b, int T,
                          int N, int K)
{
    for (int t = 0; t < T; t++) {
        for (int n = 0; n < N; n++) {
            double sum = b == NULL ? 0 : b[n];
            for (int k = 0; k < K; k++) sum += x[t * K + k] * w[n * K + k];
            y[t * N + n] = sum;
        }
    }
}

typedef double (*loss_fn)(const void *ctx, double *const *in);

/* d loss / d direction by central differences, against the sum of direction times gradient. n_in inputs of sizes n. */
static void check_directions(loss_fn loss, const void *ctx, float *const *values,
                             float *const *grads, const size_t *n, int n_in)
{
    double *moved[8];
    for (int which = 0; which < n_in; which++) {
        float *direction = normal(n[which]);
        double side[2], dot = 0;
        for (size_t i = 0; i < n[which]; i++) dot += (double)direction[i] * (double)grads[which][i];
        for (int s = 0; s < 2; s++) {
            for (int k = 0; k < n_in; k++) {
                moved[k] = um_arena_alloc(&arena, n[k] * sizeof(double));
                for (size_t i = 0; i < n[k]; i++)
                    moved[k][i] = (double)values[k][i] +
                                  (k == which ? (s == 0 ? 1e-4 : -1e-4) * (double)direction[i] : 0);
            }
            side[s] = loss(ctx, moved);
        }
        double slope = (side[0] - side[1]) / 2e-4;
        if (fabs(slope - dot) > 1e-4 * (1 + fabs(slope)))
            fail_msg("input %d: gradient says %g, differences say %g", which, dot, slope);
    }
}

typedef struct linear_case {
    int T, N, K;
    const float *c; /* loss = sum c * y */
} linear_case;

static double linear_loss(const void *ctx, double *const *in)
{
    const linear_case *l = ctx;
    double loss = 0, *y = um_arena_alloc(&arena, (size_t)l->T * (size_t)l->N * sizeof(double));
    linear_double(y, in[0], in[1], in[2], l->T, l->N, l->K);
    for (int i = 0; i < l->T * l->N; i++) loss += (double)l->c[i] * y[i];
    return loss;
}

static void check_linear(um_dev *d, int T, int N, int K)
{
    linear_case l = {.T = T, .N = N, .K = K};
    size_t n[3] = {(size_t)(T * K), (size_t)(N * K), (size_t)N};
    float *c = normal((size_t)(T * N));
    l.c = c;
    float *values[3] = {normal(n[0]), normal(n[1]), normal(n[2])},
          *grads[3] = {zeros(n[0]), zeros(n[1]), zeros(n[2])};
    um_linear_bwd(d, grads[0], grads[1], grads[2], c, values[0], values[1], T, N, K, &arena);
    check_directions(linear_loss, &l, values, grads, n, 3);
}

/* On every instruction set that this machine has. */
static void linear_backward_matches_differences(void **state)
{
    (void)state;
    const int sizes[][3] = {{1, 1, 1},   {2, 7, 15},  {3, 17, 5},  {3, 18, 17},
                            {5, 40, 33}, {7, 16, 33}, {9, 21, 64}, {20, 50, 31}};
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        um_dev d;
        if (um_dev_open_cpu(&d, isa, 2, NULL) != UM_OK) continue;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_linear(&d, sizes[i][0], sizes[i][1], sizes[i][2]);
    }
}

static void gradients_accumulate(void **state)
{
    (void)state;
    float *x = normal(6), *w = normal(6), *dy = normal(4), *once = zeros(6), *twice = zeros(6);
    um_linear_bwd(&dev, once, NULL, NULL, dy, x, w, 2, 2, 3, &arena);
    um_linear_bwd(&dev, twice, NULL, NULL, dy, x, w, 2, 2, 3, &arena);
    um_linear_bwd(&dev, twice, NULL, NULL, dy, x, w, 2, 2, 3, &arena);
    for (int i = 0; i < 6; i++) assert_float_equal(twice[i], 2 * once[i], 1e-5f);
}

typedef struct ffn_case {
    int T, D, F;
    const float *c;
} ffn_case;

/* Inputs: x, gate, up, down. */
static double ffn_loss(const void *ctx, double *const *in)
{
    const ffn_case *f = ctx;
    size_t n = (size_t)(f->T * f->F);
    double loss = 0, *g = um_arena_alloc(&arena, n * sizeof *g),
           *u = um_arena_alloc(&arena, n * sizeof *u);
    double *y = um_arena_alloc(&arena, (size_t)(f->T * f->D) * sizeof *y);
    linear_double(g, in[0], in[1], NULL, f->T, f->F, f->D);
    linear_double(u, in[0], in[2], NULL, f->T, f->F, f->D);
    for (size_t i = 0; i < n; i++) g[i] = g[i] / (1 + exp(-g[i])) * u[i];
    linear_double(y, g, in[3], NULL, f->T, f->D, f->F);
    for (int i = 0; i < f->T * f->D; i++) loss += (double)f->c[i] * y[i];
    return loss;
}

static um_linear packed(const float *w, int N, int K)
{
    um_linear l = {.w = {.dtype = UM_F32, .N = N, .K = K}};
    l.w.data = um_arena_alloc(&arena, um_matrix_bytes(UM_F32, N, K));
    dev.ops->pack(&dev, &l.w, w, UM_F32, K, false);
    return l;
}

static void swiglu_block_backward_matches_differences(void **state)
{
    (void)state;
    const int sizes[][3] = {{1, 3, 2}, {5, 17, 9}, {9, 16, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ffn_case f = {.T = sizes[i][0], .D = sizes[i][1], .F = sizes[i][2]};
        size_t rows = (size_t)(f.T * f.D), matrix = (size_t)(f.F * f.D),
               n[4] = {rows, matrix, matrix, matrix};
        float *c = normal(rows), *y = zeros(rows);
        f.c = c;
        float *values[4] = {normal(n[0]), normal(n[1]), normal(n[2]), normal(n[3])};
        float *grads[4] = {zeros(n[0]), zeros(n[1]), zeros(n[2]), zeros(n[3])};
        um_ffn w = {packed(values[1], f.F, f.D), packed(values[2], f.F, f.D),
                    packed(values[3], f.D, f.F)};
        um_ffn_acts acts;
        um_ffn_acts_bind(&acts, &arena, f.T, f.F);
        um_ffn_fwd(&dev, y, &acts, &w, values[0], f.T);
        um_ffn_master master = {values[1], values[2], values[3]},
                      grad = {grads[1], grads[2], grads[3]};
        um_ffn_bwd(&dev, grads[0], &grad, c, values[0], &acts, &master, f.T, f.D, f.F, &arena);
        check_directions(ffn_loss, &f, values, grads, n, 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_backward_matches_differences),
        cmocka_unit_test(gradients_accumulate),
        cmocka_unit_test(swiglu_block_backward_matches_differences),
    };
    um_err err = {0};
    um_arena_init(&arena, "test", 1 << 20);
    rng = um_rng_seed(17, 0);
    if (um_dev_open_cpu(&dev, UM_ISA_AUTO, 2, &err) != UM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    um_arena_free(&arena);
    return failed;
}
