/* core/nn/linear: stacked layers and convolutions over rows give the same values as the layers one by one, a LoRA beside its matrix the
 * same as one that is merged. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/nn/linear.h"
#include "tests/support/fixture.h"
#include "tests/support/made_params.h"

#include <math.h>

enum { K = 40, ROWS = 7 };

static um_dev dev;
static um_rng rng;

static int setup(void **state)
{
    folder_setup(state);
    rng = um_rng_seed(3, 4);
    return um_dev_open_cpu(&dev, UM_ISA_AUTO, 1, NULL) == UM_OK ? 0 : 1;
}

static float *numbers(size_t n)
{
    float *x = um_arena_f32(&arena, 1, n);
    um_rng_normal_f32(&rng, x, n, 1.0f);
    return x;
}

static um_lora lora = {.scratch = &arena};

static um_loading how(um_keep keep)
{
    return (um_loading){.dev = &dev, .host = &arena, .device = &arena, .keep = keep, .lora = &lora};
}

static const um_slot abc[] = {UM_SLOT_Q, UM_SLOT_K, UM_SLOT_V};
static const int N[] = {5, 20, 16};

/* Three layers of 5, 20 and 16 outputs, the second without bias: no layer ends at the end of a panel. */
static void stacked(um_dtype a, um_dtype b, um_keep keep, um_dtype kept)
{
    made_params m = {.a = &arena};
    um_linear all;
    um_err err = {0};
    const um_loading into = how(keep);
    float *x = numbers(ROWS * K), y[ROWS * 41], z[ROWS * 20];
    um_place at[3];
    for (int i = 0; i < 3; i++) {
        at[i] = made_at(abc[i]);
        made_add(&m, abc[i], UM_LEAF_WEIGHT, i == 1 ? b : a, N[i], K, 0);
        if (i != 1) made_add(&m, abc[i], UM_LEAF_BIAS, UM_F32, N[i], 0, 0);
    }
    made_open(&m, dir, &into);
    if (um_linear_load_stacked(&all, &m.ps, at, 3, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(all.w.dtype == kept && all.w.N == 41 && all.w.K == K);
    um_linear_fwd(&dev, y, x, ROWS, &all);
    for (int i = 0, from = 0; i < 3; from += N[i], i++) {
        um_linear one;
        if (um_linear_load(&one, &m.ps, at[i], &err) != UM_OK) fail_msg("%s", err.msg);
        um_linear_fwd(&dev, z, x, ROWS, &one);
        for (int r = 0; r < ROWS; r++)
            assert_memory_equal(y + r * 41 + from, z + r * N[i], (size_t)N[i] * sizeof *z);
    }
    made_close(&m);
}

static void test_stacked(void **state)
{
    (void)state;
    stacked(UM_F32, UM_F32, UM_KEEP_STORED, UM_F32);
    stacked(UM_BF16, UM_BF16, UM_KEEP_STORED, UM_BF16);
    stacked(UM_F16, UM_F16, UM_KEEP_STORED, UM_F16);
    stacked(UM_BF16, UM_F16, UM_KEEP_STORED, UM_F32); /* f32 holds both */
    stacked(UM_F32, UM_BF16, UM_KEEP_BF16, UM_BF16);
    stacked(UM_BF16, UM_BF16, UM_KEEP_F32, UM_F32);
}

/* Tensors of other shapes than the list wants, or missing: the message names the tensor and both shapes. */
static void test_stacked_refused(void **state)
{
    (void)state;
    made_params m = {.a = &arena};
    um_linear l = {0};
    um_err err = {0};
    const um_loading into = how(UM_KEEP_STORED);
    const um_place at[2] = {made_at(UM_SLOT_Q), made_at(UM_SLOT_K)};
    made_add(&m, UM_SLOT_Q, UM_LEAF_WEIGHT, UM_F32, 8, K, 0);
    made_add(&m, UM_SLOT_Q, UM_LEAF_BIAS, UM_F32, 8, 0, 0);
    made_add(&m, UM_SLOT_K, UM_LEAF_WEIGHT, UM_F32, 9, K, 0);
    made_open(&m, dir, &into);
    um_param *k = um_params_find(&m.ps, at[1], UM_LEAF_WEIGHT);
    k->spec.shape[0] = 8;
    assert_int_equal(um_linear_load_stacked(&l, &m.ps, at, 2, &err), UM_E_MODEL);
    has(&err, k->spec.name);
    has(&err, "[9,40], want [8,40]");
    k->spec.name = "elsewhere.weight";
    assert_int_equal(um_linear_load_stacked(&l, &m.ps, at, 2, &err), UM_E_MODEL);
    has(&err, "elsewhere.weight: missing in ");
    assert_null(l.w.data);
    assert_int_equal(um_linear_load(&l, &m.ps, made_at(UM_SLOT_V), &err), UM_E_MODEL);
    made_close(&m);
}

/* Output n of rows x[0..2] is the sum over c and tap of w[n,c,tap] x[tap][c]. */
static void test_conv(void **state)
{
    (void)state;
    enum { OUT = 19, C = 6, TAPS = 3 };
    made_params m = {.a = &arena};
    um_linear l = {0};
    um_err err = {0};
    const um_loading into = how(UM_KEEP_STORED);
    const um_place at = made_at(UM_SLOT_CONV1);
    const float *w = made_add(&m, UM_SLOT_CONV1, UM_LEAF_WEIGHT, UM_F32, OUT, C, TAPS),
                *b = made_add(&m, UM_SLOT_CONV1, UM_LEAF_BIAS, UM_F32, OUT, 0, 0);
    float *x = numbers(C * TAPS), y[OUT];
    made_open(&m, dir, &into);
    if (um_linear_load_conv(&l, &m.ps, at, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(l.w.K, C * TAPS);
    um_linear_fwd(&dev, y, x, 1, &l);
    for (int n = 0; n < OUT; n++) {
        double sum = (double)b[n];
        for (int c = 0; c < C; c++)
            for (int tap = 0; tap < TAPS; tap++)
                sum += (double)w[(n * C + c) * TAPS + tap] * (double)x[tap * C + c];
        assert_true(fabs(sum - (double)y[n]) < 1e-5);
    }
    um_param *p = um_params_find(&m.ps, at, UM_LEAF_WEIGHT);
    p->spec.shape[2] = 4;
    assert_int_equal(um_linear_load_conv(&l, &m.ps, at, &err), UM_E_MODEL);
    has(&err, "[19,6,3], want [19,6,4]");
    made_close(&m);
}

/* A LoRA as a branch and merged: within 1e-6 of the output's size, in every type that keeps the matrix exactly. */
static void lora_matches(um_dtype stored, int T, int out, int in, int r)
{
    made_params m = {.a = &arena, .ck = {.model = {.lora_r = r, .lora_alpha = 8.0f}}};
    um_linear merged, live;
    um_err err = {0};
    um_loading into = how(UM_KEEP_STORED);
    const um_place at = made_at(UM_SLOT_UP_PROJ);
    const size_t n = (size_t)T * (size_t)out;
    float *x = numbers((size_t)T * (size_t)in), *y = um_arena_f32(&arena, 1, n),
          *z = um_arena_f32(&arena, 1, n);
    made_add(&m, UM_SLOT_UP_PROJ, UM_LEAF_WEIGHT, stored, out, in, 0);
    made_add(&m, UM_SLOT_UP_PROJ, UM_LEAF_LORA_A, stored, r, in, 0);
    made_add(&m, UM_SLOT_UP_PROJ, UM_LEAF_LORA_B, stored, out, r, 0);
    made_open(&m, dir, &into);
    if (um_linear_load(&merged, &m.ps, at, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(merged.branches == 0 && merged.w.dtype == UM_F32);
    /* W + BA is not W */
    assert_int_equal(um_params_train(&m.ps, trains_name,
                                     um_params_find(&m.ps, at, UM_LEAF_WEIGHT)->spec.name, &err),
                     UM_E_USAGE);
    m.ps.how.lora_live = true;
    if (um_linear_load(&live, &m.ps, at, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(live.w.dtype == stored && live.branches == 1 && live.branch[0].a->w.N == r);
    um_linear_fwd(&dev, y, x, T, &merged);
    um_linear_fwd(&dev, z, x, T, &live);
    double largest = 0, off = 0;
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs((double)y[i]));
        off = fmax(off, fabs((double)y[i] - (double)z[i]));
    }
    if (!(off <= 1e-6 * largest))
        fail_msg("[%d,%d] rank %d: %g off, largest value %g", out, in, r, off, largest);
    made_close(&m);
}

static void test_lora_branch(void **state)
{
    (void)state;
    static const int sizes[][4] = {{1, 7, 5, 1}, {3, 40, 33, 4}, {9, 17, 64, 8}, {20, 96, 64, 16}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (um_dtype t = UM_F32; t <= UM_F16; t++)
            lora_matches(t, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]);
}

/* Half of a LoRA is an error that names the other half. */
static void test_half_a_lora(void **state)
{
    (void)state;
    made_params m = {.a = &arena, .ck = {.model = {.lora_r = 2, .lora_alpha = 8.0f}}};
    um_linear l;
    um_err err = {0};
    const um_loading into = how(UM_KEEP_STORED);
    made_add(&m, UM_SLOT_UP_PROJ, UM_LEAF_WEIGHT, UM_F32, 8, K, 0);
    made_add(&m, UM_SLOT_UP_PROJ, UM_LEAF_LORA_A, UM_F32, 2, K, 0);
    made_add(&m, UM_SLOT_UP_PROJ, UM_LEAF_LORA_B, UM_F32, 8, 2, 0);
    made_open(&m, dir, &into);
    um_param *b = um_params_find(&m.ps, made_at(UM_SLOT_UP_PROJ), UM_LEAF_LORA_B);
    b->spec.name = "elsewhere.lora_B";
    b->stored = NULL;
    assert_int_equal(um_linear_load(&l, &m.ps, made_at(UM_SLOT_UP_PROJ), &err), UM_E_MODEL);
    has(&err, "elsewhere.lora_B: missing in ");
    made_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stacked),     cmocka_unit_test(test_stacked_refused),
        cmocka_unit_test(test_conv),        cmocka_unit_test(test_lora_branch),
        cmocka_unit_test(test_half_a_lora),
    };
    return cmocka_run_group_tests(tests, setup, folder_teardown);
}
