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
