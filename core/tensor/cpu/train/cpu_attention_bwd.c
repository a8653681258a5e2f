/* Backward of attention over many sequences, divided among threads by key heads, and by sequences that have no keys in common. The
 * kernel is in kernels_attention_bwd.inc. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/train/train_kernels.h"

#include <stdatomic.h>
#include <stdlib.h>

enum {
    THREAD_WORK = 1 << 16, /* multiply-adds of one product that are worth waking a thread for */
    SMALL_SPANS = 64,      /* spans whose order fits on the stack */
};

/* A span with rows. The spans of one chain have keys in common, one with the next at least, and run one after another. */
typedef struct chained {
    int span, chain; /* chain: the first span of it */
    size_t cost;     /* of the whole chain */
} chained;

typedef struct job {
    const um_train_kernels *kernels;
    um_attn_bwd a;
    const um_span *span;
    const int32_t *key_row;
    const chained *links; /* chain by chain */
    int count, chains;
    float *memory; /* `each` floats for each part */
    size_t each;
    atomic_size_t *taken; /* the next (chain, key head) that no thread has started */
} job;

static bool keys_meet(const job *j, int x, int y)
{
    const int64_t a = j->key_row[x], b = j->key_row[y];
    return a < b + j->span[y].n && b < a + j->span[x].n;
}

static int by_cost(const void *x, const void *y)
{
    const chained *a = x, *b = y;
    if (a->cost != b->cost) return a->cost < b->cost ? 1 : -1;
    if (a->chain != b->chain) return a->chain - b->chain;
    return a->span - b->span;
}

/* Lists the spans that have rows, chain by chain, the longest chain first. one: all are one chain. Returns the multiply-adds of one
 * product of all of them. */
static size_t chain_spans(job *j, chained *links, int spans, bool one)
{
    size_t all = 0;
    const um_attn_bwd *a = &j->a;
    for (int i = 0; i < spans; i++) {
        const um_span *s = &j->span[i];
        if (s->T == 0) continue;
        UM_ASSERT(s->row >= 0 && s->T > 0 && s->pos >= 0 && s->n > 0 && j->key_row[i] >= 0);
        UM_ASSERT(!a->causal || s->pos <= s->n - s->T);
        chained *own = &links[j->count++];
        *own = (chained){.span = i, .chain = i, .cost = (size_t)s->T * (size_t)s->n};
        all += own->cost;
        for (chained *l = links; l < own; l++) {
            if (l->chain == own->chain || !(one || keys_meet(j, l->span, i))) continue;
            const int from = um_max_int(l->chain, own->chain),
                      to = um_min_int(l->chain, own->chain);
            for (chained *m = links; m <= own; m++)
                if (m->chain == from) m->chain = to;
        }
        const size_t each = um_attn_bwd_floats(s->T, a->heads / a->kv_heads, a->head_dim);
        if (each > j->each) j->each = each;
    }
    /* a chain's cost is gathered in its first span, which stands before the others */
    for (int i = 0, first = 0; i < j->count; i++) {
        for (first = 0; links[first].span != links[i].chain;) first++;
        if (first != i) links[first].cost += links[i].cost;
        j->chains += first == i;
    }
    for (int i = 0, first = 0; i < j->count; i++) {
        for (first = 0; links[first].span != links[i].chain;) first++;
        links[i].cost = links[first].cost;
    }
    if (j->count > 1) qsort(links, (size_t)j->count, sizeof *links, by_cost);
    return all * (size_t)a->heads * (size_t)a->head_dim;
}

static void chain_run(const job *j, int chain, int kv_head, float *memory)
{
    const chained *l = j->links, *end = l + j->count;
    for (int at = 0; at < chain; at++)
        for (const int c = l->chain; l < end && l->chain == c;) l++;
    for (const int c = l->chain; l < end && l->chain == c; l++)
        j->kernels->attention_bwd(&j->a, &j->span[l->span], (size_t)j->key_row[l->span], kv_head,
                                  memory);
}

static void bwd_part(void *ctx, int part, int parts)
{
    (void)parts;
    const job *j = ctx;
    const size_t heads = (size_t)j->a.kv_heads, items = (size_t)j->chains * heads;
    float *memory = j->memory + (size_t)part * j->each;
    for (size_t i; (i = atomic_fetch_add_explicit(j->taken, 1, memory_order_relaxed)) < items;)
        chain_run(j, (int)(i / heads), (int)(i % heads), memory);
}

static void run(um_dev *d, const um_attn_bwd *a, const um_span *span, const int32_t *key_row,
                int spans)
{
    if (d->st != UM_OK) return;
    UM_ASSERT(a->heads % a->kv_heads == 0);
    UM_ASSERT(a->ldq >= (size_t)a->heads * (size_t)a->head_dim &&
              a->ldo >= (size_t)a->heads * (size_t)a->head_dim);
    UM_ASSERT(a->ldkv >= (size_t)a->kv_heads * (size_t)a->head_dim);
    atomic_size_t taken = 0;
    chained few[SMALL_SPANS];
    chained *links = spans <= SMALL_SPANS ? few : um_alloc_try((size_t)spans * sizeof *links);
    job j = {.kernels = d->kernels->train,
             .a = *a,
             .span = span,
             .key_row = key_row,
             .links = links,
             .taken = &taken};
    if (links == NULL) {
        um_dev_fail(d, UM_E_MEMORY, "attention_bwd: no memory for the order of %d sequences",
                    spans);
        return;
    }
    int team = um_team_size(d, chain_spans(&j, links, spans, a->dtable != NULL), THREAD_WORK);
    team = um_min_int(team, j.chains * a->kv_heads);
    const size_t bytes = j.each * (size_t)team * sizeof(float);
    if (team > 0) j.memory = um_alloc_try(bytes);
    if (team > 0 && j.memory == NULL)
        um_dev_fail(d, UM_E_MEMORY, "attention_bwd: no memory for %zu bytes of blocks", bytes);
    else
        um_team_run(team, bwd_part, &j);
    um_free(j.memory);
    if (links != few) um_free(links);
}

void um_cpu_attention_bwd(um_dev *d, float *dq, float *dk, float *dv, const float *dout,
                          const float *out, int ldo, const float *lse, const float *q, int ldq,
                          const float *k, const float *v, int ldkv, const um_span *span,
                          const int32_t *key_row, int spans, int heads, int kv_heads, int head_dim,
                          float scale, bool causal)
{
    const um_attn_bwd a = {.dq = dq,
                           .dk = dk,
                           .dv = dv,
                           .dout = dout,
                           .out = out,
                           .lse = lse,
                           .q = q,
                           .k = k,
                           .v = v,
                           .ldo = (size_t)ldo,
                           .ldq = (size_t)ldq,
                           .ldkv = (size_t)ldkv,
                           .heads = heads,
                           .kv_heads = kv_heads,
                           .head_dim = head_dim,
                           .scale = scale,
                           .causal = causal};
    run(d, &a, span, key_row, spans);
}

void um_cpu_attention_biased_bwd(um_dev *d, float *dq, float *dk, float *dv, const float *dout,
                                 const float *out, int ldo, const float *lse, const float *q,
                                 int ldq, const float *k, const float *v, int ldkv,
                                 const um_span *span, const int32_t *key_row, int spans, int heads,
                                 int kv_heads, int head_dim, float scale, float *dtable,
                                 const float *table, int ldtable, float *dgate, const float *gate)
{
    int rows = 1, n = 0;
    for (int i = 0; i < spans; i++) {
        if (span[i].T > 0) rows = um_max_int(rows, span[i].pos + span[i].T);
        n = um_max_int(n, span[i].n);
    }
    UM_ASSERT(ldtable >= rows - 1 + n && (dgate == NULL || gate != NULL));
    const um_attn_bwd a = {.dq = dq,
                           .dk = dk,
                           .dv = dv,
                           .dout = dout,
                           .out = out,
                           .lse = lse,
                           .q = q,
                           .k = k,
                           .v = v,
                           .ldo = (size_t)ldo,
                           .ldq = (size_t)ldq,
                           .ldkv = (size_t)ldkv,
                           .heads = heads,
                           .kv_heads = kv_heads,
                           .head_dim = head_dim,
                           .scale = scale,
                           .dtable = dtable,
                           .dgate = dgate,
                           .table = table,
                           .gate = gate,
                           .ldtable = (size_t)ldtable,
                           .centre = (size_t)rows - 1};
    run(d, &a, span, key_row, spans);
}
