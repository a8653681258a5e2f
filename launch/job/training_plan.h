/* How much memory the ranks of a training job take beside their weights. */
#pragma once

#include "launch/job/memory_plan.h"

/* What is trained on, as far as sizes depend on it. */
typedef struct um_training_load {
    int64_t samples;
    int64_t longest;              /* rows of the longest sample */
    int64_t media[UM_MODALITIES]; /* samples that have the modality */
} um_training_load;

/* Adds to the plan of the same job what training takes. training: masters, gradients, moments, sums of gradients over micro-batches, and
 * the transposed matrices that go backward, all of which are there from the first step. buffers: those of two micro-batches of the
 * longest sample and what experts and encoders keep of them, which shorter ones do not reach. UM_E_USAGE: options that select nothing
 * (um_select). */
um_status um_training_plan_add(um_memory_plan *p, const um_config *cfg, const um_checkpoint *c,
                               const um_training_load *load, um_arena *arena, um_err *err);
/* UM_E_MEMORY, with the numbers and what helps, when weights and training alone are over `available` bytes (0: unknown): such a job would
 * end before its first step is over. */
um_status um_training_plan_check(const um_memory_plan *p, int64_t available, um_err *err);
