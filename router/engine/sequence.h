/* A sequence: one request on its way from text and media files to an answer.
 *
 *   queued -> encoding -> ready -> prefill -> decode -> done
 *     |         |           |         |         |
 *     |         |           |         |         +- one row a micro-batch; tokens are sampled
 *     |         |           |         +- chunks of the prompt, some rows a micro-batch
 *     |         |           +- all rows are there; waits until its memory is granted
 *     |         +- tokenised; its media are at the encoder ranks
 *     +- parsed
 *
 * A fault of one request ends in done with a status and a sentence; the others go on. All memory of a sequence is its own and ends with
 * it, but for the rows of media, which it shares with others that have the same medium.
 *
 * A request that gives the answer itself ("score") has that answer at the end of its prompt, and generates nothing: the logits of the rows
 * before its tokens say how likely each of them is.
 *
 * The prompt is not stored as embeddings. um_sequence_run says what stands at a position, a token or a row of a medium, and whoever
 * builds a micro-batch fetches the rows of a chunk from there; so a prompt can be read again from any position. */
#pragma once

#include "core/options/config.h"
#include "core/base/rng.h"
#include "core/base/sha256.h"
#include "core/comm/link.h"
#include "core/tensor/ops.h"
#include "router/request/request.h"
#include "proto/control.h"
#include "router/engine/answer.h"
#include "router/engine/kv_pool.h"
#include "router/engine/media_client.h"
#include "router/engine/prefix_cache.h"
#include "router/engine/sampler.h"
#include "router/request/tokenizer.h"
#include "router/backbone/trace.h"
#include "router/backbone/backbone.h"

typedef enum um_sequence_state {
    UM_SEQ_QUEUED,
    UM_SEQ_ENCODING,
    UM_SEQ_READY,
    UM_SEQ_PREFILL,
    UM_SEQ_DECODE,
    UM_SEQ_DONE
} um_sequence_state;

/* One medium of the request and, once encoded, its rows. They stay until the sequence is closed. */
typedef struct um_feature {
    um_modality modality;
    const um_item *item;
    const um_media_rows *media; /* with the key of its content; NULL until encoded; one reference */
    const float *rows;          /* [n, D], those of media */
    int n;
    int at, id; /* once all are encoded: the position of its first row; its place in ids */
} um_feature;

/* A stretch of a sequence's positions: token ids, or rows of one medium. */
typedef struct um_run {
    int n;              /* positions, at least 1 */
    const int32_t *ids; /* [n]; NULL: rows of a medium */
    const float *rows;  /* [n, D] of the medium, else NULL */
    um_modality modality;
    int feature,
        first; /* of a medium: which of features, and its row at the first position; else -1 and 0 */
} um_run;

typedef struct um_sequence {
    uint64_t number; /* of the request in the job */
    um_request req;
    um_sequence_state state;
    um_status status;
    um_err why;
    um_arena arena; /* request, ids, keys and values, answer */
    int32_t *ids;   /* of the prompt: a negative one stands for all rows of a medium */
    int n_ids;
    um_media_request *wanted; /* what the media client was asked for; NULL: nothing */
    um_feature *features;     /* in the order in which they stand in the text */
    int n_features, n_encoded;
    int dim; /* D, of the rows of media */
    int T; /* prompt rows, those of media that are there counted; while queued, the fewest that it can have */
    um_page_table pages;   /* of its keys and values */
    um_prefix_chain chain; /* keys of what stands in them */
    int filled;            /* positions whose keys and values are in its pages */
    int sent;              /* the same, and those that a micro-batch under way writes */
    int read;              /* positions that were filled once, before it was put back */
    int in_flight;  /* micro-batches under way that hold rows of it: until then it is not retired */
    bool cancelled; /* nobody wants it any more */
    int32_t *out;   /* new tokens */
    int scored; /* ids at the end of the prompt whose likelihood is wanted, all of them text; 0: an answer is generated */
    float
        *logprob; /* of each new token, or of the scored ones; NULL unless the request wants them */
    int n_out, max_out;
    int told; /* how many of them um_sequence_token has reported */
    um_answer answer;
    bool shortened; /* max_out was lowered to what the model has positions for */
    bool ignore_eos;
    uint64_t noise; /* seed of its gate noise, made like rng */
    um_sampling sampling;
    um_rng
        rng; /* of the request's own seed, or of --seed and the request's number: equal prompts then draw apart */
    Um__Finish finish;
    um_trace *trace;                     /* NULL unless this one is traced */
    int64_t begun_ns, first_ns, done_ns; /* tokenised, first token, done */
    size_t text_bytes;                   /* of its JSON */
    struct um_sequence *next;            /* of those that ended in the queue */
} um_sequence;

/* Parses the request, and checks what is known of it: lengths as far as the bytes of its text and its media tell. State queued; or a
 * status and why, and of s->req only id and where it stood. trace: greedy, everything recorded. um_sequence_close in either case. */
um_status um_sequence_open(um_sequence *s, uint64_t number, const um_request_source *from,
                           um_trace *trace, const um_config *cfg, const um_model *m,
                           const um_tokenizer *tok, um_err *err);
/* Gives everything back; its media request must be forgotten, and its pages released. */
void um_sequence_close(um_sequence *s);
/* Ends it with an error of its own. */
void um_sequence_fail(um_sequence *s, um_status st, const um_err *why);
/* Ends it with what it has: at once, or when the last micro-batch that holds rows of it is through (in_flight). */
void um_sequence_cancel(um_sequence *s);
/* Whether its rows and tokens still matter. False for a cancelled one that waits for a micro-batch. */
bool um_sequence_wanted(const um_sequence *s);

/* Tokens, placeholder counts and lengths: state encoding or ready, or done with a status. */
void um_sequence_begin(um_sequence *s, const um_config *cfg, const um_model *m,
                       const um_tokenizer *tok);
/* Rows of feature i, which it holds from here on; ready when it was the last. Done with a status when the prompt is too long now. */
void um_sequence_feature(um_sequence *s, int i, const um_media_rows *rows, const um_config *cfg,
                         const um_model *m);
/* Positions that it needs at its end; of a queued one at least so many. */
int um_sequence_positions(const um_sequence *s, const um_model *m);
/* When there are pages for its prompt: makes room for the answer. State prefill. */
void um_sequence_grant(um_sequence *s, const um_model *m);
/* What stands at position pos: as long a run of one kind as there is, at most `most` positions. Text and media in textual order (spec
 * 1.6), then the new tokens so far. 0 <= pos < T + n_out; the sequence is ready, or further. Work: O(log media). */
um_run um_sequence_run(const um_sequence *s, int pos, int most);
/* The next token from the logits of the last row (host memory); with max_out 0 there is none, and logits may be NULL. Moves the state
 * on; of a cancelled one nothing. */
void um_sequence_sample(um_sequence *s, const float *logits, const um_model *m, um_arena *scratch);

/* Of a scored sequence: the rows from *from to before *to are those whose logits are wanted; none (0) of others. */
void um_sequence_score_rows(const um_sequence *s, int *from, int *to);
/* Takes the logits of row `row`, one of those. What is read again after it was put back has the same value again. */
void um_sequence_score(um_sequence *s, int row, const float *logits, const um_model *m);

/* The tokens since the last call, with the text that became certain; false when there is nothing to report. *out points into s and
 * arena. */
bool um_sequence_token(um_sequence *s, Um__Token *out, um_arena *arena);
/* What became of a sequence that is done. *out points into s and arena. */
void um_sequence_result(um_sequence *s, Um__Result *out, um_arena *arena);
/* The result of one that um_sequence_open refused with st. */
void um_sequence_refusal(const um_sequence *s, um_status st, const um_err *why, Um__Result *out,
                         um_arena *arena);
