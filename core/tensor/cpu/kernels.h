/* What one instruction set offers: the table that cpu_generic.c, cpu_avx2.c and cpu_avx512.c each fill from the same source
 * (kernels_gemm.inc, kernels_attention.inc, kernels_rows.inc). All run in the calling thread; cpu*.c divide the work. */
#pragma once

#include "core/base/bytes.h"
#include "core/tensor/ops.h"

enum {
    UM_KBLOCK = 512,    /* k of one block of packed rows, positions of one block of scores */
    UM_SUM_BLOCK = 128, /* positions whose sum begins at zero: ops.h */
    UM_KSTRIDE =
        UM_KBLOCK +
        16, /* floats from row to row in a block: 33 cache lines, so that rows map to different L1 sets */
    UM_THIN = 4,         /* up to this many rows of x are read in place; more are packed first */
    UM_MAX_ROWS = 12,    /* largest register tile of any instruction set */
    UM_CHUNK = 16,       /* panels whose running sums are kept at a time */
    UM_BLOCK_ROWS = 240, /* packed rows that pass over one chunk: their k-block stays in L2 */
};

/* One gemm call: y[M,N] = x[M,K] W^T, x as it lies or, turned, as [K,M]. Output j is lane j % 16 of panel j / 16. */
typedef struct um_gemm {
    float *y;
    const float *x;
    size_t ldy, ldx;
    int M, N, K;
    const void *panels; /* [ceil(N/16)][K][16] of dtype */
    um_dtype dtype;
    const float *bias; /* NULL: none */
    bool accumulate, turned;
    float *packed; /* x again as [ceil(K/KBLOCK)][M][KSTRIDE]; NULL for thin calls */
} um_gemm;

/* Scaled dot-product attention over the pages of many sequences, see ops.h. table and gate: attention_biased, NULL otherwise. */
typedef struct um_attn {
    float *out, *lse; /* lse may be NULL */
    const float *q;
    size_t ldo, ldq;
    const um_kv *kv;
    int heads;
    float scale;
    bool causal;
    const float *table, *gate;
    size_t ldtable, centre; /* centre: the column of distance 0 */
} um_attn;

/* Positions that row t of a span sees. */
static inline int um_span_seen(const um_span *s, int t, bool causal)
{
    return causal ? s->pos + t + 1 : s->n;
}

struct um_train_kernels;

typedef struct um_kernels {
    int tile_rows; /* rows of the register tile, at most UM_MAX_ROWS */
    /* Panels p0..p1-1 of a call with M <= UM_THIN. */
    void (*gemm_thin)(const um_gemm *g, int p0, int p1);
    /* Panels p0..p1-1 of packed rows r0..r1-1; partial: um_gemm_partial() floats. */
    void (*gemm_block)(const um_gemm *g, int r0, int r1, int p0, int p1, float *partial);
    /* Rows t0 .. t0+rows-1 of a span and of query head h; with T == 1 instead query heads h .. h+rows-1, which share a key head.
     * memory: um_attn_scores() floats. */
    void (*attention)(const um_attn *a, const um_span *s, int h, int t0, int rows, float *memory);
    /* to[c*ldto + r] = from[r*ldfrom + c] for rows x cols. */
    void (*transpose)(float *to, size_t ldto, const float *from, size_t ldfrom, size_t rows,
                      size_t cols);
    void (*rmsnorm_fwd)(float *y, float *rstd, const float *x, const float *w, int T, int D,
                        float eps);
    void (*rmsnorm_bwd_x)(float *dx, const float *dy, const float *x, const float *w,
                          const float *rstd, int T, int D);
    /* Columns d0..d1-1, d0 a multiple of 16. */
    void (*rmsnorm_bwd_w)(float *dw, const float *dy, const float *x, const float *rstd, int T,
                          int D, int d0, int d1);
    void (*layernorm_fwd)(float *y, const float *x, const float *w, const float *b, int T, int D,
                          float eps);
    void (*swiglu_fwd)(float *y, const float *g, const float *u, size_t n);
    void (*swiglu_bwd)(float *dg, float *du, const float *dy, const float *g, const float *u,
                       size_t n);
    void (*gelu)(float *y, const float *x, size_t n);
    void (*quick_gelu)(float *y, const float *x, size_t n);
    void (*add)(float *y, const float *x, size_t n);
    void (*scale)(float *y, float s, size_t n);
    void (*rope)(float *x, size_t ldx, const float *cs, const int32_t *pos, int T, int heads,
                 int head_dim);
    void (*combine)(float *y, const float *rows, const int32_t *index, const float *weight, int T,
                    int K, int D);
    const struct um_train_kernels *train; /* cpu/train/train_kernels.h */
} um_kernels;

extern const um_kernels um_kernels_generic;
#ifdef UM_X86
extern const um_kernels um_kernels_avx2;
extern const um_kernels um_kernels_avx512;
#endif

/* True when all k of this many packed rows fit in L2. */
static inline bool um_gemm_fits(const um_gemm *g, int rows)
{
    return (size_t)rows * (((size_t)g->K + UM_KBLOCK - 1) / UM_KBLOCK) <= (size_t)UM_BLOCK_ROWS;
}

/* Running sums between k-blocks of a call that accumulates (else they wait in y). */
static inline size_t um_gemm_partial(const um_gemm *g)
{
    return g->accumulate && g->K > UM_KBLOCK ? (size_t)UM_BLOCK_ROWS * UM_CHUNK * UM_PANEL : 0;
}

/* Scores of `rows` rows over n positions: thin ones one after another, else blocks [ceil(n/KBLOCK)][rows][KSTRIDE]. In front of
 * them the sums of an unfinished block, [rows][head_dim up to whole panels]. */
static inline size_t um_attn_scores(int rows, int n, int head_dim)
{
    size_t blocks = ((size_t)n + UM_KBLOCK - 1) / UM_KBLOCK;
    size_t tail = um_round_up((size_t)head_dim, UM_PANEL);
    return (size_t)rows * (tail + blocks * UM_KSTRIDE);
}

/* cpu_memory.c: entries of the op table that move values. */
void *um_cpu_alloc(um_dev *d, size_t bytes);
void um_cpu_free(um_dev *d, void *p);
void um_cpu_sync(um_dev *d);
void um_cpu_copy(um_dev *d, void *to, const void *from, size_t bytes);
void um_cpu_copy_2d(um_dev *d, float *y, int ldy, const float *x, int ldx, int T, int D);
void um_cpu_fill(um_dev *d, float *y, float value, size_t n);
void um_cpu_cast(um_dev *d, void *y, um_dtype to, const void *x, um_dtype from, size_t n);
void um_cpu_transpose(um_dev *d, float *y, const float *x, int rows, int cols);
void um_cpu_rows_out(um_dev *d, void *host, um_dtype to, const float *x, const int32_t *index,
                     int n, int D);
void um_cpu_rows_in(um_dev *d, float *y, const void *host, um_dtype from, size_t n);
void um_cpu_divide(um_dev *d, float *y, float s, size_t n);
void um_cpu_bias_gate(um_dev *d, float *gate, const float *x, const float *a, int T, int heads);
void um_cpu_sum_rows(um_dev *d, float *y, const float *x, int T, int N);
void um_cpu_scatter(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D);

/* cpu_gemm.c, cpu_gate.c, cpu_gate_dynamic.c, cpu_attention.c, pack.c: further entries. */
void um_cpu_gemm(um_dev *d, float *y, int ldy, const float *x, int ldx, int M, const um_matrix *w,
                 const float *bias, bool accumulate);
void um_cpu_gemm_tn(um_dev *d, float *y, int ldy, const float *x, int ldx, int M,
                    const um_matrix *w, bool accumulate);
void um_cpu_gemm_grouped(um_dev *d, float *y, int ldy, const float *x, int ldx,
                         const um_group *group, int groups);
void um_cpu_gate_topk(um_dev *d, int32_t *experts, float *weights, const float *logits, int T,
                      int E, int K, bool gshard, uint64_t seed, const uint64_t *noise);
void um_cpu_gate_topk_bwd(um_dev *d, float *dlogits, const float *dweights, const float *weights,
                          const int32_t *experts, int T, int E, int K);
void um_cpu_gate_dynamic(um_dev *d, const um_dynamic_rows *g, const uint8_t *real);
void um_cpu_gate_dynamic_bwd(um_dev *d, float *dlogits, const float *dweights,
                             const um_dynamic_rows *g);
void um_cpu_kv_write(um_dev *d, const um_kv *kv, const um_span *span, int spans, const float *k,
                     int ldk, const float *v, int ldv);
void um_cpu_attention(um_dev *d, float *out, int ldo, float *lse, const float *q, int ldq,
                      const um_kv *kv, const um_span *span, int spans, int heads, float scale,
                      bool causal);
void um_cpu_attention_biased(um_dev *d, float *out, int ldo, float *lse, const float *q, int ldq,
                             const um_kv *kv, const um_span *span, int spans, int heads,
                             float scale, const float *table, int ldtable, const float *gate);
void um_cpu_pack(um_dev *d, um_matrix *dst, const void *src, um_dtype src_type, int ld,
                 bool transposed);
void um_cpu_pack_device(um_dev *d, um_matrix *dst, const float *src, int ld, bool transposed);
void um_cpu_pack_transpose(um_dev *d, um_matrix *dst, const um_matrix *src);

/* Runs fn(ctx, part, parts) once in each of `team` threads at the same time (cpu_team.c); fewer parts when the system
 * grants fewer threads. */
void um_team_run(int team, void (*fn)(void *ctx, int part, int parts), void *ctx);
/* As many threads as the work can feed: one per `least` units, at most d->threads. 0 when an op has failed before: um_team_run then
 * does nothing. */
int um_team_size(const um_dev *d, size_t work, size_t least);
/* The part'th of `parts` even pieces of 0..n-1, cut at multiples of `unit`. */
static inline void um_team_share(size_t n, size_t unit, int part, int parts, size_t *from,
                                 size_t *to)
{
    size_t units = (n + unit - 1) / unit, p = (size_t)part, of = (size_t)parts;
    *from = units * p / of * unit;
    *to = units * (p + 1) / of * unit;
    if (*from > n) *from = n;
    if (*to > n) *to = n;
}
/* The same of T rows: the first, and how many. */
static inline void um_team_rows(int T, int part, int parts, size_t *from, int *count)
{
    size_t to;
    um_team_share((size_t)T, 1, part, parts, from, &to);
    *count = (int)(to - *from);
}
/* `least` for um_team_size: values of cheap work; of work with an exponential for each. */
enum { UM_VALUE_WORK = 1 << 15, UM_EXP_WORK = 1 << 13 };
/* The team for cheap work on T rows of D values. */
static inline int um_team_of_rows(const um_dev *d, int T, int D)
{
    return um_team_size(d, (size_t)T * (size_t)D, UM_VALUE_WORK);
}
