/* Linear layers: a packed weight matrix, an optional bias and LoRA branches beside them, loaded from parameters (params.h); forward and
 * backward. */
#pragma once

#include "core/nn/params.h"

/* A LoRA that stays a branch of its own beside some rows of a layer's matrix: y[:, row .. row+N-1] += scale (drop(x) A^T) B^T.
 * Hu et al. 2021, arXiv 2106.09685. */
typedef struct um_branch {
    um_weight *a, *b; /* [r,K], [N,r] */
    float scale;
    int row;
    uint64_t stream; /* of what is dropped, beside the seed of the micro-batch */
} um_branch;

/* y = x W^T + b + the branches */
typedef struct um_linear {
    um_matrix w;       /* [N, K] in panels */
    const float *bias; /* [N] or NULL */
    /* what w was loaded into, for backward; NULL in a layer made by hand, which has no backward */
    um_weight *weight;
    /* [branches]: of one matrix at most one, of a stack at most one for each part */
    um_branch *branch;
    int branches;
    const um_lora *lora; /* what branches run with */
} um_linear;

/* Loads the layer at a place: its matrix, its bias if the model has one there, its LoRA if the files have one (spec 4.3), its adapter.
 * A LoRA is merged, W + lora_scale B A (then the matrix is kept in f32, since rounding the sum would not be exact), or kept beside the
 * matrix (um_params_lora_merges). A weight with more dimensions, a convolution's, is one row for each output. Afterwards the mapped
 * pages are released from the resident set. UM_E_MODEL names the tensor, the wanted and the found shape. Thread: the rank's. */
um_status um_linear_load(um_linear *out, um_params *ps, um_place at, um_err *err);
/* Several layers with the same input, as one: their weights [N,K] stacked, the outputs of the first layer first. A layer without a
 * bias adds zero; none of them has a LoRA in the files. */
um_status um_linear_load_stacked(um_linear *out, um_params *ps, const um_place *at, int n,
                                 um_err *err);
/* A convolution over rows: weight [N, C, taps] as a layer of K = taps * C inputs, tap after tap, so that its input is `taps` rows of
 * C values contiguous in memory. */
um_status um_linear_load_conv(um_linear *out, um_params *ps, um_place at, um_err *err);
/* The values of a vector or table as f32, in device memory. */
um_status um_vector_load(const float **out, um_params *ps, um_place at, um_leaf leaf, um_err *err);
/* A weight of N x K for values that are computed, not stored: packs w [N,K], host f32, exactly as `kept`. */
um_matrix um_matrix_pack(const um_loading *how, const float *w, int N, int K, um_dtype kept);

/* y[T,N] += the branches of x[T,K]; nothing without one. */
void um_linear_lora(um_dev *d, float *y, const float *x, int T, const um_linear *l);

/* y[T,N] = x[T,K] W^T + bias + the branches. */
static inline void um_linear_fwd(um_dev *d, float *y, const float *x, int T, const um_linear *l)
{
    d->ops->gemm(d, y, l->w.N, x, l->w.K, T, &l->w, l->bias, false);
    um_linear_lora(d, y, x, T, l);
}

/* y[T,N] = in[T,N] + x[T,K] W^T + bias + the branches; in may be y. */
static inline void um_linear_residual(um_dev *d, float *y, const float *in, const float *x, int T,
                                      const um_linear *l)
{
    if (in != y) d->ops->copy(d, y, in, (size_t)T * (size_t)l->w.N * sizeof *y);
    d->ops->gemm(d, y, l->w.N, x, l->w.K, T, &l->w, l->bias, true);
    um_linear_lora(d, y, x, T, l);
}

/* A convolution: y[T,N], row t of the windows x[t*step .. t*step+K-1]; it has no branches. */
static inline void um_conv_fwd(um_dev *d, float *y, const float *x, int step, int T,
                               const um_linear *l)
{
    UM_ASSERT(l->branches == 0);
    d->ops->gemm(d, y, l->w.N, x, step, T, &l->w, l->bias, false);
}

/* Backward of um_linear_fwd (and of um_linear_residual, where the gradient of `in` is dy): dx[T,K] += ..., and the gradients of those of
 * W, b, A and B that are trained +=. dx may be NULL. With T 0 nothing takes part. What was dropped is drawn again: l->lora has the
 * seed of this micro-batch. x, dy, dx and scratch: device memory; scratch is not the weights' arena, which keeps what is packed here for
 * the next time. */
void um_linear_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, const float *x, int T,
                   um_arena *scratch);
/* dx[T,K] += what goes through the branches alone. */
void um_linear_lora_input_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, int T,
                              um_arena *scratch);
/* Backward of um_conv_fwd: dx [(T-1)*step + K] += ..., window after window. dx may be NULL. */
void um_conv_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, const float *x,
                 int step, int T, um_arena *scratch);

/* The gradients of the trained parts of a weight and of its biases: dW += dy[T,N]^T x, db += the sum of dy's rows. Row t of x begins at
 * x + t*ldx; windows may overlap (ldx < K). */
void um_weight_grad(um_dev *d, um_weight *w, const float *dy, const float *x, int ldx, int T,
                    um_arena *scratch);
/* dx += dy[T,N] W. Row t of dx begins at dx + t*ldx, ldx >= K. */
void um_weight_input_grad(um_dev *d, float *dx, int ldx, um_weight *w, const float *dy, int T);
