/* See beats.h. Sources: spec 2.5; Chen et al. 2022, arXiv 2212.09058 (BEATs); Chi et al. 2021, arXiv 2106.16138 (gated relative
 * position bias); Wang et al. 2022, arXiv 2203.00555 (DeepNorm). Letters: T computed rows, D width, F feed-forward width, P side of a
 * patch, C inputs of one convolution group, K kernel size of the convolution. */
#include "encoder_worker/towers/beats.h"

#include "core/base/bytes.h"

#include <math.h>
#include <string.h>

/* Blocks of `block` elements, `blocks` in all, that contain at least one of the first n elements. */
static int64_t touched(int64_t n, int64_t block, int64_t blocks)
{
    const int64_t t = (n + block - 1) / block;
    return t < blocks ? t : blocks;
}

int um_beats_real_rows(const um_beats *b, int64_t n)
{
    const int64_t frames = touched(n, um_beats_window(b->model) / b->frames, b->frames);
    return (int)touched(frames, b->frames / b->rows, b->rows);
}

/* Rows of padding are never keys. A row that is so far behind the
 * real rows that its convolution reaches none of them, and that has the same bias for all keys, equals every row behind it in every
 * layer, bit for bit. The rows behind it are therefore copied from it. */
um_beats_extent um_beats_extent_of(const um_beats *b, int real)
{
    const int first = um_max_int(real + b->model->conv_pos / 2, real - 1 + b->reach);
    return (um_beats_extent){um_min_int(b->rows, first + 1), real};
}

/* cols[real, P*P]: the rows of a patch one after another, in the order of the convolution's weight; patches of the same time are
 * adjacent. Frames and bins at the end that no patch covers are left out. */
static void unfold(float *cols, const float *bank, int real, int patch)
{
    const size_t P = (size_t)patch, across = UM_FBANK_BINS / P;
    for (size_t i = 0; i < (size_t)real; i++) {
        const size_t t = i / across, f = i % across;
        for (size_t y = 0; y < P; y++, cols += P)
            memcpy(cols, bank + um_at(t * P + y, f * P, UM_FBANK_BINS), P * sizeof *cols);
    }
}

int64_t um_beats_window(const um_sound_model *m)
{
    return (int64_t)UM_WAVE_RATE * m->window_seconds;
}

int um_beats_frames(const um_sound_model *m) { return um_fbank_frames(um_beats_window(m)); }

int um_beats_rows(const um_sound_model *m)
{
    return um_beats_frames(m) / m->patch * (UM_FBANK_BINS / m->patch);
}

um_attention_shape um_beats_attention(const um_sound_model *m)
{
    return (um_attention_shape){m->heads, m->heads, m->dim / m->heads, UM_ATTENTION_Q_KV};
}

static void layer_acts_bind(um_beats_layer_acts *l, um_arena *device, const um_sound_model *m,
                            int T, bool keep)
{
    const um_attention_shape shape = um_beats_attention(m);
    const size_t rows = (size_t)T, heads = (size_t)m->heads;
    um_attention_acts_bind(&l->attention, device, &shape, T, T);
    if (m->gated) {
        l->grep = um_arena_f32(device, rows * heads, UM_BEATS_GREP);
        l->gate = um_arena_f32(device, rows, heads);
    }
    um_mlp_acts_bind(&l->mlp, device, T, m->ffn_dim, keep);
}

static void embed_acts_bind(um_beats_acts *a, um_arena *host, um_arena *device,
                            const um_sound_model *m, bool keep)
{
    const size_t T = (size_t)um_beats_rows(m), D = (size_t)m->dim, E = (size_t)m->patch_dim,
                 P = (size_t)m->patch;
    a->bank = um_arena_f32(host, (size_t)um_beats_frames(m), UM_FBANK_BINS);
    a->staged = um_arena_f32(host, T, P * P);
    a->cols = um_arena_f32(device, T, P * P);
    a->raw = um_arena_f32(device, T, E);
    a->rows = um_arena_f32(device, T, D);
    a->normed = m->patch_dim != m->dim ? um_arena_f32(device, T, E) : a->rows;
    a->group = um_arena_f32(device, T + (size_t)m->conv_pos, D / (size_t)m->conv_groups);
    a->conv = um_arena_f32(device, T, D);
    a->act = keep ? um_arena_f32(device, T, D) : a->conv;
    a->sum = keep ? um_arena_f32(device, T, D) : a->rows;
    a->first = um_arena_f32(device, T, D);
}

void um_beats_acts_bind(um_beats_acts *a, um_arena *host, um_arena *device, const um_sound_model *m,
                        bool keep)
{
    const um_attention_shape shape = um_beats_attention(m);
    const int T = um_beats_rows(m);
    embed_acts_bind(a, host, device, m, keep);
    um_attention_pages_bind(&a->pages, host, device,
                            um_kv_page_floats(shape.kv_heads, shape.head_dim), T);
    a->layer = um_arena_zero(host, (size_t)m->layers * sizeof *a->layer);
    um_postnorm_chain chain = um_postnorm_begin(device, a->first, T, m->dim, keep);
    for (int i = 0; i < m->layers; i++) {
        um_beats_layer_acts *l = &a->layer[i];
        if (i == 0 || keep)
            layer_acts_bind(l, device, m, T, keep);
        else
            *l = a->layer[0];
        l->attend = um_postnorm_next(&chain);
        l->feed = um_postnorm_next(&chain);
    }
    a->out = chain.in;
}

/* rows[T,D] = project(norm(patches)); rows of padding are zero. */
static void embed(const um_beats_acts *a, const um_beats *b, um_beats_extent e, um_dev *dev)
{
    const um_sound_model *m = b->model;
    const size_t rows = (size_t)e.real, D = (size_t)m->dim;
    dev->ops->put(dev, a->cols, a->staged, rows * (size_t)b->patch.w.K * sizeof(float));
    um_linear_fwd(dev, a->raw, a->cols, e.real, &b->patch);
    um_norm_fwd(dev, a->normed, a->raw, &b->patch_norm, e.real, m->patch_dim, UM_BEATS_EPS);
    if (a->normed != a->rows) um_linear_fwd(dev, a->rows, a->normed, e.real, &b->project);
    dev->ops->fill(dev, a->rows + rows * D, 0.0f, ((size_t)e.T - rows) * D);
}

/* sum[T,D] = rows + gelu(conv(rows) + bias), in groups: output o of row t = sum over taps k and inputs i of w[o,k,i] rows[t + k - K/2,
 * i]. The columns of a group are copied one row after another between rows of zeros. The window of row t+1 then begins one row after the
 * window of row t, so the convolution is a gemm over overlapping rows. */
static void add_positions(const um_beats_acts *a, const um_beats *b, int T, um_dev *dev)
{
    const um_sound_model *m = b->model;
    const int D = m->dim, K = m->conv_pos, C = D / m->conv_groups;
    const size_t n = um_at((size_t)T, 0, (size_t)D), cols = (size_t)C;
    dev->ops->fill(dev, a->group, 0.0f, um_at((size_t)(T + K), 0, cols));
    for (int q = 0; q < m->conv_groups; q++) {
        dev->ops->copy_2d(dev, a->group + um_at((size_t)(K / 2), 0, cols), C, a->rows + q * C, D, T,
                          C);
        dev->ops->gemm(dev, a->conv + q * C, D, a->group, C, T, &b->conv[q], b->conv_bias + q * C,
                       false);
    }
    dev->ops->gelu(dev, a->act, a->conv, n);
    if (a->sum != a->rows) dev->ops->copy(dev, a->sum, a->rows, n * sizeof(float));
    dev->ops->add(dev, a->sum, a->act, n);
}

/* a->heads[T,D] = softmax(q k^T / sqrt(head_dim) + gate bias) v over the rows that are not padding */
static void attend(um_dev *dev, um_beats_layer_acts *a, const um_beats *b, const um_beats_layer *l,
                   const um_attention_pages *pages, um_beats_extent e)
{
    const um_sound_model *m = b->model;
    const um_kv kv = um_attention_pages_kv(pages, &l->attention.shape);
    const um_span keys = {.T = e.real, .n = e.real}, rows = {.T = e.T, .n = e.real};
    um_attention_project(dev, &a->attention, &l->attention, a->attend.in, e.T, a->attend.in,
                         e.real);
    if (m->gated) {
        um_linear_fwd(dev, a->grep, a->attention.q, e.T * m->heads, &l->grep);
        dev->ops->bias_gate(dev, a->gate, a->grep, l->grep_a, e.T, m->heads);
    }
    um_attention_write(dev, &a->attention, &kv, &keys, 1);
    um_attention_attend_biased(dev, &a->attention, &l->attention.shape, &kv, &rows, 1,
                               b->table + (b->rows - e.T), 2 * b->rows - 1,
                               m->gated ? a->gate : NULL);
}

float um_beats_alpha(const um_sound_model *m) { return (float)sqrt(sqrt(2.0 * m->layers)); }

/* sum[n] = a in */
static void scaled(um_dev *dev, const um_postnorm_acts *s, float a, size_t n)
{
    if (s->sum != s->in) dev->ops->copy(dev, s->sum, s->in, n * sizeof(float));
    dev->ops->scale(dev, s->sum, a, n);
}

static void layer_fwd(um_dev *dev, um_beats_layer_acts *a, const um_beats *b,
                      const um_beats_layer *l, const um_attention_pages *pages, um_beats_extent e)
{
    const um_sound_model *m = b->model;
    const size_t n = um_at((size_t)e.T, 0, (size_t)m->dim);
    const float alpha = um_beats_alpha(m);
    attend(dev, a, b, l, pages, e);
    scaled(dev, &a->attend, alpha, n);
    um_attention_output(dev, a->attend.sum, &a->attention, &l->attention, a->attend.sum, e.T);
    um_norm_fwd(dev, a->attend.out, a->attend.sum, &l->attn_norm, e.T, m->dim, UM_BEATS_EPS);

    um_mlp_hidden(dev, &a->mlp, &l->mlp, a->feed.in, e.T);
    scaled(dev, &a->feed, alpha, n);
    um_mlp_output(dev, a->feed.sum, &a->mlp, &l->mlp, a->feed.sum, e.T);
    um_norm_fwd(dev, a->feed.out, a->feed.sum, &l->end_norm, e.T, m->dim, UM_BEATS_EPS);
}

int um_beats_input(um_beats_acts *a, const um_beats *b, const float *wave, int64_t n,
                   um_arena *host)
{
    UM_ASSERT(n >= 1 && n <= um_beats_window(b->model));
    const int real = um_beats_real_rows(b, n);
    um_fbank_run(a->bank, &b->fbank, b->frames, wave, n, host);
    unfold(a->staged, a->bank, real, b->model->patch);
    return real;
}

void um_beats_fwd(um_beats_acts *a, const um_beats *b, int real, um_dev *dev)
{
    const um_sound_model *m = b->model;
    const um_beats_extent e = um_beats_extent_of(b, real);
    const size_t D = (size_t)m->dim, T = (size_t)e.T;
    um_attention_pages_start(dev, &a->pages);
    embed(a, b, e, dev);
    add_positions(a, b, e.T, dev);
    um_norm_fwd(dev, a->first, a->sum, &b->norm, e.T, m->dim, UM_BEATS_EPS);
    for (int i = 0; i < m->layers; i++)
        layer_fwd(dev, &a->layer[i], b, &b->layers[i], &a->pages, e);
    if (e.T < b->rows)
        dev->ops->copy_2d(dev, a->out + T * D, m->dim, a->out + (T - 1) * D, 0, b->rows - e.T,
                          m->dim);
}
