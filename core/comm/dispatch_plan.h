/* Which rows of a micro-batch go to which expert rank, in one layer. The exchange (exchange.h) sends and receives by it. Plain data:
 * built from the routing and the placement alone, the same on every machine.
 *
 * The caller binds the memory, with a lifetime as long as the activations of the layer: combine needs the plan again, and so does the
 * backward pass. Lists that only the exchange reads lie on the host; the two that ops index by have a copy in the device's memory. */
#pragma once

#include "core/base/arena.h"
#include "core/comm/placement.h"
#include "core/tensor/ops.h"

enum { UM_PAIR_BYTES = 8 }; /* of a (row, expert) pair in a dispatch frame: u32 row, u32 expert */

typedef struct um_dispatch_plan {
    int most;              /* rows that fit: the T of bind */
    int T, K, peers;       /* of the last build */
    int *rows_n, *pairs_n; /* [peers] distinct rows and pairs of each expert rank */
    int *pair_at;          /* [peers+1] first pair of each peer in the concatenation of all pairs */
    int *row_at;           /* [peers+1] the same for rows */
    int32_t *row;          /* [rows] source row of every row sent, rising within a peer */
    uint8_t *
        meta; /* [pairs][8] {u32 row within the peer's rows, u32 expert}, within a peer by rising expert, then row */
    int32_t *slot; /* [T*K] which pair answers (token t, slot k); -1 where the slot has no expert */
    int32_t *device_row; /* row and slot in device memory */
    int32_t *device_slot;
} um_dispatch_plan;

/* Room for up to T rows of K slots. */
void um_dispatch_plan_bind(um_dispatch_plan *p, um_arena *host, um_arena *device, int T, int K,
                           int peers);
/* experts (host) [T,K] in 0..E-1, distinct within a row; UM_NO_EXPERT where a slot goes to none: it costs nothing on the wire. T is at
 * most the T of bind. UM_E_CORRUPT for an expert that does not exist. */
um_status um_dispatch_plan_build(um_dispatch_plan *p, const um_placement *place, int layer,
                                 const int32_t *experts, int T, um_dev *dev, um_arena *scratch,
                                 um_err *err);
static inline int um_dispatch_plan_pairs(const um_dispatch_plan *p) { return p->pair_at[p->peers]; }
/* True when the slots that have a pair are a permutation of all pairs and every row belongs to its peer.
 * O(T K (K + peers)): for slow checks. */
bool um_dispatch_plan_is_permutation(const um_dispatch_plan *p);
