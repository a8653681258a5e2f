/* The SwiGLU feed-forward block: down(silu(gate(x)) * up(x)). One expert, or the MLP of a dense layer (spec 4.1, 4.3).
 * Shazeer 2020, arXiv 2002.05202; LlamaMLP. */
#pragma once

#include "core/nn/checkpoint.h"
#include "core/nn/linear.h"

typedef struct um_ffn {
    um_linear gate, up; /* [F,D] */
    um_linear down;     /* [D,F] */
} um_ffn;

/* The activations that backward needs. Training will bind one per layer; inference binds one for all layers. */
typedef struct um_ffn_acts {
    float *gate, *up, *act; /* [T,F] */
} um_ffn_acts;

void um_ffn_acts_bind(um_ffn_acts *a, um_arena *arena, int T, int F);

/* Expert `expert` of MoE layer `layer`, or the dense MLP of the layer when expert is -1. LoRA built into 8e files is merged. */
um_status um_ffn_load(um_ffn *out, const um_checkpoint *ck, int layer, int expert, const char *keep,
                      um_dev *dev, um_arena *model, um_err *err);

/* Shared expert `shared` of a layer with the dynamic gate (spec 10.1). */
um_status um_ffn_load_shared(um_ffn *out, const um_checkpoint *ck, int layer, int shared,
                             const char *keep, um_dev *dev, um_arena *model, um_err *err);

/* y[T,D] = down(silu(gate x) * up x), x[T,D]. Writes acts. */
void um_ffn_fwd(um_dev *d, float *y, um_ffn_acts *acts, const um_ffn *w, const float *x, int T);

/* Row-major master weights and their gradients, for backward. */
typedef struct um_ffn_master {
    float *gate, *up; /* [F,D] */
    float *down;      /* [D,F] */
} um_ffn_master;
/* dx[T,D] += ..., grad += ... from dy[T,D], the x of forward and its acts. */
void um_ffn_bwd(um_dev *d, float *dx, um_ffn_master *grad, const float *dy, const float *x,
                const um_ffn_acts *acts, const um_ffn_master *w, int T, int D, int F,
                um_arena *scratch);
