/* Attention and its cache: plain C against a double reference, every instruction set and thread count against plain C bit for
 * bit, a prompt in chunks against the whole, rows that depend on nothing but their own positions, and the relative bias. */
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
    {1, 0, 1, 1, 1, 0, true},     {1, 0, 2, 1, 16, 0, true},    {1, 40, 4, 2, 8, 5, true},
    {3, 0, 2, 2, 20, 1, true},    {4, 13, 6, 2, 64, 0, true},   {5, 0, 3, 1, 33, 0, true},
    {17, 0, 4, 4, 64, 9, true},   {70, 0, 2, 1, 48, 0, true},   {29, 260, 2, 2, 64, 3, true},
    {300, 0, 2, 1, 24, 0, true},  {1, 700, 16, 1, 16, 0, true}, {1, 530, 26, 2, 64, 0, true},
    {6, 0, 2, 2, 8, 2, false},    {50, 0, 3, 3, 64, 0, false},  {257, 0, 2, 2, 80, 0, false},
    {14, 0, 1, 1, 300, 0, true},  {2, 3, 2, 1, 272, 0, false},  {1, 20, 2, 2, 64, 0, false},
    {40, 120, 2, 1, 24, 0, true}, {9, 128, 1, 1, 40, 0, true},  {1, 255, 2, 1, 64, 0, true},
    {3, 1100, 8, 2, 33, 3, true}, {130, 0, 1, 1, 64, 0, false},
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

/* Pages in falling order, for one sequence. */
static um_kv cache(const shape *s, um_arena *a)
{
    const int pages = (s->past + s->T + s->room + UM_PAGE - 1) / UM_PAGE;
    int32_t *table = um_arena_i32(a, (size_t)pages);
    for (int i = 0; i < pages; i++) table[i] = pages - 1 - i;
    um_kv kv = {s->kv_heads, s->head_dim, NULL, um_kv_page_floats(s->kv_heads, s->head_dim), table};
    kv.pages = um_arena_f32(a, (size_t)pages, kv.stride);
    return kv;
}

/* out [T, ldq] and lse [T, heads], the new rows in chunks of at most `chunk`. */
static void run(um_dev *d, const shape *s, const inputs *in, int chunk, float *out, float *lse,
                um_arena *a)
{
    const um_kv kv = cache(s, a);
    const um_span past = {0, s->past, 0, s->past, 0};
    d->ops->kv_write(d, &kv, &past, 1, in->k, in->ldk, in->v, in->ldk);
    for (int t = 0; t < s->T; t += chunk) {
        const int n = s->T - t < chunk ? s->T - t : chunk, at = s->past + t;
        const um_span written = {at, n, at, at + n, 0}, asks = {t, n, at, at + n, 0};
        d->ops->kv_write(d, &kv, &written, 1, in->k, in->ldk, in->v, in->ldk);
        d->ops->attention(d, out, in->ldq, lse, in->q, in->ldq, &kv, &asks, 1, s->heads, in->scale,
                          s->causal);
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

/* Many keys of about equal weight, values around 1: the error must not grow with the number of keys. One chain over all keys is off
 * by 8e-6 here. */
static void many_keys_keep_accuracy(void **state)
{
    (void)state;
    const shape s = {5, 16000, 1, 1, 24, 0, true};
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    inputs in = make(&s, &a);
    in.scale = 0.05f;
    for (size_t i = 0; i < (size_t)(s.past + s.T) * (size_t)in.ldk; i++) in.v[i] += 1.0f;
    bool there;
    um_dev d = cpu(UM_ISA_AUTO, 1, &there);
    float *out = outputs(&s, &in, &a);
    run(&d, &s, &in, s.T, out, NULL, &a);
    double want[64], want_lse;
    for (int t = 0; t < s.T; t++) {
        want_row(&s, &in, t, 0, want, &want_lse);
        for (int e = 0; e < s.head_dim; e++)
            assert_true(fabs((double)out[t * in.ldq + e] - want[e]) < 1e-6);
    }
    um_arena_free(&a);
}

/* A NaN at a later position does not affect the rows before it, only its own row. */
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

/* Scores beyond the range of exp: the largest is subtracted first. Equal scores get equal weights. */
static void large_scores(void **state)
{
    (void)state;
    bool there;
    um_dev d = cpu(UM_ISA_AUTO, 1, &there);
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const shape s = {1, 3, 1, 1, 16, 0, true};
    const um_kv kv = cache(&s, &a);
    const um_span all = {0, 4, 0, 4, 0}, last = {0, 1, 3, 4, 0};
    float k[4 * 16] = {0}, v[4 * 16] = {0}, q[16] = {1e4f}, out[16], lse;
    for (int i = 0; i < 4; i++) k[i * 16] = i == 2 ? 0.5f : 0.25f, v[i * 16] = (float)i;
    d.ops->kv_write(&d, &kv, &all, 1, k, 16, v, 16);
    d.ops->attention(&d, out, 16, &lse, q, 16, &kv, &last, 1, 1, 1.0f, true);
    assert_true(out[0] == 2.0f && lse == 5000.0f);
    q[0] = 0.0f;
    d.ops->attention(&d, out, 16, &lse, q, 16, &kv, &last, 1, 1, 1.0f, true);
    assert_true(out[0] == 1.5f);
    um_arena_free(&a);
}

/* T rows attend to n positions: fewer than T when the tail is padding, more when there are further keys. */
typedef struct biased {
    int T, n, heads, kv_heads, head_dim;
    bool gated;
} biased;

static const biased biased_shapes[] = {{1, 1, 3, 3, 16, true},    {1, 21, 4, 2, 8, true},
                                       {5, 3, 2, 2, 20, false},   {24, 24, 4, 4, 12, true},
                                       {40, 7, 6, 2, 64, false},  {130, 300, 2, 2, 64, true},
                                       {300, 270, 2, 1, 8, true}, {13, 20, 1, 1, 272, true}};
enum { BIASED = sizeof biased_shapes / sizeof *biased_shapes };

typedef struct biased_inputs {
    inputs in;
    um_kv kv;
    um_span span;
    float *table,
        *gate; /* table ends where the last row's last position does: reading further is caught by ASan */
    int ldtable;
} biased_inputs;

static biased_inputs make_biased(const biased *b, um_dev *d, um_arena *a)
{
    const shape s = {b->n, 0, b->heads, b->kv_heads, b->head_dim, 2, false};
    biased_inputs x = {.in = make(&s, a), .kv = cache(&s, a), .ldtable = b->T - 1 + b->n};
    const um_span keys = {0, b->n, 0, b->n, 0};
    x.span = (um_span){0, b->T, 0, b->n, 0};
    x.in.q = values(a, (size_t)b->T * (size_t)x.in.ldq, 1);
    x.table = um_alloc_aligned((size_t)b->heads * (size_t)x.ldtable * sizeof(float));
    memcpy(x.table, values(a, (size_t)b->heads * (size_t)x.ldtable, 4),
           (size_t)b->heads * (size_t)x.ldtable * sizeof(float));
    if (b->gated) x.gate = values(a, (size_t)b->T * (size_t)b->heads, 5);
    d->ops->kv_write(d, &x.kv, &keys, 1, x.in.k, x.in.ldk, x.in.v, x.in.ldk);
    return x;
}

static void run_biased(um_dev *d, const biased *b, const biased_inputs *x, float *out)
{
    d->ops->attention_biased(d, out, x->in.ldq, NULL, x->in.q, x->in.ldq, &x->kv, &x->span, 1,
                             b->heads, x->in.scale, x->table, x->ldtable, x->gate);
}

static void want_biased(const biased *b, const biased_inputs *x, int t, int h, double *out)
{
    const int kvh = h / (b->heads / b->kv_heads), D = b->head_dim;
    const float *q = x->in.q + (size_t)t * (size_t)x->in.ldq + (size_t)(h * D);
    const double gate = b->gated ? (double)x->gate[t * b->heads + h] : 1.0;
    double sum = 0;
    for (int d = 0; d < D; d++) out[d] = 0;
    for (int i = 0; i < b->n; i++) {
        const size_t at = (size_t)i * (size_t)x->in.ldk + (size_t)(kvh * D);
        double score = 0;
        for (int d = 0; d < D; d++) score += (double)q[d] * (double)x->in.k[at + (size_t)d];
        score *= (double)x->in.scale;
        score += gate * (double)x->table[h * x->ldtable + b->T - 1 + i - t];
        const double p = exp(score);
        sum += p;
        for (int d = 0; d < D; d++) out[d] += p * (double)x->in.v[at + (size_t)d];
    }
    for (int d = 0; d < D; d++) out[d] /= sum;
}

static void biased_near_reference(void **state)
{
    (void)state;
    bool there;
    um_dev d = cpu(UM_ISA_GENERIC, 1, &there);
    for (int i = 0; i < BIASED; i++) {
        const biased *b = &biased_shapes[i];
        um_arena a;
        um_arena_init(&a, "case", 1 << 20);
        const biased_inputs x = make_biased(b, &d, &a);
        const shape s = {.T = b->T};
        float *out = outputs(&s, &x.in, &a);
        double want[512];
        run_biased(&d, b, &x, out);
        for (int t = 0; t < b->T; t++) {
            for (int h = 0; h < b->heads; h++) {
                want_biased(b, &x, t, h, want);
                for (int e = 0; e < b->head_dim; e++) {
                    const double got = (double)out[t * x.in.ldq + h * b->head_dim + e];
                    if (!(fabs(got - want[e]) < 5e-6))
                        fail_msg("biased shape %d row %d head %d: %.9g, wanted %.9g", i, t, h, got,
                                 want[e]);
                }
            }
            for (int e = 0; e < PAD; e++)
                assert_true(out[t * x.in.ldq + b->heads * b->head_dim + e] == -777.0f);
        }
        um_free(x.table);
        um_arena_free(&a);
    }
}

static void biased_same_bits(void **state)
{
    (void)state;
    bool there;
    um_dev plain = cpu(UM_ISA_GENERIC, 1, &there);
    for (int i = 0; i < BIASED; i++) {
        const biased *b = &biased_shapes[i];
        um_arena a;
        um_arena_init(&a, "case", 1 << 20);
        const biased_inputs x = make_biased(b, &plain, &a);
        const shape s = {.T = b->T};
        float *first = outputs(&s, &x.in, &a);
        run_biased(&plain, b, &x, first);
        for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
            for (int threads = 1; threads <= 3; threads++) {
                um_dev d = cpu(isa, threads, &there);
                if (!there) continue;
                float *out = outputs(&s, &x.in, &a);
                run_biased(&d, b, &x, out);
                if (memcmp(out, first, (size_t)b->T * (size_t)x.in.ldq * sizeof *out) != 0)
                    fail_msg("biased shape %d, %s, %d threads: other bits", i, um_isa_name(isa),
                             threads);
            }
        um_free(x.table);
        um_arena_free(&a);
    }
}

/* A bias that is zero by its table or by its gate gives the same bits as no bias. */
static void no_bias_is_plain(void **state)
{
    (void)state;
    const biased b = {50, 50, 3, 3, 32, true};
    const shape s = {.T = b.T};
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        bool there;
        um_dev d = cpu(isa, 1, &there);
        if (!there) continue;
        um_arena a;
        um_arena_init(&a, "case", 1 << 20);
        biased_inputs x = make_biased(&b, &d, &a);
        const size_t bytes = (size_t)b.T * (size_t)x.in.ldq * sizeof(float);
        float *plain = outputs(&s, &x.in, &a), *out = outputs(&s, &x.in, &a);
        d.ops->attention(&d, plain, x.in.ldq, NULL, x.in.q, x.in.ldq, &x.kv, &x.span, 1, b.heads,
                         x.in.scale, false);
        run_biased(&d, &b, &x, out);
        assert_memory_not_equal(out, plain, bytes);
        for (int i = 0; i < b.T * b.heads; i++) x.gate[i] = 0.0f;
        run_biased(&d, &b, &x, out);
        assert_memory_equal(out, plain, bytes);
        memset(x.table, 0, (size_t)b.heads * (size_t)x.ldtable * sizeof(float));
        x.gate = NULL;
        run_biased(&d, &b, &x, out);
        assert_memory_equal(out, plain, bytes);
        um_free(x.table);
        um_arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_near_reference),
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(many_keys_keep_accuracy),
        cmocka_unit_test(later_positions_do_not_matter),
        cmocka_unit_test(large_scores),
        cmocka_unit_test(biased_near_reference),
        cmocka_unit_test(biased_same_bits),
        cmocka_unit_test(no_bias_is_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
