/* The norms: LayerNorm (Ba et al. 2016, arXiv 1607.06450) of the towers and connectors, RMSNorm (Zhang, Sennrich 2019, arXiv 1910.07467)
 * of the backbone; with their parameters, so that backward finds the gradients without a search. */
#pragma once

#include "core/nn/linear.h"

typedef struct um_norm {
    const float *w, *b; /* [D] */
    /* whose vectors they are; NULL in a norm made by hand, which has no gradients */
    um_param *weight, *bias;
} um_norm;

typedef struct um_rmsnorm {
    const float *w; /* [D] */
    um_param *weight;
} um_rmsnorm;

static inline um_status um_norm_load(um_norm *out, um_params *ps, um_place at, um_err *err)
{
    um_norm n = {0};
    UM_TRY(um_vector_load(&n.w, ps, at, UM_LEAF_WEIGHT, err));
    UM_TRY(um_vector_load(&n.b, ps, at, UM_LEAF_BIAS, err));
    n.weight = um_params_find(ps, at, UM_LEAF_WEIGHT);
    n.bias = um_params_find(ps, at, UM_LEAF_BIAS);
    *out = n;
    return UM_OK;
}

static inline um_status um_rmsnorm_load(um_rmsnorm *out, um_params *ps, um_place at, um_err *err)
{
    um_rmsnorm n = {0};
    UM_TRY(um_vector_load(&n.w, ps, at, UM_LEAF_WEIGHT, err));
    n.weight = um_params_find(ps, at, UM_LEAF_WEIGHT);
    *out = n;
    return UM_OK;
}

/* y[T,D] = LayerNorm(x). Backward needs x and w alone. */
static inline void um_norm_fwd(um_dev *d, float *y, const float *x, const um_norm *n, int T, int D,
                               float eps)
{
    d->ops->layernorm_fwd(d, y, x, n->w, n->b, T, D, eps);
}

/* dx[T,D] += ..., dw += ..., db += ... where they are trained. With T 0 nothing takes part. */
static inline void um_norm_bwd(um_dev *d, float *dx, const float *dy, const float *x,
                               const um_norm *n, int T, int D, float eps)
{
    if (T == 0) return;
    d->ops->layernorm_bwd(d, dx, um_param_grad(n->weight), um_param_grad(n->bias), dy, x, n->w, T,
                          D, eps);
}

/* y[T,D] = RMSNorm(x); rstd [T] is kept for backward (may be NULL). */
static inline void um_rmsnorm_fwd(um_dev *d, float *y, float *rstd, const float *x,
                                  const um_rmsnorm *n, int T, int D, float eps)
{
    d->ops->rmsnorm_fwd(d, y, rstd, x, n->w, T, D, eps);
}

/* dx[T,D] += ..., dw += ... where it is trained. */
static inline void um_rmsnorm_bwd(um_dev *d, float *dx, const float *dy, const float *x,
                                  const float *rstd, const um_rmsnorm *n, int T, int D)
{
    if (T == 0) return;
    d->ops->rmsnorm_bwd(d, dx, um_param_grad(n->weight), dy, x, n->w, rstd, T, D);
}
