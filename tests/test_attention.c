/* Attention and its cache: plain C against a double reference, every instruction set and thread count against plain C bit for
 * bit, a prompt in chunks against the whole, and rows that depend on nothing but their own positions. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/tensor/ops.h"

#include <math.h>
#include <string.h>

typedef struct shape {
    int T, past, heads, kv_heads, head_dim,
        room; /* past positions before the T new ones; room beyond both in the cache */
    bool causal;
} shape;

static const shape shapes[] = {
    {1, 0, 1, 1, 1, 0, true},    {1, 0, 2, 1, 16, 0, true},    {1, 40, 4, 2, 8, 5, true},
    {3, 0, 2, 2, 20, 1, true},   {4, 13, 6, 2, 64, 0, true},   {5, 0, 3, 1, 33, 0, true},
    {17, 0, 4, 4, 64, 9, true},  {70, 0, 2, 1, 48, 0, true},   {29, 260, 2, 2, 64, 3, true},
    {300, 0, 2, 1, 24, 0, true}, {1, 700, 16, 1, 16, 0, true}, {1, 530, 26, 2, 64, 0, true},
    {6, 0, 2, 2, 8, 2, false},   {50, 0, 3, 3, 64, 0, false},  {257, 0, 2, 2, 80, 0, false},
    {14, 0, 1, 1, 300, 0, true}, {2, 3, 2, 1, 272, 0, false},  {1, 20, 2, 2, 64, 0, false},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, PAD = 3 };

typedef struct inputs {
    float *q, *k, *v; /* q [T, heads*head_dim + PAD], k and v [past+T, kv_heads*head_dim + PAD] */
    int ldq, ldk;
    float scale;
} inputs;

static float *values(um_arena *a, size_t n, uint64_t stream)
{
    float *x = um_arena_f32(a, 1, n);
    um_rng rng = um_rng_seed(9, stream);
    um_rng_normal_f32(&rng, x, n, 1.0f);
    return x;
}

static inputs make(const shape *s, um_arena *a)
{
    inputs in = {.ldq = s->heads * s->head_dim + PAD, .ldk = s->kv_heads * s->head_dim + PAD};
    in.q = values(a, (size_t)s->T * (size_t)in.ldq, 1);
    in.k = values(a, (size_t)(s->past + s->T) * (size_t)in.ldk, 2);
    in.v = values(a, (size_t)(s->past + s->T) * (size_t)in.ldk, 3);
    in.scale = 1.7f / sqrtf((float)s->head_dim);
    return in;
}

static um_kv cache(const shape *s, um_arena *a)
{
    const int cap = s->past + s->T + s->room;
    um_kv kv;
    um_kv_bind(&kv, um_arena_f32(a, 1, um_kv_floats(s->kv_heads, s->head_dim, cap)), s->kv_heads,
               s->head_dim, cap);
    return kv;
}

/* out [T, ldq] and lse [T, heads], the new rows in chunks of at most `chunk`. */
static void run(um_dev *d, const shape *s, const inputs *in, int chunk, float *out, float *lse,
                um_arena *a)
{
    um_kv kv = cache(s, a);
    d->ops->kv_append(d, &kv, in->k, in->ldk, in->v, in->ldk, s->past);
    for (int t = 0; t < s->T; t += chunk) {
        const int n = s->T - t < chunk ? s->T - t : chunk, at = s->past + t;
        d->ops->kv_append(d, &kv, in->k + (size_t)at * (size_t)in->ldk, in->ldk,
                          in->v + (size_t)at * (size_t)in->ldk, in->ldk, n);
        assert_int_equal(kv.n, at + n);
        d->ops->attention(d, out + (size_t)t * (size_t)in->ldq, in->ldq,
                          lse == NULL ? NULL : lse + t * s->heads,
                          in->q + (size_t)t * (size_t)in->ldq, in->ldq, &kv, s->heads, n, at,
                          in->scale, s->causal);
    }
}

/* One row and head in double. */
static void want_row(const shape *s, const inputs *in, int t, int h, double *out, double *lse)
{
    const int n = s->causal ? s->past + t + 1 : s->past + s->T, kvh = h / (s->heads / s->kv_heads),
              D = s->head_dim;
    const float *q = in->q + (size_t)t * (size_t)in->ldq + (size_t)(h * D);
    double sum = 0;
    for (int d = 0; d < D; d++) out[d] = 0;
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)i * (size_t)in->ldk + (size_t)(kvh * D);
        double score = 0;
        for (int d = 0; d < D; d++) score += (double)q[d] * (double)in->k[at + (size_t)d];
        const double p = exp(score * (double)in->scale);
        sum += p;
        for (int d = 0; d < D; d++) out[d] += p * (double)in->v[at + (size_t)d];
    }
    for (int d = 0; d < D; d++) out[d] /= sum;
    *lse = log(sum);
}

static float *outputs(const shape *s, const inputs *in, um_arena *a)
{
    const size_t n = (size_t)s->T * (size_t)in->ldq;
    float *out = um_arena_f32(a, 1, n);
    for (size_t i = 0; i < n; i++) out[i] = -777.0f;
    return out;
}

static um_dev cpu(um_isa isa, int threads, bool *there)
{
    um_dev d = {0};
    um_err err;
    *there = um_dev_open_cpu(&d, isa, threads, &err) == UM_OK;
    return d;
}

static void plain_near_reference(void **state)
{
    (void)state;
    bool there;
    um_dev d = cpu(UM_ISA_GENERIC, 1, &there);
    for (int i = 0; i < SHAPES; i++) {
        const shape *s = &shapes[i];
        um_arena a;
        um_arena_init(&a, "case", 1 << 20);
        const inputs in = make(s, &a);
        float *out = outputs(s, &in, &a), *lse = um_arena_f32(&a, (size_t)s->T, (size_t)s->heads);
        run(&d, s, &in, s->T, out, lse, &a);
        double want[512], want_lse;
        for (int t = 0; t < s->T; t++) {
            for (int h = 0; h < s->heads; h++) {
                want_row(s, &in, t, h, want, &want_lse);
                assert_true(fabs((double)lse[t * s->heads + h] - want_lse) <
                            3e-6 * fmax(1.0, fabs(want_lse)));
                for (int e = 0; e < s->head_dim; e++) {
                    const double got = (double)out[t * in.ldq + h * s->head_dim + e];
                    if (!(fabs(got - want[e]) < 5e-6))
                        fail_msg("shape %d row %d head %d: %.9g, wanted %.9g", i, t, h, got,
                                 want[e]);
                }
            }
            for (int e = 0; e < PAD; e++)
                assert_true(out[t * in.ldq + s->heads * s->head_dim + e] == -777.0f);
        }
        um_arena_free(&a);
    }
}

static void same_bits_everywhere(void **state)
{
    (void)state;
    bool there;
    um_dev plain = cpu(UM_ISA_GENERIC, 1, &there);
    for (int i = 0; i < SHAPES; i++) {
        const shape *s = &shapes[i];
        um_arena a;
        um_arena_init(&a, "case", 1 << 20);
        const inputs in = make(s, &a);
        const size_t rows = (size_t)s->T;
        float *first = outputs(s, &in, &a), *lse = um_arena_f32(&a, rows, (size_t)s->heads);
        run(&plain, s, &in, s->T, first, lse, &a);
        for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
            for (int threads = 1; threads <= 3; threads++)
                for (int variant = 0; variant < 4; variant++) {
                    /* whole; chunks of 1, of 5, of 100 (a row that is not causal sees what is there, so only whole) */
                    const int chunk = (const int[]){s->T, 1, 5, 100}[variant];
                    um_dev d = cpu(isa, threads, &there);
                    if (!there || (variant > 0 && !s->causal)) continue;
                    um_mark m = um_arena_mark(&a);
                    float *out = outputs(s, &in, &a),
                          *sums = um_arena_f32(&a, rows, (size_t)s->heads);
                    run(&d, s, &in, chunk, out, threads == 2 ? NULL : sums, &a);
                    if (memcmp(out, first, rows * (size_t)in.ldq * sizeof *out) != 0)
                        fail_msg("shape %d, %s, %d threads, chunks of %d: other bits", i,
                                 um_isa_name(isa), threads, chunk);
                    if (threads != 2)
                        assert_memory_equal(sums, lse, rows * (size_t)s->heads * sizeof *lse);
                    um_arena_reset(&a, m);
                }
        um_arena_free(&a);
    }
}

/* A later position that is NaN does not reach the rows before it; it does reach its own. */
static void later_positions_do_not_matter(void **state)
{
    (void)state;
    const shape s = {30, 0, 2, 2, 40, 0, true};
    enum { BAD = 19 };
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    inputs in = make(&s, &a);
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        bool there;
        um_dev d = cpu(isa, 1, &there);
        if (!there) continue;
        float *whole = outputs(&s, &in, &a), *out = outputs(&s, &in, &a);
        run(&d, &s, &in, s.T, whole, NULL, &a);
        const float v = in.v[BAD * in.ldk], k = in.k[BAD * in.ldk];
        in.v[BAD * in.ldk] = in.k[BAD * in.ldk] = NAN;
        run(&d, &s, &in, s.T, out, NULL, &a);
        in.v[BAD * in.ldk] = v, in.k[BAD * in.ldk] = k;
        assert_memory_equal(out, whole, (size_t)BAD * (size_t)in.ldq * sizeof *out);
        for (int t = BAD; t < s.T; t++) assert_true(isnan(out[t * in.ldq]));
    }
    um_arena_free(&a);
}

/* Scores beyond what exp can hold: the largest is taken off first. Equal scores share evenly. */
static void large_scores(void **state)
{
    (void)state;
    bool there;
    um_dev d = cpu(UM_ISA_AUTO, 1, &there);
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const shape s = {1, 3, 1, 1, 16, 0, true};
    um_kv kv = cache(&s, &a);
    float k[4 * 16] = {0}, v[4 * 16] = {0}, q[16] = {1e4f}, out[16], lse;
    for (int i = 0; i < 4; i++) k[i * 16] = i == 2 ? 0.5f : 0.25f, v[i * 16] = (float)i;
    d.ops->kv_append(&d, &kv, k, 16, v, 16, 4);
    d.ops->attention(&d, out, 16, &lse, q, 16, &kv, 1, 1, 3, 1.0f, true);
    assert_true(out[0] == 2.0f && lse == 5000.0f);
    q[0] = 0.0f;
    d.ops->attention(&d, out, 16, &lse, q, 16, &kv, 1, 1, 3, 1.0f, true);
    assert_true(out[0] == 1.5f);
    um_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_near_reference),
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(later_positions_do_not_matter),
        cmocka_unit_test(large_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
