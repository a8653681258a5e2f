/* Which rows the next micro-batch takes: pure arithmetic over the sequences that run, tested alone.
 *
 *   1. One row of every sequence that is generating, at most `most_generating`. When they do not all fit, the next micro-batch begins
 *      behind the last.
 *   2. A quarter of the prefill rows for the oldest prompt that is being read, so that a long one goes on under a stream of short ones.
 *   3. The rest of the prefill rows for the prompts with the fewest rows left: a short question does not wait for a long document.
 *
 * What a sequence gets does not depend on this choice (see ops.h on summation order); only when it gets it does. */
#pragma once

#include <stdint.h>

typedef struct um_demand {
    int left; /* rows of its prompt that are not read yet; 0: it is generating; -1: it takes no part */
    uint64_t number; /* order of arrival, rising */
    int take;        /* out: rows of the next micro-batch */
} um_demand;

/* Fills take of demand[n], in any order, for one micro-batch. max_rows bounds it, most_generating and prefill_rows the rows of either
 * kind in it. *turn is where the generating sequences begin; it is moved on when not all of them fit. order: room for n indices.
 * Returns the rows taken. */
int um_schedule(um_demand *demand, int n, int max_rows, int most_generating, int prefill_rows,
                unsigned *turn, int32_t *order);
