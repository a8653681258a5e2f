/* See backward.h. Every function quotes the line of backbone.c that it undoes. */
#include "router/backbone/backward.h"

static float *zeros(const um_pass *p, size_t n)
{
    float *x = um_arena_f32(p->device, 1, n);
    p->dev->ops->fill(p->dev, x, 0.0f, n);
    return x;
}

/* --- attention --- */

/* heads = attention(q, k, v) of the samples, and of their pad rows. */
static void attend_back(const um_pass *p, const um_layer *w, const um_attention_acts *a,
                        um_attention_grads *g)
{
    const um_batch *b = p->batch;
    um_attention_attend_bwd(p->dev, g, a, &w->attention.shape, b->span, b->key_row, b->segs, true);
    if (b->pads > 0)
        um_attention_attend_bwd(p->dev, g, a, &w->attention.shape, b->pad, b->pad_key_row, b->pads,
                                false);
}

/* mid = in + O(heads), of the rows that the second half had; dx becomes that of all rows of in */
static void output_back(um_backward *b, const um_acts *a, um_attention_grads *g)
{
    const um_pass *p = b->pass;
    const um_batch *batch = p->batch;
    const um_attention *w = &p->backbone->blocks[b->layer].attention;
    const int T = batch->T, n = batch->last_n, D = p->backbone->model->dim, wide = w->out.w.K;
    um_dev *dev = p->dev;
    if (!um_pass_narrows(p, b->layer)) {
        um_attention_output_bwd(dev, g, &a->attention, w, b->dx, T, p->device);
        return;
    }
    um_mark mark = um_arena_mark(p->device);
    um_attention_acts rows = a->attention;
    um_attention_grads of = *g;
    float *dmid = um_arena_f32(p->device, (size_t)n, (size_t)D);
    rows.heads = a->last_heads;
    of.heads = zeros(p, (size_t)n * (size_t)wide);
    um_attention_output_bwd(dev, &of, &rows, w, b->dx, n, p->device);
    dev->ops->scatter(dev, g->heads, of.heads, batch->last_row, n, wide);
    dev->ops->copy(dev, dmid, b->dx, (size_t)n * (size_t)D * sizeof *dmid);
    dev->ops->fill(dev, b->dx, 0.0f, (size_t)T * (size_t)D);
    dev->ops->scatter(dev, b->dx, dmid, batch->last_row, n, D);
    um_arena_reset(p->device, mark);
}

/* mid = in + O(attention(RMSNorm(in))):   dx becomes that of in */
static void attention_back(um_backward *b, const um_acts *a)
{
    const um_pass *p = b->pass;
    const um_model *m = p->backbone->model;
    const um_layer *w = &p->backbone->blocks[b->layer];
    um_dev *dev = p->dev;
    const int T = p->batch->T;
    um_mark mark = um_arena_mark(p->device);
    um_attention_grads g;
    um_attention_grads_start(dev, &g, p->device, &w->attention.shape, T, T);
    float *dln1 = zeros(p, (size_t)T * (size_t)m->dim);
    output_back(b, a, &g);
    attend_back(p, w, &a->attention, &g);
    dev->ops->rope_bwd(dev, g.q, a->attention.ldq, p->backbone->rope.cs, p->batch->pos, T, m->heads,
                       m->head_dim);
    dev->ops->rope_bwd(dev, g.k, a->attention.ldkv, p->backbone->rope.cs, p->batch->pos, T,
                       m->kv_heads, m->head_dim);
    um_attention_project_bwd(dev, dln1, dln1, &g, &w->attention, a->ln1, T, a->ln1, T, p->device);
    um_rmsnorm_bwd(dev, b->dx, dln1, a->in, a->rstd1, &w->norm1, T, m->dim);
    um_arena_reset(p->device, mark);
}

/* ln2 = RMSNorm(mid), and what is above it */
static void upper_half_back(um_backward *b, const um_acts *a)
{
    const um_pass *p = b->pass;
    const um_model *m = p->backbone->model;
    um_rmsnorm_bwd(p->dev, b->dx, b->acts.dln2, a->mid, a->rstd2,
                   &p->backbone->blocks[b->layer].norm2, um_pass_rows(p, b->layer), m->dim);
    attention_back(b, a);
}

/* --- the gate --- */

/* The routed experts' weights, and those of the shared ones, as columns of the dynamic gate:   dweights [T,C] */
static float *columns_of(um_backward *b, const um_acts *a, const float *dshared)
{
    const um_pass *p = b->pass;
    const um_dynamic *g = &a->dynamic;
    const int T = p->batch->T, K = g->K, F = g->m->shared;
    const size_t n = (size_t)T * (size_t)K, C = (size_t)g->C;
    um_mark mark = um_arena_mark(p->host);
    float *dweights = zeros(p, (size_t)T * C);
    int32_t *at = um_arena_i32(p->host, n);
    for (size_t i = 0; i < n; i++)
        at[i] = a->routed[i] == UM_NO_EXPERT ? -1 : (int32_t)(i / (size_t)K * C) + a->routed[i];
    p->dev->ops->scatter_add(p->dev, dweights, b->acts.dweights,
                             um_dev_put_i32(p->dev, p->device, at, n), (int)n, 1);
    if (F > 0) /* column 0 of dshared is that of the routed sum, whose weight is 1 */
        p->dev->ops->copy_2d(p->dev, dweights + (g->C - F), g->C, dshared + 1, 1 + F, T, F);
    um_arena_reset(p->host, mark);
    return dweights;
}

/* gate_in[row] = f_m(ln2[row]):   dln2[row] += ... */
static void pre_project_back(um_backward *b, const um_layer *w, um_acts *a, const float *dgate_in)
{
    const um_pass *p = b->pass;
    const um_batch *batch = p->batch;
    um_dev *dev = p->dev;
    const int D = p->backbone->model->dim;
    for (int m = 0; m < UM_FMS; m++) {
        const int n = batch->fm_n[m];
        if (n == 0) continue;
        um_mark mark = um_arena_mark(p->device);
        float *dx = zeros(p, (size_t)n * (size_t)D);
        dev->ops->gather(dev, a->fm_in, a->ln2, batch->fm_row[m], n, D);
        dev->ops->gather(dev, a->fm_out, dgate_in, batch->fm_row[m], n, D);
        um_linear_bwd(dev, dx, &w->fm[m], a->fm_out, a->fm_in, n, p->device);
        dev->ops->scatter_add(dev, b->acts.dln2, dx, batch->fm_row[m], n, D);
        um_arena_reset(p->device, mark);
    }
}

/* weights = choice(logits), logits = gate(gate_in), and the auxiliary terms of the logits. */
static void gate_back(um_backward *b, um_acts *a, const float *dshared)
{
    const um_pass *p = b->pass;
    const um_model *m = p->backbone->model;
    const um_layer *w = &p->backbone->blocks[b->layer];
    const int T = p->batch->T;
    um_mark mark = um_arena_mark(p->device);
    float *dlogits = zeros(p, (size_t)T * (size_t)a->route.E);
    if (m->gate == UM_GATE_DYNAMIC)
        um_dynamic_bwd(p->dev, dlogits, columns_of(b, a, dshared), &a->dynamic);
    else
        um_gate_bwd(p->dev, dlogits, b->acts.dweights, &a->route);
    um_aux_bwd(p, a, dlogits, b->aux, b->aux_scale, b->rows);
    float *load = um_param_grad(w->gate_bias);
    if (load != NULL)
        um_gate_add_load(p->dev, load, a->routed, T, a->route.K, a->route.E, p->host, p->device);
    float *dgate_in = m->fm_block ? zeros(p, (size_t)T * (size_t)m->dim) : b->acts.dln2;
    um_linear_bwd(p->dev, dgate_in, &w->gate, dlogits, a->gate_in, T, p->device);
    if (m->fm_block) pre_project_back(b, w, a, dgate_in);
    um_arena_reset(p->device, mark);
}

/* --- experts --- */

/* y = the sum of weight * rows:   their gradients go out to the experts */
static um_status experts_send(um_backward *b, um_acts *a, um_err *err)
{
    const um_pass *p = b->pass;
    const um_model *m = p->backbone->model;
    p->dev->ops->combine_bwd(p->dev, b->acts.drows, b->acts.dweights, b->dx, a->rows,
                             a->plan.device_slot, a->route.weights, p->batch->T, m->top_k, m->dim);
    return um_exchange_dispatch_grad(p->exchange, &a->plan, b->acts.dinput, b->acts.drows,
                                     um_pass_key(p, b->layer), err);
}

/* y = parts[0] + the sum of weight * parts[1+j], parts[1+j] = shared expert j of ln2.   Returns dpart_weight [T,1+F]. */
static const float *shared_back(um_backward *b, um_acts *a)
{
    const um_pass *p = b->pass;
    const um_layer *w = &p->backbone->blocks[b->layer];
    const int T = p->batch->T, F = a->dynamic.m->shared, D = p->backbone->model->dim;
    const size_t rows = (size_t)T, part = rows * (size_t)D;
    float *dweight = um_arena_f32(p->device, rows, (size_t)(1 + F));
    um_mark mark = um_arena_mark(p->device);
    float *dparts = um_arena_f32(p->device, (size_t)(1 + F) * rows, (size_t)D);
    p->dev->ops->combine_bwd(p->dev, dparts, dweight, b->dx, a->parts, a->part_index,
                             a->part_weight, T, 1 + F, D);
    for (int j = 0; j < F; j++)
        um_ffn_bwd(p->dev, b->acts.dln2, &w->shared[j], dparts + (size_t)(1 + j) * part, a->ln2,
                   &a->shared[j], T, p->device);
    um_arena_reset(p->device, mark);
    return dweight;
}

/* The rest of a layer of experts, behind their answers. Shared experts run while the expert ranks compute. */
static um_status experts_receive(um_backward *b, um_acts *a, um_err *err)
{
    const um_pass *p = b->pass;
    const float *dshared = NULL;
    um_mark mark = um_arena_mark(p->device);
    if (p->backbone->model->dynamic.shared > 0) dshared = shared_back(b, a);
    UM_TRY(um_exchange_combine_grad(p->exchange, b->acts.dln2, um_pass_key(p, b->layer), err));
    gate_back(b, a, dshared);
    um_arena_reset(p->device, mark);
    return UM_OK;
}

/* --- the pass --- */

void um_backward_begin(um_backward *b)
{
    UM_ASSERT(um_pass_done(b->pass) && b->pass->keep);
    b->layer = b->pass->backbone->model->layers - 1;
    b->away = false;
}

static void layer_end(um_backward *b)
{
    upper_half_back(b, &b->pass->acts[b->layer]);
    b->layer--;
    b->away = false;
}

/* Up to where the rows go out; a dense layer ends. */
static um_status layer_begin(um_backward *b, um_err *err)
{
    const um_pass *p = b->pass;
    const um_layer *w = &p->backbone->blocks[b->layer];
    um_acts *a = &p->acts[b->layer];
    const int rows = um_pass_rows(p, b->layer);
    const size_t n = (size_t)rows * (size_t)p->backbone->model->dim;
    p->dev->ops->fill(p->dev, b->acts.dln2, 0.0f, n);
    if (w->moe) {
        UM_TRY(experts_send(b, a, err));
        b->away = true;
        return UM_OK;
    }
    UM_TRY(um_pass_again(p, b->layer, err));
    um_ffn_bwd(p->dev, b->acts.dln2, &w->dense, b->dx, a->ln2, &a->dense, rows, p->device);
    layer_end(b);
    return UM_OK;
}

um_status um_backward_run(um_backward *b, um_err *err)
{
    const um_pass *p = b->pass;
    um_link *link = um_exchange_link(p->exchange);
    UM_ASSERT(!um_backward_done(b));
    link->phase = "running the backbone backwards";
    link->step = p->batch->step;
    um_pass_seed(p);
    if (b->away) {
        link->layer = (uint32_t)b->layer;
        UM_TRY(um_pass_again(p, b->layer, err));
        UM_TRY(experts_receive(b, &p->acts[b->layer], err));
        layer_end(b);
    }
    while (!um_backward_done(b) && !b->away) {
        link->layer = (uint32_t)b->layer;
        UM_TRY(layer_begin(b, err));
    }
    if (!um_backward_done(b)) return UM_OK;
    return um_dev_sync(p->dev, err);
}
