/* Linear layers: a packed weight matrix, an optional bias and an optional LoRA beside them, loaded from parameters (params.h); forward
 * and backward. */
#pragma once

#include "core/nn/params.h"

/* y = x W^T + b + lora_scale (x A^T) B^T */
typedef struct um_linear {
    um_matrix w;       /* [N, K] in panels */
    const float *bias; /* [N] or NULL */
    um_weight *lora_a,
        *lora_b; /* [r, K], [N, r]: a LoRA that stays a branch of its own; else NULL */
    float lora_scale;
    um_weight *
        weight; /* what w was loaded into, for backward; NULL in a layer made by hand, which has no backward */
} um_linear;

/* Loads the layer at a place: its matrix, its bias if the model has one there, and its LoRA if the files have one (spec 4.3). A LoRA
 * is merged, W + lora_scale B A (then the matrix is kept in f32, since rounding the sum would not be exact), or kept beside the matrix
 * when ps->how.lora_live. A weight with more dimensions, a convolution's, is one row for each output. Afterwards the mapped pages are
 * released from the resident set. UM_E_MODEL names the tensor, the wanted and the found shape. Thread: the rank's. */
um_status um_linear_load(um_linear *out, um_params *ps, um_place at, um_err *err);
/* Several layers with the same input, as one: their weights [N,K] stacked, the outputs of the first layer first. A layer without a
 * bias adds zero; none of them has a LoRA. */
um_status um_linear_load_stacked(um_linear *out, um_params *ps, const um_place *at, int n,
                                 um_err *err);
/* A convolution over rows: weight [N, C, taps] as a layer of K = taps * C inputs, tap after tap, so that its input is `taps` rows of
 * C values contiguous in memory. Its weight cannot be trained. */
um_status um_linear_load_conv(um_linear *out, um_params *ps, um_place at, um_err *err);
/* The values of a vector or table as f32, in device memory. */
um_status um_vector_load(const float **out, um_params *ps, um_place at, um_leaf leaf, um_err *err);
/* The same in host memory (arena), for what is computed from them: the parameter cannot be trained then. */
um_status um_values_read(float **out, um_params *ps, um_place at, um_leaf leaf, um_arena *arena,
                         um_err *err);
/* A weight of N x K for values that are computed, not stored: packs w [N,K], host f32, exactly as `kept`. */
um_matrix um_matrix_pack(const um_loading *how, const float *w, int N, int K, um_dtype kept);

/* y[T,N] = x[T,K] W^T + bias, without the LoRA. */
static inline void um_linear_fwd(um_dev *d, float *y, const float *x, int T, const um_linear *l)
{
    d->ops->gemm(d, y, l->w.N, x, l->w.K, T, &l->w, l->bias, false);
}

/* y[T,N] = in[T,N] + x[T,K] W^T + bias; in may be y. */
static inline void um_linear_residual(um_dev *d, float *y, const float *in, const float *x, int T,
                                      const um_linear *l)
{
    if (in != y) d->ops->copy(d, y, in, (size_t)T * (size_t)l->w.N * sizeof *y);
    d->ops->gemm(d, y, l->w.N, x, l->w.K, T, &l->w, l->bias, true);
}

/* The rank of a layer's LoRA branch; 0 without one. */
static inline int um_linear_lora_rank(const um_linear *l)
{
    return l->lora_a == NULL ? 0 : l->lora_a->w.N;
}

/* y[T,N] += the LoRA branch; nothing without one. low [T,r] becomes lora_scale x A^T, which backward needs; NULL without a LoRA.
 * Hu et al. 2021, arXiv 2106.09685. */
void um_linear_lora(um_dev *d, float *y, float *low, const float *x, int T, const um_linear *l);

/* Backward of y = x W^T + b + lora_scale (x A^T) B^T:  dx[T,K] += ..., and the gradients of those of W, b, A and B that are trained +=.
 * dx may be NULL. low: as forward left it. x, dy, dx, low and scratch: device memory; scratch is not the weights' arena, which
 * keeps what is packed here for the next time. */
void um_linear_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, const float *x,
                   const float *low, int T, um_arena *scratch);
