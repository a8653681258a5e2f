/* See vision.h: the forward pass. Source: Radford et al. 2021, arXiv 2103.00020; transformers 4.31, CLIPVisionTransformer; LLaVA's
 * clip_encoder and multimodal_projector. Letters: S side of the image, P of a patch, T rows (class row
 * and patches), D width, F feed-forward width. */
#include "encoder_worker/towers/vision.h"

#include "core/base/bytes.h"

#include <string.h>

static int grid(const um_vision_model *m) { return m->image_size / m->patch; }
static int patches(const um_vision_model *m) { return grid(m) * grid(m); }
static int pages_of(int positions) { return (positions + UM_PAGE - 1) / UM_PAGE; }

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

/* Rows first .. of every image, and their pages. */
static void spans_bind(um_vision_acts *a, um_arena *host, int rows)
{
    a->span = um_arena_alloc(host, (size_t)a->images * sizeof *a->span);
    a->key_row = um_arena_i32(host, (size_t)a->images);
    for (int i = 0; i < a->images; i++) {
        a->key_row[i] = i * rows;
        a->span[i] = (um_span){.row = i * rows, .T = rows, .n = rows, .page = i * pages_of(rows)};
    }
}

/* Of the tower. */
static void tower_acts_bind(um_vision_acts *a, um_arena *host, um_arena *device,
                            const um_vision_model *m, bool keep)
{
    const um_attention_shape shape = um_vision_attention(m);
    const int one = patches(m) + 1, rows = a->images * one, layers = m->run_layers;
    const size_t T = (size_t)rows, D = (size_t)m->dim, all = T - (size_t)a->images;
    const size_t K = (size_t)m->channels * (size_t)m->patch * (size_t)m->patch;
    spans_bind(a, host, one);
    a->staged = um_arena_f32(host, all, K);
    a->cols = um_arena_f32(device, all, K);
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
    a->features = a->last + (m->keep_class ? 0 : m->dim);
    a->next_features = um_at((size_t)one, 0, D);
    um_attention_pages_bind(&a->pages, host, device,
                            um_kv_page_floats(shape.kv_heads, shape.head_dim),
                            a->images * pages_of(one) * UM_PAGE);
}

void um_vision_acts_bind_images(um_vision_acts *a, int images, um_arena *host, um_arena *device,
                                const um_vision_model *m, int dim_out, um_tower_point from,
                                bool keep)
{
    const int n = um_vision_rows(m);
    a->images = images;
    if (from == UM_AT_INPUT) {
        tower_acts_bind(a, host, device, m, keep);
    } else {
        a->next_features = um_at((size_t)n, 0, (size_t)m->dim);
        a->features = um_arena_f32(device, (size_t)images, a->next_features);
    }
    a->projector = um_arena_zero(host, (size_t)images * sizeof *a->projector);
    for (int i = 0; i < images; i++) {
        a->projector[i] = a->projector[0];
        if (i == 0 || keep)
            um_projector_acts_bind(&a->projector[i], host, device, m->proj_layers, n, dim_out,
                                   keep);
    }
}

void um_vision_acts_bind(um_vision_acts *a, um_arena *host, um_arena *device,
                         const um_vision_model *m, int dim_out, um_tower_point from, bool keep)
{
    um_vision_acts_bind_images(a, 1, host, device, m, dim_out, from, keep);
}

float *um_vision_at(const um_vision_acts *a, um_tower_point at)
{
    UM_ASSERT(at != UM_AT_ROWS);
    return at == UM_AT_INPUT ? a->staged : a->features;
}

size_t um_vision_values(const um_vision_model *m, um_tower_point at)
{
    UM_ASSERT(at != UM_AT_ROWS);
    if (at != UM_AT_INPUT) return um_at((size_t)um_vision_rows(m), 0, (size_t)m->dim);
    return um_at((size_t)patches(m), 0, (size_t)(m->channels * m->patch * m->patch));
}

/* first[T,D] = norm([class; patches] + positions) of every image */
static void embed(um_dev *d, const um_vision_acts *a, const um_vision *v)
{
    const um_vision_model *m = v->model;
    const int n = patches(m), T = n + 1;
    const size_t K = (size_t)v->patch.w.K, one = um_at((size_t)T, 0, (size_t)m->dim);
    const size_t cols = um_at((size_t)n, 0, K);
    d->ops->put(d, a->cols, a->staged, (size_t)a->images * cols * sizeof(float));
    for (int i = 0; i < a->images; i++) {
        float *sum = a->sum + (size_t)i * one;
        d->ops->copy(d, sum, v->class_row, (size_t)m->dim * sizeof(float));
        um_linear_fwd(d, sum + m->dim, a->cols + (size_t)i * cols, n, &v->patch);
        d->ops->add(d, sum, v->positions, one);
    }
    um_norm_fwd(d, a->first, a->sum, &v->pre, a->images * T, m->dim, m->eps);
}

/* Every image attends to itself. */
static void attend(um_dev *d, um_vision_layer_acts *l, const um_vision_block *b,
                   const um_vision_acts *a, int T)
{
    const um_attention *w = &b->attention;
    const um_kv kv = um_attention_pages_kv(&a->pages, &w->shape);
    um_attention_project(d, &l->attention, w, l->norm1, T, l->norm1, T);
    um_attention_write(d, &l->attention, &kv, a->span, a->images);
    um_attention_attend(d, &l->attention, &w->shape, &kv, a->span, a->images, false);
}

static void layer_fwd(um_dev *d, um_vision_layer_acts *l, const um_vision_block *b,
                      const um_vision_acts *a, const um_vision_model *m)
{
    const int T = a->images * (patches(m) + 1), D = m->dim;
    um_norm_fwd(d, l->norm1, l->in, &b->norm1, T, D, m->eps);
    attend(d, l, b, a, T);
    um_attention_output(d, l->mid, &l->attention, &b->attention, l->in, T);
    um_norm_fwd(d, l->norm2, l->mid, &b->norm2, T, D, m->eps);
    um_mlp_fwd(d, l->out, &l->mlp, &b->mlp, l->norm2, l->mid, T);
}

um_status um_vision_input(um_vision_acts *a, const um_vision_model *m, const float *pixels,
                          um_err *err)
{
    const int64_t all = (int64_t)m->channels * m->image_size * m->image_size;
    UM_TRY(um_tower_check_finite(pixels, all, "pixel", err));
    unfold(a->staged, pixels, m);
    return UM_OK;
}

void um_vision_fwd(float *rows, const um_vision *v, um_vision_acts *a, um_tower_point from,
                   um_tower_point to, um_dev *dev)
{
    const um_vision_model *m = v->model;
    const size_t one = um_at((size_t)um_vision_rows(m), 0, (size_t)v->dim_out);
    if (from == UM_AT_INPUT) {
        um_attention_pages_start(dev, &a->pages);
        embed(dev, a, v);
        for (int i = 0; i < m->run_layers; i++) layer_fwd(dev, &a->layer[i], &v->blocks[i], a, m);
    }
    for (int i = 0; i < a->images && to == UM_AT_ROWS; i++)
        um_tower_project(dev, rows + (size_t)i * one, a->projector[i], v->projector, m->proj_layers,
                         a->features + (size_t)i * a->next_features, um_vision_rows(m));
}

um_status um_vision_encode(float *rows, const um_vision *v, um_vision_acts *a, const float *pixels,
                           um_dev *dev, um_err *err)
{
    UM_TRY(um_vision_input(a, v->model, pixels, err));
    um_vision_fwd(rows, v, a, UM_AT_INPUT, UM_AT_ROWS, dev);
    return UM_OK;
}

/* --- backward --- */

/* Forward was l->mid = in + attend. dnorm[T,D] += the gradient of norm1, from d, that of mid. */
static void attend_bwd(um_dev *dev, float *dnorm, const float *d, const um_vision_layer_acts *l,
                       const um_vision_block *b, const um_vision_acts *a, int T, um_arena *scratch)
{
    const um_attention *w = &b->attention;
    um_attention_grads g;
    um_attention_grads_start(dev, &g, scratch, &w->shape, T, T);
    um_attention_output_bwd(dev, &g, &l->attention, w, d, T, scratch);
    um_attention_attend_bwd(dev, &g, &l->attention, &w->shape, a->span, a->key_row, a->images,
                            false);
    um_attention_project_bwd(dev, dnorm, dnorm, &g, w, l->norm1, T, l->norm1, T, scratch);
}

/* Forward was mid = in + attention(norm1(in)), out = mid + mlp(norm2(mid)). d[T,D]: the gradient of out, which becomes that of in. */
static void layer_bwd(um_dev *dev, float *d, const um_vision_layer_acts *l,
                      const um_vision_block *b, const um_vision_acts *a, const um_vision_model *m,
                      um_arena *scratch)
{
    const um_mark mark = um_arena_mark(scratch);
    const int T = a->images * (patches(m) + 1), D = m->dim;
    const size_t n = um_at((size_t)T, 0, (size_t)D);
    float *dnorm = um_tower_zeros(dev, scratch, n);
    um_mlp_bwd(dev, dnorm, &b->mlp, &l->mlp, d, l->norm2, T, scratch);
    um_norm_bwd(dev, d, dnorm, l->mid, &b->norm2, T, D, m->eps);
    dev->ops->fill(dev, dnorm, 0.0f, n);
    attend_bwd(dev, dnorm, d, l, b, a, T, scratch);
    um_norm_bwd(dev, d, dnorm, l->in, &b->norm1, T, D, m->eps);
    um_arena_reset(scratch, mark);
}

/* Forward was first = norm(sum), sum = [class; patch(cols)] + positions. d[T,D]: the gradient of first. */
static void embed_bwd(um_dev *dev, const float *d, const um_vision_acts *a, const um_vision *v,
                      um_arena *scratch)
{
    const um_vision_model *m = v->model;
    const int n = patches(m), D = m->dim;
    const size_t one = um_at((size_t)n + 1, 0, (size_t)D);
    const size_t cols = um_at((size_t)n, 0, (size_t)v->patch.w.K);
    float *dsum = um_tower_zeros(dev, scratch, (size_t)a->images * one);
    um_norm_bwd(dev, dsum, d, a->sum, &v->pre, a->images * (n + 1), D, m->eps);
    float *positions =
              um_tower_grad(v->params, UM_PART_VISION, UM_SLOT_POSITIONS, -1, UM_LEAF_WEIGHT),
          *class_row = um_tower_grad(v->params, UM_PART_VISION, UM_SLOT_CLASS, -1, UM_LEAF_WEIGHT);
    for (int i = 0; i < a->images; i++, dsum += one) {
        if (positions != NULL) dev->ops->add(dev, positions, dsum, one);
        if (class_row != NULL) dev->ops->add(dev, class_row, dsum, (size_t)D);
        um_linear_bwd(dev, NULL, &v->patch, dsum + D, a->cols + (size_t)i * cols, n, scratch);
    }
}

void um_vision_bwd(const um_vision *v, const um_vision_acts *a, um_tower_point from,
                   const float *drows, um_dev *dev, um_arena *scratch)
{
    const um_vision_model *m = v->model;
    const um_mark mark = um_arena_mark(scratch);
    const bool tower = from == UM_AT_INPUT;
    const size_t one = um_at((size_t)um_vision_rows(m), 0, (size_t)v->dim_out);
    const size_t all = um_at((size_t)patches(m) + 1, 0, (size_t)m->dim) * (size_t)a->images;
    float *d = tower ? um_tower_zeros(dev, scratch, all) : NULL;
    for (int i = 0; i < a->images; i++) {
        const size_t at = (size_t)i * a->next_features;
        um_tower_project_bwd(dev, tower ? d + at + (m->keep_class ? 0 : m->dim) : NULL,
                             a->projector[i], v->projector, m->proj_layers, drows + (size_t)i * one,
                             a->features + at, um_vision_rows(m), scratch);
    }
    if (tower) {
        for (int i = m->run_layers - 1; i >= 0; i--)
            layer_bwd(dev, d, &a->layer[i], &v->blocks[i], a, m, scratch);
        embed_bwd(dev, d, a, v, scratch);
    }
    um_arena_reset(scratch, mark);
}
