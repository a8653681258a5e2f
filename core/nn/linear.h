/* Linear layers: a packed weight matrix and an optional bias, loaded from safetensors; forward and backward. */
#pragma once

#include "core/nn/safetensors.h"
#include "core/tensor/ops.h"

typedef struct um_linear {
    um_matrix w;       /* [N, K] in panels */
    const float *bias; /* [N] or NULL */
} um_linear;

/* Which tensors make one weight matrix. lora_a [r, K] and lora_b [N, r] are added as lora_scale * B A when lora_a is not NULL
 * and the set has it (spec 4.3; then the matrix is kept in f32, since rounding the sum would not be exact). */
typedef struct um_linear_names {
    const char *weight, *bias;
    const char *lora_a, *lora_b;
    int lora_r;
    float lora_scale;
} um_linear_names;

/* Loads and packs. The weight may have further dimensions of a convolution: [N, ...] with K values behind. keep: "auto" keeps
 * f32, bf16 and f16 as they are stored, "f32" and "bf16" convert. Afterwards the mapped pages are released from the resident set.
 * Memory: model (panels, bias). UM_E_MODEL names the tensor, the wanted and the found shape. Thread: the rank's. */
um_status um_linear_load(um_linear *out, const um_tensors *set, const um_linear_names *names, int N,
                         int K, const char *keep, um_dev *dev, um_arena *model, um_err *err);
/* The usual case: a weight and perhaps a bias. */
um_status um_linear_load_plain(um_linear *out, const um_tensors *set, const char *weight,
                               const char *bias, int N, int K, const char *keep, um_dev *dev,
                               um_arena *model, um_err *err);
/* Several layers with the same input, as one: their weights [N,K] stacked, the outputs of the first layer first. A part without a
 * bias adds zero. */
typedef struct um_linear_part {
    const char *weight, *bias; /* bias may be NULL */
    int N;
} um_linear_part;
um_status um_linear_load_stacked(um_linear *out, const um_tensors *set, const um_linear_part *part,
                                 int parts, int K, const char *keep, um_dev *dev, um_arena *model,
                                 um_err *err);
/* A convolution over rows: weight [N, C, taps] as a layer of K = taps * C inputs, tap after tap, so that its input is `taps` rows of
 * C values contiguous in memory. */
um_status um_linear_load_conv(um_linear *out, const um_tensors *set, const char *weight,
                              const char *bias, int N, int C, int taps, const char *keep,
                              um_dev *dev, um_arena *model, um_err *err);
/* A vector [n] as f32. */
um_status um_vector_load(const float **out, const um_tensors *set, const char *name, int n,
                         um_arena *model, um_err *err);

/* y[T,N] = x[T,K] W^T + bias. */
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

/* Backward of y = x W^T + b, from the row-major master weight w[N,K]:
 *   dx[T,K] += dy W,   dw[N,K] += dy^T x,   db[N] += sum over rows of dy.   Any of dx, dw, db may be NULL. */
void um_linear_bwd(um_dev *d, float *dx, float *dw, float *db, const float *dy, const float *x,
                   const float *w, int T, int N, int K, um_arena *scratch);
