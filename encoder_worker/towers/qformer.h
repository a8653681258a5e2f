/* The Q-Former of the sound tower (spec 3.3): a fixed number of learned queries look at the rows of a window and become its rows.
 * BLIP-2's, without the branch of text. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/towers/tower_parts.h"

/* Attention and the layer behind it, normalised with what came in. */
typedef struct um_qformer_attention {
    um_linear q, kv, out; /* [Q,Q], [2Q,Q] or [2Q,D] where the keys are the window's rows, [Q,Q] */
    um_norm norm;
} um_qformer_attention;

typedef struct um_qformer_layer {
    um_qformer_attention self, cross; /* cross in every q_cross'th layer, from the first */
    um_linear fc1, fc2;               /* [F,Q], [Q,F] */
    um_norm norm;
} um_qformer_layer;

typedef struct um_qformer {
    const um_sound_model *model;
    const float *queries; /* [queries, Q], normalised */
    um_qformer_layer *layers;
} um_qformer;

/* UM_E_MODEL names the tensor, the wanted and the found shape. Memory: l->model. */
um_status um_qformer_load(um_qformer *out, const um_sound_model *m, const um_tower_loader *l);

/* y[queries, Q] of x[T, D]; every row of x is looked at, those of padding too (spec 12 #8). Memory: scratch, given back. */
void um_qformer_encode(float *y, const um_qformer *f, const float *x, int T, um_dev *dev,
                       um_arena *scratch);
