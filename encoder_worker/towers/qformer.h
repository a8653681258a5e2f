/* The Q-Former of the sound tower (spec 3.3): a fixed number of learned queries attend to the rows of a window and become its output
 * rows. It is the Q-Former of BLIP-2 without the text branch. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/towers/tower_parts.h"

/* Attention and its output layer, with a norm over the sum with the input. */
typedef struct um_qformer_attention {
    um_linear q, kv, out; /* [Q,Q], [2Q,Q] (or [2Q,D] in cross-attention), [Q,Q] */
    um_norm norm;
} um_qformer_attention;

typedef struct um_qformer_layer {
    um_qformer_attention self, cross; /* cross in layers 0, q_cross, 2 q_cross, ... */
    um_linear fc1, fc2;               /* [F,Q], [Q,F] */
    um_norm norm;
} um_qformer_layer;

typedef struct um_qformer {
    const um_sound_model *model;
    const float *queries; /* [queries, Q], normalised */
    um_qformer_layer *layers;
} um_qformer;

/* UM_E_MODEL names the tensor, its expected shape and its actual shape. Memory: l->model. */
um_status um_qformer_load(um_qformer *out, const um_sound_model *m, const um_tower_loader *l);

/* y[queries, Q] of x[T, D]. The queries attend to every row of x, including padding (spec 12 #8). Memory: scratch, released before
 * returning. */
void um_qformer_encode(float *y, const um_qformer *f, const float *x, int T, um_dev *dev,
                       um_arena *scratch);
