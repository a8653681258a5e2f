/* What the towers and their connectors share: loading by composed names, LayerNorm, projectors. Only encoder_worker/ includes this. */
#pragma once

#include "core/model/model.h"
#include "core/nn/linear.h"
#include "core/nn/norm.h"

/* What every loading step needs. */
typedef struct um_tower_loader {
    const um_tensors *set;
    um_dev *dev;
    const char *keep; /* linear.h */
    um_arena *model;
    um_err *err;
} um_tower_loader;

/* Loads prefix name.weight [N,K] and prefix name.bias [N]. */
um_status um_tower_load_linear(const um_tower_loader *l, um_linear *out, const char *prefix,
                               const char *name, int N, int K);
/* Loads keys and values as one layer [2N,K]: prefix keys.weight above prefix values.weight. */
um_status um_tower_load_pair(const um_tower_loader *l, um_linear *out, const char *prefix,
                             const char *keys, const char *values, int N, int K);
um_status um_tower_load_norm(const um_tower_loader *l, um_norm *out, const char *prefix,
                             const char *name, int D);
/* Loads a tensor of any rank as f32. */
um_status um_tower_load_values(const um_tower_loader *l, const float **out, const char *prefix,
                               const char *name, int rank, const int64_t *shape);

/* y[T,N] += x[T,K] W^T + bias */
static inline void um_linear_add(um_dev *d, float *y, const float *x, int T, const um_linear *l)
{
    d->ops->gemm(d, y, l->w.N, x, l->w.K, T, &l->w, l->bias, true);
}

/* Loads the layers that project rows [n,K] to the language model's width N into *out (in model): "linear" is prefix itself; the layers
 * of an MLP are prefix.0, .2, .4 ... with GELU between them (spec 3.1). */
um_status um_tower_load_projector(const um_tower_loader *l, um_linear **out, const char *prefix,
                                  um_projector kind, int layers, int N, int K);
/* rows[n,N] = linear, or linear GELU linear ..., of x[n,K]. Memory: scratch, not released before returning. */
void um_tower_project(um_dev *d, float *rows, const um_linear *projector, int layers,
                      const float *x, int n, um_arena *scratch);
