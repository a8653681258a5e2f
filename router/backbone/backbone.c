/* See backbone.h: the forward pass. Loading is in backbone_load.c. */
#include "router/backbone/backbone.h"

#include "core/base/bytes.h"

#include <string.h>

enum { LOGIT_ROWS_AT_ONCE = 64 };

void um_backbone_embed(const um_backbone *t, float *out, int32_t id)
{
    size_t D = (size_t)t->model->dim;
    um_to_f32(out, t->embed->data + (size_t)id * D * um_dtype_size(t->embed->dtype),
              t->embed->dtype, D);
}

/* The part of um_acts_bind for the dynamic gate. */
static void bind_dynamic(um_acts *a, um_arena *arena, const um_model *m, int T, bool keep)
{
    const um_dynamic_model *d = &m->dynamic;
    size_t F = (size_t)d->shared;
    um_dynamic_bind(&a->dynamic, arena, d, T, m->top_k);
    a->route = (um_route){.T = T,
                          .K = m->top_k,
                          .E = a->dynamic.C,
                          .logits = a->dynamic.logits,
                          .experts = a->dynamic.experts,
                          .weights = a->dynamic.slots};
    a->shared = um_arena_zero(arena, F * sizeof *a->shared);
    for (size_t j = 0; j < F; j++) {
        a->shared[j] = a->shared[0];
        if (keep || j == 0) um_ffn_acts_bind(&a->shared[j], arena, T, d->shared_dim, m->lora_r);
    }
    a->parts = um_arena_f32(arena, (1 + F) * (size_t)T, (size_t)m->dim);
}

void um_acts_bind(um_acts *a, um_arena *arena, const um_model *m, const um_batch *b, bool keep)
{
    size_t T = (size_t)b->T, D = (size_t)m->dim, Q = (size_t)m->heads * (size_t)m->head_dim;
    size_t KV = (size_t)m->kv_heads * (size_t)m->head_dim;
    a->in = b->h;
    a->mid = keep ? um_arena_f32(arena, T, D) : b->h;
    a->out = keep ? um_arena_f32(arena, T, D) : b->h;
    a->ln1 = um_arena_f32(arena, T, D);
    a->ln2 = um_arena_f32(arena, T, D);
    a->rstd1 = um_arena_f32(arena, 1, T);
    a->rstd2 = um_arena_f32(arena, 1, T);
    a->q = um_arena_f32(arena, T, Q);
    a->k = um_arena_f32(arena, T, KV);
    a->v = um_arena_f32(arena, T, KV);
    a->att = um_arena_f32(arena, T, Q);
    a->lse = um_arena_f32(arena, T, (size_t)m->heads);
    a->gate_in = m->fm_block ? um_arena_f32(arena, T, D) : a->ln2;
    if (m->experts > 0 && m->gate == UM_GATE_DYNAMIC)
        bind_dynamic(a, arena, m, b->T, keep);
    else if (m->experts > 0)
        um_route_bind(&a->route, arena, b->T, m->top_k, m->experts);
    if (m->moe_layers < m->layers) um_ffn_acts_bind(&a->dense, arena, b->T, m->ffn_dim, m->lora_r);
    a->y = um_arena_f32(arena, T, D);
}

/* out = in + delta; in and out may be the same buffer. */
static void residual(um_dev *dev, float *out, const float *in, const float *delta, size_t n)
{
    if (out != in) memcpy(out, in, n * sizeof(float));
    dev->ops->add(dev, out, delta, n);
}

/* mid = in + O(attention(RMSNorm(in))), each segment attending to its own keys and values. */
static void attention(const um_backbone *t, int layer, um_acts *a, um_batch *b, um_dev *dev)
{
    const um_model *m = t->model;
    const um_layer *w = &t->blocks[layer];
    int q_cols = m->heads * m->head_dim, kv_cols = m->kv_heads * m->head_dim;
    /* 1/sqrt(head_dim) is computed in double and rounded once */
    float scale = (float)um_exp(-0.5 * um_log((double)m->head_dim));
    dev->ops->rmsnorm_fwd(dev, a->ln1, a->rstd1, a->in, w->norm1, b->T, m->dim, m->rms_eps);
    um_linear_fwd(dev, a->q, a->ln1, b->T, &w->q);
    um_linear_fwd(dev, a->k, a->ln1, b->T, &w->k);
    um_linear_fwd(dev, a->v, a->ln1, b->T, &w->v);
    dev->ops->rope(dev, a->q, q_cols, t->rope.cs, b->pos, b->T, m->heads, m->head_dim);
    dev->ops->rope(dev, a->k, kv_cols, t->rope.cs, b->pos, b->T, m->kv_heads, m->head_dim);
    for (int i = 0; i < b->segs; i++) {
        const um_segment *s = &b->seg[i];
        um_kv_flat *kv = &s->kv[layer];
        int pos0 = kv->n;
        size_t kv_from = um_at((size_t)s->row, 0, (size_t)kv_cols),
               q_from = um_at((size_t)s->row, 0, (size_t)q_cols);
        dev->ops->kv_append_flat(dev, kv, a->k + kv_from, kv_cols, a->v + kv_from, kv_cols, s->T);
        dev->ops->attention_flat(dev, a->att + q_from, q_cols,
                                 a->lse + um_at((size_t)s->row, 0, (size_t)m->heads), a->q + q_from,
                                 q_cols, kv, m->heads, s->T, pos0, scale, true);
    }
    um_linear_fwd(dev, a->y, a->att, b->T, &w->o);
    residual(dev, a->mid, a->in, a->y, (size_t)b->T * (size_t)m->dim);
}

/* The gate's input with the per-modality pre-projection (spec 4.4.3): gate_in[row] = f_m(ln2[row]), m the row's modality. */
static um_status pre_project(const um_layer *w, um_acts *a, const um_batch *b, int D, um_dev *dev,
                             um_arena *scratch, um_err *err)
{
    for (int m = 0; m < UM_FMS; m++) {
        um_mark mark = um_arena_mark(scratch);
        int32_t *rows = um_arena_i32(scratch, (size_t)b->T);
        int n = 0;
        for (int t = 0; t < b->T; t++)
            if (um_fm_of((um_modality)b->modality[t]) == (um_fm)m) rows[n++] = t;
        if (n > 0 && w->fm[m].w.data == NULL)
            return UM_FAIL(err, UM_E_MODEL,
                           "the checkpoint has no gate pre-projection for rows of %s",
                           (const char *[]){"text", "images", "audio", "videos"}[m]);
        float *x = um_arena_f32(scratch, (size_t)n, (size_t)D),
              *y = um_arena_f32(scratch, (size_t)n, (size_t)D);
        dev->ops->gather(dev, x, a->ln2, rows, n, D);
        if (n > 0) um_linear_fwd(dev, y, x, n, &w->fm[m]);
        for (int i = 0; i < n; i++)
            memcpy(a->gate_in + um_at((size_t)rows[i], 0, (size_t)D),
                   y + um_at((size_t)i, 0, (size_t)D), (size_t)D * sizeof(float));
        um_arena_reset(scratch, mark);
    }
    return UM_OK;
}

/* Computes the gate logits, the chosen experts and their weights. A served row must not depend on the other rows of the batch, so rows
 * are never dropped here (docs/adr/0006-dynamic-capacity.md). */
static void choose(const um_backbone *t, int layer, um_acts *a, const um_batch *b, um_dev *dev,
                   um_arena *scratch)
{
    um_linear_fwd(dev, a->route.logits, a->gate_in, b->T, &t->blocks[layer].gate);
    if (t->model->gate == UM_GATE_DYNAMIC)
        um_dynamic_choose(&a->dynamic, NULL, false, scratch);
    else
        um_gate_choose(&a->route, t->model->gate, b->noise_seed + (uint64_t)layer, b->noise);
}

/* Computes the shared experts' rows into parts[1..F]. */
static void run_shared(const um_layer *w, um_acts *a, int T, int D, um_dev *dev)
{
    for (int j = 0; j < a->dynamic.m->shared; j++)
        um_ffn_fwd(dev, a->parts + um_at((size_t)(1 + j) * (size_t)T, 0, (size_t)D), &a->shared[j],
                   &w->shared[j], a->ln2, T);
}

/* y = parts[0] + sum over shared experts, in ascending order, of weight * parts[1+j]. This continues the sum over the routed experts in
 * order, since 1 * parts[0] is exact. */
static void add_shared(um_acts *a, int T, int D, um_dev *dev, um_arena *scratch)
{
    const um_dynamic *g = &a->dynamic;
    int slots = 1 + g->m->shared, first = g->C - g->m->shared;
    int32_t *index = um_arena_i32(scratch, (size_t)T * (size_t)slots);
    float *weight = um_arena_f32(scratch, (size_t)T, (size_t)slots);
    for (int t = 0; t < T; t++) {
        for (int j = 0; j < slots; j++) {
            size_t at = um_at((size_t)t, (size_t)j, (size_t)slots);
            index[at] = j * T + t;
            weight[at] =
                j == 0 ? 1.0f : g->weights[um_at((size_t)t, (size_t)(first + j - 1), (size_t)g->C)];
        }
    }
    dev->ops->combine(dev, a->y, a->parts, index, weight, T, slots, D);
}

/* Counts the gate's choices, each segment under its phase. */
static void count(const um_acts *a, int layer, const um_batch *b)
{
    const um_route *r = &a->route;
    for (int i = 0; i < b->segs; i++) {
        const um_segment *s = &b->seg[i];
        size_t at = um_at((size_t)s->row, 0, (size_t)r->K);
        um_routing_count(b->routing, layer, s->phase, b->modality + s->row, r->experts + at,
                         r->weights + at, s->T, r->K);
    }
}

um_status um_backbone_moe_layer(const um_backbone *t, int layer, um_acts *a, const um_batch *b,
                                um_exchange *ex, um_dev *dev, um_arena *scratch, um_err *err)
{
    const um_model *m = t->model;
    const um_layer *w = &t->blocks[layer];
    const um_topology *topo = &um_exchange_link(ex)->comm->topo;
    um_exchange_key key = {.step = b->step, .layer = (uint32_t)layer};
    bool shared = m->dynamic.shared > 0;
    um_dispatch_plan plan;
    if (m->fm_block) UM_TRY(pre_project(w, a, b, m->dim, dev, scratch, err));
    choose(t, layer, a, b, dev, scratch);
    if (b->routing != NULL) count(a, layer, b);
    um_dispatch_plan_bind(&plan, scratch, scratch, b->T, m->top_k, topo->count[UM_ROLE_EXPERT]);
    UM_TRY(um_dispatch_plan_build(&plan, topo, layer, a->route.experts, b->T, dev, scratch, err));
    float *rows = um_arena_f32(scratch, (size_t)um_dispatch_plan_pairs(&plan), (size_t)m->dim);
    UM_TRY(um_exchange_dispatch(ex, &plan, rows, a->ln2, key, err));
    if (shared) run_shared(w, a, b->T, m->dim, dev); /* while the expert ranks compute */
    UM_TRY(um_exchange_combine(ex, shared ? a->parts : a->y, a->route.weights, key, err));
    if (shared) add_shared(a, b->T, m->dim, dev, scratch);
    return UM_OK;
}

static void record(const um_backbone *t, int layer, const um_acts *a, const um_batch *b)
{
    const um_model *m = t->model;
    size_t D = (size_t)m->dim, E = (size_t)a->route.E, K = (size_t)a->route.K;
    for (int i = 0; i < b->segs; i++) {
        const um_segment *s = &b->seg[i];
        size_t row = (size_t)s->row;
        um_trace_layer(s->trace, layer, "hidden", UM_F32, a->out + row * D, s->T, m->dim);
        if (!t->blocks[layer].moe) continue;
        um_trace_layer(s->trace, layer, "router_logits", UM_F32, a->route.logits + row * E, s->T,
                       a->route.E);
        um_trace_layer(s->trace, layer, "experts", UM_I32, a->route.experts + row * K, s->T,
                       a->route.K);
        um_trace_layer(s->trace, layer, "weights", UM_F32, a->route.weights + row * K, s->T,
                       a->route.K);
    }
}

/* out = mid + FFN(RMSNorm(mid)). */
static um_status feed_forward(const um_backbone *t, int layer, um_acts *a, const um_batch *b,
                              um_exchange *ex, um_dev *dev, um_arena *scratch, um_err *err)
{
    const um_model *m = t->model;
    const um_layer *w = &t->blocks[layer];
    um_mark mark = um_arena_mark(scratch);
    um_status st = UM_OK;
    dev->ops->rmsnorm_fwd(dev, a->ln2, a->rstd2, a->mid, w->norm2, b->T, m->dim, m->rms_eps);
    if (w->moe)
        st = um_backbone_moe_layer(t, layer, a, b, ex, dev, scratch, err);
    else
        um_ffn_fwd(dev, a->y, &a->dense, &w->dense, a->ln2, b->T);
    um_arena_reset(scratch, mark);
    if (st == UM_OK) residual(dev, a->out, a->mid, a->y, (size_t)b->T * (size_t)m->dim);
    return st;
}

um_status um_backbone_forward(const um_backbone *t, um_batch *batch, um_exchange *ex, um_dev *dev,
                              um_arena *step, um_err *err)
{
    um_mark mark = um_arena_mark(step);
    um_acts a = {0};
    um_link *link = um_exchange_link(ex);
    um_status st = UM_OK;
    um_acts_bind(&a, step, t->model, batch, false);
    link->step = batch->step;
    link->phase = "running the backbone";
    for (int l = 0; st == UM_OK && l < t->model->layers; l++) {
        link->layer = (uint32_t)l;
        attention(t, l, &a, batch, dev);
        st = feed_forward(t, l, &a, batch, ex, dev, step, err);
        if (st == UM_OK) record(t, l, &a, batch);
    }
    um_arena_reset(step, mark);
    return st;
}

void um_backbone_logits(const um_backbone *t, float *logits, const float *h, const int32_t *rows,
                        int n, um_dev *dev, um_arena *scratch)
{
    const um_model *m = t->model;
    for (int from = 0; from < n; from += LOGIT_ROWS_AT_ONCE) {
        int T = um_min_int(LOGIT_ROWS_AT_ONCE, n - from);
        um_mark mark = um_arena_mark(scratch);
        float *x = um_arena_f32(scratch, (size_t)T, (size_t)m->dim),
              *y = um_arena_f32(scratch, (size_t)T, (size_t)m->dim);
        dev->ops->gather(dev, x, h, rows + from, T, m->dim);
        dev->ops->rmsnorm_fwd(dev, y, NULL, x, t->norm, T, m->dim, m->rms_eps);
        um_linear_fwd(dev, logits + um_at((size_t)from, 0, (size_t)m->vocab), y, T, &t->head);
        um_arena_reset(scratch, mark);
    }
}
