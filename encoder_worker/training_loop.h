/* An encoder rank of a job that trains: what its loop does beside answering requests. The gradients of its towers and connectors, their
 * optimiser and state stay here; router 0 says when a step ends (core/train/step.h). Numerics: encoder_train.h. */
#pragma once

#include "core/comm/role.h"
#include "core/train/select.h"
#include "core/train/state.h"
#include "encoder_worker/encoder_train.h"

typedef struct um_training_loop {
    um_role_base *base;
    um_encode *encode;
    um_encoder_train *train;
    um_optimizer *optimizer;
    um_step_follower step;
    um_select select; /* what trains here, and how */
    uint32_t parts;   /* bits 1 << um_part of those that train on this rank if they train at all */
    um_state state;   /* what is written into checkpoints */
} um_training_loop;

/* As the options say; the rank has joined. choose: before the towers are loaded, begin: afterwards; it continues --resume's checkpoint. Of
 * several ranks that read a modality the first one trains its tower and connector. t must stay where it is. */
um_status um_training_choose(um_training_loop *t, um_role_base *base, um_err *err);
um_status um_training_begin(um_training_loop *t, um_encode *encode, um_err *err);
void um_training_close(um_training_loop *t); /* accepts a zeroed one */

/* A request came. *later: it belongs to a later step, and is kept until its turn; *in is then empty. */
um_status um_training_later(um_training_loop *t, bool *later, const Um__EncodeRequest *req,
                            um_inbound *in, um_err *err);
/* Works on an encode-grad frame. One of a later step is kept; *in is then empty. */
um_status um_training_grad(um_training_loop *t, um_inbound *in, um_err *err);
/* Works on a step-end frame of router 0. *applied: a new step begins, and frames that were held are due (um_step_held). */
um_status um_training_step(um_training_loop *t, const um_inbound *in, bool *applied, um_err *err);
