/* The image tower: CLIP's ViT (spec 2.1) and the projector to the language model's width (spec 3.1). Pixels in, rows out: the last step
 * for an image (bytes -> image -> pixels -> rows). */
#pragma once

#include "core/nn/checkpoint.h"
#include "encoder_worker/towers/tower_parts.h"

typedef struct um_vision_block {
    um_norm norm1, norm2;
    um_linear q, k, v, out; /* [D,D] */
    um_linear fc1, fc2;     /* [F,D], [D,F] */
} um_vision_block;

typedef struct um_vision {
    const um_vision_model *model;
    um_linear patch;        /* [D, channels*patch*patch] */
    const float *class_row; /* [D] */
    const float *positions; /* [1+patches, D] */
    um_norm pre;
    um_vision_block *blocks; /* [run_layers]; layers after the selected feature are not loaded */
    um_linear *projector;    /* [proj_layers] */
    int dim_out;             /* width of the language model */
} um_vision;

/* Packs the tower and the projector and releases their mapped pages. weights: auto, f32, bf16 (linear.h). *out points into ck->model,
 * which must outlive it. UM_E_MODEL names the tensor, its expected shape and its actual shape. Memory: model. */
um_status um_vision_load(um_vision *out, const um_checkpoint *ck, um_dev *dev, const char *weights,
                         um_arena *model, um_err *err);

/* Number of rows of one image: one per patch, preceded by the class row where the model keeps it. */
int um_vision_rows(const um_vision_model *m);

/* rows[um_vision_rows, dim_out] of pixels[channels, S, S]. The result is bit-identical for every thread count and instruction set.
 * Memory: scratch, released before returning. */
um_status um_vision_encode(float *rows, const um_vision *v, const float *pixels, um_dev *dev,
                           um_arena *scratch, um_err *err);
