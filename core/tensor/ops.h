/* The op table: what a device can compute. Today the CPU (cpu.c selects generic, AVX2 or AVX-512 kernels at run time).
 *
 * Letters: T rows (tokens), D width, F feed-forward width, E experts, K experts per token, H heads; for gemm M rows, N outputs,
 * K inputs. All matrices are row-major; ld = elements from one row to the next.
 *
 * Numbers (DESIGN 7). On the CPU every result has the same bits whatever M, the thread count and the instruction set:
 *   - gemm: y[m][n] = fma chain over k = 0, 1, ... K-1 from +0, then + bias[n], then + old y if accumulating;
 *   - every other sum over a row of n values: sixteen lanes, lane i adds elements i, i+16, ... (fma where it squares), then the
 *     lanes are added as a fixed tree (8+8, 4+4, 2+2, 1+1);
 *   - attention: positions in blocks of 128 from position 0; a block is summed from zero (values by a chain of fma, softmax's
 *     denominator in sixteen lanes), then the blocks are added in order. One chain over thousands of keys would cost several bits
 *     of accuracy (docs/adr/0011);
 *   - exp, tanh, erf and sigmoid are our own polynomials, built from the same fma sequence on every instruction set.
 *
 * Memory. Every pointer that an op takes is memory of the same table's alloc ("device"), unless the op says "host": weights,
 * activations, keys and values, and also index, position, gate and routing tables. Nobody else reads or writes it; put and get copy.
 * Structs that describe a call (um_matrix, um_kv, um_span, um_group, um_dynamic_rows) and lists of them are arguments: they lie on the
 * host and may go when the call returns. The tests run every forward pass on a table whose memory faults outside an
 * op (tests/support/guarded_ops.h).
 *
 * A um_dev is one stream of one device: the ops that it is given run in order, and may run later than the call. An op that fails
 * records why in the um_dev, and later ops do nothing; um_dev_sync waits for all of them and reports it. On the CPU an op has run when
 * it returns.
 *
 * Thread: the caller's; a dev uses up to dev->threads OpenMP threads inside one call. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum um_isa { UM_ISA_AUTO, UM_ISA_GENERIC, UM_ISA_AVX2, UM_ISA_AVX512 } um_isa;

enum {
    UM_PANEL = 16
}; /* outputs side by side in a packed matrix, positions side by side in a key cache */

/* The index in a top-k slot that holds no expert (the token has fewer than K, chose a null expert, or was dropped: spec 10.1). Such
 * a slot contributes nothing; the other slots keep their order. */
enum { UM_NO_EXPERT = -1 };

/* A weight matrix W [N, K] in panels: [ceil(N/16)][K][16], rows past N are zero. dtype f32, bf16 or f16. */
typedef struct um_matrix {
    um_dtype dtype;
    int N, K;
    void *data; /* um_matrix_bytes(dtype, N, K) bytes, 64-byte aligned */
} um_matrix;
size_t um_matrix_bytes(um_dtype dtype, int N, int K);

enum { UM_PAGE = 16 }; /* positions of a page of keys and values */

/* The keys and values of one layer, f32, in pages of UM_PAGE positions. Page p is at pages + p * stride:
 *   keys    [kv_heads][head_dim][16]                       (a packed matrix [16, head_dim] for each head)
 *   values  [kv_heads][ceil(head_dim/16)][16 positions][16]
 * The pages of a sequence stand one after another in table, which is device memory; several sequences may share pages. */
typedef struct um_kv {
    int kv_heads, head_dim;
    float *pages;
    size_t stride; /* floats from one page to the next, at least um_kv_page_floats */
    const int32_t *table;
} um_kv;
/* Floats of the keys and values of one page in one layer, with a gap behind them: page after page would otherwise begin at the same
 * place of the CPU's caches, where few of them have room side by side. */
size_t um_kv_page_floats(int kv_heads, int head_dim);

/* One sequence of a batch: rows row .. row+T-1 of the batch are its positions pos .. pos+T-1, and n positions exist, its own rows
 * counted. In cross-attention the rows are queries without positions of their own: pos is 0, and n is the number of keys. */
typedef struct um_span {
    int32_t row, T, pos, n;
    int32_t page; /* the entry of um_kv.table with its first page */
} um_span;

/* A group of rows of a gemm_grouped, with its own weights: y[row .. row+T-1] = x[row .. row+T-1] W^T + bias. */
typedef struct um_group {
    const um_matrix *w; /* the struct is host memory */
    const float *bias;  /* [N] or NULL */
    int row, T;
} um_group;

/* T rows of a gate with a varying number of experts: C = routed + nulls + shared columns of logits, of which a row chooses among the
 * first routed + nulls. The rule is in core/nn/dynamic.h. All pointers are device memory. */
typedef struct um_dynamic_rows {
    int T, K, C, routed, nulls, shared;
    float top_p; /* 0: every row uses top_k */
    int top_k;
    float eps;
    bool dropped,
        by_logit; /* a column keeps `keep` of its rows: the first, or those of the highest logits */
    int keep;
    const float *logits;   /* [T,C] */
    int32_t *count, *pick; /* [T], [T,routed+nulls]: columns chosen, in order of choice */
    float *share;          /* [T,routed+nulls] of each pick */
    uint8_t *real, *mask;  /* [T] 0: pad; [T,C] 1: the row uses the column */
    float *weights;        /* [T,C] */
    int32_t *experts;      /* [T,K] routed ones in order of choice, then UM_NO_EXPERT */
    float *slots;          /* [T,K] their weights, 0 in a hole */
} um_dynamic_rows;

/* One step of AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101) for values that share these numbers, as torch.optim.AdamW takes it. */
typedef struct um_adamw {
    double lr, beta1, beta2, eps, weight_decay;
    double scale; /* multiplies the gradient first: 1/N, clipping */
    /* 1 - beta1^s and 1 - beta2^s, s the number of steps of these values, this one counted */
    double bias1, bias2;
} um_adamw;

struct um_kernels;
typedef struct um_dev um_dev;

typedef struct um_ops {
    const char *name;                        /* "cpu" or "cuda" */
    void *(*alloc)(um_dev *d, size_t bytes); /* 64-byte aligned; NULL: there is no memory */
    void (*free)(um_dev *d, void *p);
    /* Waits until everything has run. */
    void (*sync)(um_dev *d);
    void (*put)(um_dev *d, void *dev, const void *host, size_t bytes);
    void (*get)(um_dev *d, void *host, const void *dev, size_t bytes); /* waits for it */
    void (*copy)(um_dev *d, void *to, const void *from, size_t bytes); /* no overlap */
    /* Columns: y[t*ldy + c] = x[t*ldx + c] for T rows of D; ldx 0 repeats a row. No overlap. */
    void (*copy_2d)(um_dev *d, float *y, int ldy, const float *x, int ldx, int T, int D);
    void (*fill)(um_dev *d, float *y, float value, size_t n);
    /* n values of one float type to another: um_to_f32, um_from_f32. */
    void (*cast)(um_dev *d, void *y, um_dtype to, const void *x, um_dtype from, size_t n);
    /* y[cols,rows] = the transpose of x[rows,cols]. */
    void (*transpose)(um_dev *d, float *y, const float *x, int rows, int cols);

    /* The way to the wire and back. host[i] = x[index[i]], n rows of D, in type `to`; index NULL: rows 0..n-1. Waits for it. */
    void (*rows_out)(um_dev *d, void *host, um_dtype to, const float *x, const int32_t *index,
                     int n, int D);
    /* y[n] = n values of type `from` in host. The host memory may go when the call returns. */
    void (*rows_in)(um_dev *d, float *y, const void *host, um_dtype from, size_t n);

    /* Packs src (host, of src_type, [N, K] with ld elements a row; transposed: src is [K, N]) into dst->data, converting to dst->dtype. */
    void (*pack)(um_dev *d, um_matrix *dst, const void *src, um_dtype src_type, int ld,
                 bool transposed);
    /* The same from f32 in device memory: trained weights, activations as the factor of a gradient. Transposed, ld may be less than N:
     * rows of src that overlap are the windows of a convolution. */
    void (*pack_device)(um_dev *d, um_matrix *dst, const float *src, int ld, bool transposed);
    /* dst [K,N] = the transpose of src [N,K], both packed, of one type. */
    void (*pack_transpose)(um_dev *d, um_matrix *dst, const um_matrix *src);
    /* y[M,N] = x[M,K] W^T (+ bias[N]) (+ y when accumulate). bias may be NULL. ldx may be less than K: rows of x that overlap are
     * the windows of a convolution. */
    void (*gemm)(um_dev *d, float *y, int ldy, const float *x, int ldx, int M, const um_matrix *w,
                 const float *bias, bool accumulate);

    /* The same from the transpose of x: y[M,N] = x^T W^T (+ y when accumulate) of x [K,M]. With x the gradient of a layer's output and W
     * its input, packed transposed, this is the gradient of the layer's weights, rows in order. */
    void (*gemm_tn)(um_dev *d, float *y, int ldy, const float *x, int ldx, int M,
                    const um_matrix *w, bool accumulate);

    /* The rows of every group through its own matrix, as gemm would one group after another, with the same bits. All matrices have the
     * same N, K and type; no two groups share a row. Rows of no group are left as they are. */
    void (*gemm_grouped)(um_dev *d, float *y, int ldy, const float *x, int ldx,
                         const um_group *group, int groups);

    /* y = x * rsqrt(mean(x^2) + eps) * w.  x, y [T,D], w [D], rstd [T] kept for backward (may be NULL).
     * Zhang, Sennrich 2019, arXiv 1910.07467; LlamaRMSNorm. */
    void (*rmsnorm_fwd)(um_dev *d, float *y, float *rstd, const float *x, const float *w, int T,
                        int D, float eps);
    /* dx += ..., dw += ...  (dw may be NULL) */
    void (*rmsnorm_bwd)(um_dev *d, float *dx, float *dw, const float *dy, const float *x,
                        const float *w, const float *rstd, int T, int D);
    /* y = (x - mean) * rsqrt(var + eps) * w + b. Ba et al. 2016. */
    void (*layernorm_fwd)(um_dev *d, float *y, const float *x, const float *w, const float *b,
                          int T, int D, float eps);
    /* With z = (x - mean) * rstd and g = dy w:  dx += rstd (g - mean(g) - z mean(g z)),  dw += sum of dy z,  db += sum of dy, both over
     * the rows in order. dw and db may be NULL. Mean and rstd are computed again. */
    void (*layernorm_bwd)(um_dev *d, float *dx, float *dw, float *db, const float *dy,
                          const float *x, const float *w, int T, int D, float eps);

    /* y = g * sigmoid(g) * u, n values. Shazeer 2020, arXiv 2002.05202. */
    void (*swiglu_fwd)(um_dev *d, float *y, const float *g, const float *u, size_t n);
    void (*swiglu_bwd)(um_dev *d, float *dg, float *du, const float *dy, const float *g,
                       const float *u, size_t n);
    /* x/2 (1 + erf(x/sqrt 2)); x sigmoid(1.702 x), CLIP's. In place allowed. */
    void (*gelu)(um_dev *d, float *y, const float *x, size_t n);
    void (*quick_gelu)(um_dev *d, float *y, const float *x, size_t n);
    /* dx += dy (Phi(x) + x phi(x)), Phi and phi of the normal distribution; dx += dy s (1 + 1.702 x (1 - s)), s = sigmoid(1.702 x). */
    void (*gelu_bwd)(um_dev *d, float *dx, const float *dy, const float *x, size_t n);
    void (*quick_gelu_bwd)(um_dev *d, float *dx, const float *dy, const float *x, size_t n);
    void (*add)(um_dev *d, float *y, const float *x, size_t n); /* y += x */
    void (*scale)(um_dev *d, float *y, float s, size_t n);      /* y *= s */
    void (*divide)(um_dev *d, float *y, float s, size_t n);     /* y /= s */
    /* y[N] += the sum over T rows of x[T,N], rows in order. */
    void (*sum_rows)(um_dev *d, float *y, const float *x, int T, int N);
    /* y = softmax of every row of x [T,E]. In place allowed. */
    void (*softmax)(um_dev *d, float *y, const float *x, int T, int E);
    /* dx[t,e] += p (dp - sum over e of p dp), p [T,E] the result of softmax, dp[t*lddp + e]; lddp 0: one row for all. */
    void (*softmax_bwd)(um_dev *d, float *dx, const float *dp, int lddp, const float *p, int T,
                        int E);
    /* loss[t] = log(sum over v of e^logits[t,v]) - logits[t,target[t]]; dlogits = scale * (softmax(logits) - one-hot of the target). In a
     * row of target -1 both are 0. logits [T,V]; dlogits may be logits; NULL: the losses only. */
    void (*cross_entropy)(um_dev *d, float *loss, float *dlogits, const float *logits,
                          const int32_t *target, int T, int V, float scale);

    /* Rotates pairs (j, j + head_dim/2) of every head of x[T, heads*head_dim] by the angle of row t's position:
     * cs[positions][head_dim] holds cos (first half) and sin (second half); pos[T] row of cs. Llama's half-split RoPE. */
    void (*rope)(um_dev *d, float *x, int ldx, const float *cs, const int32_t *pos, int T,
                 int heads, int head_dim);
    /* Rotates back, in place: the gradient of rope's input from that of its output. */
    void (*rope_bwd)(um_dev *d, float *dx, int ldx, const float *cs, const int32_t *pos, int T,
                     int heads, int head_dim);
    /* Writes the keys and values of the rows of every span, k and v [rows, kv_heads*head_dim], at their positions. Every position must
     * lie within its span's n, and no two spans write the same one. */
    void (*kv_write)(um_dev *d, const um_kv *kv, const um_span *span, int spans, const float *k,
                     int ldk, const float *v, int ldv);
    /* out[rows, heads*head_dim] = softmax(scale * q k^T) v for the rows of every span: row t of a span sees its sequence's positions
     * 0..pos+t (causal) or 0..n-1 (not causal). q [rows, heads*head_dim]; query heads h share key head h / (heads / kv_heads).
     * lse[rows, heads] = log-sum-exp of each row's scaled scores, kept for backward (may be NULL). Never holds a T x T matrix. A row's
     * bits depend on its own sequence only: not on the other spans, nor on which pages hold it. Rows of no span are left as they are. */
    void (*attention)(um_dev *d, float *out, int ldo, float *lse, const float *q, int ldq,
                      const um_kv *kv, const um_span *span, int spans, int heads, float scale,
                      bool causal);
    /* Backward of attention, from its out and lse: with p = e^(scale q k - lse), g = <dout, v> and c = <dout, out> of a row and a head,
     *   dv += p dout,   dk += p (g - c) scale q,   dq += p (g - c) scale k.
     * Keys and values are rows: k, v [.., kv_heads*head_dim], ldkv apart, position i of span s in row key_row[s] + i (key_row is host
     * memory); dk and dv lie the same way; dq has ldq, dout and out have ldo. Never holds a T x T matrix.
     * Sums: queries and positions in blocks of 64 from row 0 of the span and from position 0. dq: a block of positions is summed from
     * zero by fma, then added to dq; so for each block, in order. dk and dv: a block of queries likewise, the blocks added in order, head
     * by head of those that share the key, from zero for each span; then the span's sum is added to dk and dv, spans in order. So the bits
     * of a row of dq depend on its own span only, and several spans may have the same keys. */
    void (*attention_bwd)(um_dev *d, float *dq, float *dk, float *dv, const float *dout,
                          const float *out, int ldo, const float *lse, const float *q, int ldq,
                          const float *k, const float *v, int ldkv, const um_span *span,
                          const int32_t *key_row, int spans, int heads, int kv_heads, int head_dim,
                          float scale, bool causal);
    /* out[rows, heads*head_dim] = softmax(scale * q k^T + bias) v over all n positions of each span. The bias of head h between the row at
     * position p = pos + t and position i is gate[row*heads + h] * table[h*ldtable + R-1 + i-p], R the largest pos + T of the spans: a
     * row of the table for each head, from distance -(R-1) to the largest n - 1. gate NULL: 1. lse as attention's. Chi et al. 2021, arXiv
     * 2106.16138 (gated relative position bias). */
    void (*attention_biased)(um_dev *d, float *out, int ldo, float *lse, const float *q, int ldq,
                             const um_kv *kv, const um_span *span, int spans, int heads,
                             float scale, const float *table, int ldtable, const float *gate);
    /* Its backward: as attention_bwd, not causal, with p = e^(scale q k + bias - lse). Of e = p (g - c), which is the gradient of a score,
     * table's gradient at the score's place += gate e: for each span, in order, and each row, in order. dgate[row*heads + h] += the sum
     * over the positions of table e, each block in sixteen lanes, the blocks in order. dtable [heads, ldtable]; dtable and dgate may be
     * NULL. */
    void (*attention_biased_bwd)(um_dev *d, float *dq, float *dk, float *dv, const float *dout,
                                 const float *out, int ldo, const float *lse, const float *q,
                                 int ldq, const float *k, const float *v, int ldkv,
                                 const um_span *span, const int32_t *key_row, int spans, int heads,
                                 int kv_heads, int head_dim, float scale, float *dtable,
                                 const float *table, int ldtable, float *dgate, const float *gate);
    /* The gate of that bias: gate[t,h] = ga (gb a[h] - 1) + 2, ga and gb the sigmoids of the sums of the first four and of the last four
     * values of x[t,h].   gate [T,heads], x [T,heads,8], a [heads] */
    void (*bias_gate)(um_dev *d, float *gate, const float *x, const float *a, int T, int heads);
    /* dx[t,h,8] += ..., da[h] += the sum over the rows, in order, of dgate ga gb; either may be NULL. */
    void (*bias_gate_bwd)(um_dev *d, float *dx, float *da, const float *dgate, const float *x,
                          const float *a, int T, int heads);

    /* The K of E experts of every row of logits[T,E], and their weights, larger first; ties go to the lower index. experts, weights [T,K].
     * gshard false: the K largest, weights = softmax over them (Mixtral). true: weights = softmax over all E, divided by the sum of the K
     * (at least float epsilon); the second and further ones with Gumbel noise when noise, [T] numbers of streams of the seed, is there. */
    void (*gate_topk)(um_dev *d, int32_t *experts, float *weights, const float *logits, int T,
                      int E, int K, bool gshard, uint64_t seed, const uint64_t *noise);
    /* The choice held fixed, both rules are a softmax over the K: dlogits[t, expert i] += w_i (dw_i - sum over j of w_j dw_j). */
    void (*gate_topk_bwd)(um_dev *d, float *dlogits, const float *dweights, const float *weights,
                          const int32_t *experts, int T, int E, int K);
    /* Fills everything in g but the logits. real [T]: 0 = pad; NULL: all are real. */
    void (*gate_dynamic)(um_dev *d, const um_dynamic_rows *g, const uint8_t *real);
    /* dlogits[T,C] += ..., from dweights[T,C], the choices held fixed. */
    void (*gate_dynamic_bwd)(um_dev *d, float *dlogits, const float *dweights,
                             const um_dynamic_rows *g);

    /* y[i] = x[index[i]], rows of D. */
    void (*gather)(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D);
    /* y[index[i]] = x[i], rows of D. The index names no row twice. */
    void (*scatter)(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D);
    /* y[t] = sum over slots s = 0..K-1 in slot order of weight[t*K+s] * rows[index[t*K+s]] (first term a product, then fma).
     * A slot of index UM_NO_EXPERT is skipped, whatever its weight; a row that has no other slot is zero. */
    void (*combine)(um_dev *d, float *y, const float *rows, const int32_t *index,
                    const float *weight, int T, int K, int D);
    /* drows[index[t*K+s]] = weight[t*K+s] * dy[t], rows that no slot names are left as they are; dweight[t*K+s] = <dy[t],
     * rows[index[t*K+s]]>, 0 in a slot of UM_NO_EXPERT. No two slots name the same row. drows or dweight may be NULL, and then weight or
     * rows may be too. */
    void (*combine_bwd)(um_dev *d, float *drows, float *dweight, const float *dy, const float *rows,
                        const int32_t *index, const float *weight, int T, int K, int D);
    /* y[index[i]] += x[i], rows of D, i in order: backward of gather. An index may repeat; a negative one is skipped. */
    void (*scatter_add)(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D);
    /* x[t*step + k] += cols[t*K + k], t in order: backward of a gemm whose rows of x overlap (ldx = step < K). */
    void (*windows_add)(um_dev *d, float *x, const float *cols, int T, int K, int step);
    /* y[i] = x[i] * (1/(1-p)), or 0 with probability p, 0 <= p < 1, as a hash of seed and i decides: the same call with dy is its
     * backward. p 0 copies. In place allowed. */
    void (*dropout)(um_dev *d, float *y, const float *x, size_t n, float p, uint64_t seed);

    /* With h = scale g:  p *= 1 - lr weight_decay,  m += (h - m)(1 - beta1),  v = v beta2 + (1 - beta2) h h,
     * p -= lr / bias1 * m / (sqrt(v) / sqrt(bias2) + eps). All [n]. */
    void (*adamw)(um_dev *d, float *p, const float *g, float *m, float *v, size_t n,
                  const um_adamw *how);
    /* *host = the sum of x^2 in double, in one order for every machine: blocks of 4096 values in sixteen lanes, the blocks in order.
     * Infinite or NaN when a value of x is, and only then. Waits for it. */
    void (*sum_squares)(um_dev *d, double *host, const float *x, size_t n);
} um_ops;

struct um_dev {
    const um_ops *ops;
    const struct um_kernels *kernels; /* CPU: the chosen instruction set */
    um_isa isa;
    int threads; /* >= 1 */
    um_status
        st; /* UM_OK, or why an op failed; then ops do nothing until um_dev_sync has reported it */
    um_err why;
};

/* Opens the CPU. isa AUTO selects the best that this machine supports; an unsupported one is UM_E_USAGE, and the
 * message lists what is supported. threads >= 1. */
um_status um_dev_open_cpu(um_dev *out, um_isa isa, int threads, um_err *err);
/* An arena in the device's memory, which must outlive it. */
void um_dev_arena(um_arena *a, um_dev *d, const char *name, size_t block_bytes);
/* Waits until every op has run. Returns the first failure since the last call, with its message. */
um_status um_dev_sync(um_dev *d, um_err *err);
/* For op tables: records that an op failed, unless one did before. Returns st. */
um_status um_dev_fail(um_dev *d, um_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Copies n values from the host to new device memory. */
float *um_dev_put_f32(um_dev *d, um_arena *device, const float *host, size_t n);
int32_t *um_dev_put_i32(um_dev *d, um_arena *device, const int32_t *host, size_t n);
/* "auto" "generic" "avx2" "avx512"; -1 when unknown. */
int um_isa_from_name(const char *name);
const char *um_isa_name(um_isa isa);

/* Scalar functions with the same bits as the vector kernels (gates and sampling on the host use them). */
float um_expf(float x); /* 0 below -87.3, inf above 88.7 */
float um_sigmoidf(float x);
double um_exp(
    double x); /* < 1e-14 relative; plain mul/add, no contraction: the same bits on every machine */
double um_log(double x);                                    /* x > 0 */
void um_sincos(double x, double *sin_out, double *cos_out); /* |x| < 1e8, < 1e-12 absolute */
/* Sum of n floats in the sixteen-lane order. */
float um_sum(const float *x, size_t n);
