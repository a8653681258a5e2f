/* A model directory opened for reading: the model and its tensors, checked against one another.
 *
 * um_checkpoint_open checks that config and tensors do not contradict one another (rows of the gate = num_experts, no expert past
 * num_experts, MoE placement, vocabulary) and settles moe_unplaced. It does not insist that every tensor is there: each role
 * loads, and so checks, only what it owns. um_checkpoint_audit looks at everything, for `inspect`. */
#pragma once

#include "core/model/model.h"
#include "core/nn/safetensors.h"

typedef struct um_checkpoint {
    um_model model;
    um_tensors *llm;    /* model.safetensors of the directory */
    um_tensors *vision; /* NULL when there is no vision tower */
    um_arena arena;     /* strings of model */
} um_checkpoint;

um_status um_checkpoint_open(um_checkpoint *out, const char *dir, const char *vision_tower,
                             um_err *err);
void um_checkpoint_close(um_checkpoint *c);

/* The tensor set of a part. */
const um_tensors *um_checkpoint_set(const um_checkpoint *c, um_part part);

typedef struct um_audit {
    int64_t wanted, found, missing, misshapen, unexpected,
        ignored;           /* tensors; ignored = known and not needed (audio parts, inv_freq) */
    int64_t params, bytes; /* of the tensors found */
} um_audit;
typedef void (*um_audit_fn)(void *ctx, const char *line); /* one line for every problem */
um_status um_checkpoint_audit(const um_checkpoint *c, um_audit *out, um_audit_fn fn, void *ctx,
                              um_err *err);
