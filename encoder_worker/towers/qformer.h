/* The Q-Former of the sound tower (spec 3.3): a fixed number of learned queries attend to the rows of a window and become its output
 * rows. It is the Q-Former of BLIP-2 without the text branch. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/towers/tower_parts.h"

/* Attention and its output layer, with a norm over the sum with the input. */
typedef struct um_qformer_attention {
    um_attention block; /* q [Q,Q], kv [2Q,Q], or [2Q,D] in cross-attention */
    um_norm norm;
} um_qformer_attention;

typedef struct um_qformer_layer {
    um_qformer_attention self, cross; /* cross in layers 0, q_cross, 2 q_cross, ... */
    um_mlp mlp;                       /* [F,Q], [Q,F] */
    um_norm norm;
} um_qformer_layer;

um_attention_shape um_qformer_attention_shape(const um_sound_model *m);

/* y = norm(in + attention(in));   z = norm(y + attention to the window's rows), in layers that have it;   out = norm(z + mlp(z)) */
typedef struct um_qformer_layer_acts {
    um_postnorm_acts self, cross, feed; /* [N,Q], N queries of width Q */
    um_attention_acts self_attention, cross_attention;
    um_mlp_acts mlp;
} um_qformer_layer_acts;

typedef struct um_qformer_acts {
    float *first, *last;          /* [N,Q] what the first layer reads, what the last one writes */
    um_qformer_layer_acts *layer; /* [q_layers] */
    um_attention_pages pages;
} um_qformer_acts;

/* T: rows of the window. Memory: host, device (tower_parts.h). */
void um_qformer_acts_bind(um_qformer_acts *a, um_arena *host, um_arena *device,
                          const um_sound_model *m, int T, bool keep);

typedef struct um_qformer {
    const um_sound_model *model;
    const float *queries; /* [queries, Q] */
    um_norm query_norm;
    um_qformer_layer *layers;
    um_params *params; /* of which all this was loaded */
} um_qformer;

/* ps lists its tensors. UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_qformer_load(um_qformer *out, um_params *ps, um_err *err);

/* a->last[queries, Q] of x[T, D]. The queries attend to every row of x, including padding (spec 12 #8). */
void um_qformer_fwd(um_qformer_acts *a, const um_qformer *f, const float *x, int T, um_dev *dev);

/* Its backward, with the kept a that it has written: the gradients of what is trained += ..., and dx[T, D] += ..., from dlast
 * [queries, Q], which is overwritten. dx may be NULL. scratch: device memory. */
void um_qformer_bwd(const um_qformer_acts *a, const um_qformer *f, float *dx, float *dlast,
                    const float *x, int T, um_dev *dev, um_arena *scratch);
