/* Pages of keys and values, and attention over many sequences divided among threads. The kernel is in kernels_attention.inc. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/kernels.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    THREAD_WORK = 1 << 16,   /* multiply-adds that are worth waking a thread for */
    COPY_WORK = 1 << 16,     /* floats to copy, likewise */
    SMALL_SCORES = 16 << 10, /* floats of scores that fit on the stack */
    SMALL_SPANS = 64,        /* spans whose order fits on the stack */
};

size_t um_kv_page_floats(int kv_heads, int head_dim)
{
    const size_t D = (size_t)head_dim;
    return (size_t)kv_heads * UM_PAGE * (D + um_round_up(D, UM_PANEL));
}

typedef struct write_job {
    const um_kv *kv;
    const um_span *span;
    int spans;
    const float *k, *v;
    size_t ldk, ldv;
} write_job;

/* Row k, v of head h to position `at` of a sequence. */
static void write_row(const um_kv *kv, const int32_t *table, size_t h, size_t at, const float *k,
                      const float *v)
{
    const size_t D = (size_t)kv->head_dim, heads = (size_t)kv->kv_heads;
    const size_t columns = um_round_up(D, UM_PANEL), lane = at % UM_PAGE;
    float *page = kv->pages + (size_t)table[at / UM_PAGE] * kv->stride;
    float *keys = page + h * D * UM_PAGE;
    if (lane == 0) memset(keys, 0, D * UM_PAGE * sizeof *keys); /* lanes to come */
    for (size_t d = 0; d < D; d++) keys[d * UM_PAGE + lane] = k[d];
    float *values = page + (heads * D + h * columns) * UM_PAGE + lane * UM_PANEL;
    for (size_t d = 0; d < D; d += UM_PANEL, values += UM_PAGE * UM_PANEL) {
        const size_t lanes = D - d < UM_PANEL ? D - d : UM_PANEL;
        memcpy(values, v + d, lanes * sizeof *values);
        memset(values + lanes, 0, (UM_PANEL - lanes) * sizeof *values);
    }
}

/* A share of (head, span), the spans of one head side by side. */
static void write_part(void *ctx, int part, int parts)
{
    const write_job *j = ctx;
    const size_t spans = (size_t)j->spans, D = (size_t)j->kv->head_dim;
    size_t i, to;
    um_team_share((size_t)j->kv->kv_heads * spans, 1, part, parts, &i, &to);
    for (; i < to; i++) {
        const um_span *s = &j->span[i % spans];
        const size_t h = i / spans;
        for (int t = 0; t < s->T; t++) {
            const size_t row = (size_t)(s->row + t), at = (size_t)(s->pos + t);
            write_row(j->kv, j->kv->table + s->page, h, at, j->k + row * j->ldk + h * D,
                      j->v + row * j->ldv + h * D);
        }
    }
}

void um_cpu_kv_write(um_dev *d, const um_kv *kv, const um_span *span, int spans, const float *k,
                     int ldk, const float *v, int ldv)
{
    const size_t width = (size_t)kv->kv_heads * (size_t)kv->head_dim;
    size_t rows = 0;
    for (int i = 0; i < spans; i++) {
        const um_span *s = &span[i];
        UM_CHECK(s->row >= 0 && s->T >= 0 && s->pos >= 0 && s->page >= 0 && s->n >= s->T &&
                 s->pos <= s->n - s->T);
        rows += (size_t)s->T;
    }
    UM_CHECK(kv->stride >= um_kv_page_floats(kv->kv_heads, kv->head_dim));
    write_job j = {kv, span, spans, k, v, (size_t)ldk, (size_t)ldv};
    if (rows > 0) um_team_run(um_team_size(d, rows * width, COPY_WORK), write_part, &j);
}

/* How one span is cut. Tiles count on from span to span. */
typedef struct cut {
    int span, tiles, rows; /* tiles of one head (of one key head when T == 1), and their rows */
    size_t cost, first;    /* of its longest tile; number of the span's first tile */
} cut;

typedef struct attn_job {
    const um_kernels *kernels;
    um_attn a;
    const um_span *span;
    const cut *cuts;
    int spans;
    size_t tiles;  /* of all spans */
    float *memory; /* `each` floats for each part; NULL: the stack is enough */
    size_t each;
    atomic_size_t *taken; /* the next tile that no thread has started */
} attn_job;

/* Tile i of a span: heads one after another, the tiles of a head from its last, which is the longest when causal. */
static void attn_tile(const attn_job *j, const cut *c, int i, float *memory)
{
    const um_attn *a = &j->a;
    const um_span *s = &j->span[c->span];
    const int head = i / c->tiles, at = (c->tiles - 1 - i % c->tiles) * c->rows;
    if (s->T == 1) {
        const int group = a->heads / a->kv->kv_heads;
        j->kernels->attention(a, s, head * group + at, 0, um_min_int(c->rows, group - at), memory);
    } else {
        j->kernels->attention(a, s, head, at, um_min_int(c->rows, s->T - at), memory);
    }
}

static void attn_part(void *ctx, int part, int parts)
{
    (void)parts;
    const attn_job *j = ctx;
    const cut *c = j->cuts;
    float small[SMALL_SCORES];
    float *memory = j->memory == NULL ? small : j->memory + (size_t)part * j->each;
    for (size_t i; (i = atomic_fetch_add_explicit(j->taken, 1, memory_order_relaxed)) < j->tiles;) {
        while (c + 1 < j->cuts + j->spans && c[1].first <= i) c++;
        attn_tile(j, c, (int)(i - c->first), memory);
    }
}

static int longest_first(const void *x, const void *y)
{
    const cut *a = x, *b = y;
    return a->cost != b->cost ? (a->cost < b->cost) - (a->cost > b->cost) : a->span - b->span;
}

/* Cuts every span with rows, the one with the longest tiles first. Returns the multiply-adds of all; spans with rows, tiles and the
 * scores that one thread needs are left in j. */
static size_t cut_spans(attn_job *j, cut *cuts, const um_span *span, int spans)
{
    const um_attn *a = &j->a;
    const int D = a->kv->head_dim, group = a->heads / a->kv->kv_heads;
    size_t work = 0;
    for (int i = 0; i < spans; i++) {
        const um_span *s = &span[i];
        if (s->T == 0) continue;
        UM_ASSERT(s->row >= 0 && s->T > 0 && s->pos >= 0 && s->n > 0 && s->page >= 0);
        UM_ASSERT(!a->causal || s->pos <= s->n - s->T);
        const int rows = s->T == 1 ? group : s->T, seen = um_span_seen(s, s->T - 1, a->causal);
        cut *c = &cuts[j->spans++];
        c->span = i;
        c->tiles = (rows + j->kernels->tile_rows - 1) / j->kernels->tile_rows;
        c->rows = (rows + c->tiles - 1) / c->tiles;
        c->cost = (size_t)c->rows * (size_t)seen;
        work += (size_t)s->T * (size_t)a->heads * (size_t)seen * (size_t)D;
        const size_t each = um_attn_scores(c->rows, seen, D);
        if (each > j->each) j->each = each;
    }
    if (j->spans > 1) qsort(cuts, (size_t)j->spans, sizeof *cuts, longest_first);
    for (int i = 0; i < j->spans; i++) {
        cuts[i].first = j->tiles;
        j->tiles += (size_t)cuts[i].tiles *
                    (size_t)(span[cuts[i].span].T == 1 ? a->kv->kv_heads : a->heads);
    }
    return work;
}

static void attend(um_dev *d, const um_attn *a, const um_span *span, int spans)
{
    UM_ASSERT(a->heads % a->kv->kv_heads == 0);
    UM_ASSERT(a->ldq >= (size_t)a->heads * (size_t)a->kv->head_dim &&
              a->ldo >= (size_t)a->heads * (size_t)a->kv->head_dim);
    atomic_size_t taken = 0;
    cut few[SMALL_SPANS];
    cut *cuts = spans <= SMALL_SPANS ? few : um_alloc_try((size_t)spans * sizeof *cuts);
    attn_job j = {.kernels = d->kernels, .a = *a, .span = span, .cuts = cuts, .taken = &taken};
    if (cuts == NULL) {
        um_dev_fail(d, UM_E_MEMORY, "attention: no memory for the order of %d sequences", spans);
        return;
    }
    const int team = um_team_size(d, cut_spans(&j, cuts, span, spans), THREAD_WORK);
    const size_t bytes = j.each * (size_t)team * sizeof(float);
    if (j.each > SMALL_SCORES) j.memory = um_alloc_try(bytes);
    if (j.each > SMALL_SCORES && j.memory == NULL)
        um_dev_fail(d, UM_E_MEMORY, "attention: no memory for %zu bytes of scores", bytes);
    else if (j.tiles > 0)
        um_team_run(team, attn_part, &j);
    um_free(j.memory);
    if (cuts != few) um_free(cuts);
}

void um_cpu_attention(um_dev *d, float *out, int ldo, float *lse, const float *q, int ldq,
                      const um_kv *kv, const um_span *span, int spans, int heads, float scale,
                      bool causal)
{
    const um_attn a = {.out = out,
                       .lse = lse,
                       .q = q,
                       .ldo = (size_t)ldo,
                       .ldq = (size_t)ldq,
                       .kv = kv,
                       .heads = heads,
                       .scale = scale,
                       .causal = causal};
    attend(d, &a, span, spans);
}

void um_cpu_attention_biased(um_dev *d, float *out, int ldo, float *lse, const float *q, int ldq,
                             const um_kv *kv, const um_span *span, int spans, int heads,
                             float scale, const float *table, int ldtable, const float *gate)
{
    int rows = 1, n = 0;
    for (int i = 0; i < spans; i++) {
        if (span[i].T > 0) rows = um_max_int(rows, span[i].pos + span[i].T);
        n = um_max_int(n, span[i].n);
    }
    UM_ASSERT(ldtable >= rows - 1 + n);
    const um_attn a = {.out = out,
                       .lse = lse,
                       .q = q,
                       .ldo = (size_t)ldo,
                       .ldq = (size_t)ldq,
                       .kv = kv,
                       .heads = heads,
                       .scale = scale,
                       .table = table,
                       .ldtable = (size_t)ldtable,
                       .centre = (size_t)rows - 1,
                       .gate = gate};
    attend(d, &a, span, spans);
}

enum { GATE_VALUES = 8 };

void um_cpu_bias_gate(um_dev *d, float *gate, const float *x, const float *a, int T, int heads)
{
    if (d->st != UM_OK) return;
    for (int t = 0; t < T; t++)
        for (int h = 0; h < heads; h++, x += GATE_VALUES) {
            const float ga = um_sigmoidf(x[0] + x[1] + x[2] + x[3]),
                        gb = um_sigmoidf(x[4] + x[5] + x[6] + x[7]);
            *gate++ = ga * (gb * a[h] - 1.0f) + 2.0f;
        }
}
