/* An expert rank of a job that trains: its frames, and its part in the end of a step. Numerics: expert_train.h; what it shares with encoder
 * ranks: core/train/training_rank.h. */
#pragma once

#include "core/train/training_rank.h"
#include "expert_worker/expert_train.h"

typedef struct um_expert_steps {
    um_training_rank rank;
    um_expert_train *train;
} um_expert_steps;

/* The experts are loaded, and t->rank has begun. UM_E_USAGE when an expert is on several ranks. */
um_status um_expert_steps_open(um_expert_steps *t, const um_experts *experts, um_err *err);
void um_expert_steps_close(um_expert_steps *t); /* with t->rank; accepts a zeroed one */

/* Works on a frame: dispatch, dispatch-grad or, of router 0, step-end. One of a later step is kept until its turn; *in is then empty. */
um_status um_expert_steps_frame(um_expert_steps *t, um_inbound *in, um_err *err);
