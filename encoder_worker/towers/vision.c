/* See vision.h. Source: Radford et al. 2021, arXiv 2103.00020; transformers 4.31, CLIPVisionTransformer; LLaVA's clip_encoder and
 * multimodal_projector. Letters: S side of the image, P of a patch, T rows (class row and patches), D width, F feed-forward width. */
#include "encoder_worker/towers/vision.h"

#include "core/base/bytes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME = 200 };

static int grid(const um_vision_model *m) { return m->image_size / m->patch; }
static int patches(const um_vision_model *m) { return grid(m) * grid(m); }

int um_vision_rows(const um_vision_model *m) { return patches(m) + (m->keep_class ? 1 : 0); }

static um_status load_embeddings(const um_tower_loader *l, um_vision *out, const um_vision_model *m)
{
    static const char patch[] = "vision_model.embeddings.patch_embedding.weight";
    static const char position[] = "vision_model.embeddings.position_embedding.weight";
    const um_tensor *t = NULL;
    int64_t conv[4] = {m->dim, m->channels, m->patch, m->patch},
            table[2] = {patches(m) + 1, m->dim};
    int K = m->channels * m->patch * m->patch;
    UM_TRY(um_tensors_want(l->set, &t, patch, 4, conv, l->err));
    UM_TRY(um_linear_load_plain(&out->patch, l->set, patch, NULL, m->dim, K, l->keep, l->dev,
                                l->model, l->err));
    UM_TRY(um_vector_load(&out->class_row, l->set, "vision_model.embeddings.class_embedding",
                          m->dim, l->model, l->err));
    um_status st = um_tensors_want(l->set, &t, position, 2, table, l->err);
    if (st != UM_OK)
        return um_wrap(l->err, st, "a %d pixel image in patches of %d has %d rows", m->image_size,
                       m->patch, patches(m) + 1);
    float *positions = um_arena_f32(l->model, (size_t)table[0], (size_t)table[1]);
    um_tensor_to_f32(positions, t);
    um_tensors_forget(l->set, t);
    out->positions = positions;
    return um_tower_load_norm(l, &out->pre, "vision_model.", "pre_layrnorm", m->dim);
}

static um_status load_block(const um_tower_loader *l, um_vision_block *b, const um_vision_model *m,
                            int layer)
{
    struct {
        um_linear *to;
        const char *rest;
        int N, K;
    } const linears[] = {
        {&b->q, "self_attn.q_proj", m->dim, m->dim},
        {&b->k, "self_attn.k_proj", m->dim, m->dim},
        {&b->v, "self_attn.v_proj", m->dim, m->dim},
        {&b->out, "self_attn.out_proj", m->dim, m->dim},
        {&b->fc1, "mlp.fc1", m->ffn_dim, m->dim},
        {&b->fc2, "mlp.fc2", m->dim, m->ffn_dim},
    };
    char name[NAME / 2];
    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++) {
        snprintf(name, sizeof name, "vision_model.encoder.layers.%d.%s", layer, linears[i].rest);
        UM_TRY(um_tower_load_linear(l, linears[i].to, name, "", linears[i].N, linears[i].K));
    }
    snprintf(name, sizeof name, "vision_model.encoder.layers.%d.layer_norm1", layer);
    UM_TRY(um_tower_load_norm(l, &b->norm1, name, "", m->dim));
    snprintf(name, sizeof name, "vision_model.encoder.layers.%d.layer_norm2", layer);
    return um_tower_load_norm(l, &b->norm2, name, "", m->dim);
}

um_status um_vision_load(um_vision *out, const um_checkpoint *ck, um_dev *dev, const char *weights,
                         um_arena *model, um_err *err)
{
    const um_vision_model *m = &ck->model.vision;
    um_tower_loader l = {um_checkpoint_set(ck, UM_PART_VISION), dev, weights, model, err};
    um_vision v = {.model = m, .dim_out = ck->model.dim};
    if (!m->present || l.set == NULL)
        return UM_FAIL(err, UM_E_MODEL, "the model has no vision tower");
    if (m->channels != 3)
        return UM_FAIL(err, UM_E_MODEL, "%s: num_channels %d, images have 3", m->dir, m->channels);
    UM_TRY(load_embeddings(&l, &v, m));
    v.blocks = um_arena_zero(model, (size_t)m->run_layers * sizeof *v.blocks);
    for (int i = 0; i < m->run_layers; i++) UM_TRY(load_block(&l, &v.blocks[i], m, i));
    l.set = um_checkpoint_set(ck, UM_PART_PROJECTOR);
    UM_TRY(um_tower_load_projector(&l, &v.projector, "model.mm_projector", m->proj, m->proj_layers,
                                   v.dim_out, m->dim));
    *out = v;
    return UM_OK;
}

/* cols[patches, channels*P*P]: row (gy, gx) is the patch there, one channel after another, in the order of the convolution's weight.
 * Pixels at the right and at the bottom that the grid does not cover are left out, as in the convolution. */
static void unfold(float *cols, const float *pixels, const um_vision_model *m)
{
    size_t S = (size_t)m->image_size, P = (size_t)m->patch, G = (size_t)grid(m);
    for (size_t gy = 0; gy < G; gy++)
        for (size_t gx = 0; gx < G; gx++)
            for (size_t c = 0; c < (size_t)m->channels; c++)
                for (size_t y = 0; y < P; y++, cols += P)
                    memcpy(cols, pixels + um_at(c * S + gy * P + y, gx * P, S), P * sizeof *cols);
}

/* Buffers of one image; all layers share them. */
typedef struct acts {
    float *x, *norm;          /* [T,D] */
    float *q, *k, *v, *heads; /* [T,D] */
    float *inner;             /* [T,F] */
    float *kv;                /* keys and values in the layout of the attention op */
} acts;

static acts acts_bind(const um_vision_model *m, int T, um_arena *a)
{
    size_t rows = (size_t)T, D = (size_t)m->dim;
    acts s = {.x = um_arena_f32(a, rows, D), .norm = um_arena_f32(a, rows, D)};
    s.q = um_arena_f32(a, rows, D);
    s.k = um_arena_f32(a, rows, D);
    s.v = um_arena_f32(a, rows, D);
    s.heads = um_arena_f32(a, rows, D);
    s.inner = um_arena_f32(a, rows, (size_t)m->ffn_dim);
    s.kv = um_arena_f32(a, 1, um_kv_flat_floats(m->heads, m->dim / m->heads, T));
    return s;
}

/* x[T,D] = norm([class; patches] + positions) */
static void embed(um_dev *d, const acts *s, const um_vision *v, const float *pixels, int T,
                  um_arena *scratch)
{
    const um_vision_model *m = v->model;
    um_mark mark = um_arena_mark(scratch);
    float *cols = um_arena_f32(scratch, (size_t)(T - 1), (size_t)v->patch.w.K);
    unfold(cols, pixels, m);
    memcpy(s->norm, v->class_row, (size_t)m->dim * sizeof(float));
    um_linear_fwd(d, s->norm + m->dim, cols, T - 1, &v->patch);
    d->ops->add(d, s->norm, v->positions, um_at((size_t)T, 0, (size_t)m->dim));
    um_norm_fwd(d, s->x, s->norm, &v->pre, T, m->dim, m->eps);
    um_arena_reset(scratch, mark);
}

/* x += out(softmax(q k^T / sqrt(head_dim)) v) of norm1(x);   x += fc2(act(fc1(norm2(x)))).   x[T,D] */
static void block_fwd(um_dev *d, const acts *s, const um_vision_block *b, const um_vision_model *m,
                      int T)
{
    int D = m->dim, head_dim = D / m->heads;
    um_kv_flat kv = {0};
    um_norm_fwd(d, s->norm, s->x, &b->norm1, T, D, m->eps);
    um_linear_fwd(d, s->q, s->norm, T, &b->q);
    um_linear_fwd(d, s->k, s->norm, T, &b->k);
    um_linear_fwd(d, s->v, s->norm, T, &b->v);
    um_kv_flat_bind(&kv, s->kv, m->heads, head_dim, T);
    d->ops->kv_append_flat(d, &kv, s->k, D, s->v, D, T);
    float scale = (float)(1.0 / sqrt((double)head_dim));
    d->ops->attention_flat(d, s->heads, D, NULL, s->q, D, &kv, m->heads, T, 0, scale, false);
    um_linear_add(d, s->x, s->heads, T, &b->out);

    size_t n = um_at((size_t)T, 0, (size_t)m->ffn_dim);
    um_norm_fwd(d, s->norm, s->x, &b->norm2, T, D, m->eps);
    um_linear_fwd(d, s->inner, s->norm, T, &b->fc1);
    if (m->quick_gelu)
        d->ops->quick_gelu(d, s->inner, s->inner, n);
    else
        d->ops->gelu(d, s->inner, s->inner, n);
    um_linear_add(d, s->x, s->inner, T, &b->fc2);
}

um_status um_vision_encode(float *rows, const um_vision *v, const float *pixels, um_dev *dev,
                           um_arena *scratch, um_err *err)
{
    const um_vision_model *m = v->model;
    int T = patches(m) + 1, n = um_vision_rows(m);
    for (size_t i = 0, all = (size_t)m->channels * (size_t)m->image_size * (size_t)m->image_size;
         i < all; i++)
        if (!isfinite(pixels[i])) return UM_FAIL(err, UM_E_DATA, "pixel %zu is not finite", i);
    um_mark mark = um_arena_mark(scratch);
    acts s = acts_bind(m, T, scratch);
    embed(dev, &s, v, pixels, T, scratch);
    for (int i = 0; i < m->run_layers; i++) block_fwd(dev, &s, &v->blocks[i], m, T);
    um_tower_project(dev, rows, v->projector, m->proj_layers, s.x + (m->keep_class ? 0 : m->dim), n,
                     scratch);
    um_arena_reset(scratch, mark);
    return UM_OK;
}
