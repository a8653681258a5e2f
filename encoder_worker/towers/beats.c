/* See beats.h. Sources: spec 2.5; Chen et al. 2022, arXiv 2212.09058 (BEATs); Chi et al. 2021, arXiv 2106.16138 (gated relative
 * position bias); Wang et al. 2022, arXiv 2203.00555 (DeepNorm). Letters: T computed rows, D width, F feed-forward width, P side of a
 * patch, C inputs of one convolution group, K kernel size of the convolution. */
#include "encoder_worker/towers/beats.h"

#include "core/base/bytes.h"

#include <math.h>
#include <string.h>

static const float NORM_EPS = 1e-5f; /* not in the model's config */

enum { GREP = 8 }; /* outputs of the gate's linear layer: two sums of four values */

/* Blocks of `block` elements, `blocks` in all, that contain at least one of the first n elements. */
static int64_t touched(int64_t n, int64_t block, int64_t blocks)
{
    const int64_t t = (n + block - 1) / block;
    return t < blocks ? t : blocks;
}

int um_beats_real_rows(const um_beats *b, int64_t n)
{
    const int64_t frames = touched(n, UM_WAVE_WINDOW / b->frames, b->frames);
    return (int)touched(frames, b->frames / b->rows, b->rows);
}

/* Rows to compute for a window with `real` rows before its padding. Rows of padding are never keys. A row that is so far behind the
 * real rows that its convolution reaches none of them, and that has the same bias for all keys, equals every row behind it in every
 * layer, bit for bit. The rows behind it are therefore copied from it. */
static int distinct_rows(const um_beats *b, int real)
{
    const int first = um_max_int(real + b->model->conv_pos / 2, real - 1 + b->reach);
    return um_min_int(b->rows, first + 1);
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

/* x[T,D] = project(norm(patches)); rows of padding are zero. */
static void embed(float *x, const um_beats *b, const float *wave, int64_t n, int T, int real,
                  um_dev *dev, um_arena *scratch)
{
    const um_sound_model *m = b->model;
    const size_t rows = (size_t)real, E = (size_t)m->patch_dim, D = (size_t)m->dim;
    um_mark mark = um_arena_mark(scratch);
    float *bank = um_arena_f32(scratch, (size_t)b->frames, UM_FBANK_BINS);
    float *cols = um_arena_f32(scratch, rows, (size_t)b->patch.w.K);
    float *raw = um_arena_f32(scratch, rows, E), *normed = um_arena_f32(scratch, rows, E);
    um_fbank_run(bank, &b->fbank, b->frames, wave, n, scratch);
    unfold(cols, bank, real, m->patch);
    um_linear_fwd(dev, raw, cols, real, &b->patch);
    um_norm_fwd(dev, normed, raw, &b->patch_norm, real, m->patch_dim, NORM_EPS);
    if (b->project.w.data != NULL)
        um_linear_fwd(dev, x, normed, real, &b->project);
    else
        memcpy(x, normed, rows * D * sizeof *x);
    memset(x + rows * D, 0, ((size_t)T - rows) * D * sizeof *x);
    um_arena_reset(scratch, mark);
}

/* x[T,D] += gelu(conv(x) + bias), in groups: output o of row t = sum over taps k and inputs i of w[o,k,i] x[t + k - K/2, i]. The rows
 * of a group are copied one after another between rows of zeros. The window of row t+1 then begins one row after the window of row t,
 * so the convolution is a gemm over overlapping rows. */
static void add_positions(float *x, const um_beats *b, int T, um_dev *dev, um_arena *scratch)
{
    const um_sound_model *m = b->model;
    const size_t rows = (size_t)T, D = (size_t)m->dim, K = (size_t)m->conv_pos,
                 C = D / (size_t)m->conv_groups;
    um_mark mark = um_arena_mark(scratch);
    float *group = um_arena_zero(scratch, (rows + K) * C * sizeof *group);
    float *conv = um_arena_f32(scratch, rows, D);
    for (size_t q = 0; q < (size_t)m->conv_groups; q++) {
        for (size_t t = 0; t < rows; t++)
            memcpy(group + (K / 2 + t) * C, x + t * D + q * C, C * sizeof *group);
        dev->ops->gemm(dev, conv + q * C, m->dim, group, (int)C, T, &b->conv[q],
                       b->conv_bias + q * C, false);
    }
    dev->ops->gelu(dev, conv, conv, rows * D);
    dev->ops->add(dev, x, conv, rows * D);
    um_arena_reset(scratch, mark);
}

/* Buffers of one window; all layers share them. */
typedef struct acts {
    float *x, *y, *q, *heads; /* [T,D] */
    float *kv;                /* [real, 2D]: keys, values */
    float *cache;             /* kv in the layout of the attention op */
    float *inner;             /* [T,F] */
    float *grep, *gate;       /* [T, heads, GREP], [T, heads] */
    int T, real;              /* computed rows; rows without padding, which are the keys */
} acts;

static acts acts_bind(const um_beats *b, float *x, int real, um_arena *a)
{
    const um_sound_model *m = b->model;
    const int rows = distinct_rows(b, real);
    const size_t T = (size_t)rows, D = (size_t)m->dim, heads = (size_t)m->heads;
    acts s = {.x = x, .y = um_arena_f32(a, T, D), .T = rows, .real = real};
    s.q = um_arena_f32(a, T, D);
    s.kv = um_arena_f32(a, (size_t)real, 2 * D);
    s.heads = um_arena_f32(a, T, D);
    s.inner = um_arena_f32(a, T, (size_t)m->ffn_dim);
    s.cache = um_arena_f32(a, 1, um_kv_flat_floats(m->heads, m->dim / m->heads, real));
    if (m->gated) {
        s.grep = um_arena_f32(a, T * heads, GREP);
        s.gate = um_arena_f32(a, T, heads);
    }
    return s;
}

/* gate = ga (gb a[h] - 1) + 2, where ga and gb are sigmoids of the two sums of four values of grep(q), and q is the output of its
 * projection. */
static void gates(um_dev *dev, const acts *s, const um_beats_layer *l, const um_sound_model *m)
{
    const float *g = s->grep;
    um_linear_fwd(dev, s->grep, s->q, s->T * m->heads, &l->grep);
    for (int t = 0; t < s->T; t++)
        for (int h = 0; h < m->heads; h++, g += GREP) {
            const float ga = um_sigmoidf(g[0] + g[1] + g[2] + g[3]),
                        gb = um_sigmoidf(g[4] + g[5] + g[6] + g[7]);
            s->gate[um_at((size_t)t, (size_t)h, (size_t)m->heads)] =
                ga * (gb * l->grep_a[h] - 1.0f) + 2.0f;
        }
}

/* heads[T,D] = softmax(q k^T / sqrt(head_dim) + gate bias) v over the rows that are not padding */
static void attend(um_dev *dev, const acts *s, const um_beats *b, const um_beats_layer *l)
{
    const um_sound_model *m = b->model;
    const int T = s->T, D = m->dim, head_dim = D / m->heads;
    um_kv_flat kv = {0};
    um_linear_fwd(dev, s->q, s->x, T, &l->q);
    um_linear_fwd(dev, s->kv, s->x, s->real, &l->kv);
    if (m->gated) gates(dev, s, l, m);
    um_kv_flat_bind(&kv, s->cache, m->heads, head_dim, s->real);
    dev->ops->kv_append_flat(dev, &kv, s->kv, 2 * D, s->kv + D, 2 * D, s->real);
    dev->ops->attention_biased_flat(dev, s->heads, D, s->q, D, &kv, m->heads, T,
                                    (float)(1.0 / sqrt((double)head_dim)), b->table + (b->rows - T),
                                    2 * b->rows - 1, m->gated ? s->gate : NULL);
}

/* y = norm(a x + out(attention(x)));   x = norm(a y + fc2(gelu(fc1(y)))),   a = (2 layers)^(1/4) */
static void layer_fwd(um_dev *dev, const acts *s, const um_beats *b, const um_beats_layer *l)
{
    const um_sound_model *m = b->model;
    const int T = s->T, D = m->dim;
    const size_t n = (size_t)T * (size_t)D, inner = (size_t)T * (size_t)m->ffn_dim;
    const float alpha = (float)sqrt(sqrt(2.0 * m->layers));
    attend(dev, s, b, l);
    dev->ops->scale(dev, s->x, alpha, n);
    um_linear_add(dev, s->x, s->heads, T, &l->out);
    um_norm_fwd(dev, s->y, s->x, &l->attn_norm, T, D, NORM_EPS);

    um_linear_fwd(dev, s->inner, s->y, T, &l->fc1);
    dev->ops->gelu(dev, s->inner, s->inner, inner);
    dev->ops->scale(dev, s->y, alpha, n);
    um_linear_add(dev, s->y, s->inner, T, &l->fc2);
    um_norm_fwd(dev, s->x, s->y, &l->end_norm, T, D, NORM_EPS);
}

void um_beats_encode(float *x, const um_beats *b, const float *wave, int64_t n, um_dev *dev,
                     um_arena *scratch)
{
    UM_ASSERT(n >= 1 && n <= UM_WAVE_WINDOW);
    const um_sound_model *m = b->model;
    um_mark mark = um_arena_mark(scratch);
    acts s = acts_bind(b, x, um_beats_real_rows(b, n), scratch);
    embed(s.y, b, wave, n, s.T, s.real, dev, scratch);
    add_positions(s.y, b, s.T, dev, scratch);
    um_norm_fwd(dev, s.x, s.y, &b->norm, s.T, m->dim, NORM_EPS);
    for (int i = 0; i < m->layers; i++) layer_fwd(dev, &s, b, &b->layers[i]);
    const size_t D = (size_t)m->dim, last = (size_t)s.T - 1;
    for (size_t t = last + 1; t < (size_t)b->rows; t++)
        memcpy(x + t * D, x + last * D, D * sizeof *x);
    um_arena_reset(scratch, mark);
}
