/* What BEATs and the Q-Former share: loading by composed names, and LayerNorm. Only encoder_worker/ includes this. */
#pragma once

#include "core/nn/linear.h"

/* What loading needs at every step. */
typedef struct um_sound_loader {
    const um_tensors *set;
    um_dev *dev;
    const char *keep; /* linear.h */
    um_arena *model;
    um_err *err;
} um_sound_loader;

typedef struct um_norm {
    const float *w, *b; /* [D] */
} um_norm;

/* prefix name.weight [N,K] and prefix name.bias [N]. */
um_status um_sound_load_linear(const um_sound_loader *l, um_linear *out, const char *prefix,
                               const char *name, int N, int K);
/* Keys and values as one layer [2N,K]: prefix keys.weight above prefix values.weight. */
um_status um_sound_load_pair(const um_sound_loader *l, um_linear *out, const char *prefix,
                             const char *keys, const char *values, int N, int K);
um_status um_sound_load_norm(const um_sound_loader *l, um_norm *out, const char *prefix,
                             const char *name, int D);
/* The tensor of any rank as f32. */
um_status um_sound_load_values(const um_sound_loader *l, const float **out, const char *prefix,
                               const char *name, int rank, const int64_t *shape);

/* y[T,D] = LayerNorm(x) */
static inline void um_norm_fwd(um_dev *d, float *y, const float *x, const um_norm *n, int T, int D,
                               float eps)
{
    d->ops->layernorm_fwd(d, y, x, n->w, n->b, T, D, eps);
}

/* y[T,N] += x[T,K] W^T + bias */
static inline void um_linear_add(um_dev *d, float *y, const float *x, int T, const um_linear *l)
{
    d->ops->gemm(d, y, l->w.N, x, l->w.K, T, &l->w, l->bias, true);
}
