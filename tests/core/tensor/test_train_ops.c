/* Dropout, sums of squares and what the ops of training do at the edges. Their values are in test_ops_train_cases.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/tensor/ops.h"

#include <math.h>
#include <string.h>

enum { N = 70001, MANY = 300 * 4096 + 5 };

static bool open_cpu(um_dev *d, um_isa isa, int threads)
{
    um_err err;
    return um_dev_open_cpu(d, isa, threads, &err) == UM_OK;
}

static float *values(um_arena *a, size_t n, uint64_t stream)
{
    float *x = um_arena_f32(a, 1, n);
    um_rng rng = um_rng_seed(13, stream);
    um_rng_normal_f32(&rng, x, n, 1.0f);
    return x;
}

static size_t zeros_in(const float *x, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i] == 0.0f;
    return sum;
}

/* The share p is dropped, the others grow by 1/(1-p); the same values whoever computes them; other seeds drop others. */
static void dropout(void **state)
{
    (void)state;
    um_arena a;
    um_dev d;
    um_arena_init(&a, "case", 1 << 20);
    const float *x = values(&a, N, 1);
    float *first = um_arena_f32(&a, 1, N), *y = um_arena_f32(&a, 1, N);
    assert_true(open_cpu(&d, UM_ISA_GENERIC, 1));
    for (float p = 0.05f; p < 1.0f; p += 0.3f) {
        d.ops->dropout(&d, first, x, N, p, 77);
        const double share = (double)zeros_in(first, N) / N;
        assert_true(fabs(share - (double)p) < 4 * sqrt(0.25 / N));
        for (int i = 0; i < N; i++)
            assert_true(first[i] == 0.0f ||
                        fabsf(first[i] - x[i] / (1.0f - p)) <= 1e-6f * fabsf(first[i]));
        for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
            for (int threads = 2; threads <= 3; threads++) {
                um_dev other;
                if (!open_cpu(&other, isa, threads)) continue;
                memcpy(y, x, N * sizeof *y);
                other.ops->dropout(&other, y, y, N, p, 77);
                assert_memory_equal(y, first, N * sizeof *y);
            }
        size_t both = 0;
        d.ops->dropout(&d, y, x, N, p, 78);
        for (int i = 0; i < N; i++) both += y[i] == 0.0f && first[i] == 0.0f;
        assert_true(fabs((double)both / N - share * share) < 4 * sqrt(0.25 / N));
    }
    d.ops->dropout(&d, y, x, N, 0.0f, 77);
    assert_memory_equal(y, x, N * sizeof *y);
    um_arena_free(&a);
}

static void sum_squares(void **state)
{
    (void)state;
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    float *x = values(&a, MANY, 2);
    static const size_t sizes[] = {0, 1, 15, 17, 4096, 4097, N, MANY};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = sizes[s];
        double want = 0, first = 0, got = -1;
        for (size_t i = 0; i < n; i++) want += (double)x[i] * (double)x[i];
        for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
            for (int threads = 1; threads <= 3; threads++) {
                um_dev d;
                if (!open_cpu(&d, isa, threads)) continue;
                d.ops->sum_squares(&d, &got, x, n);
                if (isa == UM_ISA_GENERIC && threads == 1) first = got;
                assert_true(got == first && fabs(got - want) <= 1e-12 * want);
            }
    }
    um_dev d;
    double got;
    assert_true(open_cpu(&d, UM_ISA_AUTO, 2));
    x[N - 3] = 3e38f; /* its square is beyond f32 */
    d.ops->sum_squares(&d, &got, x, N);
    assert_true(isfinite(got));
    x[N - 1] = -INFINITY;
    d.ops->sum_squares(&d, &got, x, N);
    assert_true(got == (double)INFINITY);
    x[4] = NAN;
    d.ops->sum_squares(&d, &got, x, N);
    assert_true(isnan(got));
    um_arena_free(&a);
}

/* Far from zero the slope of a GELU is 0 or 1, and NaN stays; logits of any size have a loss. */
static void special_values(void **state)
{
    (void)state;
    const float x[] = {-1e38f, 1e38f, -60.0f, 60.0f, 0.0f, NAN}, one[] = {1, 1, 1, 1, 1, 1};
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        um_dev d;
        if (!open_cpu(&d, isa, 1)) continue;
        float gelu[6] = {0}, quick[6] = {0};
        d.ops->gelu_bwd(&d, gelu, one, x, 6);
        d.ops->quick_gelu_bwd(&d, quick, one, x, 6);
        for (int i = 0; i < 4; i++)
            assert_true(gelu[i] == (float)(i % 2) && fabsf(quick[i] - (float)(i % 2)) < 1e-30f);
        assert_true(gelu[4] == 0.5f && quick[4] == 0.5f && isnan(gelu[5]) && isnan(quick[5]));

        const float logits[] = {3e4f, -3e4f, 0.0f, -INFINITY, NAN, 1.0f};
        const int32_t target[] = {1, -1, 0};
        float loss[3], back[6];
        d.ops->cross_entropy(&d, loss, back, logits, target, 3, 2, 1.0f);
        assert_true(loss[0] == 6e4f && back[0] == 1.0f && back[1] == -1.0f);
        assert_true(loss[1] == 0.0f && back[2] == 0.0f && back[3] == 0.0f);
        assert_true(isnan(loss[2]) && isnan(back[4]));
    }
}

static void zero_rows_do_nothing(void **state)
{
    (void)state;
    um_dev d;
    um_err err;
    float y = 5.0f;
    double sum = 1.0;
    const um_adamw how = {.bias1 = 1.0, .bias2 = 1.0};
    assert_true(open_cpu(&d, UM_ISA_AUTO, 2));
    d.ops->rope_bwd(&d, &y, 16, NULL, NULL, 0, 2, 8);
    d.ops->layernorm_bwd(&d, &y, &y, &y, NULL, NULL, NULL, 0, 8, 1e-5f);
    d.ops->gelu_bwd(&d, &y, NULL, NULL, 0);
    d.ops->quick_gelu_bwd(&d, &y, NULL, NULL, 0);
    d.ops->bias_gate_bwd(&d, &y, &y, NULL, NULL, NULL, 0, 2);
    d.ops->softmax(&d, &y, NULL, 0, 8);
    d.ops->softmax_bwd(&d, &y, NULL, 0, NULL, 0, 8);
    d.ops->cross_entropy(&d, &y, &y, NULL, NULL, 0, 8, 1.0f);
    d.ops->combine_bwd(&d, &y, &y, NULL, &y, NULL, &y, 0, 2, 8);
    d.ops->scatter_add(&d, &y, NULL, NULL, 0, 8);
    d.ops->windows_add(&d, &y, NULL, 0, 8, 4);
    d.ops->dropout(&d, &y, NULL, 0, 0.5f, 1);
    d.ops->adamw(&d, &y, NULL, &y, &y, 0, &how);
    d.ops->sum_squares(&d, &sum, NULL, 0);
    assert_true(y == 5.0f && sum == 0.0);
    assert_int_equal(um_dev_sync(&d, &err), UM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropout),
        cmocka_unit_test(sum_squares),
        cmocka_unit_test(special_values),
        cmocka_unit_test(zero_rows_do_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
