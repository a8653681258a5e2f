/* See vision.h: the forward pass. Source: Radford et al. 2021, arXiv 2103.00020; transformers 4.31, CLIPVisionTransformer; LLaVA's
 * clip_encoder and multimodal_projector. Letters: S side of the image, P of a patch, T rows (class row
 * and patches), D width, F feed-forward width. */
#include "encoder_worker/towers/vision.h"

#include "core/base/bytes.h"

#include <string.h>

static int grid(const um_vision_model *m) { return m->image_size / m->patch; }
static int patches(const um_vision_model *m) { return grid(m) * grid(m); }

um_attention_shape um_vision_attention(const um_vision_model *m)
{
    return (um_attention_shape){m->heads, m->heads, m->dim / m->heads, UM_ATTENTION_Q_K_V};
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

void um_vision_acts_bind(um_vision_acts *a, um_arena *host, um_arena *device,
                         const um_vision_model *m, int dim_out, bool keep)
{
    const um_attention_shape shape = um_vision_attention(m);
    const int rows = patches(m) + 1, layers = m->run_layers;
    const size_t T = (size_t)rows, D = (size_t)m->dim;
    const size_t K = (size_t)m->channels * (size_t)m->patch * (size_t)m->patch;
    a->staged = um_arena_f32(host, T - 1, K);
    a->cols = um_arena_f32(device, T - 1, K);
    a->sum = um_arena_f32(device, T, D);
    a->first = a->last = um_arena_f32(device, T, D);
    a->layer = um_arena_zero(host, (size_t)layers * sizeof *a->layer);
    for (int i = 0; i < layers; i++) {
        um_vision_layer_acts *l = &a->layer[i];
        if (i > 0 && !keep) {
            *l = a->layer[0];
            continue;
        }
        l->in = a->last;
        l->mid = keep ? um_arena_f32(device, T, D) : l->in;
        l->out = keep ? um_arena_f32(device, T, D) : l->in;
        l->norm1 = keep ? um_arena_f32(device, T, D) : a->sum;
        l->norm2 = keep ? um_arena_f32(device, T, D) : a->sum;
        um_attention_acts_bind(&l->attention, device, &shape, rows, rows);
        um_mlp_acts_bind(&l->mlp, device, rows, m->ffn_dim, keep);
        a->last = l->out;
    }
    um_attention_pages_bind(&a->pages, host, device,
                            um_kv_page_floats(shape.kv_heads, shape.head_dim), rows);
    um_projector_acts_bind(&a->projector, host, device, m->proj_layers, um_vision_rows(m), dim_out,
                           keep);
}

/* first[T,D] = norm([class; patches] + positions) */
static void embed(um_dev *d, const um_vision_acts *a, const um_vision *v, const float *pixels)
{
    const um_vision_model *m = v->model;
    const int n = patches(m), T = n + 1;
    unfold(a->staged, pixels, m);
    d->ops->put(d, a->cols, a->staged, um_at((size_t)n, 0, (size_t)v->patch.w.K) * sizeof(float));
    d->ops->copy(d, a->sum, v->class_row, (size_t)m->dim * sizeof(float));
    um_linear_fwd(d, a->sum + m->dim, a->cols, n, &v->patch);
    d->ops->add(d, a->sum, v->positions, um_at((size_t)T, 0, (size_t)m->dim));
    um_norm_fwd(d, a->first, a->sum, &v->pre, T, m->dim, m->eps);
}

static void layer_fwd(um_dev *d, um_vision_layer_acts *l, const um_vision_block *b,
                      const um_attention_pages *pages, const um_vision_model *m)
{
    const int T = patches(m) + 1, D = m->dim;
    um_norm_fwd(d, l->norm1, l->in, &b->norm1, T, D, m->eps);
    um_attention_fwd(d, &l->attention, &b->attention, pages, l->norm1, T, l->norm1, T, false);
    um_attention_output(d, l->mid, &l->attention, &b->attention, l->in, T);
    um_norm_fwd(d, l->norm2, l->mid, &b->norm2, T, D, m->eps);
    um_mlp_fwd(d, l->out, &l->mlp, &b->mlp, l->norm2, l->mid, T);
}

um_status um_vision_encode(float *rows, const um_vision *v, um_vision_acts *a, const float *pixels,
                           um_dev *dev, um_err *err)
{
    const um_vision_model *m = v->model;
    const int64_t all = (int64_t)m->channels * m->image_size * m->image_size;
    UM_TRY(um_tower_check_finite(pixels, all, "pixel", err));
    um_attention_pages_start(dev, &a->pages);
    embed(dev, a, v, pixels);
    for (int i = 0; i < m->run_layers; i++)
        layer_fwd(dev, &a->layer[i], &v->blocks[i], &a->pages, m);
    um_tower_project(dev, rows, a->projector, v->projector, m->proj_layers,
                     a->last + (m->keep_class ? 0 : m->dim), um_vision_rows(m));
    return UM_OK;
}
