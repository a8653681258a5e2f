/* A model directory opened for reading: the model and its tensors, checked against one another.
 *
 * um_checkpoint_open checks that config and tensors do not contradict one another (rows of the gate = num_experts, no expert past
 * num_experts, MoE placement, vocabulary, sizes of the audio connectors) and settles what only the tensors show. It does not insist
 * that every tensor is there: each role loads, and so checks, only what it owns. launch/model_dir/audit.h looks at everything. */
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

/* The tensors of a folder, and of the folder that a part is in; NULL when the model has no such tower. */
const um_tensors *um_checkpoint_set_at(const um_checkpoint *c, um_set set);

/* One number for each weight file, in the order llm, vision, speech, sound and file names: over its size, its header and samples of its
 * data. Two copies of a file have the same one wherever they lie; two fine-tunes of one model differ. Reads a few pages of each file.
 * Lives in arena (path: in the checkpoint). */
typedef struct um_weight_prints {
    uint64_t *print;   /* [n] */
    const char **path; /* [n] */
    int n;
} um_weight_prints;
void um_checkpoint_prints(const um_checkpoint *c, um_weight_prints *out, um_arena *arena);

const um_tensors *um_checkpoint_set(const um_checkpoint *c, um_part part);
