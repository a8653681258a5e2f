/* An expert rank of a job that trains: what its loop does beside answering dispatch frames. Its experts' gradients, optimiser and state
 * stay here; router 0 says when a step ends (core/train/step.h). */
#pragma once

#include "core/comm/role.h"
#include "core/train/select.h"
#include "core/train/state.h"
#include "expert_worker/kept.h"

typedef struct um_expert_training {
    um_role_base *base;
    um_kept *kept;
    um_optimizer *optimizer;
    um_step_follower step;
    um_select select; /* what trains here, and how */
    um_state state;   /* what is written into checkpoints */
} um_expert_training;

/* As the options say. choose: before the experts are loaded, begin: afterwards; it continues --resume's checkpoint. t must stay where it
 * is. */
um_status um_expert_training_choose(um_expert_training *t, um_role_base *base, um_err *err);
um_status um_expert_training_begin(um_expert_training *t, const um_experts *experts, um_err *err);
/* What um_expert_training_begin ends with: the experts are loaded, and what trains of them has been chosen (um_params_train). o may be
 * NULL; it is closed with the rest. save may be NULL. first: number of the first step. UM_E_USAGE when an expert is on several ranks. */
um_status um_expert_training_open(um_expert_training *t, um_role_base *base,
                                  const um_experts *experts, um_optimizer *o, um_step_saver save,
                                  void *save_ctx, uint64_t first, um_err *err);
void um_expert_training_close(um_expert_training *t); /* accepts a zeroed one */

/* Works on a frame: dispatch, dispatch-grad or, of router 0, step-end. One of a later step is kept until its turn; *in is then empty. */
um_status um_expert_training_frame(um_expert_training *t, um_inbound *in, um_err *err);
