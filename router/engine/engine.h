/* The engine of a router rank: many sequences, one micro-batch after the other. Every micro-batch holds one row of each generating
 * sequence and chunks of the prompts that are being read (continuous batching; scheduler.h chooses). What a sequence gets does not
 * depend on what else is in the batch, nor on the chunks: see ops.h on summation order.
 *
 *   um_engine_submit --> queue --(at most --max-batch are active)--> encoding, ready, prefill, decode --> done callback
 *
 * Work per step is O(active sequences); a queued request is its parsed text and nothing else. */
#pragma once

#include "router/engine/sequence.h"

typedef struct um_engine um_engine;

/* Called once for every request that is done, in the order in which they end; s is closed after it returns. A status that is not UM_OK
 * ends the job. */
typedef um_status (*um_engine_done)(void *ctx, const um_sequence *s, um_err *err);

typedef struct um_engine_stats {
    int64_t prompt_rows, new_tokens,
        decode_tokens;             /* decode_tokens: those of steps without prefill */
    int64_t prefill_ns, decode_ns; /* time of steps with and without prefill rows */
} um_engine_stats;

/* All pointers stay the caller's. */
um_status um_engine_open(um_engine **out, const um_config *cfg, const um_model *m,
                         const um_tokenizer *tok, um_backbone *backbone, um_link *link, um_dev *dev,
                         um_engine_done done, void *ctx, um_err *err);
void um_engine_close(um_engine *e); /* accepts NULL */

/* Parses a request and queues it; one that cannot be read is done at once. number: its place in the job, which with its seed decides what
 * it draws. What from points to need not stay. */
um_status um_engine_submit(um_engine *e, uint64_t number, const um_request_source *from,
                           um_trace *trace, um_err *err);
/* Requests that are submitted and not done. */
int um_engine_unfinished(const um_engine *e);
/* True when a step would do something now; false while all wait for encoders or there is nothing. */
bool um_engine_runnable(const um_engine *e);
/* Rows that an encoder sent (a frame of kind UM_KIND_ENCODED). */
um_status um_engine_encoded(um_engine *e, const um_inbound *in, um_err *err);
/* Admits what has room, reads some media, then runs one micro-batch. */
um_status um_engine_step(um_engine *e, um_err *err);
const um_engine_stats *um_engine_stats_of(const um_engine *e);
um_media_stats um_engine_media_stats(const um_engine *e);
/* From here on what the gates choose is counted there; NULL ends it. */
void um_engine_count_routing(um_engine *e, um_routing *routing);
