/* See dispatch_plan.h. */
#include "core/comm/dispatch_plan.h"

#include "core/base/bytes.h"

#include <string.h>

void um_dispatch_plan_bind(um_dispatch_plan *p, um_arena *host, um_arena *device, int T, int K,
                           int peers)
{
    size_t pairs = (size_t)T * (size_t)K, n = (size_t)peers;
    *p = (um_dispatch_plan){.most = T, .K = K, .peers = peers};
    p->rows_n = um_arena_alloc(host, n * sizeof(int));
    p->pairs_n = um_arena_alloc(host, n * sizeof(int));
    p->pair_at = um_arena_alloc(host, (n + 1) * sizeof(int));
    p->row_at = um_arena_alloc(host, (n + 1) * sizeof(int));
    p->row = um_arena_i32(host, pairs);
    p->meta = um_arena_alloc(host, pairs * UM_PAIR_BYTES);
    p->slot = um_arena_i32(host, pairs);
    p->device_row = um_arena_i32(device, pairs);
    p->device_slot = um_arena_i32(device, pairs);
}

/* Where the pair of a slot goes. */
typedef struct target {
    int32_t peer, row; /* row: within the rows of that peer */
} target;

/* Target of every slot, rows of every peer, and the counts. */
static um_status assign(um_dispatch_plan *p, target *to, const um_placement *place, int layer,
                        const int32_t *experts, um_arena *scratch, um_err *err)
{
    size_t peers = (size_t)p->peers;
    int32_t *last = um_arena_i32(scratch, peers); /* the row that a peer was counted for last */
    memset(last, 0xff, peers * sizeof *last);
    memset(p->rows_n, 0, peers * sizeof(int));
    memset(p->pairs_n, 0, peers * sizeof(int));
    for (int i = 0; i < p->T * p->K; i++) {
        int32_t e = experts[i], t = i / p->K;
        if (e == UM_NO_EXPERT) continue;
        if (e < 0 || e >= place->experts)
            return UM_FAIL(err, UM_E_CORRUPT, "expert %d of %d in the routing", e, place->experts);
        int peer = um_placement_owner(place, layer, e, t);
        p->pairs_n[peer]++;
        if (last[peer] != t) p->rows_n[peer]++;
        last[peer] = t;
        to[i] = (target){peer, p->rows_n[peer] - 1};
    }
    p->pair_at[0] = p->row_at[0] = 0;
    for (size_t x = 0; x < peers; x++) {
        p->pair_at[x + 1] = p->pair_at[x] + p->pairs_n[x];
        p->row_at[x + 1] = p->row_at[x] + p->rows_n[x];
    }
    return UM_OK;
}

/* The slots that have an expert, by rising expert, those of one expert in order. Returns how many. */
static int by_expert(int32_t *order, const int32_t *experts, int n, int E, um_arena *scratch)
{
    int32_t *at = um_arena_zero(scratch, ((size_t)E + 1) * sizeof *at);
    for (int i = 0; i < n; i++)
        if (experts[i] != UM_NO_EXPERT) at[experts[i] + 1]++;
    for (int e = 0; e < E; e++) at[e + 1] += at[e];
    int filled = at[E];
    for (int i = 0; i < n; i++)
        if (experts[i] != UM_NO_EXPERT) order[at[experts[i]]++] = i;
    return filled;
}

/* Numbers the pairs: within a peer by expert, then by row. */
static void number_pairs(um_dispatch_plan *p, const target *to, const int32_t *experts, int E,
                         um_arena *scratch)
{
    int n = p->T * p->K;
    int32_t *order = um_arena_i32(scratch, (size_t)n);
    int *next = um_arena_alloc(scratch, (size_t)p->peers * sizeof *next);
    memcpy(next, p->pair_at, (size_t)p->peers * sizeof *next);
    for (int i = 0; i < n; i++) {
        p->slot[i] = -1;
        if (experts[i] != UM_NO_EXPERT) p->row[p->row_at[to[i].peer] + to[i].row] = i / p->K;
    }
    int filled = by_expert(order, experts, n, E, scratch);
    for (int j = 0; j < filled; j++) {
        int i = order[j], pair = next[to[i].peer]++;
        p->slot[i] = pair;
        um_put_u32(p->meta + (size_t)pair * UM_PAIR_BYTES, (uint32_t)to[i].row);
        um_put_u32(p->meta + (size_t)pair * UM_PAIR_BYTES + 4, (uint32_t)experts[i]);
    }
}

um_status um_dispatch_plan_build(um_dispatch_plan *p, const um_placement *place, int layer,
                                 const int32_t *experts, int T, um_dev *dev, um_arena *scratch,
                                 um_err *err)
{
    UM_CHECK(T <= p->most && p->peers == place->ranks);
    um_mark mark = um_arena_mark(scratch);
    p->T = T;
    target *to = um_arena_alloc(scratch, (size_t)T * (size_t)p->K * sizeof *to);
    um_status st = assign(p, to, place, layer, experts, scratch, err);
    if (st == UM_OK) {
        number_pairs(p, to, experts, place->experts, scratch);
        UM_ASSERT_SLOW(um_dispatch_plan_is_permutation(p));
        dev->ops->put(dev, p->device_row, p->row, (size_t)p->row_at[p->peers] * sizeof(int32_t));
        dev->ops->put(dev, p->device_slot, p->slot, (size_t)(T * p->K) * sizeof(int32_t));
    }
    um_arena_reset(scratch, mark);
    return st;
}

bool um_dispatch_plan_is_permutation(const um_dispatch_plan *p)
{
    int pairs = um_dispatch_plan_pairs(p), filled = 0;
    for (int i = 0; i < p->T * p->K; i++) {
        int pair = p->slot[i], peer = 0;
        if (pair == -1) continue;
        if (pair < 0 || pair >= pairs) return false;
        filled++;
        while (pair >= p->pair_at[peer + 1]) peer++;
        uint32_t row = um_get_u32(p->meta + (size_t)pair * UM_PAIR_BYTES);
        if ((int)row >= p->rows_n[peer] || p->row[p->row_at[peer] + (int)row] != i / p->K)
            return false;
        for (int j = i / p->K * p->K; j < i; j++)
            if (p->slot[j] == pair) return false;
    }
    return filled == pairs;
}
