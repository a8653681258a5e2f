/* The attention block, in the backbone, the towers and the connectors: rows are projected to queries, keys and values, the keys and
 * values are written into pages, the queries attend to pages, and an output layer adds the result to the residual stream.
 *
 *   um_attention_project ─► (RoPE) ─► um_attention_write ─► um_attention_attend ─► um_attention_output
 *     q, k, v of rows x      caller's    k, v into pages      heads, lse             y = in + out(heads)
 *
 * The steps are functions of their own, because the backbone rotates q and k between them and BEATs adds a bias. A tower, whose rows
 * are one sequence that is complete, calls um_attention_fwd for the first three. All activations are in um_attention_acts, bound by the
 * caller: one for all layers when serving, one for each layer when backward will need them. Vaswani et al. 2017, arXiv 1706.03762;
 * shared key heads: Ainslie et al. 2023, arXiv 2305.13245. */
#pragma once

#include "core/nn/linear.h"

/* Which layers compute queries, keys and values: q, k and v; q, and one for k and v; one for all. */
typedef enum um_attention_layers {
    UM_ATTENTION_Q_K_V,
    UM_ATTENTION_Q_KV,
    UM_ATTENTION_QKV
} um_attention_layers;

typedef struct um_attention_shape {
    int heads, kv_heads, head_dim; /* heads is a multiple of kv_heads */
    um_attention_layers layers;
} um_attention_shape;

typedef struct um_attention {
    um_attention_shape shape;
    um_linear q; /* [H*hd, D]; with QKV the rows of k and v follow */
    um_linear
        k; /* [Hkv*hd, D of the rows that are attended to]; with Q_KV the rows of v follow; unset with QKV */
    um_linear v;   /* [Hkv*hd, ...]; set with Q_K_V only */
    um_linear out; /* [D, H*hd] */
} um_attention;

/* Row t of q begins at q + t*ldq, those of k and v at k + t*ldkv and v + t*ldkv: with stacked layers they are columns of one buffer. */
typedef struct um_attention_acts {
    float *q;     /* [T, H*hd] */
    float *k, *v; /* [n, Hkv*hd] */
    int ldq, ldkv;
    float *heads; /* [T, H*hd] what the heads read, before the output layer */
    float *lse;   /* [T, H] log-sum-exp of each row's scores */
} um_attention_acts;

/* T rows attend; n rows become keys and values (the same T in the backbone and in self-attention). */
void um_attention_acts_bind(um_attention_acts *a, um_arena *arena, const um_attention_shape *s,
                            int T, int n);

/* q of x[T,D], and k and v of from[n, ...]. In self-attention from is x; with QKV it must be, and n must be T. */
void um_attention_project(um_dev *d, um_attention_acts *a, const um_attention *w, const float *x,
                          int T, const float *from, int n);
/* Writes k and v of the spans' rows into their pages. */
void um_attention_write(um_dev *d, const um_attention_acts *a, const um_kv *kv,
                        const um_span *spans, int n);
/* heads = softmax(q k^T / sqrt(hd)) v for the spans' rows. causal: a row sees the positions up to its own; else all of its span. */
void um_attention_attend(um_dev *d, um_attention_acts *a, const um_attention_shape *s,
                         const um_kv *kv, const um_span *spans, int n, bool causal);
/* The same with a gated relative position bias (ops.h, attention_biased); it sees all positions. */
void um_attention_attend_biased(um_dev *d, um_attention_acts *a, const um_attention_shape *s,
                                const um_kv *kv, const um_span *spans, int n, const float *table,
                                int ldtable, const float *gate);
/* y[T,D] = in + out(heads); in [T,D] may be y. */
void um_attention_output(um_dev *d, float *y, const um_attention_acts *a, const um_attention *w,
                         const float *in, int T);

/* --- backward: the same steps from the end ---
 *
 *   um_attention_output_bwd ─► um_attention_attend_bwd ─► (RoPE back) ─► um_attention_project_bwd
 *     dheads, dW of out          dq, dk, dv                  caller's        dx, dfrom, dW of q, k and v
 *
 * It reads what forward wrote into the acts, as um_attention_project and the caller left q, k and v: not the pages. */

/* The gradients of what is in the acts, laid out as they are. */
typedef struct um_attention_grads {
    float *q, *k, *v; /* ldq, ldkv apart */
    float *heads;     /* [T, H*hd] */
} um_attention_grads;

/* All zero, in scratch. */
void um_attention_grads_start(um_dev *d, um_attention_grads *g, um_arena *scratch,
                              const um_attention_shape *s, int T, int n);
/* From dy[T,D], the gradient of out(heads): g->heads += ..., and that of the output layer +=. The gradient of the residual stream `in` is
 * dy itself, which the caller adds. */
void um_attention_output_bwd(um_dev *d, um_attention_grads *g, const um_attention_acts *a,
                             const um_attention *w, const float *dy, int T, um_arena *scratch);
/* g->q, g->k, g->v += ... from g->heads. key_row[i] (host): the row of k and v that is position 0 of span i; several spans may share
 * their keys. */
void um_attention_attend_bwd(um_dev *d, um_attention_grads *g, const um_attention_acts *a,
                             const um_attention_shape *s, const um_span *spans,
                             const int32_t *key_row, int n, bool causal);
/* The same for um_attention_attend_biased. dtable [heads, ldtable] and dgate [T, heads] += ...; either may be NULL. */
void um_attention_attend_biased_bwd(um_dev *d, um_attention_grads *g, const um_attention_acts *a,
                                    const um_attention_shape *s, const um_span *spans,
                                    const int32_t *key_row, int n, float *dtable,
                                    const float *table, int ldtable, float *dgate,
                                    const float *gate);
/* dx[T,D] += ..., dfrom[n, ...] += ..., and the gradients of the layers +=, from g->q, g->k and g->v. In self-attention dfrom is dx. Either
 * may be NULL. */
void um_attention_project_bwd(um_dev *d, float *dx, float *dfrom, const um_attention_grads *g,
                              const um_attention *w, const float *x, int T, const float *from,
                              int n, um_arena *scratch);
/* All of it for what um_attention_fwd and then um_attention_output computed of one sequence; dy as in um_attention_output_bwd. */
void um_attention_bwd(um_dev *d, float *dx, float *dfrom, const um_attention_acts *a,
                      const um_attention *w, const float *dy, const float *x, int T,
                      const float *from, int n, bool causal, um_arena *scratch);

/* The pages of one sequence that is written whole before it is read, so that every layer, and every stack of layers, may use the same
 * ones. */
typedef struct um_attention_pages {
    float *floats;
    int32_t *table;  /* 0, 1, 2, ... */
    int32_t *staged; /* host: the same */
    int pages;
    size_t page_floats;
} um_attention_pages;

/* page_floats: the most that any of its users needs (um_kv_page_floats). positions: likewise. */
void um_attention_pages_bind(um_attention_pages *p, um_arena *host, um_arena *device,
                             size_t page_floats, int positions);
/* Writes the table; before the first use. */
void um_attention_pages_start(um_dev *d, const um_attention_pages *p);
/* The pages as the keys and values of a layer of this shape. */
um_kv um_attention_pages_kv(const um_attention_pages *p, const um_attention_shape *s);

/* heads of one sequence: T rows x attend to n rows `from` (x itself in self-attention). causal: row t sees rows 0..t. */
void um_attention_fwd(um_dev *d, um_attention_acts *a, const um_attention *w,
                      const um_attention_pages *p, const float *x, int T, const float *from, int n,
                      bool causal);
