/* The engine of a router rank: many sequences, some micro-batches in flight (batch.h). Every micro-batch holds one row of generating
 * sequences and chunks of the prompts that are being read (continuous batching; scheduler.h chooses). What a sequence gets does not
 * depend on what else is in the batch, nor on the chunks: see ops.h on summation order.
 *
 *   um_engine_submit --> queue --(a bounded number are active)--> encoding, ready, prefill, decode --> on_token ..., on_done
 *        |                 |                                             |
 *        +- refused        +---------- um_engine_cancel -----------------+--> on_done, before or after the next step
 *
 * Work per step is O(active sequences). A queued request is its parsed text and nothing else; of one that has ended nothing is left. */
#pragma once

#include "router/engine/sequence.h"

typedef struct um_engine um_engine;

/* What the engine reports, from within um_engine_step. Messages are lent for the call, which may submit and cancel requests. A status
 * that is not UM_OK ends the job. */
typedef struct um_engine_events {
    /* New tokens of a request, in order; NULL: nobody wants them. */
    um_status (*on_token)(void *ctx, const Um__Token *t, um_err *err);
    /* Once for every request that was accepted, as they end. */
    um_status (*on_done)(void *ctx, const Um__Result *r, um_err *err);
    void *ctx;
} um_engine_events;

typedef struct um_engine_stats {
    int64_t prompt_rows, new_tokens,
        decode_tokens;             /* decode_tokens: those of steps without prefill */
    int64_t prefill_ns, decode_ns; /* time of steps with and without prefill rows */
    int64_t reused_rows;           /* of prompts, whose keys and values were there already */
    int64_t put_back;              /* sequences that were put back because pages ran out */
} um_engine_stats;

/* All pointers stay the caller's; events is copied. */
um_status um_engine_open(um_engine **out, const um_config *cfg, const um_model *m,
                         const um_tokenizer *tok, um_backbone *backbone, um_link *link, um_dev *dev,
                         const um_engine_events *events, um_err *err);
void um_engine_close(um_engine *e); /* accepts NULL */

/* Parses a request and queues it: UM_OK, and on_done will come. Else it is refused, err says why, and nothing of it is left: UM_E_DATA
 * when it cannot be read, is too long for --context or the model (as far as can be told before its text is tokenised; the rest is checked
 * when it is), or needs more memory than there is for all requests together; UM_E_LIMIT when the queue is full, of requests or of
 * bytes. *refusal is then its result; the texts in it stay until the next call. number: its place in the job, unlike that of any
 * unfinished request, which with its seed decides what it draws. What from points to need not stay. */
um_status um_engine_submit(um_engine *e, uint64_t number, const um_request_source *from,
                           um_trace *trace, Um__Result *refusal, um_err *err);
/* Nobody wants request number any more, whatever state it is in: its result comes within the next step, finish cancelled, with what was
 * generated so far. Media that were not sent to an encoder are dropped at once. False: there is no such request (any more). */
bool um_engine_cancel(um_engine *e, uint64_t number);
/* Requests that may be active at once. */
int um_engine_capacity(const um_engine *e);
/* Requests that are submitted and not done. */
int um_engine_unfinished(const um_engine *e);
/* True when a step would do something now; false while all wait for encoders or there is nothing. */
bool um_engine_runnable(const um_engine *e);
/* Rows that an encoder sent (a frame of kind UM_KIND_ENCODED). */
um_status um_engine_encoded(um_engine *e, const um_inbound *in, um_err *err);
/* Admits what has room, reads some media, then moves the micro-batches in flight on by one stop (um_batcher_step). */
um_status um_engine_step(um_engine *e, um_err *err);
/* What it holds now. */
typedef struct um_engine_load {
    int queued, active;
    size_t queued_bytes; /* of JSON */
    um_kv_counts pages;  /* of keys and values */
} um_engine_load;
um_engine_load um_engine_load_of(const um_engine *e);
const um_engine_stats *um_engine_stats_of(const um_engine *e);
um_media_stats um_engine_media_stats(const um_engine *e);
/* From here on what the gates choose is counted there; NULL ends it. */
void um_engine_count_routing(um_engine *e, um_routing *routing);
