/* A model directory opened for reading: the model and its tensors, checked against each other.
 *
 * um_checkpoint_open checks that config and tensors do not contradict each other (rows of the gate = num_experts, all experts below
 * num_experts, MoE placement, vocabulary, sizes of the audio connectors) and determines what only the tensors show. It does not require
 * every tensor to be present: each role loads, and so checks, only what it owns. launch/model_dir/audit.h checks every tensor. */
#pragma once

#include "core/model/model.h"
#include "core/nn/safetensors.h"

typedef struct um_checkpoint {
    um_model model;
    um_tensors *llm; /* model.safetensors of the directory */
    um_tensors
        *vision; /* tensors of the towers' folders; NULL when the model does not have the tower */
    um_tensors *speech;
    um_tensors *sound;
    um_arena arena; /* strings of model */
} um_checkpoint;

/* towers may be NULL: then the folders that config.json names are used. */
um_status um_checkpoint_open(um_checkpoint *out, const char *dir, const um_towers *towers,
                             um_err *err);
void um_checkpoint_close(um_checkpoint *c);

/* The tensors of a folder, and of the folder of a part; NULL when the model does not have the tower. */
const um_tensors *um_checkpoint_set_at(const um_checkpoint *c, um_set set);

/* One number (print) for each weight file, ordered as llm, vision, speech, sound and then by file name. It is computed over the file's
 * size, its header and samples of its data: copies of a file have equal prints wherever they are stored, and two fine-tunes of one
 * model differ. Reads a few pages of each file. The arrays live in arena, the paths in the checkpoint. */
typedef struct um_weight_prints {
    uint64_t *print;   /* [n] */
    const char **path; /* [n] */
    int n;
} um_weight_prints;
void um_checkpoint_prints(const um_checkpoint *c, um_weight_prints *out, um_arena *arena);

const um_tensors *um_checkpoint_set(const um_checkpoint *c, um_part part);
