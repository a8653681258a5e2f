/* core/nn/linear: stacked layers and convolutions over rows give the same values as the layers one by one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/nn/linear.h"
#include "tests/support/fixture.h"

#include <math.h>
#include <string.h>

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

static um_tensor tensor(const char *name, um_dtype type, int rank, int64_t a, int64_t b, int64_t c)
{
    um_tensor t = {.name = name, .dtype = type, .rank = rank, .shape = {a, b, c}};
    size_t n = (size_t)a * (size_t)(rank > 1 ? b : 1) * (size_t)(rank > 2 ? c : 1);
    void *data = um_arena_alloc(&arena, n * um_dtype_size(type));
    um_from_f32(data, type, numbers(n), n);
    t.data = data;
    t.bytes = n * um_dtype_size(type);
    return t;
}

static um_tensors *set_of(const um_tensor *list, size_t n)
{
    um_tensors *s = NULL;
    um_err err = {0};
    const char *path = um_arena_fmt(&arena, "%s/model.safetensors", dir);
    if (um_tensors_write(path, list, n, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    if (um_tensors_open(&s, path, &err) != UM_OK) fail_msg("%s", err.msg);
    return s;
}

/* Three layers of 5, 20 and 16 outputs, the second without bias: no layer ends at the end of a panel. */
static void stacked(um_dtype a, um_dtype b, const char *keep, um_dtype kept)
{
    static const char *const w[] = {"a.weight", "b.weight", "c.weight"}, *const bias[] = {"a.bias",
                                                                                          NULL,
                                                                                          "c.bias"};
    static const int N[] = {5, 20, 16};
    um_tensor list[] = {tensor(w[0], a, 2, N[0], K, 0), tensor(w[1], b, 2, N[1], K, 0),
                        tensor(w[2], a, 2, N[2], K, 0), tensor(bias[0], UM_F32, 1, N[0], 0, 0),
                        tensor(bias[2], UM_F32, 1, N[2], 0, 0)};
    um_tensors *s = set_of(list, 5);
    um_linear_part part[3];
    um_linear all;
    um_err err = {0};
    float *x = numbers(ROWS * K), y[ROWS * 41], z[ROWS * 20];
    for (int i = 0; i < 3; i++) part[i] = (um_linear_part){w[i], bias[i], N[i]};
    if (um_linear_load_stacked(&all, s, part, 3, K, keep, &dev, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_true(all.w.dtype == kept && all.w.N == 41 && all.w.K == K);
    um_linear_fwd(&dev, y, x, ROWS, &all);
    for (int i = 0, at = 0; i < 3; at += N[i], i++) {
        um_linear one;
        if (um_linear_load_plain(&one, s, w[i], bias[i], N[i], K, keep, &dev, &arena, &err) !=
            UM_OK)
            fail_msg("%s", err.msg);
        um_linear_fwd(&dev, z, x, ROWS, &one);
        for (int r = 0; r < ROWS; r++)
            assert_memory_equal(y + r * 41 + at, z + r * N[i], (size_t)N[i] * sizeof *z);
    }
    um_tensors_close(s);
}

static void test_stacked(void **state)
{
    (void)state;
    stacked(UM_F32, UM_F32, "auto", UM_F32);
    stacked(UM_BF16, UM_BF16, "auto", UM_BF16);
    stacked(UM_F16, UM_F16, "auto", UM_F16);
    stacked(UM_BF16, UM_F16, "auto", UM_F32); /* f32 holds both */
    stacked(UM_F32, UM_BF16, "bf16", UM_BF16);
    stacked(UM_BF16, UM_BF16, "f32", UM_F32);
}

static void test_stacked_refused(void **state)
{
    (void)state;
    um_tensor list[] = {tensor("a.weight", UM_F32, 2, 8, K, 0),
                        tensor("b.weight", UM_F32, 2, 9, K, 0),
                        tensor("a.bias", UM_F32, 1, 8, 0, 0)};
    um_tensors *s = set_of(list, 3);
    um_linear l = {0};
    um_err err = {0};
    um_linear_part part[2] = {{"a.weight", "a.bias", 8}, {"b.weight", NULL, 8}};
    assert_int_equal(um_linear_load_stacked(&l, s, part, 2, K, "auto", &dev, &arena, &err),
                     UM_E_MODEL);
    assert_non_null(strstr(err.msg, "b.weight"));
    assert_non_null(strstr(err.msg, "[9,40], want [8,40]"));
    part[1] = (um_linear_part){"b.weight", "b.bias", 9};
    assert_int_equal(um_linear_load_stacked(&l, s, part, 2, K, "auto", &dev, &arena, &err),
                     UM_E_MODEL);
    assert_non_null(strstr(err.msg, "b.bias"));
    assert_null(l.w.data);
    um_tensors_close(s);
}

/* Output n of rows x[0..2] is the sum over c and tap of w[n,c,tap] x[tap][c]. */
static void test_conv(void **state)
{
    (void)state;
    enum { N = 19, C = 6, TAPS = 3 };
    um_tensor list[] = {tensor("c.weight", UM_F32, 3, N, C, TAPS),
                        tensor("c.bias", UM_F32, 1, N, 0, 0)};
    um_tensors *s = set_of(list, 2);
    um_linear l = {0};
    um_err err = {0};
    const float *w = (const float *)(const void *)list[0].data,
                *b = (const float *)(const void *)list[1].data;
    float *x = numbers(C * TAPS), y[N];
    if (um_linear_load_conv(&l, s, "c.weight", "c.bias", N, C, TAPS, "auto", &dev, &arena, &err) !=
        UM_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(l.w.K, C * TAPS);
    um_linear_fwd(&dev, y, x, 1, &l);
    for (int n = 0; n < N; n++) {
        double sum = (double)b[n];
        for (int c = 0; c < C; c++)
            for (int tap = 0; tap < TAPS; tap++)
                sum += (double)w[(n * C + c) * TAPS + tap] * (double)x[tap * C + c];
        assert_true(fabs(sum - (double)y[n]) < 1e-5);
    }
    assert_int_equal(
        um_linear_load_conv(&l, s, "c.weight", NULL, N, C, 4, "auto", &dev, &arena, &err),
        UM_E_MODEL);
    assert_non_null(strstr(err.msg, "[19,6,3], want [19,6,4]"));
    um_tensors_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stacked),
        cmocka_unit_test(test_stacked_refused),
        cmocka_unit_test(test_conv),
    };
    return cmocka_run_group_tests(tests, setup, folder_teardown);
}
