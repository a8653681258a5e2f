/* Backward and training on the CPU: what each instruction set offers (kernels_backward.inc, kernels_train.inc), and the entries of the
 * op table that divide the work among threads (cpu_backward.c, cpu_train.c). ops.h says what they compute. */
#pragma once

#include "core/tensor/cpu/kernels.h"

enum {
    UM_SQUARES_BLOCK = 4096, /* values whose squares are summed from zero */
    UM_BWD_BLOCK = 64,    /* queries, and positions, whose products are summed from zero: ops.h */
    UM_BWD_COLUMNS = 256, /* of head_dim in one packed row of attention_bwd, */
    UM_BWD_COLUMNS_LD = UM_BWD_COLUMNS + 16, /* an odd number of cache lines from row to row */
};

/* AdamW's numbers as the kernel uses them. */
typedef struct um_adamw_f32 {
    float scale, keep; /* of the gradient; of the value: 1 - lr weight_decay */
    float move1;       /* 1 - beta1 */
    float keep2, move2;
    float step, root2, eps; /* lr / bias1; sqrt(bias2) */
} um_adamw_f32;

/* One call of attention_bwd or attention_biased_bwd (table is not NULL). */
typedef struct um_attn_bwd {
    float *dq, *dk, *dv;
    const float *dout, *out, *lse, *q, *k, *v;
    size_t ldo, ldq, ldkv;
    int heads, kv_heads, head_dim;
    float scale;
    bool causal;
    float *dtable, *dgate;
    const float *table, *gate;
    size_t ldtable, centre; /* centre: the column of distance 0 */
} um_attn_bwd;

/* Floats of a block of packed rows. */
static inline size_t um_bwd_packed_rows(int head_dim)
{
    const size_t D = (size_t)head_dim;
    return (D + UM_BWD_COLUMNS - 1) / UM_BWD_COLUMNS * UM_BWD_BLOCK * UM_BWD_COLUMNS_LD;
}

/* Floats that attention_bwd of a kernel table needs for T queries of `group` heads that share a key head: four blocks of panels, three of
 * packed rows, two of scores, and a number for each query. */
static inline size_t um_attn_bwd_floats(int T, int group, int head_dim)
{
    return 4 * um_round_up((size_t)head_dim, UM_PANEL) * UM_BWD_BLOCK +
           3 * um_bwd_packed_rows(head_dim) + 2 * UM_BWD_BLOCK * (UM_BWD_BLOCK + UM_PANEL) +
           um_round_up((size_t)T * (size_t)group, UM_PANEL);
}

/* Dropout of values i .. whose numbers have the same upper 32 bits. */
typedef struct um_dropout {
    uint32_t first, add; /* a hash of the seed, and one of the upper bits of i */
    uint32_t least;      /* a hash below it drops the value */
    float scale;         /* of the others */
} um_dropout;

/* A permutation of 32 bits, each bit of the result a mixture of all: shifts and products with constants that a search found (Wellons,
 * "Prospecting for hash functions", 2018). */
static inline uint32_t um_mix32(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

typedef struct um_train_kernels {
    /* One key head of one span with T > 0, whose position 0 is row key_row of k. memory: um_attn_bwd_floats(). */
    void (*attention_bwd)(const um_attn_bwd *a, const um_span *span, size_t key_row, int kv_head,
                          float *memory);
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
    /* Values i .. i+n-1, which the pointers begin with. */
    void (*dropout)(float *y, const float *x, uint32_t i, size_t n, const um_dropout *how);
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
void um_cpu_attention_bwd(um_dev *d, float *dq, float *dk, float *dv, const float *dout,
                          const float *out, int ldo, const float *lse, const float *q, int ldq,
                          const float *k, const float *v, int ldkv, const um_span *span,
                          const int32_t *key_row, int spans, int heads, int kv_heads, int head_dim,
                          float scale, bool causal);
void um_cpu_attention_biased_bwd(um_dev *d, float *dq, float *dk, float *dv, const float *dout,
                                 const float *out, int ldo, const float *lse, const float *q,
                                 int ldq, const float *k, const float *v, int ldkv,
                                 const um_span *span, const int32_t *key_row, int spans, int heads,
                                 int kv_heads, int head_dim, float scale, float *dtable,
                                 const float *table, int ldtable, float *dgate, const float *gate);

void um_cpu_softmax(um_dev *d, float *y, const float *x, int T, int E);
void um_cpu_softmax_bwd(um_dev *d, float *dx, const float *dp, int lddp, const float *p, int T,
                        int E);
void um_cpu_cross_entropy(um_dev *d, float *loss, float *dlogits, const float *logits,
                          const int32_t *target, int T, int V, float scale);
void um_cpu_dropout(um_dev *d, float *y, const float *x, size_t n, float p, uint64_t seed);
void um_cpu_adamw(um_dev *d, float *p, const float *g, float *m, float *v, size_t n,
                  const um_adamw *how);
void um_cpu_sum_squares(um_dev *d, double *host, const float *x, size_t n);
