/* See qformer.h. Sources: spec 3.3; Li et al. 2023, arXiv 2301.12597 (BLIP-2); transformers 4.31, Blip2QFormerModel. Letters: N number
 * of queries, Q their width, T rows of the window, D their width, F feed-forward width. */
#include "encoder_worker/towers/qformer.h"

#include "core/base/bytes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PREFIX = 160 };

static bool has_cross(const um_sound_model *m, int layer) { return layer % m->q_cross == 0; }

/* prefix is the name of the attention and a dot; keys are computed from rows of width `from`. */
static um_status load_attention(const um_tower_loader *l, um_qformer_attention *a,
                                const char *prefix, int Q, int from)
{
    UM_TRY(um_tower_load_linear(l, &a->q, prefix, "attention.query", Q, Q));
    UM_TRY(um_tower_load_pair(l, &a->kv, prefix, "attention.key", "attention.value", Q, from));
    UM_TRY(um_tower_load_linear(l, &a->out, prefix, "output.dense", Q, Q));
    return um_tower_load_norm(l, &a->norm, prefix, "output.LayerNorm", Q);
}

static um_status load_layer(const um_tower_loader *l, um_qformer_layer *out,
                            const um_sound_model *m, int layer)
{
    char at[PREFIX], part[PREFIX + 20];
    snprintf(at, sizeof at, "%sqformer.qformer.encoder.layer.%d.", m->names.prefix, layer);
    snprintf(part, sizeof part, "%sattention.", at);
    UM_TRY(load_attention(l, &out->self, part, m->q_dim, m->q_dim));
    snprintf(part, sizeof part, "%scrossattention.", at);
    if (has_cross(m, layer)) UM_TRY(load_attention(l, &out->cross, part, m->q_dim, m->dim));
    UM_TRY(
        um_tower_load_linear(l, &out->fc1, at, "intermediate_query.dense", m->q_ffn_dim, m->q_dim));
    UM_TRY(um_tower_load_linear(l, &out->fc2, at, "output_query.dense", m->q_dim, m->q_ffn_dim));
    return um_tower_load_norm(l, &out->norm, at, "output_query.LayerNorm", m->q_dim);
}

/* The queries are the same for every window, so their first norm is computed once, here. */
static um_status load_queries(const um_tower_loader *l, um_qformer *f)
{
    const um_sound_model *m = f->model;
    const int64_t shape[] = {1, m->queries, m->q_dim};
    char prefix[PREFIX];
    um_norm norm;
    const float *raw = NULL;
    snprintf(prefix, sizeof prefix, "%sqformer.qformer.", m->names.prefix);
    UM_TRY(um_tower_load_norm(l, &norm, prefix, "layernorm", m->q_dim));
    UM_TRY(um_tower_load_values(l, &raw, m->names.queries, "", 3, shape));
    float *queries = um_arena_f32(l->model, (size_t)m->queries, (size_t)m->q_dim);
    um_norm_fwd(l->dev, queries, raw, &norm, m->queries, m->q_dim, m->q_eps);
    f->queries = queries;
    return UM_OK;
}

um_status um_qformer_load(um_qformer *out, const um_sound_model *m, const um_tower_loader *l)
{
    um_qformer f = {.model = m};
    UM_TRY(load_queries(l, &f));
    f.layers = um_arena_zero(l->model, (size_t)m->q_layers * sizeof *f.layers);
    for (int i = 0; i < m->q_layers; i++) UM_TRY(load_layer(l, &f.layers[i], m, i));
    *out = f;
    return UM_OK;
}

/* Buffers of one window; all layers share them. */
typedef struct acts {
    float *x, *y, *q, *heads; /* [N,Q] */
    float *kv;                /* [max(N,T), 2Q]: keys, values */
    float *cache;             /* kv in the layout of the attention op */
    float *inner;             /* [N,F] */
} acts;

static acts acts_bind(const um_sound_model *m, int T, um_arena *a)
{
    const size_t N = (size_t)m->queries, Q = (size_t)m->q_dim;
    const int most = um_max_int(m->queries, T);
    acts s = {.x = um_arena_f32(a, N, Q), .y = um_arena_f32(a, N, Q)};
    s.q = um_arena_f32(a, N, Q);
    s.heads = um_arena_f32(a, N, Q);
    s.kv = um_arena_f32(a, (size_t)most, 2 * Q);
    s.cache = um_arena_f32(a, 1, um_kv_flat_floats(m->q_heads, m->q_dim / m->q_heads, most));
    s.inner = um_arena_f32(a, N, (size_t)m->q_ffn_dim);
    return s;
}

/* x = norm(x + out(softmax(q(x) k(from)^T / sqrt(head_dim)) v(from))),   from[n, ...]: x itself or the rows of the window */
static void attend(um_dev *dev, const acts *s, const um_qformer_attention *a, const float *from,
                   int n, const um_sound_model *m)
{
    const int N = m->queries, Q = m->q_dim, head_dim = Q / m->q_heads;
    um_kv_flat kv = {0};
    um_linear_fwd(dev, s->q, s->x, N, &a->q);
    um_linear_fwd(dev, s->kv, from, n, &a->kv);
    um_kv_flat_bind(&kv, s->cache, m->q_heads, head_dim, n);
    dev->ops->kv_append_flat(dev, &kv, s->kv, 2 * Q, s->kv + Q, 2 * Q, n);
    dev->ops->attention_flat(dev, s->heads, Q, NULL, s->q, Q, &kv, m->q_heads, N, 0,
                             (float)(1.0 / sqrt((double)head_dim)), false);
    um_linear_add(dev, s->x, s->heads, N, &a->out);
    um_norm_fwd(dev, s->y, s->x, &a->norm, N, Q, m->q_eps);
    memcpy(s->x, s->y, um_at((size_t)N, 0, (size_t)Q) * sizeof *s->x);
}

/* x = norm(x + fc2(gelu(fc1(x)))) */
static void feed_forward(um_dev *dev, const acts *s, const um_qformer_layer *l,
                         const um_sound_model *m)
{
    const size_t N = (size_t)m->queries;
    um_linear_fwd(dev, s->inner, s->x, m->queries, &l->fc1);
    dev->ops->gelu(dev, s->inner, s->inner, N * (size_t)m->q_ffn_dim);
    um_linear_add(dev, s->x, s->inner, m->queries, &l->fc2);
    um_norm_fwd(dev, s->y, s->x, &l->norm, m->queries, m->q_dim, m->q_eps);
    memcpy(s->x, s->y, N * (size_t)m->q_dim * sizeof *s->x);
}

void um_qformer_encode(float *y, const um_qformer *f, const float *x, int T, um_dev *dev,
                       um_arena *scratch)
{
    const um_sound_model *m = f->model;
    const size_t bytes = (size_t)m->queries * (size_t)m->q_dim * sizeof *y;
    um_mark mark = um_arena_mark(scratch);
    acts s = acts_bind(m, T, scratch);
    memcpy(s.x, f->queries, bytes);
    for (int i = 0; i < m->q_layers; i++) {
        const um_qformer_layer *l = &f->layers[i];
        attend(dev, &s, &l->self, s.x, m->queries, m);
        if (has_cross(m, i)) attend(dev, &s, &l->cross, x, T, m);
        feed_forward(dev, &s, l, m);
    }
    memcpy(y, s.x, bytes);
    um_arena_reset(scratch, mark);
}
