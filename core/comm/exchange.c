/* See exchange.h. */
#include "core/comm/exchange.h"

#include "core/base/bytes.h"

#include <string.h>

enum { PAIR_BYTES = 8 };

static void plan_alloc(um_dispatch_plan *p, um_arena *step)
{
    size_t pairs = (size_t)p->T * (size_t)p->K, peers = (size_t)p->peers;
    p->rows_n = um_arena_zero(step, peers * sizeof(int));
    p->pairs_n = um_arena_zero(step, peers * sizeof(int));
    p->pair_at = um_arena_zero(step, (peers + 1) * sizeof(int));
    p->row_at = um_arena_zero(step, (peers + 1) * sizeof(int));
    p->row = um_arena_i32(step, pairs);
    p->meta = um_arena_alloc(step, pairs * PAIR_BYTES);
    p->slot = um_arena_i32(step, pairs);
}

/* Counts pairs and distinct rows for each peer. last[peer] = the row counted last. */
static um_status plan_count(um_dispatch_plan *p, const um_topology *topo, const int32_t *experts,
                            um_arena *scratch, um_err *err)
{
    int32_t *last = um_arena_i32(scratch, (size_t)p->peers);
    memset(last, 0xff, (size_t)p->peers * sizeof *last);
    for (int i = 0; i < p->T * p->K; i++) {
        int32_t e = experts[i];
        if (e == UM_NO_EXPERT) continue;
        if (e < 0 || e >= topo->experts)
            return UM_FAIL(err, UM_E_CORRUPT, "expert %d of %d in the routing", e, topo->experts);
        int peer = topo->owner[e];
        p->pairs_n[peer]++;
        if (last[peer] != i / p->K) p->rows_n[peer]++;
        last[peer] = i / p->K;
    }
    for (int x = 0; x < p->peers; x++) {
        p->pair_at[x + 1] = p->pair_at[x] + p->pairs_n[x];
        p->row_at[x + 1] = p->row_at[x] + p->rows_n[x];
    }
    return UM_OK;
}

um_status um_dispatch_plan_build(um_dispatch_plan *out, const um_topology *topo,
                                 const int32_t *experts, int T, int K, um_arena *step, um_err *err)
{
    um_dispatch_plan p = {.T = T, .K = K, .peers = topo->count[UM_ROLE_EXPERT]};
    plan_alloc(&p, step);
    um_mark mark = um_arena_mark(step);
    um_status st = plan_count(&p, topo, experts, step, err);
    if (st != UM_OK) goto out;
    /* where the pairs of each expert begin: experts of one peer are consecutive in the concatenation */
    size_t E = (size_t)topo->experts;
    int32_t *of_expert = um_arena_zero(step, E * sizeof(int32_t));
    int *filled = um_arena_zero(step, (size_t)p.peers * sizeof(int));
    int32_t *row_of_peer = um_arena_i32(step, (size_t)p.peers);
    for (int i = 0; i < T * K; i++)
        if (experts[i] != UM_NO_EXPERT) of_expert[experts[i]]++;
    for (int x = 0; x < p.peers; x++) filled[x] = p.pair_at[x];
    for (size_t e = 0; e < E; e++) {
        int peer = topo->owner[e], n = of_expert[e];
        of_expert[e] = filled[peer];
        filled[peer] += n;
    }
    memset(filled, 0, (size_t)p.peers * sizeof(int));
    memset(row_of_peer, 0xff, (size_t)p.peers * sizeof(int32_t));
    for (int i = 0; i < T * K; i++) {
        int32_t e = experts[i];
        p.slot[i] = -1;
        if (e == UM_NO_EXPERT) continue;
        int peer = topo->owner[e], t = i / K;
        if (row_of_peer[peer] != t) p.row[p.row_at[peer] + filled[peer]++] = t;
        row_of_peer[peer] = t;
        int pair = of_expert[e]++;
        p.slot[i] = pair;
        um_put_u32(p.meta + (size_t)pair * PAIR_BYTES, (uint32_t)(filled[peer] - 1));
        um_put_u32(p.meta + (size_t)pair * PAIR_BYTES + 4, (uint32_t)e);
    }
    UM_ASSERT_SLOW(um_dispatch_plan_is_permutation(&p));
    *out = p;
out:
    um_arena_reset(step, mark);
    return st;
}

bool um_dispatch_plan_is_permutation(const um_dispatch_plan *p)
{
    int pairs = p->pair_at[p->peers], filled = 0;
    for (int i = 0; i < p->T * p->K; i++) {
        int pair = p->slot[i], peer = 0;
        if (pair == -1) continue;
        if (pair < 0 || pair >= pairs) return false;
        filled++;
        while (pair >= p->pair_at[peer + 1]) peer++;
        uint32_t row = um_get_u32(p->meta + (size_t)pair * PAIR_BYTES);
        if ((int)row >= p->rows_n[peer] || p->row[p->row_at[peer] + (int)row] != i / p->K)
            return false;
        for (int j = i / p->K * p->K; j < i; j++)
            if (p->slot[j] == pair) return false;
    }
    return filled == pairs;
}

um_status um_exchange_dispatch(um_link *l, const um_dispatch_plan *plan, const float *x, int D,
                               uint32_t layer, uint64_t step, um_dev *dev, um_arena *scratch,
                               um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    for (int peer = 0; peer < plan->peers; peer++) {
        um_mark mark = um_arena_mark(scratch);
        int n = plan->rows_n[peer];
        float *rows = um_arena_f32(scratch, (size_t)n, (size_t)D);
        dev->ops->gather(dev, rows, x, plan->row + plan->row_at[peer], n, D);
        um_data_frame f = {.kind = UM_KIND_DISPATCH,
                           .layer = layer,
                           .step = step,
                           .rows = rows,
                           .n = (uint32_t)n,
                           .cols = (uint32_t)D};
        f.meta = plan->meta + (size_t)plan->pair_at[peer] * PAIR_BYTES;
        f.meta_bytes = (uint32_t)plan->pairs_n[peer] * PAIR_BYTES;
        int rank = topo->of_role[UM_ROLE_EXPERT][peer];
        um_status st = um_link_send_rows(l, rank, &f, scratch, err);
        um_arena_reset(scratch, mark);
        UM_TRY(st);
        l->stats.pairs += (uint64_t)plan->pairs_n[peer];
    }
    return UM_OK;
}

/* Puts the rows of one combine frame in their place. */
static um_status take_answer(um_link *l, float *rows, uint8_t *seen, const um_dispatch_plan *plan,
                             const um_inbound *in, int D, uint32_t layer, uint64_t step,
                             um_arena *scratch, um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    const um_frame *f = &in->frame;
    const um_rank *from = &topo->ranks[in->msg.peer];
    char label[128];
    um_topology_label(topo, in->msg.peer, label);
    if (from->role != UM_ROLE_EXPERT)
        return UM_FAIL(err, UM_E_CORRUPT, "combine frame of %s, which owns no experts", label);
    if (f->layer != layer || f->step != step || seen[from->index])
        return UM_FAIL(err, UM_E_CORRUPT,
                       "%s frame of %s: step %llu layer %u, want step %llu layer %u",
                       seen[from->index] ? "repeated combine" : "combine", label,
                       (unsigned long long)f->step, f->layer, (unsigned long long)step, layer);
    int n = plan->pairs_n[from->index];
    if ((int)f->rows != n || (n > 0 && (int)f->cols != D))
        return UM_FAIL(err, UM_E_CORRUPT, "combine frame of %s: %u rows x %u, want %d x %d", label,
                       f->rows, f->cols, n, D);
    seen[from->index] = 1;
    float *to = rows + um_at((size_t)plan->pair_at[from->index], 0, (size_t)D);
    return um_wrap(err, um_link_rows(l, to, in, scratch, err), "combine frame of %s", label);
}

um_status um_exchange_combine(um_link *l, float *y, const um_dispatch_plan *plan,
                              const float *weights, int D, uint32_t layer, uint64_t step,
                              um_dev *dev, um_arena *scratch, um_err *err)
{
    um_mark mark = um_arena_mark(scratch);
    float *rows = um_arena_f32(scratch, (size_t)plan->pair_at[plan->peers], (size_t)D);
    uint8_t *seen = um_arena_zero(scratch, (size_t)plan->peers);
    um_status st = UM_OK;
    for (int owed = plan->peers; st == UM_OK && owed > 0;) {
        um_inbound in = {0};
        st = um_link_next_received(l, &in, -1, err);
        if (st != UM_OK) break;
        if (in.frame.kind != UM_KIND_COMBINE) {
            um_link_defer(l, &in);
            continue;
        }
        st = take_answer(l, rows, seen, plan, &in, D, layer, step, scratch, err);
        um_link_release(l, &in);
        owed--;
    }
    if (st == UM_OK) dev->ops->combine(dev, y, rows, plan->slot, weights, plan->T, plan->K, D);
    um_arena_reset(scratch, mark);
    /* a message about a peer begins with its name */
    return st == UM_E_PEER ? st : um_wrap(err, st, "exchange");
}

um_status um_exchange_max_rows(const um_link *l, int D, int K, int *rows, um_err *err)
{
    uint64_t size = um_dtype_size(l->wire), row = (uint64_t)D * size * (uint64_t)K;
    /* beside its rows a dispatch frame holds its pairs: counted as if they took of the same room, though --credit leaves them out */
    uint64_t most = um_link_values_max(l) * size, n = most / (row + (uint64_t)K * PAIR_BYTES);
    if (n == 0 && row <= most) n = 1;
    if (n == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "--credit %llu is too small for a single token: %d values x %d experts need "
                       "%llu bytes",
                       (unsigned long long)l->credit, D, K, (unsigned long long)row);
    *rows = n > (1 << 20) ? 1 << 20 : (int)n;
    return UM_OK;
}

um_status um_exchange_open(um_link *l, um_dispatch_batch *out, const um_inbound *in, int D,
                           um_arena *step, um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    const um_frame *f = &in->frame;
    int me = topo->ranks[l->comm->rank].index;
    um_dispatch_batch s = {.rows = (int)f->rows,
                           .pairs = (int)(f->meta_bytes / PAIR_BYTES),
                           .D = D,
                           .layer = f->layer,
                           .step = f->step};
    if (f->rows > 0 && f->cols != (uint32_t)D)
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: %u columns, want %d", f->cols, D);
    if ((uint64_t)f->rows * (uint64_t)D * um_dtype_size(l->wire) > l->credit ||
        (uint64_t)s.pairs * (uint64_t)D * um_dtype_size(l->wire) > l->credit)
        return UM_FAIL(
            err, UM_E_LIMIT,
            "dispatch frame: %d rows, %d pairs of %d values are over the credit of %llu bytes",
            s.rows, s.pairs, D, (unsigned long long)l->credit);
    int32_t *row = um_arena_i32(step, (size_t)s.pairs),
            *expert = um_arena_i32(step, (size_t)s.pairs);
    for (int i = 0; i < s.pairs; i++) {
        uint32_t r = um_get_u32(f->payload + (size_t)i * PAIR_BYTES),
                 e = um_get_u32(f->payload + (size_t)i * PAIR_BYTES + 4);
        if (r >= f->rows)
            return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: pair %d names row %u of %u", i, r,
                           f->rows);
        if (e >= (uint32_t)topo->experts || topo->owner[e] != me)
            return UM_FAIL(err, UM_E_CORRUPT,
                           "dispatch frame: pair %d names expert %u, which is not mine", i, e);
        if (i > 0 && (int32_t)e < expert[i - 1])
            return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: pair %d is out of order", i);
        row[i] = (int32_t)r;
        expert[i] = (int32_t)e;
    }
    float *x = um_arena_f32(step, (size_t)s.rows, (size_t)D);
    UM_TRY(um_link_rows(l, x, in, step, err));
    s.x = x;
    s.pair_row = row;
    s.expert = expert;
    *out = s;
    return UM_OK;
}

um_status um_exchange_answer(um_link *l, int peer, const um_dispatch_batch *batch, const float *y,
                             um_arena *scratch, um_err *err)
{
    um_data_frame f = {.kind = UM_KIND_COMBINE,
                       .layer = batch->layer,
                       .step = batch->step,
                       .rows = y,
                       .n = (uint32_t)batch->pairs,
                       .cols = (uint32_t)batch->D};
    return um_link_send_rows(l, peer, &f, scratch, err);
}
