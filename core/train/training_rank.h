/* What an expert or encoder rank has when the job trains, whatever it computes: what trains of its parameters and how, their optimiser,
 * what it writes into checkpoints, and the steps, which router 0 ends (step.h).
 *
 *   um_training_rank_choose ─► the rank loads its weights ─► um_training_rank_begin ─► frames: um_step_check, um_step_hold,
 *                                                                                      um_step_follow, um_training_rank_replay
 * Thread: the rank's. */
#pragma once

#include "core/comm/role.h"
#include "core/train/select.h"
#include "core/train/state.h"

typedef struct um_training_rank {
    um_role_base *base;
    um_select select; /* what trains, and how */
    um_optimizer *optimizer;
    um_state state; /* what is written into checkpoints */
    um_step_follower step;
} um_training_rank;

/* As the options say; the rank has joined, and its parameters are listed (um_role_own). t must stay where it is. UM_E_USAGE names the
 * option. */
um_status um_training_rank_choose(um_training_rank *t, um_role_base *base, um_err *err);
/* Masters, gradients and start values of what `trained` says trains here, and the optimiser; with --resume they are those of the
 * checkpoint, and the steps go on behind it. UM_E_DATA: the checkpoint is of a run with other options. */
um_status um_training_rank_begin(um_training_rank *t, um_trained_fn trained, const void *ctx,
                                 um_err *err);
void um_training_rank_close(um_training_rank *t); /* accepts a zeroed one */

/* A new step has begun: works on its frames that came before. */
um_status um_training_rank_replay(um_training_rank *t, um_role_work work, void *ctx, um_err *err);
