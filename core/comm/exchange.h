/* The exchange: rows of one layer and one micro-batch go to the ranks that own their experts, and come back (DESIGN 5).
 *
 *   router, T = 3 rows, K = 2         expert/0 owns 0 1                              router
 *     row 0 -> experts 0 1   ─ dispatch: rows 0 2, pairs (0,0) (2,0) (0,1) ─►  one row back for each pair
 *     row 1 -> experts 2 3              expert/1 owns 2 3                        y[t] = w[t,0] r[t,0] + w[t,1] r[t,1]
 *     row 2 -> experts 0 3   ─ dispatch: rows 1 2, pairs (1,2) (1,3) (2,3) ─►  in slot order, whoever answers first
 *   row 0 goes to two experts of one rank and crosses once; the plan knows which pair answers which (row, slot)
 *
 * Dispatch and combine are one plan and its transpose. For each (layer, step) a router sends every expert rank exactly one frame,
 * an empty one where it has no rows, and gets one back. A row that goes to several experts of one rank crosses once. Results come
 * back one row per (row, expert) pair, so that the router can add them in slot order: answers do not depend on the placement.
 *
 * Group: a router calls dispatch, then combine, with all expert ranks; an expert rank answers each frame as it comes, whoever sent
 * it, and has nothing to do when idle. Buffers in flight are bounded by the link's credit: um_exchange_max_rows. */
#pragma once

#include "core/base/arena.h"
#include "core/comm/link.h"
#include "core/tensor/ops.h"

/* Which rows go where. Pure data: built from the routes alone, the same on every machine. */
typedef struct um_dispatch_plan {
    int T, K, peers;
    int *rows_n, *pairs_n; /* [peers] distinct rows and pairs of each expert rank */
    int *pair_at;          /* [peers+1] first pair of each peer in the concatenation of all pairs */
    int *row_at;           /* [peers+1] the same for rows */
    int32_t *row;          /* [rows] source row of every row sent, rising within a peer */
    uint8_t *
        meta; /* [pairs][8] {u32 row within the peer's rows, u32 expert}, by rising expert, then row */
    int32_t *slot; /* [T*K] which pair answers (token t, slot k); -1 where the slot has no expert */
} um_dispatch_plan;

/* experts [T,K] in 0..E-1, distinct within a row; UM_NO_EXPERT where a slot goes to none: it costs nothing on the wire. Lives in
 * step. */
um_status um_dispatch_plan_build(um_dispatch_plan *out, const um_topology *topo,
                                 const int32_t *experts, int T, int K, um_arena *step, um_err *err);
/* True when the slots that have a pair are a permutation of all pairs and every row belongs to its peer.
 * O(T K (K + peers)): for slow checks. */
bool um_dispatch_plan_is_permutation(const um_dispatch_plan *p);

/* Router side. x [T,D]. Sends one frame to each expert rank. */
um_status um_exchange_dispatch(um_link *l, const um_dispatch_plan *plan, const float *x, int D,
                               uint32_t layer, uint64_t step, um_dev *dev, um_arena *scratch,
                               um_err *err);
/* y[T,D] = sum over the slots that have an expert of weights[T,K] * (expert row), in slot order; a token without any is zero. Waits
 * for one frame of each expert rank; other useful frames are kept for later. A repeated frame, one of another step or with other
 * counts is UM_E_CORRUPT. */
um_status um_exchange_combine(um_link *l, float *y, const um_dispatch_plan *plan,
                              const float *weights, int D, uint32_t layer, uint64_t step,
                              um_dev *dev, um_arena *scratch, um_err *err);
/* Most rows of a micro-batch so that no frame of either direction is over the credit, nor over the largest frame
 * however large the credit; at least 1, else UM_E_USAGE. */
um_status um_exchange_max_rows(const um_link *l, int D, int K, int *rows, um_err *err);

/* Expert side: a dispatch frame, opened and checked. */
typedef struct um_dispatch_batch {
    int rows, pairs, D;
    const float *x;          /* [rows, D] */
    const int32_t *pair_row; /* [pairs] */
    const int32_t *expert;   /* [pairs] rising */
    uint32_t layer;
    uint64_t step;
} um_dispatch_batch;
/* Lives in step. Every row index and every expert is checked against topo: a pair that this rank does not own is UM_E_CORRUPT. */
um_status um_exchange_open(um_link *l, um_dispatch_batch *out, const um_inbound *in, int D,
                           um_arena *step, um_err *err);
/* Sends y [pairs, D] back to peer. */
um_status um_exchange_answer(um_link *l, int peer, const um_dispatch_batch *batch, const float *y,
                             um_arena *scratch, um_err *err);
