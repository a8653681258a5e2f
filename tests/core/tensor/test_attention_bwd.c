/* Backward of attention, plain and biased: every instruction set and thread count against the sums of ops.h, written out in scalar C,
 * bit for bit; and those against central differences of the forward pass in double. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "core/tensor/ops.h"

#include <math.h>
#include <string.h>

enum { MOST_SPANS = 8, BLOCK = 64, PAD = 3, UNUSED_ROWS = 2, WIDEST = 300 };

typedef struct shape {
    int heads, kv_heads, head_dim;
    bool causal, biased, gated;
} shape;

/* T queries from position pos on, n keys from row key_row on. */
typedef struct sequence {
    int T, pos, n, key_row;
} sequence;

/* What depends on what: inputs, and the gradients of the same sizes. */
typedef enum part { Q, K, V, TABLE, GATE, PARTS } part;
static const char *const part_names[PARTS] = {"q", "k", "v", "table", "gate"};

typedef struct batch {
    shape s;
    int spans, rows, keys, tall;
    um_span span[MOST_SPANS];
    int32_t key_row[MOST_SPANS];
    size_t ldq, ldk, ldtable, n[PARTS];
    float *in[PARTS], *dout, *out, *lse;
    float scale;
} batch;

static float *values(um_arena *a, size_t n, uint64_t stream)
{
    float *x = um_arena_f32(a, 1, n);
    um_rng rng = um_rng_seed(21, stream);
    um_rng_normal_f32(&rng, x, n, 1.0f);
    return x;
}

static int seen(const batch *b, int i, int t)
{
    return b->s.causal ? b->span[i].pos + t + 1 : b->span[i].n;
}

static size_t query_at(const batch *b, int i, int t, int h)
{
    return (size_t)(b->span[i].row + t) * b->ldq + (size_t)(h * b->s.head_dim);
}

static size_t key_at(const batch *b, int i, int at, int h)
{
    const int kv_head = h / (b->s.heads / b->s.kv_heads);
    return (size_t)(b->key_row[i] + at) * b->ldk + (size_t)(kv_head * b->s.head_dim);
}

static size_t table_at(const batch *b, int i, int t, int h, int at)
{
    return (size_t)h * b->ldtable + (size_t)(b->tall - 1 + at - (b->span[i].pos + t));
}

static size_t row_at(const batch *b, int i, int t, int h)
{
    return (size_t)(b->span[i].row + t) * (size_t)b->s.heads + (size_t)h;
}

/* --- the forward pass in double --- */

/* out [head_dim] of one row and head. Returns its log-sum-exp. */
static double attend(const batch *b, double *const x[PARTS], int i, int t, int h, double *out)
{
    double s[WIDEST], sum = 0, top = -INFINITY;
    const int n = seen(b, i, t), D = b->s.head_dim;
    for (int at = 0; at < n; at++) {
        s[at] = 0;
        for (int d = 0; d < D; d++)
            s[at] += x[Q][query_at(b, i, t, h) + (size_t)d] * x[K][key_at(b, i, at, h) + (size_t)d];
        s[at] *= (double)b->scale;
        if (b->s.biased)
            s[at] += (b->s.gated ? x[GATE][row_at(b, i, t, h)] : 1.0) *
                     x[TABLE][table_at(b, i, t, h, at)];
        top = fmax(top, s[at]);
    }
    for (int at = 0; at < n; at++) sum += s[at] = exp(s[at] - top);
    for (int d = 0; d < D; d++) {
        out[d] = 0;
        for (int at = 0; at < n; at++)
            out[d] += s[at] / sum * x[V][key_at(b, i, at, h) + (size_t)d];
    }
    return top + log(sum);
}

/* The sum of dout out over all rows; out and lse of the batch are set when `keep`. */
static double loss_of(const batch *b, double *const x[PARTS], bool keep)
{
    double loss = 0, out[WIDEST];
    for (int i = 0; i < b->spans; i++)
        for (int t = 0; t < b->span[i].T; t++)
            for (int h = 0; h < b->s.heads; h++) {
                const double lse = attend(b, x, i, t, h, out);
                const size_t q = query_at(b, i, t, h);
                for (int d = 0; d < b->s.head_dim; d++) {
                    loss += (double)b->dout[q + (size_t)d] * out[d];
                    if (keep) b->out[q + (size_t)d] = (float)out[d];
                }
                if (keep) b->lse[row_at(b, i, t, h)] = (float)lse;
            }
    return loss;
}

/* The inputs in double, those of `which` moved by h v. */
static double loss_moved(const batch *b, part which, const float *v, double h, bool keep,
                         um_arena *a)
{
    um_mark m = um_arena_mark(a);
    double *x[PARTS];
    for (part p = Q; p < PARTS; p++) {
        x[p] = um_arena_alloc(a, b->n[p] * sizeof **x);
        for (size_t i = 0; i < b->n[p]; i++)
            x[p][i] = (double)b->in[p][i] + (p == which ? h * (double)v[i] : 0.0);
    }
    const double loss = loss_of(b, x, keep);
    um_arena_reset(a, m);
    return loss;
}

static batch batch_make(const shape *s, const sequence *seq, int spans, um_arena *a)
{
    batch b = {.s = *s, .spans = spans, .scale = 1.3f / sqrtf((float)s->head_dim), .tall = 1};
    int most = 0;
    for (int i = 0; i < spans; i++) {
        b.span[i] = (um_span){.row = b.rows, .T = seq[i].T, .pos = seq[i].pos, .n = seq[i].n};
        b.key_row[i] = seq[i].key_row;
        b.rows += seq[i].T + UNUSED_ROWS;
        b.keys = um_max_int(b.keys, seq[i].key_row + seq[i].n);
        if (seq[i].T > 0) b.tall = um_max_int(b.tall, seq[i].pos + seq[i].T);
        most = um_max_int(most, seq[i].n);
    }
    b.ldq = (size_t)(s->heads * s->head_dim + PAD);
    b.ldk = (size_t)(s->kv_heads * s->head_dim + PAD);
    b.ldtable = (size_t)(b.tall - 1 + most);
    b.n[Q] = (size_t)b.rows * b.ldq;
    b.n[K] = b.n[V] = (size_t)b.keys * b.ldk;
    b.n[TABLE] = (size_t)s->heads * b.ldtable;
    b.n[GATE] = (size_t)b.rows * (size_t)s->heads;
    for (part p = Q; p < PARTS; p++) b.in[p] = values(a, b.n[p], (uint64_t)p);
    b.dout = values(a, b.n[Q], 10);
    b.out = um_arena_f32(a, 1, b.n[Q]);
    b.lse = um_arena_f32(a, 1, b.n[GATE]);
    loss_moved(&b, PARTS, NULL, 0.0, true, a);
    return b;
}

/* --- the sums of ops.h --- */

/* p and e = p (g - c) of the queries t.. of a block and the positions at.., zero where a query sees none. */
typedef struct block {
    int i, h, t, rows, at, n;
    float p[BLOCK][BLOCK], e[BLOCK][BLOCK];
} block;

static float chain(const float *x, const float *y, int n)
{
    float sum = 0.0f;
    for (int d = 0; d < n; d++) sum = fmaf(x[d], y[d], sum);
    return sum;
}

static float lanes_dot(const float *x, const float *y, int n)
{
    float lane[UM_PANEL] = {0};
    for (int d = 0; d < n; d++) lane[d % UM_PANEL] = fmaf(x[d], y[d], lane[d % UM_PANEL]);
    return um_sum(lane, UM_PANEL);
}

static void block_fill(block *k, const batch *b)
{
    const int D = b->s.head_dim;
    for (int r = 0; r < k->rows; r++)
        for (int j = 0; j < k->n; j++) {
            const size_t q = query_at(b, k->i, k->t + r, k->h),
                         key = key_at(b, k->i, k->at + j, k->h),
                         row = row_at(b, k->i, k->t + r, k->h);
            float x = chain(b->in[Q] + q, b->in[K] + key, D) * b->scale;
            k->p[r][j] = k->e[r][j] = 0.0f;
            if (k->at + j >= seen(b, k->i, k->t + r)) continue;
            if (b->s.biased)
                x = fmaf(b->s.gated ? b->in[GATE][row] : 1.0f,
                         b->in[TABLE][table_at(b, k->i, k->t + r, k->h, k->at + j)], x);
            const float g = chain(b->dout + q, b->in[V] + key, D),
                        c = lanes_dot(b->dout + q, b->out + q, D);
            k->p[r][j] = um_expf(x - b->lse[row]);
            k->e[r][j] = k->p[r][j] * (g - c);
        }
}

/* What the block adds to dq, and to the sums of its positions. */
static void block_add(const block *k, const batch *b, float *dq, float *dk, float *dv)
{
    const int D = b->s.head_dim;
    for (int d = 0; d < D; d++) {
        for (int r = 0; r < k->rows; r++) {
            float sum = 0.0f;
            for (int j = 0; j < k->n; j++)
                sum = fmaf(k->e[r][j] * b->scale,
                           b->in[K][key_at(b, k->i, k->at + j, k->h) + (size_t)d], sum);
            dq[query_at(b, k->i, k->t + r, k->h) + (size_t)d] += sum;
        }
        for (int j = 0; j < k->n; j++) {
            float of_k = 0.0f, of_v = 0.0f;
            for (int r = 0; r < k->rows; r++) {
                const size_t q = query_at(b, k->i, k->t + r, k->h) + (size_t)d;
                of_k = fmaf(k->e[r][j] * b->scale, b->in[Q][q], of_k);
                of_v = fmaf(k->p[r][j], b->dout[q], of_v);
            }
            dk[j * D + d] += of_k;
            dv[j * D + d] += of_v;
        }
    }
}

static void block_add_bias(const block *k, const batch *b, float *dtable, float *dgate)
{
    for (int r = 0; r < k->rows; r++) {
        const size_t row = row_at(b, k->i, k->t + r, k->h);
        float lane[UM_PANEL] = {0};
        for (int j = 0; j < k->n; j++) {
            const size_t place = table_at(b, k->i, k->t + r, k->h, k->at + j);
            float *own = &lane[j % UM_PANEL];
            *own = fmaf(b->in[TABLE][place], k->e[r][j], *own);
            dtable[place] = fmaf(b->s.gated ? b->in[GATE][row] : 1.0f, k->e[r][j], dtable[place]);
        }
        dgate[row] += um_sum(lane, UM_PANEL);
    }
}

/* Adds all gradients of span i and key head kv_head to grad. */
static void rule(const batch *b, int i, int kv_head, float *const grad[PARTS])
{
    static block k;
    const um_span *s = &b->span[i];
    const int D = b->s.head_dim, group = b->s.heads / b->s.kv_heads, n = seen(b, i, s->T - 1);
    for (k.at = 0; k.at < n; k.at += BLOCK) {
        float dk[BLOCK * WIDEST] = {0}, dv[BLOCK * WIDEST] = {0};
        k.i = i, k.n = um_min_int(BLOCK, n - k.at);
        for (k.h = kv_head * group; k.h < (kv_head + 1) * group; k.h++)
            for (k.t = 0; k.t < s->T; k.t += BLOCK) {
                k.rows = um_min_int(BLOCK, s->T - k.t);
                if (seen(b, i, k.t + k.rows - 1) <= k.at) continue;
                block_fill(&k, b);
                block_add(&k, b, grad[Q], dk, dv);
                if (b->s.biased) block_add_bias(&k, b, grad[TABLE], grad[GATE]);
            }
        for (int j = 0; j < k.n; j++)
            for (int d = 0; d < D; d++) {
                const size_t at = key_at(b, i, k.at + j, kv_head * group) + (size_t)d;
                grad[K][at] += dk[j * D + d];
                grad[V][at] += dv[j * D + d];
            }
    }
}

/* --- the op --- */

static void backward(um_dev *d, const batch *b, float *const grad[PARTS])
{
    const shape *s = &b->s;
    const int ldq = (int)b->ldq, ldk = (int)b->ldk;
    if (s->biased)
        d->ops->attention_biased_bwd(d, grad[Q], grad[K], grad[V], b->dout, b->out, ldq, b->lse,
                                     b->in[Q], ldq, b->in[K], b->in[V], ldk, b->span, b->key_row,
                                     b->spans, s->heads, s->kv_heads, s->head_dim, b->scale,
                                     grad[TABLE], b->in[TABLE], (int)b->ldtable,
                                     s->gated ? grad[GATE] : NULL, s->gated ? b->in[GATE] : NULL);
    else
        d->ops->attention_bwd(d, grad[Q], grad[K], grad[V], b->dout, b->out, ldq, b->lse, b->in[Q],
                              ldq, b->in[K], b->in[V], ldk, b->span, b->key_row, b->spans, s->heads,
                              s->kv_heads, s->head_dim, b->scale, s->causal);
}

/* Gradients that start at `old` values, of streams 30.. */
static void start(const batch *b, float *grad[PARTS], bool old, um_arena *a)
{
    for (part p = Q; p < PARTS; p++) {
        grad[p] = values(a, b->n[p], 30 + (uint64_t)p);
        if (!old) memset(grad[p], 0, b->n[p] * sizeof(float));
    }
}

static void same_bits(const batch *b, float *const want[PARTS], um_isa isa, int threads,
                      um_arena *a)
{
    um_dev d;
    um_err err;
    float *got[PARTS];
    if (um_dev_open_cpu(&d, isa, threads, &err) != UM_OK) return;
    start(b, got, true, a);
    backward(&d, b, got);
    assert_int_equal(um_dev_sync(&d, &err), UM_OK);
    for (part p = Q; p < PARTS; p++)
        for (size_t i = 0; i < b->n[p] && (p != GATE || b->s.gated); i++)
            if (um_f32_bits(got[p][i]) != um_f32_bits(want[p][i]))
                fail_msg("%d heads of %d, %s, %d threads: d%s[%zu] is %a, the rule has %a",
                         b->s.heads, b->s.head_dim, um_isa_name(isa), threads, part_names[p], i,
                         (double)got[p][i], (double)want[p][i]);
}

/* Along random directions of one input. */
static void right_slope(const batch *b, float *const grad[PARTS], um_arena *a)
{
    for (part p = Q; p < PARTS; p++)
        for (uint64_t dir = 0; dir < 2; dir++) {
            const float *v = values(a, b->n[p], 50 + dir);
            double slope = 0, size = 0;
            if ((p == TABLE && !b->s.biased) || (p == GATE && !b->s.gated)) continue;
            for (size_t i = 0; i < b->n[p]; i++) {
                slope += (double)grad[p][i] * (double)v[i];
                size += fabs((double)grad[p][i] * (double)v[i]);
            }
            const double h = 1e-5, want = (loss_moved(b, p, v, h, false, a) -
                                           loss_moved(b, p, v, -h, false, a)) /
                                          (2 * h);
            if (!(fabs(slope - want) <= 2e-6 * size + 1e-6))
                fail_msg("%d heads of %d: d%s gives %.9g, differences %.9g of %.9g", b->s.heads,
                         b->s.head_dim, part_names[p], slope, want, size);
        }
}

static void check(const shape *s, const sequence *seq, int spans)
{
    um_arena a;
    um_arena_init(&a, "case", 1 << 20);
    const batch b = batch_make(s, seq, spans, &a);
    float *want[PARTS], *slope[PARTS];
    start(&b, want, true, &a);
    start(&b, slope, false, &a);
    for (int i = 0; i < spans; i++)
        for (int h = 0; h < s->kv_heads && seq[i].T > 0; h++) {
            rule(&b, i, h, want);
            rule(&b, i, h, slope);
        }
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++)
        for (int threads = 1; threads <= 3; threads++) {
            um_mark m = um_arena_mark(&a);
            same_bits(&b, want, isa, threads, &a);
            um_arena_reset(&a, m);
        }
    right_slope(&b, slope, &a);
    um_arena_free(&a);
}

/* Sequences side by side, from one row to several blocks, also behind keys that have no queries. */
static void causal(void **state)
{
    (void)state;
    static const shape shapes[] = {{2, 2, 16, true, false, false},
                                   {4, 2, 24, true, false, false},
                                   {3, 1, 33, true, false, false},
                                   {2, 1, 270, true, false, false}};
    static const sequence seq[] = {{1, 0, 1, 0},      {17, 0, 17, 1},    {0, 3, 5, 18},
                                   {64, 0, 64, 23},   {130, 0, 130, 87}, {5, 61, 66, 217},
                                   {65, 70, 135, 283}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check(&shapes[i], seq, i == 3 ? 4 : sizeof seq / sizeof *seq);
}

/* Queries that see all keys of a sequence of another length, and sequences that have keys in common. */
static void all_positions(void **state)
{
    (void)state;
    static const shape shapes[] = {{2, 2, 16, false, false, false},
                                   {6, 2, 40, false, false, false}};
    static const sequence seq[] = {{40, 0, 7, 0},   {3, 0, 150, 7},    {70, 0, 64, 157},
                                   {9, 0, 60, 100}, {12, 60, 60, 100}, {1, 0, 1, 230}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check(&shapes[i], seq, sizeof seq / sizeof *seq);
}

static void biased(void **state)
{
    (void)state;
    static const shape shapes[] = {{3, 3, 16, false, true, true}, {4, 2, 20, false, true, false}};
    static const sequence seq[] = {
        {70, 0, 70, 0}, {33, 0, 33, 70}, {20, 10, 90, 110}, {4, 0, 30, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check(&shapes[i], seq, sizeof seq / sizeof *seq);
}

/* No sequences, and sequences without rows. */
static void nothing(void **state)
{
    (void)state;
    um_dev d;
    um_err err;
    assert_int_equal(um_dev_open_cpu(&d, UM_ISA_AUTO, 2, &err), UM_OK);
    const um_span span = {0, 0, 0, 4, 0};
    const int32_t row = 0;
    for (int spans = 0; spans < 2; spans++)
        d.ops->attention_bwd(&d, NULL, NULL, NULL, NULL, NULL, 32, NULL, NULL, 32, NULL, NULL, 32,
                             &span, &row, spans, 2, 2, 16, 1.0f, true);
    assert_int_equal(um_dev_sync(&d, &err), UM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(causal),
        cmocka_unit_test(all_positions),
        cmocka_unit_test(biased),
        cmocka_unit_test(nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
