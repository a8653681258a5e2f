/* The exchange: rows of one layer and one micro-batch go to the ranks that own their experts, and come back (DESIGN 5).
 *
 *   router, T = 3 rows, K = 2         expert/0 owns 0 1                              router
 *     row 0 -> experts 0 1   ─ dispatch: rows 0 2, pairs (0,0) (2,0) (0,1) ─►  one row back for each pair
 *     row 1 -> experts 2 3              expert/1 owns 2 3                        y[t] = w[t,0] r[t,0] + w[t,1] r[t,1]
 *     row 2 -> experts 0 3   ─ dispatch: rows 1 2, pairs (1,2) (1,3) (2,3) ─►  in slot order, whoever answers first
 *   row 0 goes to two experts of one rank and crosses once; the plan knows which pair answers which (row, slot)
 *
 * Dispatch and combine are one plan and its transpose. For each (step, layer, micro-batch) a router sends every expert rank one
 * frame and gets one back. Where it has no rows for a rank the frame is empty, or in a job that only answers, not sent at all
 * (um_exchange_sparse). A row that goes to several experts of one rank crosses once. Results
 * come back one row per (row, expert) pair, so that the router can add them in slot order: answers do not depend on the placement.
 *
 * The backward pass uses the same plan the other way round. The gradient of every pair's output goes out as a frame of its own kind and the
 * gradient of every pair's input comes back; a row that went to several experts gets their sum, in slot order too.
 *
 * What is under way is a table: dispatch enters (kind, step, layer, micro-batch), combine waits for its entry. Several may be under way
 * at once, and their answers may come in any order: whoever waits for a frame on this link puts those of every entry where they belong.
 *
 *   dispatch 0 ─► attention of batch 1 ─► dispatch 1 ─► combine 0 (answers of 1 are taken in too) ─► ... ─► combine 1
 *
 * Rows lie in the device's memory. They go from there into the frame, and from the frame back, without another copy on the host, except
 * where a codec needs one.
 *
 * Credit (--credit) bounds what is under way to one expert rank. A frame counts with the larger of its two directions, which is the answer
 * (a row for each pair), from its sending until its answer is taken in. A dispatch that would exceed it waits for answers first, so
 * micro-batches wait for one another and never for themselves: um_exchange_max_rows makes one alone fit.
 *
 * Group: a router calls dispatch, then combine, with all expert ranks; an expert rank answers each frame as it comes, whoever sent
 * it, and has nothing to do when idle. */
#pragma once

#include "core/comm/dispatch_plan.h"
#include "core/comm/link.h"

/* Router side. */
typedef struct um_exchange um_exchange;

typedef struct um_exchange_key {
    uint64_t step;
    uint32_t layer, batch; /* batch: micro-batch of the step */
} um_exchange_key;
/* In a training job, added to the number of a micro-batch that is only computed forward, as in an evaluation: experts keep nothing. */
#define UM_BATCH_FORWARD 0x80000000u
enum { UM_BATCHES_MAX = 1 << 20 }; /* micro-batches of a step that go backwards */

/* D: width of a row. From here on the link's combine and combine-grad frames come to this exchange, whoever receives them. */
um_exchange *um_exchange_open(um_link *l, um_dev *dev, int D);
void um_exchange_close(um_exchange *x); /* accepts NULL */
/* From now on expert ranks that a plan has no rows for get no frame. A token of decoding goes to few experts, and every frame wakes a rank.
 * Not for training: there an expert rank adds gradients by rising micro-batch, and waits for those that it does not know to be empty. */
void um_exchange_sparse(um_exchange *x);

/* Sends the rows of input (device) [T,D] to their experts. The answers will stand in rows (device) [pairs,D]: the caller's activations,
 * which with the plan must live until the entry's combine, and longer where a backward pass needs them. The key must not be under
 * way. */
um_status um_exchange_dispatch(um_exchange *x, const um_dispatch_plan *plan, float *rows,
                               const float *input, um_exchange_key key, um_err *err);
/* Waits for the answers of key, which ends the entry; then y (device) [T,D] = sum over the slots that have an expert of weights (device)
 * [T,K] * (expert row), in slot order; a token without any is zero. Other useful frames are kept for later. An answer that has come
 * already is dropped; one to a key that was never dispatched, or with other counts, is UM_E_CORRUPT naming its sender. */
um_status um_exchange_combine(um_exchange *x, float *y, const float *weights, um_exchange_key key,
                              um_err *err);
/* Whether all answers of key have come, so that combine would not wait. */
bool um_exchange_answered(const um_exchange *x, um_exchange_key key);

/* Backward, in a training job. Sends drows (device) [pairs,D], the gradient of every pair's output row in the plan's order of pairs (it
 * contains the gate's weight already). The answers will stand in dinput (device) [pairs,D]: the gradient of every pair's input row. plan is
 * that of the dispatch with the same key, which has been combined; plan, drows and dinput must live until um_exchange_combine_grad. drows
 * and dinput may be the same memory. */
um_status um_exchange_dispatch_grad(um_exchange *x, const um_dispatch_plan *plan, float *dinput,
                                    const float *drows, um_exchange_key key, um_err *err);
/* Waits for its answers, which ends the entry; then dx (device) [T,D] += the sum over the slots that have an expert of their pair's row of
 * dinput, in slot order: whichever ranks own the experts, the bits are the same. Errors as um_exchange_combine. */
um_status um_exchange_combine_grad(um_exchange *x, float *dx, um_exchange_key key, um_err *err);
bool um_exchange_answered_grad(const um_exchange *x, um_exchange_key key);

um_link *um_exchange_link(const um_exchange *x);
uint64_t
um_exchange_repeats(const um_exchange *x); /* answers that were dropped because they had come */

/* Most rows of a micro-batch so that no frame of either direction is over the credit, nor over the largest frame
 * however large the credit; at least 1, else UM_E_USAGE. */
um_status um_exchange_max_rows(const um_link *l, int D, int K, int *rows, um_err *err);

/* Expert side: a dispatch frame, opened and checked. */
typedef struct um_dispatch_batch {
    int rows, pairs, D;
    float *x;              /* [rows, D] device */
    int32_t *pair_row;     /* [pairs] device: row of x */
    const int32_t *expert; /* [pairs] host, rising */
    um_exchange_key key;
} um_dispatch_batch;
/* Lives in step (host) and in device_step. Every row index is checked, and every expert against the placement: a pair of an expert that
 * this rank does not own is UM_E_CORRUPT. */
um_status um_dispatch_batch_read(um_dispatch_batch *out, um_link *l, const um_inbound *in, int D,
                                 um_dev *dev, um_arena *step, um_arena *device_step, um_err *err);
/* Sends y (device) [pairs, D] back to peer. */
um_status um_dispatch_batch_answer(um_link *l, int peer, const um_dispatch_batch *batch,
                                   const float *y, um_dev *dev, um_arena *scratch, um_err *err);
/* The rows of a dispatch-grad frame into dy (device) [pairs,D], where pairs are those of the dispatch frame that it belongs to. */
um_status um_dispatch_grad_read(float *dy, int pairs, um_link *l, const um_inbound *in, int D,
                                um_dev *dev, um_arena *scratch, um_err *err);
/* Sends dx (device) [pairs,D], the gradients of the pairs' input rows, back to peer. */
um_status um_dispatch_grad_answer(um_link *l, int peer, um_exchange_key key, const float *dx,
                                  int pairs, int D, um_dev *dev, um_arena *scratch, um_err *err);
/* The key in a frame's header. */
um_exchange_key um_exchange_key_of(const um_frame *f);
