/* Attention of many sequences in one call, over pages in any order: every instruction set and thread count against the rule of ops.h,
 * written out in scalar C, bit for bit; shared pages; cross-attention; the relative bias; what kv_write refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "core/tensor/ops.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_SPANS = 16, BLOCK = 128, PAD = 3, UNUSED_ROWS = 2 };

/* Sequences side by side. Without its own pages, sequence `like` lends its first `shared` pages. */
typedef struct sequence {
    int T, pos, n, shared, like;
} sequence;

typedef struct shape {
    int heads, kv_heads, head_dim;
    bool causal, biased, gated;
} shape;

typedef struct batch {
    shape s;
    int spans, rows, tall, most; /* tall: the largest pos + T, most: the largest n */
    um_span span[MOST_SPANS];
    float *k[MOST_SPANS], *v[MOST_SPANS]; /* of each sequence, [n, kv_heads*head_dim + PAD] */
    float *q, *table, *gate;
    int ldq, ldk, ldtable;
    float scale;
    um_kv kv;
} batch;

static float *values(um_arena *a, size_t n, uint64_t stream)
{
    float *x = um_arena_f32(a, 1, n);
    um_rng rng = um_rng_seed(11, stream);
    um_rng_normal_f32(&rng, x, n, 1.0f);
    return x;
}

static int pages_for(int n) { return (n + UM_PAGE - 1) / UM_PAGE; }

/* Numbers 0..n-1 in a mixed order. */
static int32_t *shuffled(um_arena *a, int n)
{
    int32_t *x = um_arena_i32(a, (size_t)n);
    um_rng rng = um_rng_seed(5, (uint64_t)n);
    for (int i = 0; i < n; i++) {
        const int j = (int)(um_rng_uniform(&rng) * (i + 1)) % (i + 1);
        x[i] = x[j];
        x[j] = i;
    }
    return x;
}

/* The page table: pages of each sequence one after another, its borrowed ones first. */
static void table_make(batch *b, const sequence *seq, um_arena *a)
{
    int all = 0;
    for (int i = 0; i < b->spans; i++) all += pages_for(seq[i].n);
    int32_t *table = um_arena_i32(a, (size_t)all);
    const int32_t *numbers = shuffled(a, all);
    for (int i = 0, at = 0, next = 0; i < b->spans; i++) {
        b->span[i].page = at;
        for (int p = 0; p < pages_for(seq[i].n); p++)
            table[at++] =
                p < seq[i].shared ? table[b->span[seq[i].like].page + p] : numbers[next++];
    }
    b->kv = (um_kv){.kv_heads = b->s.kv_heads,
                    .head_dim = b->s.head_dim,
                    .stride = um_kv_page_floats(b->s.kv_heads, b->s.head_dim) + 16,
                    .table = table};
    const size_t floats = (size_t)all * b->kv.stride;
    b->kv.pages = um_arena_f32(a, 1, floats);
    memset(b->kv.pages, 0xff,
           floats * sizeof(float)); /* NaN: what no one has written counts for nothing */
}

static batch batch_make(const shape *s, const sequence *seq, int spans, um_arena *a)
{
    batch b = {.s = *s, .spans = spans, .scale = 1.7f / sqrtf((float)s->head_dim)};
    b.ldq = s->heads * s->head_dim + PAD;
    b.ldk = s->kv_heads * s->head_dim + PAD;
    for (int i = 0; i < spans; i++) {
        b.span[i] = (um_span){.row = b.rows, .T = seq[i].T, .pos = seq[i].pos, .n = seq[i].n};
        b.rows += seq[i].T + UNUSED_ROWS;
        b.tall = um_max_int(b.tall, seq[i].pos + seq[i].T);
        b.most = um_max_int(b.most, seq[i].n);
        b.k[i] = values(a, (size_t)seq[i].n * (size_t)b.ldk, 100 + (uint64_t)i);
        b.v[i] = values(a, (size_t)seq[i].n * (size_t)b.ldk, 200 + (uint64_t)i);
        const size_t borrowed = (size_t)(seq[i].shared * UM_PAGE) * (size_t)b.ldk * sizeof(float);
        if (borrowed > 0) memcpy(b.k[i], b.k[seq[i].like], borrowed);
        if (borrowed > 0) memcpy(b.v[i], b.v[seq[i].like], borrowed);
    }
    b.q = values(a, (size_t)b.rows * (size_t)b.ldq, 1);
    b.ldtable = b.tall - 1 + b.most;
    b.table = values(a, (size_t)s->heads * (size_t)b.ldtable, 2);
    b.gate = s->gated ? values(a, (size_t)b.rows * (size_t)s->heads, 3) : NULL;
    table_make(&b, seq, a);
    return b;
}

/* Every sequence's keys and values, in two calls: the first ones alone, then those of all sequences together. A borrowed page is
 * written by its owner only. */
static void batch_write(um_dev *d, const batch *b, const sequence *seq, um_arena *a)
{
    int rows = 0;
    um_span first[MOST_SPANS], rest[MOST_SPANS];
    for (int i = 0; i < b->spans; i++) {
        const um_span *s = &b->span[i];
        const int from = seq[i].shared * UM_PAGE, cut = um_max_int(from, s->n * 2 / 3);
        first[i] = (um_span){rows, cut - from, from, s->n, s->page};
        rows += cut - from;
        rest[i] = (um_span){rows, s->n - cut, cut, s->n, s->page};
        rows += s->n - cut;
    }
    float *k = um_arena_f32(a, (size_t)rows, (size_t)b->ldk),
          *v = um_arena_f32(a, (size_t)rows, (size_t)b->ldk);
    for (int i = 0; i < b->spans; i++) {
        const size_t ld = (size_t)b->ldk, to = (size_t)first[i].row * ld,
                     from = (size_t)first[i].pos * ld;
        const size_t bytes = (size_t)(first[i].T + rest[i].T) * ld * sizeof(float);
        if (bytes > 0) memcpy(k + to, b->k[i] + from, bytes);
        if (bytes > 0) memcpy(v + to, b->v[i] + from, bytes);
    }
    for (int i = 0; i < b->spans; i++)
        d->ops->kv_write(d, &b->kv, &first[i], 1, k, b->ldk, v, b->ldk);
    d->ops->kv_write(d, &b->kv, rest, b->spans, k, b->ldk, v, b->ldk);
}

static void batch_attend(um_dev *d, const batch *b, float *out, float *lse)
{
    if (b->s.biased)
        d->ops->attention_biased(d, out, b->ldq, lse, b->q, b->ldq, &b->kv, b->span, b->spans,
                                 b->s.heads, b->scale, b->table, b->ldtable, b->gate);
    else
        d->ops->attention(d, out, b->ldq, lse, b->q, b->ldq, &b->kv, b->span, b->spans, b->s.heads,
                          b->scale, b->s.causal);
}

/* --- the rule of ops.h, one row and head --- */

static float rule_score(const batch *b, int i, int t, int h, int at)
{
    const int D = b->s.head_dim, kv_head = h / (b->s.heads / b->s.kv_heads);
    const um_span *s = &b->span[i];
    const float *q = b->q + (s->row + t) * b->ldq + h * D, *k = b->k[i] + at * b->ldk + kv_head * D;
    float x = 0.0f;
    for (int d = 0; d < D; d++) x = fmaf(q[d], k[d], x);
    x *= b->scale;
    if (!b->s.biased) return x;
    const float gate = b->gate == NULL ? 1.0f : b->gate[(s->row + t) * b->s.heads + h];
    return fmaf(gate, b->table[h * b->ldtable + b->tall - 1 + at - (s->pos + t)], x);
}

static void rule(const batch *b, int i, int t, int h, float *out, float *lse)
{
    const int D = b->s.head_dim, kv_head = h / (b->s.heads / b->s.kv_heads);
    const um_span *s = &b->span[i];
    const int n = b->s.causal ? s->pos + t + 1 : s->n;
    float p[1024], top = -INFINITY, lanes[UM_PANEL] = {0};
    for (int at = 0; at < n; at++) top = fmaxf(top, p[at] = rule_score(b, i, t, h, at));
    for (int at = 0; at < n; at++) p[at] = um_expf(p[at] - top);
    for (int from = 0; from < n; from += BLOCK) {
        float block[UM_PANEL] = {0};
        for (int at = from; at < n && at < from + BLOCK; at++) block[at % UM_PANEL] += p[at];
        for (int l = 0; l < UM_PANEL; l++) lanes[l] += block[l];
    }
    const float sum = um_sum(lanes, UM_PANEL), by = 1.0f / sum;
    *lse = (float)((double)top + um_log((double)sum));
    for (int d = 0; d < D; d++) {
        float total = 0.0f;
        for (int from = 0; from < n; from += BLOCK) {
            float block = 0.0f;
            for (int at = from; at < n && at < from + BLOCK; at++)
                block = fmaf(p[at], b->v[i][at * b->ldk + kv_head * D + d], block);
            total += block;
        }
        out[d] = total * by;
    }
}

/* What the op must leave in out and lse: rows of no span, and the gap behind every row, as they were. */
static void rule_all(const batch *b, float *out, float *lse)
{
    for (int i = 0; i < b->spans; i++)
        for (int t = 0; t < b->span[i].T; t++)
            for (int h = 0; h < b->s.heads; h++) {
                const int row = b->span[i].row + t;
                rule(b, i, t, h, out + row * b->ldq + h * b->s.head_dim,
                     &lse[row * b->s.heads + h]);
            }
}

static void check(const shape *s, const sequence *seq, int spans)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const batch b = batch_make(s, seq, spans, &a);
    const size_t n = (size_t)b.rows * (size_t)b.ldq, heads = (size_t)b.rows * (size_t)s->heads;
    float *want = um_arena_f32(&a, 1, n), *sums = um_arena_f32(&a, 1, heads);
    float *out = um_arena_f32(&a, 1, n), *lse = um_arena_f32(&a, 1, heads);
    for (size_t i = 0; i < n; i++) want[i] = -777.0f;
    for (size_t i = 0; i < heads; i++) sums[i] = -777.0f;
    rule_all(&b, want, sums);
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
        for (int threads = 1; threads <= 3; threads++) {
            um_dev d = {0};
            um_err err;
            if (um_dev_open_cpu(&d, isa, threads, &err) != UM_OK) continue;
            um_mark m = um_arena_mark(&a);
            for (size_t i = 0; i < n; i++) out[i] = -777.0f;
            for (size_t i = 0; i < heads; i++) lse[i] = -777.0f;
            batch_write(&d, &b, seq, &a);
            batch_attend(&d, &b, out, threads == 2 ? NULL : lse);
            for (size_t i = 0; i < n; i++)
                if (um_f32_bits(out[i]) != um_f32_bits(want[i]))
                    fail_msg(
                        "%d heads of %d, %s, %d threads: row %zu column %zu is %a, the rule has %a",
                        s->heads, s->head_dim, um_isa_name(isa), threads, i / (size_t)b.ldq,
                        i % (size_t)b.ldq, (double)out[i], (double)want[i]);
            if (threads != 2) assert_memory_equal(lse, sums, heads * sizeof *lse);
            assert_int_equal(um_dev_sync(&d, &err), UM_OK);
            um_arena_reset(&a, m);
        }
    um_arena_free(&a);
}

static const shape shapes[] = {
    {4, 4, 64, true, false, false}, {6, 2, 80, true, false, false},
    {8, 1, 24, true, false, false}, {26, 2, 128, true, false, false},
    {3, 3, 33, true, false, false},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Prompts and single tokens together, positions on both sides of the edges of pages and of blocks of 128. */
static void many_sequences(void **state)
{
    (void)state;
    static const sequence seq[] = {{1, 0, 1, 0, 0},     {1, 15, 16, 0, 0},    {1, 16, 17, 0, 0},
                                   {40, 0, 40, 0, 0},   {5, 12, 17, 0, 0},    {16, 16, 32, 0, 0},
                                   {1, 127, 128, 0, 0}, {1, 128, 129, 0, 0},  {7, 125, 132, 0, 0},
                                   {1, 300, 301, 0, 0}, {33, 255, 288, 0, 0}, {2, 47, 49, 0, 0},
                                   {0, 3, 5, 0, 0},     {13, 513, 526, 0, 0}};
    for (int i = 0; i < SHAPES; i++) check(&shapes[i], seq, sizeof seq / sizeof *seq);
}

/* Two sequences and a third read the same first pages. */
static void shared_pages(void **state)
{
    (void)state;
    static const sequence seq[] = {{20, 30, 50, 0, 0},
                                   {1, 40, 41, 2, 0},
                                   {9, 48, 57, 3, 0},
                                   {1, 31, 32, 0, 0},
                                   {3, 20, 23, 1, 3}};
    for (int i = 0; i < SHAPES; i++) check(&shapes[i], seq, sizeof seq / sizeof *seq);
}

/* Queries without positions of their own: more or fewer than the keys. */
static void cross_attention(void **state)
{
    (void)state;
    static const sequence seq[] = {{1, 0, 1, 0, 0},   {6, 0, 40, 0, 0},   {40, 0, 7, 0, 0},
                                   {1, 0, 130, 0, 0}, {32, 0, 257, 0, 0}, {2, 0, 16, 0, 0}};
    for (int i = 0; i < SHAPES; i++) {
        shape s = shapes[i];
        s.causal = false;
        check(&s, seq, sizeof seq / sizeof *seq);
    }
}

static void relative_bias(void **state)
{
    (void)state;
    static const sequence seq[] = {{24, 0, 24, 0, 0},  {40, 0, 7, 0, 0},  {1, 0, 1, 0, 0},
                                   {13, 0, 200, 0, 0}, {5, 30, 35, 0, 0}, {1, 17, 18, 0, 0}};
    for (int i = 0; i < SHAPES; i++)
        for (int gated = 0; gated < 2; gated++) {
            shape s = shapes[i];
            s.causal = false, s.biased = true, s.gated = gated;
            check(&s, seq, sizeof seq / sizeof *seq);
            check(&s, seq, 1);
        }
}

/* More sequences than fit in the op's own list. */
static void hundreds(void **state)
{
    (void)state;
    enum { N = 200, D = 24 };
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    um_span span[N];
    int32_t *table = um_arena_i32(&a, N);
    for (int i = 0; i < N; i++) span[i] = (um_span){i, 1, 0, 1, i};
    for (int i = 0; i < N; i++) table[i] = N - 1 - i;
    um_kv kv = {1, D, NULL, um_kv_page_floats(1, D), table};
    kv.pages = um_arena_f32(&a, N, kv.stride);
    const float *v = values(&a, N * D, 1), *q = values(&a, N * D, 2);
    float *out = um_arena_f32(&a, N, D);
    um_err err = {0};
    um_dev d;
    assert_int_equal(um_dev_open_cpu(&d, UM_ISA_AUTO, 2, &err), UM_OK);
    d.ops->kv_write(&d, &kv, span, N, q, D, v, D);
    d.ops->attention(&d, out, D, NULL, q, D, &kv, span, N, 1, 1.0f, true);
    assert_memory_equal(out, v, N * D * sizeof *v); /* one position: its own value */
    um_arena_free(&a);
}

/* A position outside of the span ends the program, in every build. */
static void write_stays_inside(void **state)
{
    (void)state;
    enum { D = 16 };
    static const um_span bad[] = {{0, 2, 15, 16, 0}, {0, 1, 16, 16, 0},
                                  {0, 1, -1, 16, 0}, {0, 17, 0, 16, 0},
                                  {0, -1, 0, 16, 0}, {0, 1, INT32_MAX, INT32_MAX, 0}};
    static float pages[2 * (D + D + 64) * UM_PAGE], x[17 * D];
    static const int32_t table[2] = {0, 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            um_err err = {0};
            um_dev d;
            signal(SIGABRT, SIG_DFL);
            close(STDERR_FILENO);
            if (um_dev_open_cpu(&d, UM_ISA_AUTO, 1, &err) != UM_OK) _exit(2);
            um_kv kv = {1, D, pages, um_kv_page_floats(1, D), table};
            d.ops->kv_write(&d, &kv, &bad[i], 1, x, D, x, D);
            _exit(0);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_sequences),  cmocka_unit_test(shared_pages),
        cmocka_unit_test(cross_attention), cmocka_unit_test(relative_bias),
        cmocka_unit_test(hundreds),        cmocka_unit_test(write_stays_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
