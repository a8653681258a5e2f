/* core/nn/attention and core/nn/mlp: the blocks against sums in double, the same bits however the layers are stacked and the buffers
 * shared, and inputs that are left as they were. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/nn/attention.h"
#include "core/nn/mlp.h"

#include <math.h>
#include <string.h>

enum { HEADS = 6, KV_HEADS = 3, HEAD_DIM = 20, D = 36, F = 50, T = 37, KEYS = 45 };
enum { Q_COLS = HEADS * HEAD_DIM, KV_COLS = KV_HEADS * HEAD_DIM };

static um_dev dev;
static um_arena arena;
static um_rng rng;

static int setup(void **state)
{
    (void)state;
    um_arena_init(&arena, "test", 1 << 20);
    rng = um_rng_seed(5, 6);
    return um_dev_open_cpu(&dev, UM_ISA_AUTO, 2, NULL) == UM_OK ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    um_arena_free(&arena);
    return 0;
}

static float *numbers(int rows, int cols)
{
    float *x = um_arena_f32(&arena, (size_t)rows, (size_t)cols);
    um_rng_normal_f32(&rng, x, (size_t)rows * (size_t)cols, 0.5f);
    return x;
}

static float *copy_of(const float *x, int rows, int cols)
{
    float *y = um_arena_f32(&arena, (size_t)rows, (size_t)cols);
    memcpy(y, x, (size_t)rows * (size_t)cols * sizeof *y);
    return y;
}

/* w[N,K] row-major, bias[N]. */
static um_linear linear_of(const float *w, const float *bias, int N, int K)
{
    um_linear l = {.w = {.dtype = UM_F32, .N = N, .K = K}, .bias = bias};
    l.w.data = um_arena_alloc(&arena, um_matrix_bytes(UM_F32, N, K));
    dev.ops->pack(&dev, &l.w, w, UM_F32, K, false);
    return l;
}

/* Row-major weights of q, k, v, one above the other, and of the output layer. */
typedef struct rows {
    float *w, *bias, *out, *out_bias;
} rows;

static rows weights(void)
{
    rows r = {.w = numbers(Q_COLS + 2 * KV_COLS, D), .bias = numbers(1, Q_COLS + 2 * KV_COLS)};
    r.out = numbers(D, Q_COLS);
    r.out_bias = numbers(1, D);
    return r;
}

static um_attention block_of(const rows *r, um_attention_layers layers)
{
    const float *k = r->w + Q_COLS * D, *v = k + KV_COLS * D, *kb = r->bias + Q_COLS;
    um_attention a = {.shape = {HEADS, KV_HEADS, HEAD_DIM, layers}};
    a.out = linear_of(r->out, r->out_bias, D, Q_COLS);
    switch (layers) {
    case UM_ATTENTION_QKV:
        a.q = linear_of(r->w, r->bias, Q_COLS + 2 * KV_COLS, D);
        break;
    case UM_ATTENTION_Q_KV:
        a.q = linear_of(r->w, r->bias, Q_COLS, D);
        a.k = linear_of(k, kb, 2 * KV_COLS, D);
        break;
    case UM_ATTENTION_Q_K_V:
        a.q = linear_of(r->w, r->bias, Q_COLS, D);
        a.k = linear_of(k, kb, KV_COLS, D);
        a.v = linear_of(v, kb + KV_COLS, KV_COLS, D);
        break;
    }
    return a;
}

static void run(float *y, um_attention_acts *a, const um_attention *w, const float *x,
                const float *from, int n, const float *in, bool causal)
{
    um_attention_pages pages;
    um_attention_acts_bind(a, &arena, &w->shape, T, n);
    um_attention_pages_bind(&pages, &arena, &arena, um_kv_page_floats(KV_HEADS, HEAD_DIM), n);
    um_attention_pages_start(&dev, &pages);
    um_attention_fwd(&dev, a, w, &pages, x, T, from, n, causal);
    um_attention_output(&dev, y, a, w, in, T);
}

static double dot(const float *a, const float *b, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* One output of the block, and its row's log-sum-exp in every head, in double. */
static double reference(double lse[HEADS], const rows *r, const float *x, const float *from, int n,
                        const float *in, int t, int out, bool causal)
{
    const double scale = 1.0 / sqrt((double)HEAD_DIM);
    double y = (double)in[t * D + out] + (double)r->out_bias[out];
    for (int h = 0; h < HEADS; h++) {
        const int kv_head = h / (HEADS / KV_HEADS), seen = causal ? t + 1 : n;
        double total = 0.0, read[HEAD_DIM] = {0};
        for (int i = 0; i < seen; i++) {
            double score = 0.0;
            for (int d = 0; d < HEAD_DIM; d++) {
                const int q = h * HEAD_DIM + d, k = Q_COLS + kv_head * HEAD_DIM + d;
                score += (dot(r->w + q * D, x + t * D, D) + (double)r->bias[q]) *
                         (dot(r->w + k * D, from + i * D, D) + (double)r->bias[k]);
            }
            const double e = exp(score * scale);
            total += e;
            for (int d = 0; d < HEAD_DIM; d++) {
                const int v = Q_COLS + KV_COLS + kv_head * HEAD_DIM + d;
                read[d] += e * (dot(r->w + v * D, from + i * D, D) + (double)r->bias[v]);
            }
        }
        lse[h] = log(total);
        for (int d = 0; d < HEAD_DIM; d++)
            y += (double)r->out[out * Q_COLS + h * HEAD_DIM + d] * read[d] / total;
    }
    return y;
}

static void near_reference(const float *y, const um_attention_acts *a, const rows *r,
                           const float *x, const float *from, int n, const float *in, bool causal)
{
    static const int picks[] = {0, 1, 17, T - 1};
    double lse[HEADS];
    for (size_t i = 0; i < sizeof picks / sizeof *picks; i++)
        for (int out = 0; out < D; out += 7) {
            const int t = picks[i];
            const double want = reference(lse, r, x, from, n, in, t, out, causal);
            assert_true(fabs((double)y[t * D + out] - want) < 1e-4 * (1.0 + fabs(want)));
            for (int h = 0; h < HEADS; h++)
                assert_true(fabs((double)a->lse[t * HEADS + h] - lse[h]) < 1e-4);
        }
}

/* Self-attention, causal or not, with the layers in each of the three ways. */
static void test_self_attention(void **state)
{
    (void)state;
    const rows r = weights();
    const float *x = numbers(T, D), *in = numbers(T, D);
    for (int causal = 0; causal < 2; causal++) {
        float *first = NULL;
        for (int layers = UM_ATTENTION_Q_K_V; layers <= UM_ATTENTION_QKV; layers++) {
            um_attention_acts a;
            const um_attention w = block_of(&r, (um_attention_layers)layers);
            float *y = um_arena_f32(&arena, T, D);
            run(y, &a, &w, x, x, T, in, causal != 0);
            near_reference(y, &a, &r, x, x, T, in, causal != 0);
            if (first == NULL) first = y;
            assert_memory_equal(y, first, T * D * sizeof *y);
        }
    }
}

/* More keys than queries, and fewer. */
static void test_cross_attention(void **state)
{
    (void)state;
    const rows r = weights();
    const float *x = numbers(T, D), *from = numbers(KEYS, D), *in = numbers(T, D);
    static const int keys[] = {1, 16, 30, KEYS};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        float *first = NULL;
        for (int layers = UM_ATTENTION_Q_K_V; layers <= UM_ATTENTION_Q_KV; layers++) {
            um_attention_acts a;
            const um_attention w = block_of(&r, (um_attention_layers)layers);
            float *y = um_arena_f32(&arena, T, D);
            run(y, &a, &w, x, from, keys[i], in, false);
            near_reference(y, &a, &r, x, from, keys[i], in, false);
            if (first == NULL) first = y;
            assert_memory_equal(y, first, T * D * sizeof *y);
        }
    }
}

/* What backward reads stays: the rows, the residual stream, queries, keys and values. In place gives the same bits. */
static void test_attention_keeps_its_inputs(void **state)
{
    (void)state;
    const rows r = weights();
    const um_attention w = block_of(&r, UM_ATTENTION_QKV);
    float *x = numbers(T, D), *in = numbers(T, D), *y = um_arena_f32(&arena, T, D);
    const float *x_was = copy_of(x, T, D), *in_was = copy_of(in, T, D);
    um_attention_acts a;
    run(y, &a, &w, x, x, T, in, true);
    assert_memory_equal(x, x_was, T * D * sizeof *x);
    assert_memory_equal(in, in_was, T * D * sizeof *in);
    float *qkv = um_arena_f32(&arena, T, Q_COLS + 2 * KV_COLS);
    um_linear_fwd(&dev, qkv, x, T, &w.q);
    assert_memory_equal(a.q, qkv, T * (Q_COLS + 2 * KV_COLS) * sizeof *qkv);
    run(in, &a, &w, x, x, T, in, true);
    assert_memory_equal(in, y, T * D * sizeof *y);
}

/* The block's scale is what the backbone computed before: 1/sqrt(head_dim) with one rounding. */
static void test_scale_has_one_value(void **state)
{
    (void)state;
    for (int n = 1; n <= 4096; n++)
        assert_true((float)um_exp(-0.5 * um_log((double)n)) == (float)(1.0 / sqrt((double)n)));
}

static void test_mlp(void **state)
{
    (void)state;
    const float *w1 = numbers(F, D), *b1 = numbers(1, F), *w2 = numbers(D, F), *b2 = numbers(1, D);
    float *x = numbers(T, D), *in = numbers(T, D);
    const float *x_was = copy_of(x, T, D), *in_was = copy_of(in, T, D);
    for (int act = UM_MLP_GELU; act <= UM_MLP_QUICK_GELU; act++) {
        const um_mlp w = {linear_of(w1, b1, F, D), linear_of(w2, b2, D, F), (um_mlp_act)act};
        um_mlp_acts kept, shared;
        float *y = um_arena_f32(&arena, T, D), *again = copy_of(in, T, D);
        um_mlp_acts_bind(&kept, &arena, T, F, true);
        um_mlp_acts_bind(&shared, &arena, T, F, false);
        um_mlp_fwd(&dev, y, &kept, &w, x, in, T);
        for (int t = 0; t < T; t += 5)
            for (int n = 0; n < D; n += 3) {
                double want = (double)in[t * D + n] + (double)b2[n];
                for (int f = 0; f < F; f++) {
                    const double u = dot(w1 + f * D, x + t * D, D) + (double)b1[f];
                    const double g = act == UM_MLP_GELU ? u / 2 * (1 + erf(u / sqrt(2.0)))
                                                        : u / (1 + exp(-1.702 * u));
                    want += g * (double)w2[n * F + f];
                    assert_true(fabs((double)kept.inner[t * F + f] - u) < 1e-4);
                    assert_true(fabs((double)kept.act[t * F + f] - g) < 1e-4);
                }
                assert_true(fabs((double)y[t * D + n] - want) < 1e-4 * (1.0 + fabs(want)));
            }
        assert_memory_equal(x, x_was, T * D * sizeof *x);
        assert_memory_equal(in, in_was, T * D * sizeof *in);
        um_mlp_fwd(&dev, again, &shared, &w, x, again, T);
        assert_memory_equal(again, y, T * D * sizeof *y);
    }
}

/* A measuring arena gives the bytes that the same binding takes. */
static void test_sizes_are_measured(void **state)
{
    (void)state;
    um_arena measure, real;
    const um_attention_shape s = {HEADS, KV_HEADS, HEAD_DIM, UM_ATTENTION_Q_KV};
    size_t bytes[2];
    um_arena_init_measure(&measure, "measure");
    um_arena_init(&real, "real", 1 << 16);
    for (int i = 0; i < 2; i++) {
        um_arena *a = i == 0 ? &measure : &real;
        um_attention_acts acts;
        um_attention_pages pages;
        um_mlp_acts mlp;
        um_attention_acts_bind(&acts, a, &s, T, KEYS);
        um_attention_pages_bind(&pages, &arena, a, um_kv_page_floats(KV_HEADS, HEAD_DIM), KEYS);
        um_mlp_acts_bind(&mlp, a, T, F, true);
        bytes[i] = a->peak;
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_true(bytes[0] >=
                sizeof(float) * (size_t)(T * (2 * Q_COLS + 2 * F) + KEYS * 2 * KV_COLS));
    um_arena_free(&real);
    um_arena_free(&measure);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_self_attention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cross_attention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attention_keeps_its_inputs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scale_has_one_value, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mlp, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sizes_are_measured, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
