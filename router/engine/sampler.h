/* Choosing the next token. Greedy: the largest logit, the lowest id on ties. Else in the order of the reference's library
 * (spec 8.1): divide by the temperature, keep the top k, keep the nucleus of probability top_p, softmax, draw.
 * The same seed gives the same tokens on every machine. */
#pragma once

#include "core/base/arena.h"
#include "core/base/rng.h"
#include "core/base/status.h"

typedef struct um_sampling {
    double temperature; /* 0: greedy */
    double top_p;       /* in (0, 1]; 1 keeps all */
    int top_k;          /* 0 keeps all */
} um_sampling;

/* logits [V], V > 0. UM_E_CORRUPT when one is NaN or the largest is infinite: a broken model must not look like an answer. scratch is
 * left as it was. */
um_status um_sample(int32_t *id, const float *logits, int V, const um_sampling *opt, um_rng *rng,
                    um_arena *scratch, um_err *err);
/* The logarithm of the probability that the model gives to id, whatever the sampling: log softmax(logits)[id]. The sum runs in the
 * sixteen-lane order of ops.h, so that it has the same bits everywhere. */
float um_sample_logprob(const float *logits, int V, int32_t id);
