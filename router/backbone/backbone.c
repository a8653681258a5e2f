/* See backbone.h: the layers. Loading is in backbone_load.c, the binding of activations in acts.c. */
#include "router/backbone/backbone.h"

#include "core/base/bytes.h"
#include "core/nn/gate_loss.h"

enum { LOGIT_ROWS_AT_ONCE = 64 };

void um_backbone_embed(const um_backbone *t, float *out, int32_t id)
{
    const um_param *p = t->embedding.table;
    const um_tensor *e = p->stored;
    size_t D = (size_t)t->model->dim;
    if (p->trained)
        p->dev->ops->get(p->dev, out, p->master + (size_t)id * D, D * sizeof *out);
    else
        um_to_f32(out, e->data + (size_t)id * D * um_dtype_size(e->dtype), e->dtype, D);
}

void um_batch_modalities(um_batch *b, um_dev *dev, um_arena *device, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    int32_t *rows = um_arena_i32(scratch, (size_t)b->T);
    for (int m = 0; m < UM_FMS; m++) {
        int n = 0;
        for (int t = 0; t < b->T; t++)
            if (um_fm_of((um_modality)b->modality[t]) == (um_fm)m) rows[n++] = t;
        b->fm_n[m] = n;
        b->fm_row[m] = n == 0 ? NULL : um_dev_put_i32(dev, device, rows, (size_t)n);
    }
    um_arena_reset(scratch, mark);
}

/* out = in + delta; in and out may be the same buffer. */
static void residual(um_dev *dev, float *out, const float *in, const float *delta, size_t n)
{
    if (out != in) dev->ops->copy(dev, out, in, n * sizeof *out);
    dev->ops->add(dev, out, delta, n);
}

/* mid = in + O(heads), of the rows that the second half computes. */
static void attention_output(const um_pass *p, int layer, um_acts *a)
{
    const um_model *m = p->backbone->model;
    const um_attention *w = &p->backbone->blocks[layer].attention;
    const um_batch *b = p->batch;
    um_dev *dev = p->dev;
    if (!um_pass_narrows(p, layer)) {
        um_attention_output(dev, a->mid, &a->attention, w, a->in, b->T);
        return;
    }
    um_attention_acts rows = a->attention;
    rows.heads = a->last_heads;
    UM_ASSERT(a->mid != a->in);
    dev->ops->gather(dev, a->last_heads, a->attention.heads, b->last_row, b->last_n, w->out.w.K);
    dev->ops->gather(dev, a->mid, a->in, b->last_row, b->last_n, m->dim);
    um_attention_output(dev, a->mid, &rows, w, a->mid, b->last_n);
}

/* mid = in + O(attention(RMSNorm(in))), each segment attending to its own keys and values. */
static void attention(const um_pass *p, int layer, um_acts *a)
{
    const um_model *m = p->backbone->model;
    const um_layer *w = &p->backbone->blocks[layer];
    const um_batch *b = p->batch;
    const um_kv *kv = &b->kv[layer];
    um_attention_acts *t = &a->attention;
    um_dev *dev = p->dev;
    um_rmsnorm_fwd(dev, a->ln1, a->rstd1, a->in, &w->norm1, b->T, m->dim, m->rms_eps);
    um_attention_project(dev, t, &w->attention, a->ln1, b->T, a->ln1, b->T);
    dev->ops->rope(dev, t->q, t->ldq, p->backbone->rope.cs, b->pos, b->T, m->heads, m->head_dim);
    dev->ops->rope(dev, t->k, t->ldkv, p->backbone->rope.cs, b->pos, b->T, m->kv_heads,
                   m->head_dim);
    um_attention_write(dev, t, kv, b->span, b->segs);
    um_attention_attend(dev, t, &w->attention.shape, kv, b->span, b->segs, true);
    if (b->pads > 0) um_attention_attend(dev, t, &w->attention.shape, kv, b->pad, b->pads, false);
    attention_output(p, layer, a);
}

/* The gate's input with the per-modality pre-projection (spec 4.4.3): gate_in[row] = f_m(ln2[row]), m the row's modality. */
static um_status pre_project(const um_pass *p, const um_layer *w, um_acts *a, um_err *err)
{
    static const char *const rows_of[UM_FMS] = {"text", "images", "audio", "videos"};
    const um_batch *b = p->batch;
    um_dev *dev = p->dev;
    int D = p->backbone->model->dim;
    for (int m = 0; m < UM_FMS; m++) {
        if (b->fm_n[m] == 0) continue;
        if (w->fm[m].w.data == NULL)
            return UM_FAIL(err, UM_E_MODEL,
                           "the checkpoint has no gate pre-projection for rows of %s", rows_of[m]);
        dev->ops->gather(dev, a->fm_in, a->ln2, b->fm_row[m], b->fm_n[m], D);
        um_linear_fwd(dev, a->fm_out, a->fm_in, b->fm_n[m], &w->fm[m]);
        dev->ops->scatter(dev, a->gate_in, a->fm_out, b->fm_row[m], b->fm_n[m], D);
    }
    return UM_OK;
}

/* Computes the gate logits, the chosen experts and their weights. A served row must not depend on the other rows of the batch, so rows
 * are never dropped here (docs/adr/0006-dynamic-capacity.md). */
static void choose(const um_pass *p, int layer, um_acts *a)
{
    const um_backbone *t = p->backbone;
    const um_batch *b = p->batch;
    const um_layer *w = &t->blocks[layer];
    um_linear_fwd(p->dev, a->route.logits, a->gate_in, b->T, &w->gate);
    if (t->model->gate == UM_GATE_DYNAMIC)
        um_dynamic_choose(p->dev, &a->dynamic, NULL, false);
    else if (w->gate_bias != NULL)
        um_gate_choose_biased(p->dev, &a->route, w->gate_bias->vector, p->host, p->device);
    else
        um_gate_choose(p->dev, &a->route, t->model->gate, b->noise_seed + (uint64_t)layer,
                       b->noise);
}

/* Computes the shared experts' rows into parts[1..F]. */
static void run_shared(const um_pass *p, const um_layer *w, um_acts *a)
{
    int T = p->batch->T;
    size_t D = (size_t)p->backbone->model->dim;
    for (int j = 0; j < a->dynamic.m->shared; j++)
        um_ffn_fwd(p->dev, a->parts + um_at((size_t)(1 + j) * (size_t)T, 0, D), &a->shared[j],
                   &w->shared[j], a->ln2, T);
}

/* The parts of y and their weights: the routed sum with 1, then the shared experts' rows. */
static void weigh_shared(const um_pass *p, um_acts *a)
{
    const um_dynamic *g = &a->dynamic;
    um_dev *dev = p->dev;
    int T = p->batch->T, F = g->m->shared, slots = 1 + F;
    um_mark mark = um_arena_mark(p->host);
    int32_t *index = um_arena_i32(p->host, (size_t)T * (size_t)slots);
    for (int t = 0; t < T; t++)
        for (int j = 0; j < slots; j++)
            index[um_at((size_t)t, (size_t)j, (size_t)slots)] = j * T + t;
    dev->ops->put(dev, a->part_index, index, (size_t)T * (size_t)slots * sizeof *index);
    um_arena_reset(p->host, mark);
    dev->ops->fill(dev, a->part_weight, 1.0f, (size_t)T * (size_t)slots);
    dev->ops->copy_2d(dev, a->part_weight + 1, slots, g->weights + (g->C - F), g->C, T, F);
}

/* y = parts[0] + sum over shared experts, in ascending order, of weight * parts[1+j]. This continues the sum over the routed experts in
 * order, since 1 * parts[0] is exact. */
static void add_shared(const um_pass *p, um_acts *a)
{
    weigh_shared(p, a);
    p->dev->ops->combine(p->dev, a->y, a->parts, a->part_index, a->part_weight, p->batch->T,
                         1 + a->dynamic.m->shared, p->backbone->model->dim);
}

/* Counts the gate's choices, each segment under its phase. Rows that are read again were counted the first time. */
static void count(const um_pass *p, int layer, const um_acts *a)
{
    const um_route *r = &a->route;
    const um_batch *b = p->batch;
    size_t n = (size_t)b->T * (size_t)r->K;
    um_mark mark = um_arena_mark(p->host);
    float *weights = um_arena_f32(p->host, 1, n);
    p->dev->ops->get(p->dev, weights, r->weights, n * sizeof *weights);
    for (int i = 0; i < b->segs; i++) {
        const um_segment *s = &b->seg[i];
        int from = s->row + s->counted;
        size_t at = um_at((size_t)from, 0, (size_t)r->K);
        um_routing_count(b->routing, layer, s->phase, b->modality + from, a->routed + at,
                         weights + at, s->T - s->counted, r->K);
    }
    um_arena_reset(p->host, mark);
}

um_exchange_key um_pass_key(const um_pass *p, int layer)
{
    return (um_exchange_key){
        .step = p->batch->step, .layer = (uint32_t)layer, .batch = p->batch->micro};
}

/* Routes the rows of ln2 and sends them to their experts. */
static um_status moe_send(const um_pass *p, int layer, um_acts *a, um_err *err)
{
    const um_model *m = p->backbone->model;
    const um_batch *b = p->batch;
    size_t n = (size_t)b->T * (size_t)m->top_k;
    if (m->fm_block) UM_TRY(pre_project(p, &p->backbone->blocks[layer], a, err));
    choose(p, layer, a);
    p->dev->ops->get(p->dev, a->routed, a->route.experts, n * sizeof *a->routed);
    UM_TRY(um_dev_sync(p->dev, err)); /* after a failure the routing is not there */
    if (b->routing != NULL) count(p, layer, a);
    UM_TRY(um_dispatch_plan_build(&a->plan, &um_exchange_link(p->exchange)->comm->topo.place, layer,
                                  a->routed, b->T, p->dev, p->host, err));
    return um_exchange_dispatch(p->exchange, &a->plan, a->rows, a->ln2, um_pass_key(p, layer), err);
}

/* Waits for the experts' rows and adds them up into y. */
static um_status moe_receive(const um_pass *p, int layer, um_acts *a, um_err *err)
{
    bool shared = p->backbone->model->dynamic.shared > 0;
    if (shared) run_shared(p, &p->backbone->blocks[layer], a); /* while the expert ranks compute */
    UM_TRY(um_exchange_combine(p->exchange, shared ? a->parts : a->y, a->route.weights,
                               um_pass_key(p, layer), err));
    if (shared) add_shared(p, a);
    return UM_OK;
}

um_status um_pass_moe(um_pass *p, int layer, um_acts *a, um_err *err)
{
    UM_TRY(moe_send(p, layer, a, err));
    return moe_receive(p, layer, a, err);
}

/* Copies the first dimension's rows of a device tensor into a segment's trace. */
static void trace_layer(const um_pass *p, const um_segment *s, const char *name, um_dtype dtype,
                        const void *rows, int cols)
{
    size_t value = um_dtype_size(dtype), n = (size_t)s->T * (size_t)cols * value;
    um_mark mark = um_arena_mark(p->host);
    void *host = um_arena_alloc(p->host, n);
    p->dev->ops->get(p->dev, host, (const char *)rows + (size_t)s->row * (size_t)cols * value, n);
    um_trace_layer(s->trace, p->layer, name, dtype, host, s->T, cols);
    um_arena_reset(p->host, mark);
}

static void record(const um_pass *p, const um_acts *a)
{
    const um_route *r = &a->route;
    for (int i = 0; i < p->batch->segs; i++) {
        const um_segment *s = &p->batch->seg[i];
        if (s->trace == NULL) continue;
        trace_layer(p, s, "hidden", UM_F32, a->out, p->backbone->model->dim);
        if (!p->backbone->blocks[p->layer].moe) continue;
        trace_layer(p, s, "router_logits", UM_F32, r->logits, r->E);
        trace_layer(p, s, "experts", UM_I32, r->experts, r->K);
        trace_layer(p, s, "weights", UM_F32, r->weights, r->K);
    }
}

/* The activations of the layer in work. Its input is the output of the layer before. */
static um_acts *acts_of(const um_pass *p)
{
    um_acts *a = &p->acts[p->keep ? p->layer : 0];
    if (p->keep && p->layer > 0) a->in = p->acts[p->layer - 1].out;
    return a;
}

/* out = mid + y ends the layer. */
static void layer_end(um_pass *p, um_acts *a)
{
    const um_model *m = p->backbone->model;
    residual(p->dev, a->out, a->mid, a->y, (size_t)um_pass_rows(p, p->layer) * (size_t)m->dim);
    record(p, a);
    p->layer++;
    p->away = false;
}

/* The two norms and attention. */
static void upper_half(const um_pass *p, int layer, um_acts *a)
{
    const um_model *m = p->backbone->model;
    um_dev *dev = p->dev;
    attention(p, layer, a);
    um_rmsnorm_fwd(dev, a->ln2, a->rstd2, a->mid, &p->backbone->blocks[layer].norm2,
                   um_pass_rows(p, layer), m->dim, m->rms_eps);
}

um_status um_pass_again(const um_pass *p, int layer, um_err *err)
{
    const um_model *m = p->backbone->model;
    const um_layer *w = &p->backbone->blocks[layer];
    um_acts *a = &p->acts[layer];
    if (p->recompute == UM_RECOMPUTE_NONE) return UM_OK;
    if (p->recompute == UM_RECOMPUTE_LAYER) {
        upper_half(p, layer, a);
        if (w->moe && m->fm_block) UM_TRY(pre_project(p, w, a, err));
    }
    if (!w->moe) {
        um_ffn_fwd(p->dev, a->y, &a->dense, &w->dense, a->ln2, um_pass_rows(p, layer));
    } else if (m->dynamic.shared > 0) {
        run_shared(p, w, a);
        weigh_shared(p, a);
    }
    return UM_OK;
}

/* Attention and the second norm of a layer; then a dense layer ends, and one of experts has sent its rows. */
static um_status layer_begin(um_pass *p, um_acts *a, um_err *err)
{
    const um_layer *w = &p->backbone->blocks[p->layer];
    upper_half(p, p->layer, a);
    if (w->moe) {
        UM_TRY(moe_send(p, p->layer, a, err));
        p->away = true;
        return UM_OK;
    }
    um_ffn_fwd(p->dev, a->y, &a->dense, &w->dense, a->ln2, um_pass_rows(p, p->layer));
    layer_end(p, a);
    return UM_OK;
}

um_status um_pass_run(um_pass *p, um_err *err)
{
    um_link *link = um_exchange_link(p->exchange);
    UM_ASSERT(!um_pass_done(p));
    link->phase = "running the backbone";
    link->step = p->batch->step;
    um_pass_seed(p);
    if (p->away) {
        um_acts *a = acts_of(p);
        link->layer = (uint32_t)p->layer;
        UM_TRY(moe_receive(p, p->layer, a, err));
        layer_end(p, a);
    }
    while (!um_pass_done(p) && !p->away) {
        link->layer = (uint32_t)p->layer;
        UM_TRY(layer_begin(p, acts_of(p), err));
    }
    if (!um_pass_done(p)) return UM_OK;
    return um_dev_sync(p->dev, err);
}

um_status um_backbone_logits(const um_backbone *t, float *out, const float *h, const int32_t *rows,
                             int n, um_dev *dev, um_arena *device, um_err *err)
{
    const um_model *m = t->model;
    size_t V = (size_t)m->vocab, D = (size_t)m->dim;
    for (int from = 0; from < n; from += LOGIT_ROWS_AT_ONCE) {
        int T = um_min_int(LOGIT_ROWS_AT_ONCE, n - from);
        um_mark mark = um_arena_mark(device);
        float *x = um_arena_f32(device, (size_t)T, D), *y = um_arena_f32(device, (size_t)T, D);
        float *logits = um_arena_f32(device, (size_t)T, V);
        dev->ops->gather(dev, x, h, rows + from, T, m->dim);
        um_rmsnorm_fwd(dev, y, NULL, x, &t->norm, T, m->dim, m->rms_eps);
        um_linear_fwd(dev, logits, y, T, &t->head);
        dev->ops->get(dev, out + um_at((size_t)from, 0, V), logits, (size_t)T * V * sizeof *out);
        um_arena_reset(device, mark);
    }
    return um_dev_sync(dev, err);
}
