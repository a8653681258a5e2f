/* See attention.h. */
#include "core/nn/attention.h"

#include "core/base/bytes.h"

#include <math.h>

static int q_cols(const um_attention_shape *s) { return s->heads * s->head_dim; }
static int kv_cols(const um_attention_shape *s) { return s->kv_heads * s->head_dim; }

void um_attention_acts_bind(um_attention_acts *a, um_arena *arena, const um_attention_shape *s,
                            int T, int n)
{
    const int q = q_cols(s), kv = kv_cols(s);
    UM_ASSERT(s->layers != UM_ATTENTION_QKV || n == T);
    a->ldq = s->layers == UM_ATTENTION_QKV ? q + 2 * kv : q;
    a->q = um_arena_f32(arena, (size_t)T, (size_t)a->ldq);
    switch (s->layers) {
    case UM_ATTENTION_Q_K_V:
        a->ldkv = kv;
        a->k = um_arena_f32(arena, (size_t)n, (size_t)kv);
        a->v = um_arena_f32(arena, (size_t)n, (size_t)kv);
        break;
    case UM_ATTENTION_Q_KV:
        a->ldkv = 2 * kv;
        a->k = um_arena_f32(arena, (size_t)n, (size_t)a->ldkv);
        a->v = a->k + kv;
        break;
    case UM_ATTENTION_QKV:
        a->ldkv = a->ldq;
        a->k = a->q + q;
        a->v = a->k + kv;
        break;
    }
    a->heads = um_arena_f32(arena, (size_t)T, (size_t)q);
    a->lse = um_arena_f32(arena, (size_t)T, (size_t)s->heads);
}

void um_attention_project(um_dev *d, um_attention_acts *a, const um_attention *w, const float *x,
                          int T, const float *from, int n)
{
    UM_ASSERT(w->q.w.N == a->ldq);
    um_linear_fwd(d, a->q, x, T, &w->q);
    if (w->shape.layers == UM_ATTENTION_QKV)
        UM_ASSERT(from == x && n == T);
    else
        um_linear_fwd(d, a->k, from, n, &w->k);
    if (w->shape.layers == UM_ATTENTION_Q_K_V) um_linear_fwd(d, a->v, from, n, &w->v);
}

/* 1/sqrt(head_dim), rounded once. */
static float scale_of(const um_attention_shape *s)
{
    return (float)(1.0 / sqrt((double)s->head_dim));
}

void um_attention_write(um_dev *d, const um_attention_acts *a, const um_kv *kv,
                        const um_span *spans, int n)
{
    d->ops->kv_write(d, kv, spans, n, a->k, a->ldkv, a->v, a->ldkv);
}

void um_attention_attend(um_dev *d, um_attention_acts *a, const um_attention_shape *s,
                         const um_kv *kv, const um_span *spans, int n, bool causal)
{
    d->ops->attention(d, a->heads, q_cols(s), a->lse, a->q, a->ldq, kv, spans, n, s->heads,
                      scale_of(s), causal);
}

void um_attention_attend_biased(um_dev *d, um_attention_acts *a, const um_attention_shape *s,
                                const um_kv *kv, const um_span *spans, int n, const float *table,
                                int ldtable, const float *gate)
{
    d->ops->attention_biased(d, a->heads, q_cols(s), a->lse, a->q, a->ldq, kv, spans, n, s->heads,
                             scale_of(s), table, ldtable, gate);
}

void um_attention_output(um_dev *d, float *y, const um_attention_acts *a, const um_attention *w,
                         const float *in, int T)
{
    um_linear_residual(d, y, in, a->heads, T, &w->out);
}

void um_attention_pages_bind(um_attention_pages *p, um_arena *host, um_arena *device,
                             size_t page_floats, int positions)
{
    p->page_floats = um_round_up(page_floats, UM_PANEL); /* every page aligned as its memory is */
    p->pages = (positions + UM_PAGE - 1) / UM_PAGE;
    p->floats = um_arena_f32(device, (size_t)p->pages, p->page_floats);
    p->table = um_arena_i32(device, (size_t)p->pages);
    p->staged = um_arena_i32(host, (size_t)p->pages);
    for (int i = 0; i < p->pages; i++) p->staged[i] = i;
}

void um_attention_pages_start(um_dev *d, const um_attention_pages *p)
{
    d->ops->put(d, p->table, p->staged, (size_t)p->pages * sizeof *p->table);
}

um_kv um_attention_pages_kv(const um_attention_pages *p, const um_attention_shape *s)
{
    UM_ASSERT(um_kv_page_floats(s->kv_heads, s->head_dim) <= p->page_floats);
    return (um_kv){.kv_heads = s->kv_heads,
                   .head_dim = s->head_dim,
                   .pages = p->floats,
                   .stride = p->page_floats,
                   .table = p->table};
}

void um_attention_fwd(um_dev *d, um_attention_acts *a, const um_attention *w,
                      const um_attention_pages *p, const float *x, int T, const float *from, int n,
                      bool causal)
{
    const um_kv kv = um_attention_pages_kv(p, &w->shape);
    const um_span keys = {.T = n, .n = n}, rows = {.T = T, .n = n};
    UM_CHECK(n > 0 && n <= p->pages * UM_PAGE);
    um_attention_project(d, a, w, x, T, from, n);
    um_attention_write(d, a, &kv, &keys, 1);
    um_attention_attend(d, a, &w->shape, &kv, &rows, 1, causal);
}

/* --- backward --- */

static float *zeroed(um_dev *d, um_arena *a, size_t rows, size_t cols)
{
    float *x = um_arena_f32(a, rows, cols);
    d->ops->fill(d, x, 0.0f, rows * cols);
    return x;
}

void um_attention_grads_start(um_dev *d, um_attention_grads *g, um_arena *scratch,
                              const um_attention_shape *s, int T, int n)
{
    const size_t q = (size_t)q_cols(s), kv = (size_t)kv_cols(s), rows = (size_t)T, keys = (size_t)n;
    switch (s->layers) {
    case UM_ATTENTION_Q_K_V:
        g->q = zeroed(d, scratch, rows, q);
        g->k = zeroed(d, scratch, keys, kv);
        g->v = zeroed(d, scratch, keys, kv);
        break;
    case UM_ATTENTION_Q_KV:
        g->q = zeroed(d, scratch, rows, q);
        g->k = zeroed(d, scratch, keys, 2 * kv);
        g->v = g->k + kv;
        break;
    case UM_ATTENTION_QKV:
        UM_ASSERT(n == T);
        g->q = zeroed(d, scratch, rows, q + 2 * kv);
        g->k = g->q + q;
        g->v = g->k + kv;
        break;
    }
    g->heads = zeroed(d, scratch, rows, q);
}

/* Forward was y = in + out(heads). */
void um_attention_output_bwd(um_dev *d, um_attention_grads *g, const um_attention_acts *a,
                             const um_attention *w, const float *dy, int T, um_arena *scratch)
{
    um_linear_bwd(d, g->heads, &w->out, dy, a->heads, T, scratch);
}

void um_attention_attend_bwd(um_dev *d, um_attention_grads *g, const um_attention_acts *a,
                             const um_attention_shape *s, const um_span *spans,
                             const int32_t *key_row, int n, bool causal)
{
    d->ops->attention_bwd(d, g->q, g->k, g->v, g->heads, a->heads, q_cols(s), a->lse, a->q, a->ldq,
                          a->k, a->v, a->ldkv, spans, key_row, n, s->heads, s->kv_heads,
                          s->head_dim, scale_of(s), causal);
}

void um_attention_attend_biased_bwd(um_dev *d, um_attention_grads *g, const um_attention_acts *a,
                                    const um_attention_shape *s, const um_span *spans,
                                    const int32_t *key_row, int n, float *dtable,
                                    const float *table, int ldtable, float *dgate,
                                    const float *gate)
{
    d->ops->attention_biased_bwd(d, g->q, g->k, g->v, g->heads, a->heads, q_cols(s), a->lse, a->q,
                                 a->ldq, a->k, a->v, a->ldkv, spans, key_row, n, s->heads,
                                 s->kv_heads, s->head_dim, scale_of(s), dtable, table, ldtable,
                                 dgate, gate);
}

/* Forward was q = x Wq^T, k = from Wk^T, v = from Wv^T, some of them stacked. */
void um_attention_project_bwd(um_dev *d, float *dx, float *dfrom, const um_attention_grads *g,
                              const um_attention *w, const float *x, int T, const float *from,
                              int n, um_arena *scratch)
{
    um_linear_bwd(d, dx, &w->q, g->q, x, T, scratch);
    if (w->shape.layers == UM_ATTENTION_QKV)
        UM_ASSERT(from == x && dfrom == dx && n == T);
    else
        um_linear_bwd(d, dfrom, &w->k, g->k, from, n, scratch);
    if (w->shape.layers == UM_ATTENTION_Q_K_V)
        um_linear_bwd(d, dfrom, &w->v, g->v, from, n, scratch);
}

void um_attention_bwd(um_dev *d, float *dx, float *dfrom, const um_attention_acts *a,
                      const um_attention *w, const float *dy, const float *x, int T,
                      const float *from, int n, bool causal, um_arena *scratch)
{
    const um_span rows = {.T = T, .n = n};
    const int32_t key_row = 0;
    um_attention_grads g;
    um_mark mark = um_arena_mark(scratch);
    um_attention_grads_start(d, &g, scratch, &w->shape, T, n);
    um_attention_output_bwd(d, &g, a, w, dy, T, scratch);
    um_attention_attend_bwd(d, &g, a, &w->shape, &rows, &key_row, 1, causal);
    um_attention_project_bwd(d, dx, dfrom, &g, w, x, T, from, n, scratch);
    um_arena_reset(scratch, mark);
}
