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
 * A fault of one request ends in done with a status and a sentence; the others go on. Memory ends with the state that needs it: rows of
 * media with the splice, embeddings with the prefill, all else with the sequence. */
#pragma once

#include "core/options/config.h"
#include "core/base/rng.h"
#include "core/base/sha256.h"
#include "core/comm/link.h"
#include "core/tensor/ops.h"
#include "router/request/request.h"
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

/* One medium of the request and, later, its rows. */
typedef struct um_feature {
    um_modality modality;
    const um_item *item;
    char key[UM_SHA256_HEX]; /* of its content, once read */
    float *rows;             /* [n, D], NULL until encoded and after the splice */
    int n;
} um_feature;

typedef struct um_sequence {
    uint64_t number; /* of the request in the job */
    um_request req;
    um_sequence_state state;
    um_status status;
    um_err why;
    um_arena arena;  /* request, ids, keys and values, answer */
    um_arena media;  /* rows of media, until the splice */
    um_arena prompt; /* embeddings and modalities, until the prompt is read */
    int32_t *ids;    /* before splicing: placeholders are negative */
    int n_ids;
    um_feature *features; /* in the order in which they stand in the text */
    int n_features, n_encoded;
    int T,
        cap; /* prompt rows, those of media that are there counted; positions that its cache has room for */
    float *embeddings; /* [T,D] */
    uint8_t *modality; /* [T] */
    um_kv_flat *kv;    /* [layers] */
    int filled;        /* rows that are in the cache */
    int32_t *out;      /* new tokens */
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
void um_sequence_close(um_sequence *s);
/* Ends it with an error of its own. */
void um_sequence_fail(um_sequence *s, um_status st, const um_err *why);

/* Options, tokens, placeholder counts and lengths: state encoding or ready, or done with a status. A prompt that its bytes alone prove
 * to be too long is refused before it is tokenised. */
void um_sequence_begin(um_sequence *s, const um_config *cfg, const um_model *m,
                       const um_tokenizer *tok);
/* Rows of feature i, copied into the sequence; ready when it was the last. Done with a status when the prompt is too long now. */
void um_sequence_feature(um_sequence *s, int i, const float *rows, int n, const um_config *cfg,
                         const um_model *m);
/* Bytes that a ready sequence needs until its end: keys, values, embeddings, answer. */
int64_t um_sequence_bytes(const um_sequence *s, const um_model *m);
/* When its memory is granted: splices embeddings, text and media in textual order (spec 1.6), and makes room for keys and values. */
void um_sequence_splice(um_sequence *s, const um_backbone *backbone);
/* Rows that the last micro-batch wrote into the cache. Returns true when the prompt is read; its embeddings are gone then. */
bool um_sequence_advance(um_sequence *s, int rows, const um_model *m);
/* The next token from the logits of the last row; with max_out 0 there is none, and logits may be NULL. Moves the state on. */
void um_sequence_sample(um_sequence *s, const float *logits, const um_model *m,
                        const um_tokenizer *tok, um_arena *scratch);
