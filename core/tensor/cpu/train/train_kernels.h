/* Backward and training on the CPU: what each instruction set offers (kernels_backward.inc, kernels_train.inc), and the entries of the
 * op table that divide the work among threads (cpu_backward.c, cpu_train.c). ops.h says what they compute. */
#pragma once

#include "core/tensor/cpu/kernels.h"

enum { UM_SQUARES_BLOCK = 4096 }; /* values whose squares are summed from zero */

/* AdamW's numbers as the kernel uses them. */
typedef struct um_adamw_f32 {
    float scale, keep; /* of the gradient; of the value: 1 - lr weight_decay */
    float move1;       /* 1 - beta1 */
    float keep2, move2;
    float step, root2, eps; /* lr / bias1; sqrt(bias2) */
} um_adamw_f32;

typedef struct um_train_kernels {
    void (*rope_bwd)(float *dx, size_t ldx, const float *cs, const int32_t *pos, int T, int heads,
                     int head_dim);
    /* stats [T,2]: mean and rstd of every row, which layernorm_bwd_w reads. */
    void (*layernorm_bwd_x)(float *dx, float *stats, const float *dy, const float *x,
                            const float *w, int T, int D, float eps);
    /* Columns d0..d1-1, d0 a multiple of 16; dw or db may be NULL. */
    void (*layernorm_bwd_w)(float *dw, float *db, const float *dy, const float *x,
                            const float *stats, int T, int D, int d0, int d1);
    void (*gelu_bwd)(float *dx, const float *dy, const float *x, size_t n);
    void (*quick_gelu_bwd)(float *dx, const float *dy, const float *x, size_t n);
    void (*combine_bwd)(float *drows, float *dweight, const float *dy, const float *rows,
                        const int32_t *index, const float *weight, int T, int K, int D);
    void (*softmax)(float *y, const float *x, int T, int E);
    void (*softmax_bwd)(float *dx, const float *dp, size_t lddp, const float *p, int T, int E);
    void (*cross_entropy)(float *loss, float *dlogits, const float *logits, const int32_t *target,
                          int T, int V, float scale);
    void (*adamw)(float *p, const float *g, float *m, float *v, size_t n, const um_adamw_f32 *how);
    double (*sum_squares)(const float *x, size_t n);
} um_train_kernels;

void um_cpu_rope_bwd(um_dev *d, float *dx, int ldx, const float *cs, const int32_t *pos, int T,
                     int heads, int head_dim);
void um_cpu_layernorm_bwd(um_dev *d, float *dx, float *dw, float *db, const float *dy,
                          const float *x, const float *w, int T, int D, float eps);
void um_cpu_gelu_bwd(um_dev *d, float *dx, const float *dy, const float *x, size_t n);
void um_cpu_quick_gelu_bwd(um_dev *d, float *dx, const float *dy, const float *x, size_t n);
void um_cpu_bias_gate_bwd(um_dev *d, float *dx, float *da, const float *dgate, const float *x,
                          const float *a, int T, int heads);
void um_cpu_combine_bwd(um_dev *d, float *drows, float *dweight, const float *dy, const float *rows,
                        const int32_t *index, const float *weight, int T, int K, int D);
void um_cpu_scatter_add(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D);
void um_cpu_windows_add(um_dev *d, float *x, const float *cols, int T, int K, int step);

void um_cpu_softmax(um_dev *d, float *y, const float *x, int T, int E);
void um_cpu_softmax_bwd(um_dev *d, float *dx, const float *dp, int lddp, const float *p, int T,
                        int E);
void um_cpu_cross_entropy(um_dev *d, float *loss, float *dlogits, const float *logits,
                          const int32_t *target, int T, int V, float scale);
void um_cpu_dropout(um_dev *d, float *y, const float *x, size_t n, float p, uint64_t seed);
void um_cpu_adamw(um_dev *d, float *p, const float *g, float *m, float *v, size_t n,
                  const um_adamw *how);
void um_cpu_sum_squares(um_dev *d, double *host, const float *x, size_t n);
