/* In which order samples are seen: a function of the data, the seed and a cursor, and of nothing else. So a run goes on at its cursor
 * as if it had never stopped, on any number of ranks.
 *
 * An epoch sees each sample of a file `weight` times: of weight 2.5 twice, and half of the samples a third time, the other half in the
 * next epoch. With by_kinds every step has samples of one combination of media only (modality-level data parallelism, spec 4.7):
 *
 *   1. the epoch's samples of a combination are shuffled
 *   2. by_length: within pools of some 64 steps they are sorted by length, so that a step holds samples of similar length
 *   3. they are cut into steps of `batch`; what is left over at the end of a combination is a smaller step, and is not dropped
 *   4. the steps of all combinations are shuffled
 *   5. the samples of a step are assigned to micro-batches of at most `micro` samples so that these have similar lengths in sum
 *
 * Memory: 4 bytes a sample of the epoch and 16 a step, whatever the cursor. */
#pragma once

#include "router/data/dataset.h"

typedef struct um_order_how {
    uint64_t seed;
    int batch; /* samples a step */
    int micro; /* samples a micro-batch, at most; 1..batch */
    bool by_kinds, by_length;
    bool shuffle; /* false: the order of the files, for evaluation; weights count as 1 */
} um_order_how;

/* Where a run is: the next step is number `step` (from 0) of `epoch` (from 0). A step behind the last of its epoch is the first of the
 * next one. */
typedef struct um_order_cursor {
    int64_t epoch, step;
} um_order_cursor;

/* One step: micro-batch b (0..n_micro-1) has samples[first[b]] .. samples[first[b+1]-1], indices of the data set. */
typedef struct um_order_step {
    const uint32_t *samples; /* [n] */
    const int *first;        /* [n_micro + 1] */
    int n, n_micro;
    unsigned kinds; /* UM_KIND_* that its samples have; with by_kinds each of them has all */
    um_order_cursor cursor; /* of this step, with step < the steps of its epoch */
} um_order_step;

typedef struct um_order um_order;

/* ds must outlive the order. UM_E_USAGE: a batch or micro-batch that cannot be. */
um_status um_order_open(um_order **out, const um_dataset *ds, const um_order_how *how, um_err *err);
void um_order_close(um_order *o); /* accepts NULL */
/* The step at *cursor, and *cursor moved behind it. *out is valid until the next call. Going to another epoch costs O(samples of it).
 * Thread: one at a time. */
void um_order_next(um_order *o, um_order_step *out, um_order_cursor *cursor);
/* The steps of an epoch; and of the epochs 0 .. epochs-1, for schedules: epochs may be 0.5. O(combinations) an epoch. */
int64_t um_order_steps(um_order *o, int64_t epoch);
int64_t um_order_total(um_order *o, double epochs);
/* Samples of an epoch. */
int64_t um_order_samples(um_order *o, int64_t epoch);
