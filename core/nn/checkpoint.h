/* A model directory opened for reading: the model and its tensors, checked against one another.
 *
 * um_checkpoint_open checks that config and tensors do not contradict one another (rows of the gate = num_experts, no expert past
 * num_experts, MoE placement, vocabulary, sizes of the audio connectors) and settles what only the tensors show. It does not insist
 * that every tensor is there: each role loads, and so checks, only what it owns. um_checkpoint_audit looks at everything, for
 * `inspect`. */
#pragma once

#include "core/model/model.h"
#include "core/nn/safetensors.h"

typedef struct um_checkpoint {
    um_model model;
    um_tensors *llm;    /* model.safetensors of the directory */
    um_tensors *vision; /* those of the towers' folders: NULL when there is no such tower */
    um_tensors *speech;
    um_tensors *sound;
    um_arena arena; /* strings of model */
} um_checkpoint;

/* towers may be NULL: the folders that config.json names. */
um_status um_checkpoint_open(um_checkpoint *out, const char *dir, const um_towers *towers,
                             um_err *err);
void um_checkpoint_close(um_checkpoint *c);

/* The tensor set of a part; NULL when the model has none such. */
const um_tensors *um_checkpoint_set(const um_checkpoint *c, um_part part);

typedef struct um_audit {
    int64_t wanted, found, missing, misshapen, unexpected,
        ignored; /* tensors; ignored = known and not needed (Whisper's own decoder, inv_freq, ...) */
    int64_t params, bytes; /* of the tensors found */
} um_audit;
typedef void (*um_audit_fn)(void *ctx, const char *line); /* one line for every problem */
um_status um_checkpoint_audit(const um_checkpoint *c, um_audit *out, um_audit_fn fn, void *ctx,
                              um_err *err);
