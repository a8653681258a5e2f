/* Gradients of whole blocks: um_linear_bwd and um_ffn_bwd, with and without LoRA, against central differences of a double forward, along
 * random directions and at odd sizes; and what a step of training does to a parameter. */
#include "core/nn/ffn.h"

#include "core/base/rng.h"
#include "tests/support/fixture.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static um_rng rng;
static um_dev dev;
static um_arena scratch;
enum { FFN_INPUTS = 10 };

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
    double *moved[FFN_INPUTS];
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

/* --- one layer, with a bias and a LoRA --- */

enum { X, W, B, LA, LB, INPUTS };
static const float alpha = 6.0f;

typedef struct linear_case {
    int T, N, K, r;
    const float *c; /* loss = sum c * y */
} linear_case;

/* In double: y = x W^T + b + alpha/r (x A^T) B^T. r 0: no LoRA. */
static void layer_double(double *y, const linear_case *l, double *const *in)
{
    const size_t low = (size_t)(l->T * (l->r + 1)), n = (size_t)(l->T * l->N);
    double *u = um_arena_alloc(&arena, low * sizeof *u), *v = um_arena_alloc(&arena, n * sizeof *v);
    linear_double(y, in[X], in[W], in[B], l->T, l->N, l->K);
    if (l->r == 0) return;
    linear_double(u, in[X], in[LA], NULL, l->T, l->r, l->K);
    linear_double(v, u, in[LB], NULL, l->T, l->N, l->r);
    for (size_t i = 0; i < n; i++) y[i] += (double)alpha / l->r * v[i];
}

static double linear_loss(const void *ctx, double *const *in)
{
    const linear_case *l = ctx;
    double loss = 0, *y = um_arena_alloc(&arena, (size_t)l->T * (size_t)l->N * sizeof(double));
    layer_double(y, l, in);
    for (int i = 0; i < l->T * l->N; i++) loss += (double)l->c[i] * y[i];
    return loss;
}

static um_lora lora = {.scratch = &scratch};

static um_loading live(um_dev *d)
{
    return (um_loading){
        .dev = d, .host = &arena, .device = &arena, .lora_live = true, .lora = &lora};
}

static um_param *param(made_params *m, um_slot slot, um_leaf leaf)
{
    return um_params_find(&m->ps, made_at(slot), leaf);
}

static void layer_make(made_params *m, um_slot slot, const linear_case *l, bool bias)
{
    made_add(m, slot, UM_LEAF_WEIGHT, UM_F32, l->N, l->K, 0);
    if (bias) made_add(m, slot, UM_LEAF_BIAS, UM_F32, l->N, 0, 0);
    if (l->r > 0) made_add(m, slot, UM_LEAF_LORA_A, UM_F32, l->r, l->K, 0);
    if (l->r > 0) made_add(m, slot, UM_LEAF_LORA_B, UM_F32, l->N, l->r, 0);
}

static void check_linear(um_dev *d, int T, int N, int K, int r)
{
    static const um_leaf leaf[] = {0, UM_LEAF_WEIGHT, UM_LEAF_BIAS, UM_LEAF_LORA_A, UM_LEAF_LORA_B};
    linear_case l = {.T = T, .N = N, .K = K, .r = r, .c = normal((size_t)(T * N))};
    made_params m = {.a = &arena, .ck = {.model = {.lora_r = r, .lora_alpha = alpha}}};
    const um_loading how = live(d);
    const int inputs = r > 0 ? INPUTS : LA;
    um_linear w;
    um_err err = {0};
    size_t n[INPUTS] = {(size_t)(T * K)};
    float *values[INPUTS] = {normal(n[X])}, *grads[INPUTS] = {zeros(n[X])},
          *y = zeros((size_t)(T * N));
    layer_make(&m, UM_SLOT_Q, &l, true);
    made_open(&m, dir, &how);
    if (um_linear_load(&w, &m.ps, made_at(UM_SLOT_Q), &err) != UM_OK) fail_msg("%s", err.msg);
    train(&m.ps, trains_all, NULL);
    for (int i = W; i < inputs; i++) {
        um_param *p = param(&m, UM_SLOT_Q, leaf[i]);
        n[i] = um_spec_values(&p->spec);
        values[i] = p->master;
        grads[i] = p->grad;
    }
    um_linear_fwd(d, y, values[X], T, &w);
    um_linear_bwd(d, grads[X], &w, l.c, values[X], T, &scratch);
    check_directions(linear_loss, &l, values, grads, n, inputs);
    made_close(&m);
}

/* On every instruction set that this machine has. */
static void linear_backward_matches_differences(void **state)
{
    (void)state;
    const int sizes[][4] = {{1, 1, 1, 0},   {2, 7, 15, 1},  {3, 17, 5, 2},  {3, 18, 17, 0},
                            {5, 40, 33, 4}, {7, 16, 33, 0}, {9, 21, 64, 8}, {20, 50, 31, 17}};
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        um_dev d;
        if (um_dev_open_cpu(&d, isa, 2, NULL) != UM_OK) continue;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_linear(&d, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]);
    }
}

/* A layer [2,3] of its own file, loaded. */
static um_linear small_layer(made_params *m, um_slot slot)
{
    const linear_case l = {.N = 2, .K = 3};
    const um_loading how = live(&dev);
    um_linear w;
    um_err err = {0};
    layer_make(m, slot, &l, true);
    made_open(m, dir, &how);
    if (um_linear_load(&w, &m->ps, made_at(slot), &err) != UM_OK) fail_msg("%s", err.msg);
    return w;
}

static void gradients_accumulate(void **state)
{
    (void)state;
    made_params m = {.a = &arena};
    um_linear w = small_layer(&m, UM_SLOT_Q);
    train(&m.ps, trains_all, NULL);
    um_param *p = param(&m, UM_SLOT_Q, UM_LEAF_WEIGHT), *b = param(&m, UM_SLOT_Q, UM_LEAF_BIAS);
    float *x = normal(6), *dy = normal(4), *once = zeros(6), *twice = zeros(6), first[8];
    um_linear_bwd(&dev, once, &w, dy, x, 2, &scratch);
    memcpy(first, p->grad, 6 * sizeof *first);
    memcpy(first + 6, b->grad, 2 * sizeof *first);
    um_params_zero_grads(&m.ps);
    for (int i = 0; i < 6; i++) assert_true(p->grad[i] == 0.0f && (i > 1 || b->grad[i] == 0.0f));
    um_linear_bwd(&dev, twice, &w, dy, x, 2, &scratch);
    um_linear_bwd(&dev, twice, &w, dy, x, 2, &scratch);
    for (int i = 0; i < 6; i++) {
        assert_float_equal(twice[i], 2 * once[i], 1e-5f);
        assert_float_equal(p->grad[i], 2 * first[i], 1e-5f);
    }
    for (int i = 0; i < 2; i++) assert_float_equal(b->grad[i], 2 * first[6 + i], 1e-5f);
    made_close(&m);
}

/* After a step of an optimiser forward and backward use the new master; before um_params_repack, the old one. */
static void a_step_changes_what_is_packed(void **state)
{
    (void)state;
    made_params m = {.a = &arena};
    um_linear w = small_layer(&m, UM_SLOT_Q);
    um_param *p = param(&m, UM_SLOT_Q, UM_LEAF_WEIGHT);
    train(&m.ps, trains_name, p->spec.name);
    float one[3] = {1, 0, 0}, y[2], before[2], dy[2] = {0, 1}, *dx = zeros(3);
    um_linear_fwd(&dev, before, one, 1, &w);
    um_linear_bwd(&dev, dx, &w, dy, one, 1, &scratch);
    for (int k = 0; k < 3; k++) assert_float_equal(dx[k], p->master[3 + k], 0.0f);
    for (int i = 0; i < 6; i++) p->master[i] += (float)(i + 1);
    um_linear_fwd(&dev, y, one, 1, &w);
    assert_memory_equal(y, before, sizeof y);
    um_param_changed(p);
    um_params_repack(&m.ps);
    um_linear_fwd(&dev, y, one, 1, &w);
    for (int n = 0; n < 2; n++) assert_float_equal(y[n], before[n] + (float)(3 * n + 1), 1e-6f);
    memset(dx, 0, 3 * sizeof *dx);
    um_linear_bwd(&dev, dx, &w, dy, one, 1, &scratch);
    for (int k = 0; k < 3; k++) assert_float_equal(dx[k], p->master[3 + k], 0.0f);
    made_close(&m);
}

static bool trains_keys(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->at.slot == UM_SLOT_K;
}

/* Of a stack whose middle matrix is trained: its gradient is that of the layer alone, the others stay untrained; a step changes its rows
 * only. */
static void one_of_a_stack_is_trained(void **state)
{
    (void)state;
    enum { T = 4, K = 9 };
    static const int N[] = {5, 20, 16};
    static const um_slot slot[] = {UM_SLOT_Q, UM_SLOT_K, UM_SLOT_V};
    made_params m = {.a = &arena};
    const um_loading how = live(&dev);
    um_linear all, one;
    um_err err = {0};
    um_place at[3];
    float *x = normal(T * K), *dy = normal(T * 41), *part = zeros(T * 20), *y = zeros(T * 41),
          *z = zeros(T * 41);
    for (int i = 0; i < 3; i++) {
        const linear_case l = {.N = N[i], .K = K};
        at[i] = made_at(slot[i]);
        layer_make(&m, slot[i], &l, true);
    }
    made_open(&m, dir, &how);
    um_params apart = m.ps;
    apart.list = um_arena_alloc(&arena, m.ps.n * sizeof *apart.list);
    memcpy(apart.list, m.ps.list, m.ps.n * sizeof *apart.list);
    if (um_linear_load_stacked(&all, &m.ps, at, 3, &err) != UM_OK ||
        um_linear_load(&one, &apart, at[1], &err) != UM_OK)
        fail_msg("%s", err.msg);
    um_param *p = param(&m, UM_SLOT_K, UM_LEAF_WEIGHT), *b = param(&m, UM_SLOT_K, UM_LEAF_BIAS);
    um_param *q = um_params_find(&apart, at[1], UM_LEAF_WEIGHT),
             *c = um_params_find(&apart, at[1], UM_LEAF_BIAS);
    train(&m.ps, trains_keys, NULL);
    train(&apart, trains_keys, NULL);
    assert_memory_equal(p->master, q->master, 20 * K * sizeof(float));
    for (int t = 0; t < T; t++) memcpy(part + t * 20, dy + t * 41 + 5, 20 * sizeof *part);
    um_linear_bwd(&dev, NULL, &all, dy, x, T, &scratch);
    um_linear_bwd(&dev, NULL, &one, part, x, T, &scratch);
    assert_memory_equal(p->grad, q->grad, 20 * K * sizeof(float));
    assert_memory_equal(b->grad, c->grad, 20 * sizeof(float));
    assert_false(um_params_find(&m.ps, at[0], UM_LEAF_WEIGHT)->trained);
    um_linear_fwd(&dev, y, x, T, &all);
    for (int i = 0; i < 20 * K; i++) p->master[i] = 0.0f;
    um_param_changed(p);
    um_params_repack(&m.ps);
    um_linear_fwd(&dev, z, x, T, &all);
    for (int t = 0; t < T; t++)
        for (int n = 0; n < 41; n++) {
            const bool middle = n >= 5 && n < 25;
            assert_float_equal(z[t * 41 + n], middle ? b->vector[n - 5] : y[t * 41 + n], 0.0f);
        }
    made_close(&m);
}

/* --- the SwiGLU block --- */

typedef struct ffn_case {
    int T, D, F, r;
    const float *c;
} ffn_case;

/* Inputs: x, then matrix and LoRA of gate, up and down. */
static double ffn_loss(const void *ctx, double *const *in)
{
    const ffn_case *f = ctx;
    const int step = f->r > 0 ? 3 : 1;
    size_t n = (size_t)(f->T * f->F);
    double loss = 0, *h[2], *y = um_arena_alloc(&arena, (size_t)(f->T * f->D) * sizeof *y);
    for (int i = 0; i < 2; i++) {
        const linear_case l = {.T = f->T, .N = f->F, .K = f->D, .r = f->r};
        double *part[INPUTS] = {in[0], in[1 + i * step], NULL};
        if (f->r > 0) part[LA] = in[2 + i * step], part[LB] = in[3 + i * step];
        h[i] = um_arena_alloc(&arena, n * sizeof *y);
        layer_double(h[i], &l, part);
    }
    for (size_t i = 0; i < n; i++) h[0][i] = h[0][i] / (1 + exp(-h[0][i])) * h[1][i];
    const linear_case down = {.T = f->T, .N = f->D, .K = f->F, .r = f->r};
    double *part[INPUTS] = {h[0], in[1 + 2 * step], NULL};
    if (f->r > 0) part[LA] = in[2 + 2 * step], part[LB] = in[3 + 2 * step];
    layer_double(y, &down, part);
    for (int i = 0; i < f->T * f->D; i++) loss += (double)f->c[i] * y[i];
    return loss;
}

static void check_ffn(int T, int D, int F, int r)
{
    static const um_slot slot[] = {UM_SLOT_GATE_PROJ, UM_SLOT_UP_PROJ, UM_SLOT_DOWN_PROJ};
    static const um_leaf leaf[] = {UM_LEAF_WEIGHT, UM_LEAF_LORA_A, UM_LEAF_LORA_B};
    ffn_case f = {.T = T, .D = D, .F = F, .r = r, .c = normal((size_t)(T * D))};
    made_params m = {.a = &arena, .ck = {.model = {.lora_r = r, .lora_alpha = alpha}}};
    const um_loading how = live(&dev);
    um_ffn w;
    um_ffn_acts acts;
    um_err err = {0};
    size_t n[FFN_INPUTS] = {(size_t)(T * D)};
    float *values[FFN_INPUTS] = {normal(n[0])}, *grads[FFN_INPUTS] = {zeros(n[0])},
          *y = zeros(n[0]);
    int inputs = 1;
    for (int i = 0; i < 3; i++) {
        const linear_case l = {.N = i < 2 ? F : D, .K = i < 2 ? D : F, .r = r};
        layer_make(&m, slot[i], &l, false);
    }
    made_open(&m, dir, &how);
    if (um_ffn_load(&w, &m.ps, UM_PART_BACKBONE, -1, -1, &err) != UM_OK) fail_msg("%s", err.msg);
    train(&m.ps, trains_all, NULL);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < (r > 0 ? 3 : 1); k++, inputs++) {
            um_param *p = param(&m, slot[i], leaf[k]);
            n[inputs] = um_spec_values(&p->spec);
            values[inputs] = p->master;
            grads[inputs] = p->grad;
        }
    um_ffn_acts_bind(&acts, &arena, T, F);
    um_ffn_fwd(&dev, y, &acts, &w, values[0], T);
    um_ffn_bwd(&dev, grads[0], &w, f.c, values[0], &acts, T, &scratch);
    check_directions(ffn_loss, &f, values, grads, n, inputs);
    made_close(&m);
}

static void swiglu_block_backward_matches_differences(void **state)
{
    (void)state;
    const int sizes[][4] = {{1, 3, 2, 0}, {5, 17, 9, 3}, {9, 16, 33, 0}, {4, 12, 20, 5}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_ffn(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]);
}

static int setup(void **state)
{
    folder_setup(state);
    rng = um_rng_seed(17, 0);
    um_arena_init(&scratch, "scratch", 1 << 16);
    return um_dev_open_cpu(&dev, UM_ISA_AUTO, 2, NULL) == UM_OK ? 0 : 1;
}

static int teardown(void **state)
{
    um_arena_free(&scratch);
    return folder_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_backward_matches_differences),
        cmocka_unit_test(gradients_accumulate),
        cmocka_unit_test(a_step_changes_what_is_packed),
        cmocka_unit_test(one_of_a_stack_is_trained),
        cmocka_unit_test(swiglu_block_backward_matches_differences),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
