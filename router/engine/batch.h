/* One micro-batch: which rows it takes, their embeddings and positions, the way through the layers, and the next token of every
 * sequence whose prompt is read. */
#pragma once

#include "router/engine/engine.h"

typedef struct um_batcher {
    const um_config *cfg;
    const um_model *model;
    um_backbone *backbone;
    um_exchange *exchange;
    um_dev *dev;
    um_arena *scratch;   /* left as it was after every micro-batch */
    int max_rows;        /* of a micro-batch */
    um_routing *routing; /* NULL unless the gates' choices are counted */
    uint64_t step;       /* of the last micro-batch */
    unsigned turn;       /* which generating sequence is first, when not all fit */
    um_engine_stats stats;
} um_batcher;

/* Runs one micro-batch over those of list[n] that are in prefill or decode; nothing when there are none. Thread: main. */
um_status um_batcher_run(um_batcher *b, um_sequence *const *list, int n, um_err *err);
