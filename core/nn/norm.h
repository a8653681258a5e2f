/* LayerNorm's weights. Ba et al. 2016, arXiv 1607.06450. */
#pragma once

#include "core/tensor/ops.h"

typedef struct um_norm {
    const float *w, *b; /* [D] */
} um_norm;

/* y[T,D] = LayerNorm(x). Backward needs x and w alone. */
static inline void um_norm_fwd(um_dev *d, float *y, const float *x, const um_norm *n, int T, int D,
                               float eps)
{
    d->ops->layernorm_fwd(d, y, x, n->w, n->b, T, D, eps);
}
