/* A sequence: one request on its way from text and media files to an answer.
 *
 *   queued -> encoding (media at the encoder ranks) -> prefill -> decode -> done
 * A fault of one request ends in done with a status and a sentence; the others go on. Everything lives in the sequence's arena. */
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
    UM_SEQ_PREFILL,
    UM_SEQ_DECODE,
    UM_SEQ_DONE
} um_sequence_state;

/* One medium of the request and, later, its rows. */
typedef struct um_feature {
    um_modality modality;
    const um_item *item;
    char key[UM_SHA256_HEX]; /* of its content, once read */
    bool asked;              /* its rows are under way */
    float *rows;             /* [n, D], NULL until encoded */
    int n;
} um_feature;

typedef struct um_sequence {
    uint64_t number; /* which request of this router */
    const um_request *req;
    um_sequence_state state;
    um_status status;
    um_err why;
    um_arena arena;
    int32_t *ids; /* before splicing: placeholders are negative */
    int n_ids;
    um_feature *features; /* in the order in which they stand in the text */
    int n_features, owed;
    int T, cap;        /* spliced rows; T plus new tokens */
    float *embeddings; /* [T,D] */
    uint8_t *modality; /* [T] */
    um_kv *kv;         /* [layers] */
    int filled;        /* rows that are in the cache */
    int32_t *out;      /* new tokens */
    int n_out, max_out;
    bool ignore_eos;
    uint64_t seed;
    um_sampling sampling;
    um_rng rng;
    const char *finish;                  /* "stop" (end of sentence) or "length" */
    um_trace *trace;                     /* NULL unless this one is traced */
    int64_t begun_ns, first_ns, done_ns; /* prefill began, first token, done */
} um_sequence;

/* Tokens, placeholder counts, sizes and options; state queued, or done with a status. traced: greedy, everything recorded. */
void um_sequence_open(um_sequence *s, uint64_t number, const um_request *req, const um_config *cfg,
                      const um_model *m, const um_tokenizer *tok, um_trace *trace);
void um_sequence_close(um_sequence *s);
/* Ends it with an error of its own. */
void um_sequence_fail(um_sequence *s, um_status st, const um_err *why);

/* Rows of feature i, copied into the sequence. */
void um_sequence_feature(um_sequence *s, int i, const float *rows, int n, int D);
/* When nothing is owed: splices embeddings, text and media in textual order (spec 1.6), and makes room for keys and
 * values. A sequence that is too long for the memory that is free fails. */
void um_sequence_splice(um_sequence *s, const um_backbone *backbone, um_link *link);
/* The next token from the logits of the last row. Moves the state on. */
void um_sequence_take(um_sequence *s, const float *logits, const um_model *m, um_arena *scratch);
