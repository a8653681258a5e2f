/* An encoder rank of a job that trains: what its loop does beside answering requests. Numerics: encoder_train.h; what it shares with expert
 * ranks: core/train/training_rank.h. */
#pragma once

#include "core/train/training_rank.h"
#include "encoder_worker/encoder_train.h"

typedef struct um_encoder_steps {
    um_training_rank rank;
    um_encoder_train *train;
} um_encoder_steps;

/* The towers are loaded, and t->rank has been chosen: begins it. Of several ranks that read a modality the first one trains its tower and
 * connector. e must outlive t. */
um_status um_encoder_steps_begin(um_encoder_steps *t, const um_encode *e, um_err *err);
void um_encoder_steps_close(um_encoder_steps *t); /* with t->rank; accepts a zeroed one */

/* A request came. *later: it belongs to a later step, and is kept until its turn; *in is then empty. */
um_status um_encoder_steps_later(um_encoder_steps *t, bool *later, const Um__EncodeRequest *req,
                                 um_inbound *in, um_err *err);
/* Works on an encode-grad frame. One of a later step is kept; *in is then empty. */
um_status um_encoder_steps_grad(um_encoder_steps *t, um_inbound *in, um_err *err);
/* Works on a step-end frame of router 0. *applied: a new step begins, and frames that were held are due (um_training_rank_replay). */
um_status um_encoder_steps_end(um_encoder_steps *t, const um_inbound *in, bool *applied,
                               um_err *err);
