/* Every op on every instruction set this machine has, with 1, 2 and 3 threads: the same bits as plain C with one thread, and plain
 * C within tolerance of a double reference. gemm over dtypes, sizes and strides, and its rows independent of M. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "tests/core/tensor/test_ops.h"

#include <math.h>
#include <string.h>

static const float SENTINEL = -12345.5f;

static um_dev cpu(um_isa isa, int threads)
{
    um_dev d;
    um_err err = {0};
    if (um_dev_open_cpu(&d, isa, threads, &err) != UM_OK) fail_msg("%s", err.msg);
    return d;
}

static bool has(um_isa isa)
{
    um_dev d;
    um_err err;
    return um_dev_open_cpu(&d, isa, 1, &err) == UM_OK;
}

static float *sentinels(um_arena *a, size_t n)
{
    float *out = um_arena_f32(a, 1, n);
    for (size_t i = 0; i < n; i++) out[i] = SENTINEL;
    return out;
}

static void near_reference(const op_case *c, const float *got, um_arena *a)
{
    double *want = um_arena_alloc(a, c->n * sizeof *want);
    c->want(c, want, a);
    for (size_t i = 0; i < c->n; i++) {
        const double off = fabs((double)got[i] - want[i]);
        if (isnan(want[i]) ? got[i] != SENTINEL : !(off <= c->tolerance * fmax(1.0, fabs(want[i]))))
            fail_msg("%s T %d D %d: value %zu is %.9g, wanted %.9g", c->name, c->T, c->D, i,
                     (double)got[i], want[i]);
    }
}

/* Runs c on all instruction sets and thread counts against plain C with one thread. */
static void check_case(const op_case *c, um_arena *a)
{
    um_dev plain = cpu(UM_ISA_GENERIC, 1);
    float *first = sentinels(a, c->n);
    c->run(&plain, c, first, a);
    near_reference(c, first, a);
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
        for (int threads = isa == UM_ISA_GENERIC ? 3 : 1; threads <= 3 && has(isa); threads++) {
            um_mark m = um_arena_mark(a);
            um_dev d = cpu(isa, threads);
            float *got = sentinels(a, c->n);
            c->run(&d, c, got, a);
            for (size_t i = 0; i < c->n; i++)
                if (um_f32_bits(got[i]) != um_f32_bits(first[i]))
                    fail_msg("%s T %d D %d, %s, %d threads: value %zu is %a, plain C has %a",
                             c->name, c->T, c->D, um_isa_name(isa), threads, i, (double)got[i],
                             (double)first[i]);
            um_arena_reset(a, m);
        }
}

static void check_cases(const op_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        um_arena a;
        um_arena_init(&a, "case", 1 << 20);
        check_case(&cases[i], &a);
        um_arena_free(&a);
    }
}

static void rows_and_arrays(void **state)
{
    (void)state;
    size_t count;
    const op_case *cases = op_cases(&count);
    check_cases(cases, count);
}

static void training(void **state)
{
    (void)state;
    size_t count;
    const op_case *cases = op_train_cases(&count);
    check_cases(cases, count);
}

/* A gemm case: T = M, D = N, K; flag: dtype + 4 * bias + 8 * accumulate + 16 * transposed source */
static int gap(const op_case *c)
{
    return c->K % 3;
} /* ld beyond the width, so that strides are seen */

static const float *gemm_weights(const op_case *c, um_arena *a)
{
    const size_t n = (size_t)c->D * (size_t)c->K;
    float *w = op_values(a, n, 12, 1.0f);
    uint16_t *half = um_arena_alloc(a, n * sizeof *half);
    const um_dtype type = (um_dtype)(c->flag & 3);
    if (type == UM_F32) return w;
    um_from_f32(half, type, w, n);
    um_to_f32(w, half, type, n);
    return w;
}

static um_matrix gemm_packed(um_dev *d, const op_case *c, um_arena *a)
{
    const float *w = gemm_weights(c, a);
    um_matrix m = {(um_dtype)(c->flag & 3), c->D, c->K,
                   um_arena_alloc(a, um_matrix_bytes((um_dtype)(c->flag & 3), c->D, c->K))};
    memset(m.data, 0xff, um_matrix_bytes(m.dtype, m.N, m.K)); /* NaN: padding must be written */
    const bool turn = c->flag & 16;
    const int rows = turn ? c->K : c->D, cols = turn ? c->D : c->K, ld = cols + gap(c);
    float *src = sentinels(a, (size_t)rows * (size_t)ld);
    for (int n = 0; n < c->D; n++)
        for (int k = 0; k < c->K; k++) src[turn ? k * ld + n : n * ld + k] = w[n * c->K + k];
    d->ops->pack(d, &m, src, UM_F32, ld, turn);
    return m;
}

static void gemm_run(um_dev *d, const op_case *c, float *out, um_arena *a)
{
    const um_matrix w = gemm_packed(d, c, a);
    const int ldx = c->K + gap(c), ldy = c->D + gap(c);
    const float *x = op_values(a, (size_t)c->T * (size_t)ldx, 11, 1.0f),
                *bias = op_values(a, (size_t)c->D, 13, 1.0f);
    const float *old = op_values(a, (size_t)c->T * (size_t)c->D, 14, 1.0f);
    for (int m = 0; m < c->T && c->flag & 8; m++)
        memcpy(out + (size_t)m * (size_t)ldy, old + (size_t)m * (size_t)c->D,
               (size_t)c->D * sizeof *out);
    d->ops->gemm(d, out, ldy, x, ldx, c->T, &w, c->flag & 4 ? bias : NULL, c->flag & 8);
}

static void gemm_want(const op_case *c, double *out, um_arena *a)
{
    const float *w = gemm_weights(c, a);
    const size_t K = (size_t)c->K, N = (size_t)c->D, ldx = K + (size_t)gap(c),
                 ldy = N + (size_t)gap(c);
    const float *x = op_values(a, (size_t)c->T * ldx, 11, 1.0f), *bias = op_values(a, N, 13, 1.0f);
    const float *old = op_values(a, (size_t)c->T * N, 14, 1.0f);
    for (size_t i = 0; i < c->n; i++) out[i] = (double)NAN;
    for (size_t m = 0; m < (size_t)c->T; m++)
        for (size_t n = 0; n < N; n++) {
            float chain = 0; /* the rule of ops.h itself, so equal to the last bit */
            for (size_t k = 0; k < K; k++) chain = fmaf(x[m * ldx + k], w[n * K + k], chain);
            if (c->flag & 4) chain += bias[n];
            if (c->flag & 8) chain += old[m * N + n];
            out[m * ldy + n] = (double)chain;
        }
}

static void check_gemm(int M, int N, int K, int flag)
{
    op_case c = {"gemm", 0, 0.0, gemm_run, gemm_want, M, N, K, flag};
    c.n = (size_t)M * (size_t)(N + gap(&c));
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    check_case(&c, &a);
    um_arena_free(&a);
}

static void gemm_sizes(void **state)
{
    (void)state;
    static const int Ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 31, 70};
    static const int Ns[] = {1, 15, 16, 17, 47, 130, 257};
    static const int Ks[] = {1, 5, 64, 257, 512, 530};
    int i = 0; /* walks through dtype x bias x accumulate x transposed */
    for (size_t k = 0; k < sizeof Ks / sizeof *Ks; k++)
        for (size_t n = 0; n < sizeof Ns / sizeof *Ns; n++)
            for (size_t m = 0; m < sizeof Ms / sizeof *Ms; m++, i++)
                check_gemm(Ms[m], Ns[n], Ks[k], i % 3 + 4 * (i / 3 % 8));
}

/* A packed matrix, turned, has the bits of its transpose, packed; and packing from device memory those of packing from the host. */
static void packed_turns(void **state)
{
    (void)state;
    static const int sizes[][2] = {{1, 1}, {5, 33}, {16, 16}, {40, 17}, {130, 150}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (um_dtype type = UM_F32; type <= UM_F16; type++) {
            um_arena a;
            um_arena_init(&a, "case", 1 << 20);
            um_dev d = cpu(UM_ISA_GENERIC, (int)i % 2 + 1);
            const int N = sizes[i][0], K = sizes[i][1];
            const float *w = op_values(&a, (size_t)N * (size_t)K, 31, 1.0f);
            um_matrix m[4];
            const size_t bytes[2] = {um_matrix_bytes(type, N, K), um_matrix_bytes(type, K, N)};
            for (int k = 0; k < 4; k++) {
                m[k] = (um_matrix){type, k < 2 ? N : K, k < 2 ? K : N,
                                   um_arena_alloc(&a, bytes[k / 2])};
                memset(m[k].data, 0xff, bytes[k / 2]);
            }
            d.ops->pack(&d, &m[0], w, UM_F32, K, false);
            d.ops->pack_device(&d, &m[1], w, K, false);
            d.ops->pack_device(&d, &m[2], w, K, true);
            d.ops->pack_transpose(&d, &m[3], &m[0]);
            assert_memory_equal(m[0].data, m[1].data, bytes[0]);
            assert_memory_equal(m[2].data, m[3].data, bytes[1]);
            um_arena_free(&a);
        }
}

/* More rows than one block, rows and k that are packed in turns, k-blocks with sums aside. */
static void gemm_large(void **state)
{
    (void)state;
    check_gemm(500, 40, 700, UM_F32 + 4 + 8);
    check_gemm(481, 17, 8800, UM_BF16);
    check_gemm(97, 600, 1300, UM_F16 + 8);
    check_gemm(1000, 300, 40, UM_F32);
}

/* Row m of a call with M rows has the bits of a call with that row alone. */
static void gemm_rows_alone(void **state)
{
    (void)state;
    enum { M = 70, N = 77, K = 300 };
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        if (!has(isa)) continue;
        um_dev d = cpu(isa, 2);
        const op_case c = {"gemm", 0, 0.0, NULL, NULL, M, N, K, UM_BF16};
        const um_matrix w = gemm_packed(&d, &c, &a);
        const float *x = op_values(&a, M * K, 11, 1.0f);
        float *alone = um_arena_f32(&a, M, N), *y = um_arena_f32(&a, M, N);
        for (int m = 0; m < M; m++)
            d.ops->gemm(&d, alone + m * N, N, x + m * K, K, 1, &w, NULL, false);
        for (int rows = 1; rows <= M; rows++) {
            memset(y, 0xff, M * N * sizeof *y);
            d.ops->gemm(&d, y, N, x, K, rows, &w, NULL, false);
            assert_memory_equal(y, alone, (size_t)rows * N * sizeof *y);
        }
    }
    um_arena_free(&a);
}

/* Overlapping rows (ldx < K) give the same as separate copies of them: a convolution does not have to be unfolded. */
static void gemm_rows_overlap(void **state)
{
    (void)state;
    enum { M = 75, N = 33, K = 300, STEP = 12 };
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const float *x = op_values(&a, (M - 1) * STEP + K, 11, 1.0f);
    float *apart = um_arena_f32(&a, M, K), *want = um_arena_f32(&a, M, N),
          *y = um_arena_f32(&a, M, N);
    for (int m = 0; m < M; m++) memcpy(apart + m * K, x + m * STEP, K * sizeof *x);
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        if (!has(isa)) continue;
        um_dev d = cpu(isa, 2);
        const op_case c = {"gemm", 0, 0.0, NULL, NULL, M, N, K, UM_F32};
        const um_matrix w = gemm_packed(&d, &c, &a);
        for (int rows = 2; rows <= M; rows += 73) {
            d.ops->gemm(&d, want, N, apart, K, rows, &w, NULL, false);
            d.ops->gemm(&d, y, N, x, STEP, rows, &w, NULL, false);
            assert_memory_equal(y, want, (size_t)rows * N * sizeof *y);
        }
    }
    um_arena_free(&a);
}

/* gemm_tn has the bits of gemm on the transpose of its x, whose rows lie further apart than they are long; few rows, many, and so many
 * inputs that sums wait between blocks. */
static void gemm_turned(void **state)
{
    (void)state;
    static const int sizes[][3] = {
        {1, 1, 1}, {3, 40, 17}, {16, 33, 64}, {70, 17, 530}, {241, 130, 1100}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int flag = 0; flag < 2; flag++) {
            const int M = sizes[i][0], N = sizes[i][1], K = sizes[i][2];
            const op_case c = {"gemm", 0, 0.0, NULL, NULL, M, N, K, (int)i % 3};
            um_arena a;
            um_arena_init(&a, "case", 1 << 20);
            um_dev plain = cpu(UM_ISA_GENERIC, 1);
            const um_matrix w = gemm_packed(&plain, &c, &a);
            const int ldx = M + 5, ldy = N + 2;
            const size_t n = (size_t)M * (size_t)ldy;
            const float *x = op_values(&a, (size_t)K * (size_t)ldx, 11, 1.0f);
            float *xt = um_arena_f32(&a, (size_t)M, (size_t)K), *want = op_values(&a, n, 12, 1.0f);
            for (int m = 0; m < M; m++)
                for (int k = 0; k < K; k++) xt[m * K + k] = x[k * ldx + m];
            plain.ops->gemm(&plain, want, ldy, xt, K, M, &w, NULL, flag);
            for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
                for (int threads = 1; threads <= 3 && has(isa); threads++) {
                    um_dev d = cpu(isa, threads);
                    float *got = op_values(&a, n, 12, 1.0f);
                    d.ops->gemm_tn(&d, got, ldy, x, ldx, M, &w, flag);
                    assert_memory_equal(got, want, n * sizeof *got);
                }
            um_arena_free(&a);
        }
}

/* Group by group the bits of gemm, and nothing between the groups: none, few and many rows, one group and more than threads. */
static void check_grouped(um_dtype dtype, int N, int K, const int *T, int kinds, int groups)
{
    enum { GAP_ROWS = 1 };
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    um_dev plain = cpu(UM_ISA_GENERIC, 1);
    um_matrix *w = um_arena_alloc(&a, (size_t)groups * sizeof *w);
    um_group *group = um_arena_alloc(&a, (size_t)groups * sizeof *group);
    int rows = 0;
    for (int i = 0; i < groups; i++) {
        w[i] = (um_matrix){dtype, N, K, um_arena_alloc(&a, um_matrix_bytes(dtype, N, K))};
        const float *src = op_values(&a, (size_t)N * (size_t)K, 100 + (uint64_t)i, 1.0f);
        plain.ops->pack(&plain, &w[i], src, UM_F32, K, false);
        const float *bias = i % 2 ? op_values(&a, (size_t)N, 500 + (uint64_t)i, 1.0f) : NULL;
        group[i] = (um_group){&w[i], bias, rows, T[i % kinds]};
        rows += T[i % kinds] + GAP_ROWS;
    }
    const int ldx = K + 2, ldy = N + 3;
    const size_t n = (size_t)rows * (size_t)ldy;
    const float *x = op_values(&a, (size_t)rows * (size_t)ldx, 11, 1.0f);
    float *want = sentinels(&a, n);
    for (int i = 0; i < groups; i++)
        plain.ops->gemm(&plain, want + group[i].row * ldy, ldy, x + group[i].row * ldx, ldx,
                        group[i].T, group[i].w, group[i].bias, false);
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
        for (int threads = 1; threads <= 3 && has(isa); threads++) {
            um_mark m = um_arena_mark(&a);
            um_dev d = cpu(isa, threads);
            float *got = sentinels(&a, n);
            d.ops->gemm_grouped(&d, got, ldy, x, ldx, group, groups);
            if (memcmp(got, want, n * sizeof *got) != 0)
                fail_msg("grouped %d x %d, %d groups, %s, %d threads: other bits", N, K, groups,
                         um_isa_name(isa), threads);
            um_arena_reset(&a, m);
        }
    um_arena_free(&a);
}

static void gemm_groups(void **state)
{
    (void)state;
    static const int thin[] = {1, 4, 2, 0, 3}, mixed[] = {1, 30, 5, 0, 17, 2, 64, 9},
                     large[] = {70, 250};
    for (um_dtype dtype = UM_F32; dtype <= UM_F16; dtype++) {
        check_grouped(dtype, 77, 300, thin, 5, 1);
        check_grouped(dtype, 300, 77, thin, 5, 40);
        check_grouped(dtype, 130, 530, mixed, 8, 33);
        check_grouped(dtype, 64, 1100, large, 2, 3);
        check_grouped(dtype, 17, 20, mixed, 8, 3);
    }
    um_dev d = cpu(UM_ISA_AUTO, 2);
    d.ops->gemm_grouped(&d, NULL, 1, NULL, 1, NULL, 0);
}

static void zero_rows_do_nothing(void **state)
{
    (void)state;
    um_dev d = cpu(UM_ISA_AUTO, 2);
    um_arena a;
    um_arena_init(&a, "case", 4096);
    const op_case c = {"gemm", 0, 0.0, NULL, NULL, 0, 8, 8, UM_F32};
    const um_matrix w = gemm_packed(&d, &c, &a);
    float y[8] = {SENTINEL}, x[8] = {1};
    const float *ones = op_values(&a, 8, 1, 1.0f);
    d.ops->gemm(&d, y, 8, x, 8, 0, &w, NULL, false);
    d.ops->rmsnorm_fwd(&d, y, NULL, x, ones, 0, 8, 1e-5f);
    d.ops->layernorm_fwd(&d, y, x, ones, ones, 0, 8, 1e-5f);
    d.ops->swiglu_fwd(&d, y, x, x, 0);
    d.ops->gather(&d, y, x, NULL, 0, 8);
    d.ops->combine(&d, y, x, NULL, NULL, 0, 2, 8);
    assert_true(y[0] == SENTINEL);
    um_arena_free(&a);
}

/* NaN and infinity appear where arithmetic requires them, on every instruction set; a row of zeros gives zeros. */
static void special_values(void **state)
{
    (void)state;
    const float in[] = {NAN,    INFINITY, -INFINITY, 0.0f,  -0.0f,  1e38f, -1e38f,
                        1e-40f, 100.0f,   -100.0f,   88.8f, -87.4f, 1.0f};
    enum { N = sizeof in / sizeof *in };
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        if (!has(isa)) continue;
        um_dev d = cpu(isa, 1);
        const float zero[N] = {0}, one[N] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
        float y[N], rstd;
        d.ops->gelu(&d, y, in, N);
        assert_true(isnan(y[0]) && y[1] == INFINITY && y[3] == 0.0f && y[5] == 1e38f &&
                    y[6] == 0.0f && y[9] == 0.0f);
        d.ops->quick_gelu(&d, y, in, N);
        assert_true(isnan(y[0]) && y[1] == INFINITY && y[3] == 0.0f && y[5] == 1e38f &&
                    y[6] == 0.0f && y[8] == 100.0f);
        d.ops->swiglu_fwd(&d, y, in, one, N);
        assert_true(isnan(y[0]) && y[1] == INFINITY && y[6] == 0.0f && y[8] == 100.0f);
        d.ops->rmsnorm_fwd(&d, y, &rstd, zero, one, 1, N, 1e-6f);
        assert_true(y[0] == 0.0f && y[N - 1] == 0.0f && fabsf(rstd - 1000.0f) < 0.01f);
        d.ops->layernorm_fwd(&d, y, one, one, zero, 1, N, 1e-6f);
        assert_true(y[0] == 0.0f && y[N - 1] == 0.0f);
        d.ops->rmsnorm_fwd(&d, y, &rstd, in, one, 1, N, 1e-6f);
        assert_true(isnan(y[0]) && isnan(y[N - 1]) && isnan(rstd));
    }
}

/* The scalar functions have the bits of the kernels: sigmoid by way of x * sigmoid(x) * 1. */
static void scalars_equal_vectors(void **state)
{
    (void)state;
    enum { N = 4000 };
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    float *x = op_values(&a, N, 21, 20.0f), *y = um_arena_f32(&a, 1, N),
          *one = um_arena_f32(&a, 1, N);
    for (int i = 0; i < N; i++) one[i] = 1.0f;
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        if (!has(isa)) continue;
        um_dev d = cpu(isa, 1);
        d.ops->swiglu_fwd(&d, y, x, one, N);
        for (int i = 0; i < N; i++) assert_true(y[i] == x[i] * um_sigmoidf(x[i]));
    }
    um_arena_free(&a);
}

static void opening(void **state)
{
    (void)state;
    um_dev d;
    um_err err = {0};
    assert_int_equal(um_dev_open_cpu(&d, UM_ISA_AUTO, 0, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "threads 0"));
    assert_int_equal(um_dev_open_cpu(&d, UM_ISA_AUTO, 2, &err), UM_OK);
    assert_true(d.isa != UM_ISA_AUTO && d.threads == 2);
    for (um_isa isa = UM_ISA_AUTO; isa <= UM_ISA_AVX512; isa++) {
        assert_int_equal(um_isa_from_name(um_isa_name(isa)), isa);
        if (um_dev_open_cpu(&d, isa, 1, &err) == UM_OK) continue;
        assert_non_null(strstr(err.msg, um_isa_name(isa)));
        assert_non_null(strstr(err.msg, "generic"));
    }
    assert_int_equal(um_isa_from_name("sse9"), -1);
    float *p = d.ops->alloc(&d, 256), in[2] = {1, 2}, out[2];
    assert_int_equal((uintptr_t)p % 64, 0);
    d.ops->put(&d, p, in, sizeof in);
    d.ops->get(&d, out, p, sizeof out);
    assert_true(out[0] == 1.0f && out[1] == 2.0f);
    d.ops->free(&d, p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_and_arrays),
        cmocka_unit_test(training),
        cmocka_unit_test(gemm_sizes),
        cmocka_unit_test(gemm_large),
        cmocka_unit_test(gemm_rows_alone),
        cmocka_unit_test(special_values),
        cmocka_unit_test(scalars_equal_vectors),
        cmocka_unit_test(zero_rows_do_nothing),
        cmocka_unit_test(opening),
        cmocka_unit_test(gemm_rows_overlap),
        cmocka_unit_test(gemm_turned),
        cmocka_unit_test(gemm_groups),
        cmocka_unit_test(packed_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
