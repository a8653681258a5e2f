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
 * The prompt is not stored as embeddings. um_sequence_run says what stands at a position, a token or a row of a medium, and whoever
 * builds a micro-batch fetches the rows of a chunk from there; so a prompt can be read again from any position. */
#pragma once

#include "core/options/config.h"
#include "core/base/rng.h"
#include "core/base/sha256.h"
#include "core/comm/link.h"
#include "core/tensor/ops.h"
#include "router/request/request.h"
#include "router/engine/media_client.h"
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
    int T,
        cap; /* prompt rows, those of media that are there counted; positions that its cache has room for */
    um_kv_flat *kv; /* [layers] */
    int filled;     /* positions whose keys and values are in the cache */
    int in_flight;  /* micro-batches under way that hold rows of it: until then it is not retired */
    bool cancelled; /* its caller wants no more of it */
    int32_t *out;   /* new tokens */
    int n_out, max_out;
    bool shortened; /* max_out was lowered to what the model has positions for */
    bool ignore_eos;
    uint64_t noise; /* seed of its gate noise, made like rng */
    um_sampling sampling;
    um_rng
        rng; /* of the request's own seed, or of --seed and the request's number: equal prompts then draw apart */
    const char *finish; /* "stop" (end token or a stop text) or "length" */
    const char
        *answer;     /* the text before the stop text that ended it; NULL: the text of all tokens */
    um_trace *trace; /* NULL unless this one is traced */
    int64_t promised, touched;           /* bytes: granted, and of these in use */
    int64_t begun_ns, first_ns, done_ns; /* tokenised, first token, done */
} um_sequence;

/* Parses the request: state queued, or done with a status. s->req has at least its id and where it stood. trace: greedy, everything
 * recorded. */
void um_sequence_open(um_sequence *s, uint64_t number, const um_request_source *from,
                      um_trace *trace);
/* Gives everything back; its media request must be forgotten. */
void um_sequence_close(um_sequence *s);
/* Ends it with an error of its own. */
void um_sequence_fail(um_sequence *s, um_status st, const um_err *why);

/* Options, tokens, placeholder counts and lengths: state encoding or ready, or done with a status. A prompt that its bytes alone prove
 * to be too long is refused before it is tokenised. */
void um_sequence_begin(um_sequence *s, const um_config *cfg, const um_model *m,
                       const um_tokenizer *tok);
/* Rows of feature i, which it holds from here on; ready when it was the last. Done with a status when the prompt is too long now. */
void um_sequence_feature(um_sequence *s, int i, const um_media_rows *rows, const um_config *cfg,
                         const um_model *m);
/* Bytes that a ready sequence needs until its end: keys, values, rows of media, answer. */
int64_t um_sequence_bytes(const um_sequence *s, const um_model *m);
/* When its memory is granted: makes room for keys and values, and for the answer. State prefill. */
void um_sequence_grant(um_sequence *s, const um_model *m);
/* What stands at position pos: as long a run of one kind as there is, at most `most` positions. Text and media in textual order (spec
 * 1.6), then the new tokens so far. 0 <= pos < T + n_out; the sequence is ready, or further. Work: O(log media). */
um_run um_sequence_run(const um_sequence *s, int pos, int most);
/* Rows that the last micro-batch wrote into the cache. Returns true when the prompt is read. */
bool um_sequence_advance(um_sequence *s, int rows, const um_model *m);
/* The next token from the logits of the last row; with max_out 0 there is none, and logits may be NULL. Moves the state on. */
void um_sequence_sample(um_sequence *s, const float *logits, const um_model *m,
                        const um_tokenizer *tok, um_arena *scratch);
