/* The flat key and value cache and its attention. Goes when nobody calls attention_flat any more. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/kernels.h"

#include <stdatomic.h>
#include <string.h>

enum {
    THREAD_WORK = 1 << 16,   /* multiply-adds that are worth waking a thread for */
    COPY_WORK = 1 << 16,     /* floats to copy, likewise */
    SMALL_SCORES = 16 << 10, /* floats of scores that fit on the stack */
};

static size_t panels(int n) { return ((size_t)n + UM_PANEL - 1) / UM_PANEL; }
static size_t key_floats(int head_dim, int cap)
{
    return panels(cap) * (size_t)head_dim * UM_PANEL;
}
static size_t value_floats(int head_dim, int cap)
{
    return panels(head_dim) * (size_t)cap * UM_PANEL;
}

size_t um_kv_flat_floats(int kv_heads, int head_dim, int cap)
{
    return (size_t)kv_heads * (key_floats(head_dim, cap) + value_floats(head_dim, cap));
}

void um_kv_flat_bind(um_kv_flat *kv, float *memory, int kv_heads, int head_dim, int cap)
{
    *kv = (um_kv_flat){.kv_heads = kv_heads, .head_dim = head_dim, .cap = cap, .k = memory};
    kv->v = memory + (size_t)kv_heads * key_floats(head_dim, cap);
}

typedef struct append_job {
    um_kv_flat *kv;
    const float *k, *v;
    size_t ldk, ldv;
    int T;
} append_job;

static void append_row(const um_kv_flat *kv, int h, int at, const float *k, const float *v)
{
    const size_t D = (size_t)kv->head_dim, pos = (size_t)at;
    float *keys = kv->k + (size_t)h * key_floats(kv->head_dim, kv->cap) +
                  pos / UM_PANEL * D * UM_PANEL + pos % UM_PANEL;
    if (pos % UM_PANEL == 0) memset(keys, 0, D * UM_PANEL * sizeof *keys); /* lanes to come */
    for (size_t d = 0; d < D; d++) keys[d * UM_PANEL] = k[d];
    float *values = kv->v + (size_t)h * value_floats(kv->head_dim, kv->cap) + pos * UM_PANEL;
    for (size_t d = 0; d < D; d += UM_PANEL, values += (size_t)kv->cap * UM_PANEL) {
        const size_t lanes = D - d < UM_PANEL ? D - d : UM_PANEL;
        memcpy(values, v + d, lanes * sizeof *values);
        memset(values + lanes, 0, (UM_PANEL - lanes) * sizeof *values);
    }
}

static void append_part(void *ctx, int part, int parts)
{
    const append_job *j = ctx;
    size_t h0, h1;
    um_team_share((size_t)j->kv->kv_heads, 1, part, parts, &h0, &h1);
    for (size_t h = h0; h < h1; h++)
        for (int t = 0; t < j->T; t++) {
            const size_t col = h * (size_t)j->kv->head_dim;
            append_row(j->kv, (int)h, j->kv->n + t, j->k + (size_t)t * j->ldk + col,
                       j->v + (size_t)t * j->ldv + col);
        }
}

void um_cpu_kv_append_flat(um_dev *d, um_kv_flat *kv, const float *k, int ldk, const float *v,
                           int ldv, int T)
{
    UM_CHECK(T >= 0 && T <= kv->cap - kv->n);
    append_job j = {kv, k, v, (size_t)ldk, (size_t)ldv, T};
    const size_t floats = (size_t)T * (size_t)kv->kv_heads * (size_t)kv->head_dim;
    um_team_run(um_team_size(d, floats, COPY_WORK), append_part, &j);
    kv->n += T;
}

typedef struct attn_job {
    const um_kernels *kernels;
    um_attn_flat a;
    float *memory; /* `each` floats for each part; NULL: the stack is enough */
    size_t each;
    atomic_int *taken;    /* the next tile that no thread has started */
    int tiles, tile_rows; /* tiles of one head (of one key head when T == 1), and their rows */
} attn_job;

/* Tile i: heads one after another, the tiles of a head from its last, which is the longest when causal. */
static void attn_tile(const attn_job *j, int i, float *scores)
{
    const um_attn_flat *a = &j->a;
    const int head = i / j->tiles, at = (j->tiles - 1 - i % j->tiles) * j->tile_rows;
    if (a->T == 1) {
        const int group = a->heads / a->kv_heads;
        j->kernels->attention_flat(a, head * group + at, 0, um_min_int(j->tile_rows, group - at),
                                   scores);
    } else {
        j->kernels->attention_flat(a, head, at, um_min_int(j->tile_rows, a->T - at), scores);
    }
}

static void attn_part(void *ctx, int part, int parts)
{
    (void)parts;
    const attn_job *j = ctx;
    const int count = j->tiles * (j->a.T == 1 ? j->a.kv_heads : j->a.heads);
    float small[SMALL_SCORES];
    float *scores = j->memory == NULL ? small : j->memory + (size_t)part * j->each;
    for (int i; (i = atomic_fetch_add_explicit(j->taken, 1, memory_order_relaxed)) < count;)
        attn_tile(j, i, scores);
}

/* `seen`: the most positions that a row sees. */
static void attend(um_dev *d, const um_attn_flat *a, int seen)
{
    atomic_int taken = 0;
    attn_job j = {.kernels = d->kernels, .taken = &taken, .a = *a};
    const int rows = a->T == 1 ? a->heads / a->kv_heads : a->T; /* of one tile after another */
    j.tiles = (rows + d->kernels->tile_rows - 1) / d->kernels->tile_rows;
    j.tile_rows = (rows + j.tiles - 1) / j.tiles;
    const size_t work = (size_t)a->T * (size_t)a->heads * (size_t)seen * (size_t)a->head_dim;
    const int team = um_team_size(d, work, THREAD_WORK);
    j.each = um_attn_scores(j.tile_rows, seen, a->head_dim);
    if (j.each > SMALL_SCORES) j.memory = um_alloc_aligned(j.each * (size_t)team * sizeof(float));
    um_team_run(team, attn_part, &j);
    um_free(j.memory);
}

/* The fields that both forms of attention share. */
static um_attn_flat attn_of(float *out, int ldo, const float *q, int ldq, const um_kv_flat *kv,
                            int heads, int T, float scale)
{
    UM_ASSERT(heads % kv->kv_heads == 0 && ldq >= heads * kv->head_dim &&
              ldo >= heads * kv->head_dim);
    UM_ASSERT(kv->n > 0);
    return (um_attn_flat){.out = out,
                          .q = q,
                          .ldo = (size_t)ldo,
                          .ldq = (size_t)ldq,
                          .k = kv->k,
                          .v = kv->v,
                          .heads = heads,
                          .kv_heads = kv->kv_heads,
                          .head_dim = kv->head_dim,
                          .cap = kv->cap,
                          .n = kv->n,
                          .T = T,
                          .pos0 = -1,
                          .scale = scale};
}

void um_cpu_attention_flat(um_dev *d, float *out, int ldo, float *lse, const float *q, int ldq,
                           const um_kv_flat *kv, int heads, int T, int pos0, float scale,
                           bool causal)
{
    UM_ASSERT(!causal || (pos0 >= 0 && pos0 <= kv->n - T));
    um_attn_flat a = attn_of(out, ldo, q, ldq, kv, heads, T, scale);
    a.lse = lse;
    if (causal) a.pos0 = pos0;
    if (T > 0) attend(d, &a, causal ? pos0 + T : kv->n);
}

void um_cpu_attention_biased_flat(um_dev *d, float *out, int ldo, const float *q, int ldq,
                                  const um_kv_flat *kv, int heads, int T, float scale,
                                  const float *table, int ldtable, const float *gate)
{
    UM_ASSERT(ldtable >= T - 1 + kv->n);
    um_attn_flat a = attn_of(out, ldo, q, ldq, kv, heads, T, scale);
    a.table = table;
    a.ldtable = (size_t)ldtable;
    a.gate = gate;
    if (T > 0) attend(d, &a, kv->n);
}
