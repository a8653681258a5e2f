/* The feed-forward block of the towers and connectors: fc2(act(fc1(x))), act GELU or CLIP's quick GELU. (The backbone's and the experts'
 * is gated: ffn.h.) */
#pragma once

#include "core/nn/linear.h"

typedef enum um_mlp_act { UM_MLP_GELU, UM_MLP_QUICK_GELU } um_mlp_act;

typedef struct um_mlp {
    um_linear fc1, fc2; /* [F,D], [D,F] */
    um_mlp_act act;
} um_mlp;

/* What backward needs beside x. */
typedef struct um_mlp_acts {
    float *inner; /* [T,F] fc1(x) */
    float *act;   /* [T,F] act(inner); the same buffer as inner unless it is kept */
} um_mlp_acts;

void um_mlp_acts_bind(um_mlp_acts *a, um_arena *arena, int T, int F, bool keep);

/* a->act = act(fc1(x)), x [T,D]. */
void um_mlp_hidden(um_dev *d, um_mlp_acts *a, const um_mlp *w, const float *x, int T);
/* y[T,D] = in + fc2(a->act), in [T,D]; y may be in. */
void um_mlp_output(um_dev *d, float *y, const um_mlp_acts *a, const um_mlp *w, const float *in,
                   int T);
/* Both: y[T,D] = in + fc2(act(fc1(x))). Backward needs x: where it will run, y is another buffer. */
void um_mlp_fwd(um_dev *d, float *y, um_mlp_acts *a, const um_mlp *w, const float *x,
                const float *in, int T);

/* Backward of um_mlp_fwd, from dy[T,D] and the acts, which are kept: dx[T,D] += ..., and the gradients of the layers +=. The gradient of
 * `in` is dy itself, which the caller adds. dx may be NULL. */
void um_mlp_bwd(um_dev *d, float *dx, const um_mlp *w, const um_mlp_acts *a, const float *dy,
                const float *x, int T, um_arena *scratch);
