/* See qformer.h. Sources: spec 3.3; Li et al. 2023, arXiv 2301.12597 (BLIP-2); transformers 4.31, Blip2QFormerModel. Letters: N number
 * of queries, Q their width, T rows of the window, D their width, F feed-forward width. */
#include "encoder_worker/towers/qformer.h"

#include "core/base/bytes.h"

static bool has_cross(const um_sound_model *m, int layer) { return layer % m->q_cross == 0; }

static um_status load_self(um_qformer_attention *a, const um_tower_layer *l, um_err *err)
{
    static const um_slot kv[] = {UM_SLOT_K, UM_SLOT_V};
    UM_TRY(um_tower_load_linear(l, &a->block.q, UM_SLOT_Q, err));
    UM_TRY(um_tower_load_stacked(l, &a->block.k, kv, 2, err));
    UM_TRY(um_tower_load_linear(l, &a->block.out, UM_SLOT_O, err));
    return um_tower_load_norm(l, &a->norm, UM_SLOT_NORM1, err);
}

static um_status load_cross(um_qformer_attention *a, const um_tower_layer *l, um_err *err)
{
    static const um_slot kv[] = {UM_SLOT_CROSS_K, UM_SLOT_CROSS_V};
    UM_TRY(um_tower_load_linear(l, &a->block.q, UM_SLOT_CROSS_Q, err));
    UM_TRY(um_tower_load_stacked(l, &a->block.k, kv, 2, err));
    UM_TRY(um_tower_load_linear(l, &a->block.out, UM_SLOT_CROSS_O, err));
    return um_tower_load_norm(l, &a->norm, UM_SLOT_CROSS_NORM, err);
}

static um_status load_layer(um_qformer_layer *out, um_params *ps, int layer, um_err *err)
{
    const um_sound_model *m = &ps->ck->model.sound;
    const um_tower_layer l = {ps, UM_PART_SOUND_ALIGNER, layer};
    out->self.block.shape = out->cross.block.shape = um_qformer_attention_shape(m);
    UM_TRY(load_self(&out->self, &l, err));
    if (has_cross(m, layer)) UM_TRY(load_cross(&out->cross, &l, err));
    UM_TRY(um_tower_load_linear(&l, &out->mlp.fc1, UM_SLOT_FC1, err));
    UM_TRY(um_tower_load_linear(&l, &out->mlp.fc2, UM_SLOT_FC2, err));
    return um_tower_load_norm(&l, &out->norm, UM_SLOT_NORM2, err);
}

static um_status load_queries(um_qformer *f, um_params *ps, um_err *err)
{
    const um_tower_layer l = {ps, UM_PART_SOUND_ALIGNER, -1};
    UM_TRY(um_tower_load_norm(&l, &f->query_norm, UM_SLOT_QUERY_NORM, err));
    return um_vector_load(&f->queries, ps, um_place_of(l.part, UM_SLOT_QUERIES, -1, -1),
                          UM_LEAF_WEIGHT, err);
}

um_status um_qformer_load(um_qformer *out, um_params *ps, um_err *err)
{
    const um_sound_model *m = &ps->ck->model.sound;
    um_qformer f = {.model = m, .params = ps};
    UM_TRY(load_queries(&f, ps, err));
    f.layers = um_arena_zero(ps->how.host, (size_t)m->q_layers * sizeof *f.layers);
    for (int i = 0; i < m->q_layers; i++) UM_TRY(load_layer(&f.layers[i], ps, i, err));
    *out = f;
    return UM_OK;
}

um_attention_shape um_qformer_attention_shape(const um_sound_model *m)
{
    return (um_attention_shape){m->q_heads, m->q_heads, m->q_dim / m->q_heads, UM_ATTENTION_Q_KV};
}

void um_qformer_acts_bind(um_qformer_acts *a, um_arena *host, um_arena *device,
                          const um_sound_model *m, int T, bool keep)
{
    const um_attention_shape shape = um_qformer_attention_shape(m);
    const int N = m->queries;
    a->first = um_arena_f32(device, (size_t)N, (size_t)m->q_dim);
    a->layer = um_arena_zero(host, (size_t)m->q_layers * sizeof *a->layer);
    um_postnorm_chain chain = um_postnorm_begin(device, a->first, N, m->q_dim, keep);
    for (int i = 0; i < m->q_layers; i++) {
        um_qformer_layer_acts *l = &a->layer[i];
        if (i == 0 || keep) {
            um_attention_acts_bind(&l->self_attention, device, &shape, N, N);
            if (has_cross(m, i)) um_attention_acts_bind(&l->cross_attention, device, &shape, N, T);
            um_mlp_acts_bind(&l->mlp, device, N, m->q_ffn_dim, keep);
        } else {
            *l = a->layer[0]; /* which has cross-attention */
        }
        l->self = um_postnorm_next(&chain);
        if (has_cross(m, i)) l->cross = um_postnorm_next(&chain);
        l->feed = um_postnorm_next(&chain);
    }
    a->last = chain.in;
    um_attention_pages_bind(&a->pages, host, device,
                            um_kv_page_floats(shape.kv_heads, shape.head_dim), um_max_int(N, T));
}

/* What every step of one pass needs. */
typedef struct run {
    const um_sound_model *m;
    um_dev *dev;
    const um_attention_pages *pages;
} run;

/* s->out = norm(s->in + attention(s->in to from)),   from[n, ...]: s->in itself or the rows of the window */
static void attend(const run *r, const um_postnorm_acts *s, um_attention_acts *a,
                   const um_qformer_attention *w, const float *from, int n)
{
    const int N = r->m->queries;
    um_attention_fwd(r->dev, a, &w->block, r->pages, s->in, N, from, n, false);
    um_attention_output(r->dev, s->sum, a, &w->block, s->in, N);
    um_norm_fwd(r->dev, s->out, s->sum, &w->norm, N, r->m->q_dim, r->m->q_eps);
}

/* s->out = norm(s->in + mlp(s->in)) */
static void feed_forward(const run *r, const um_postnorm_acts *s, um_mlp_acts *a,
                         const um_qformer_layer *l)
{
    const int N = r->m->queries;
    um_mlp_fwd(r->dev, s->sum, a, &l->mlp, s->in, s->in, N);
    um_norm_fwd(r->dev, s->out, s->sum, &l->norm, N, r->m->q_dim, r->m->q_eps);
}

void um_qformer_fwd(um_qformer_acts *a, const um_qformer *f, const float *x, int T, um_dev *dev)
{
    const um_sound_model *m = f->model;
    const run r = {m, dev, &a->pages};
    um_attention_pages_start(dev, &a->pages);
    um_norm_fwd(dev, a->first, f->queries, &f->query_norm, m->queries, m->q_dim, m->q_eps);
    for (int i = 0; i < m->q_layers; i++) {
        const um_qformer_layer *l = &f->layers[i];
        um_qformer_layer_acts *s = &a->layer[i];
        attend(&r, &s->self, &s->self_attention, &l->self, s->self.in, m->queries);
        if (has_cross(m, i)) attend(&r, &s->cross, &s->cross_attention, &l->cross, x, T);
        feed_forward(&r, &s->feed, &s->mlp, l);
    }
}

/* --- backward --- */

/* Forward was s->out = norm(s->in + f(s->in)). */
static const float *norm_bwd(const run *r, float *d, const um_postnorm_acts *s, const um_norm *norm,
                             um_arena *scratch)
{
    const um_sound_model *m = r->m;
    return um_postnorm_bwd(r->dev, d, s, norm, m->queries, m->q_dim, m->q_eps, scratch);
}

/* d: the gradient of s->out, which becomes that of s->in. dfrom: that of the rows attended to += ...; NULL: nobody wants it; in
 * self-attention they are s->in. */
static void attend_bwd(const run *r, float *d, float *dfrom, const um_postnorm_acts *s,
                       const um_attention_acts *a, const um_qformer_attention *w, const float *from,
                       int n, um_arena *scratch)
{
    const um_mark mark = um_arena_mark(scratch);
    const float *dsum = norm_bwd(r, d, s, &w->norm, scratch);
    um_attention_bwd(r->dev, d, from == s->in ? d : dfrom, a, &w->block, dsum, s->in, r->m->queries,
                     from, n, false, scratch);
    um_arena_reset(scratch, mark);
}

/* d: likewise. */
static void feed_bwd(const run *r, float *d, const um_postnorm_acts *s, const um_mlp_acts *a,
                     const um_qformer_layer *l, um_arena *scratch)
{
    const um_mark mark = um_arena_mark(scratch);
    const float *dsum = norm_bwd(r, d, s, &l->norm, scratch);
    um_mlp_bwd(r->dev, d, &l->mlp, a, dsum, s->in, r->m->queries, scratch);
    um_arena_reset(scratch, mark);
}

void um_qformer_bwd(const um_qformer_acts *a, const um_qformer *f, float *dx, float *dlast,
                    const float *x, int T, um_dev *dev, um_arena *scratch)
{
    const um_sound_model *m = f->model;
    const run r = {m, dev, &a->pages};
    const um_mark mark = um_arena_mark(scratch);
    for (int i = m->q_layers - 1; i >= 0; i--) {
        const um_qformer_layer *l = &f->layers[i];
        const um_qformer_layer_acts *s = &a->layer[i];
        feed_bwd(&r, dlast, &s->feed, &s->mlp, l, scratch);
        if (has_cross(m, i))
            attend_bwd(&r, dlast, dx, &s->cross, &s->cross_attention, &l->cross, x, T, scratch);
        attend_bwd(&r, dlast, NULL, &s->self, &s->self_attention, &l->self, s->self.in, m->queries,
                   scratch);
    }
    float *queries =
        um_tower_grad(f->params, UM_PART_SOUND_ALIGNER, UM_SLOT_QUERIES, -1, UM_LEAF_WEIGHT);
    if (queries == NULL) /* the norm's own gradients are wanted all the same */
        queries = um_tower_zeros(dev, scratch, um_at((size_t)m->queries, 0, (size_t)m->q_dim));
    um_norm_bwd(dev, queries, dlast, f->queries, &f->query_norm, m->queries, m->q_dim, m->q_eps);
    um_arena_reset(scratch, mark);
}
