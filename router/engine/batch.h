/* Micro-batches: which rows they hold, their way through the layers, and the next token of every sequence whose rows are all read.
 *
 * Several are in flight (--micro-batches): while the expert ranks work on one, the router does the attention of another. They advance
 * in turn, oldest first, so that of two in flight the elder is ahead in every layer: a prompt may have a chunk in each, since the keys
 * and values of the first are written before the second reads them.
 *
 *   um_batcher_step   every free place: choose rows, reserve pages, embed, run to the first dispatch
 *                     then the one whose turn it is: combine, next layer, dispatch; behind the last layer: tokens, place free
 *
 * Keys and values lie in pages (kv_pool.h). When they run out, the youngest sequence is put back: its pages are released, its
 * tokens stay, and what it had read is read again later, with the same bits. */
#pragma once

#include "router/engine/engine.h"
#include "router/engine/kv_pool.h"
#include "router/engine/prefix_cache.h"

enum { UM_FLIGHTS_MAX = 8 };

/* A micro-batch in flight. */
typedef struct um_flight {
    bool busy;
    um_batch batch;
    um_acts acts;
    um_pass pass;
    um_sequence **seqs; /* [segs] */
    um_span *span;      /* [segs], which the batch shows to ops */
    int prefill, fresh; /* rows of prompts; those of them that are read for the first time */
    um_arena host, device;
} um_flight;

typedef struct um_batcher {
    const um_config *cfg;
    const um_model *model;
    um_backbone *backbone;
    um_exchange *exchange;
    um_link *link;
    um_dev *dev;
    um_kv_pool *pool;
    um_prefix_cache *prefix;
    um_arena *scratch, *device; /* left as they were by every call */
    int max_rows;               /* of a micro-batch */
    um_routing *routing;        /* NULL unless the gates' choices are counted */
    uint64_t steps;             /* micro-batches begun */
    unsigned turn;              /* which generating sequence is first, when not all fit */
    int flights;                /* places */
    int oldest;                 /* the place whose turn it is */
    um_flight flight[UM_FLIGHTS_MAX];
    um_engine_stats stats;
} um_batcher;

/* Arenas of the places; the other fields are set. */
void um_batcher_open(um_batcher *b);
/* Drops what is in flight: after an error. */
void um_batcher_close(um_batcher *b);

/* May prefixes be shared? Not when a row's keys and values depend on the request (noise), nor when every row is to be seen. */
bool um_batcher_shares(const um_batcher *b, const um_sequence *s);
/* A sequence whose rows are known begins: what earlier ones have in common with it is there at once. */
um_status um_batcher_begin(um_batcher *b, um_sequence *s, um_err *err);
/* Releases the pages of a sequence that no micro-batch holds. */
void um_batcher_release(um_batcher *b, um_sequence *s);

/* Advances the micro-batches in flight by one stop, over those of list[n] (in order of arrival) that are in prefill or decode. Nothing
 * happens when there are none. Thread: main. */
um_status um_batcher_step(um_batcher *b, um_sequence *const *list, int n, um_err *err);
/* A micro-batch is in flight. */
bool um_batcher_busy(const um_batcher *b);
