/* Backward of BEATs (beats.h), in the order of beats.c from its end to its beginning. Letters as there. */
#include "encoder_worker/towers/beats.h"

#include "core/base/bytes.h"

#include <math.h>

/* What every step of one backward pass needs. */
typedef struct run {
    um_beats *b;
    const um_sound_model *m;
    um_dev *dev;
    um_arena *scratch;
    um_beats_extent e;
} run;

/* Sums that live as long as the tower are made when backward runs for the first time. */
static void sums_open(um_beats *b, um_dev *dev)
{
    const um_sound_model *m = b->model;
    const int C = m->dim / m->conv_groups, K = m->conv_pos;
    um_arena *device = b->params->how.device;
    if (b->conv_grad != NULL) return;
    b->conv_grad = um_tower_zeros(dev, device, um_at((size_t)m->dim, 0, (size_t)(K * C)));
    b->table_grad =
        um_tower_zeros(dev, device, um_at((size_t)m->heads, 0, 2 * (size_t)b->rows - 1));
    b->conv_t = um_arena_zero(b->params->how.host, (size_t)m->conv_groups * sizeof *b->conv_t);
    for (int q = 0; q < m->conv_groups; q++) {
        b->conv_t[q] = (um_matrix){.dtype = UM_F32, .N = K * C, .K = C};
        b->conv_t[q].data = um_arena_alloc(device, um_matrix_bytes(UM_F32, K * C, C));
        dev->ops->pack_transpose(dev, &b->conv_t[q], &b->conv[q]);
    }
}

/* Forward was s->out = norm(s->sum), s->sum = alpha s->in + f(s->in). d [T,D]: the gradient of out, which becomes alpha times that of sum,
 * what goes past f to in. Returns the gradient of sum, in scratch. */
static const float *norm_bwd(const run *r, float *d, const um_postnorm_acts *s, const um_norm *norm)
{
    const int T = r->e.T, D = r->m->dim;
    const float *dsum = um_postnorm_bwd(r->dev, d, s, norm, T, D, UM_BEATS_EPS, r->scratch);
    r->dev->ops->scale(r->dev, d, um_beats_alpha(r->m), um_at((size_t)T, 0, (size_t)D));
    return dsum;
}

/* Forward was gate = bias_gate(grep), grep = the linear layer of q's heads. dq [T,D] += ... */
static void gate_bwd(const run *r, float *dq, const float *dgate, const um_beats_layer_acts *a,
                     const um_beats_layer *l, int layer)
{
    const int T = r->e.T, heads = r->m->heads;
    const size_t n = um_at((size_t)(T * heads), 0, UM_BEATS_GREP);
    float *dgrep = um_tower_zeros(r->dev, r->scratch, n),
          *da = um_tower_grad(r->b->params, UM_PART_SOUND, UM_SLOT_GREP_A, layer, UM_LEAF_WEIGHT);
    r->dev->ops->bias_gate_bwd(r->dev, dgrep, da, dgate, a->grep, l->grep_a, T, heads);
    um_linear_bwd(r->dev, dq, &l->grep, dgrep, a->attention.q, T * heads, r->scratch);
}

/* d: the gradient of a->attend.out, which becomes that of a->attend.in. */
static void attend_bwd(const run *r, float *d, const um_beats_layer_acts *a,
                       const um_beats_layer *l, int layer)
{
    const um_mark mark = um_arena_mark(r->scratch);
    const um_beats *b = r->b;
    const int T = r->e.T, real = r->e.real;
    const float *dsum = norm_bwd(r, d, &a->attend, &l->attn_norm);
    const um_span rows = {.T = T, .n = real};
    const int32_t first_key = 0;
    um_attention_grads g;
    float *dgate =
        r->m->gated ? um_tower_zeros(r->dev, r->scratch, (size_t)(T * r->m->heads)) : NULL;
    um_attention_grads_start(r->dev, &g, r->scratch, &l->attention.shape, T, real);
    um_attention_output_bwd(r->dev, &g, &a->attention, &l->attention, dsum, T, r->scratch);
    um_attention_attend_biased_bwd(r->dev, &g, &a->attention, &l->attention.shape, &rows,
                                   &first_key, 1, b->table_grad + (b->rows - T),
                                   b->table + (b->rows - T), 2 * b->rows - 1, dgate,
                                   r->m->gated ? a->gate : NULL);
    if (r->m->gated) gate_bwd(r, g.q, dgate, a, l, layer);
    um_attention_project_bwd(r->dev, d, d, &g, &l->attention, a->attend.in, T, a->attend.in, real,
                             r->scratch);
    um_arena_reset(r->scratch, mark);
}

/* d: the gradient of a->feed.out, which becomes that of a->feed.in. */
static void feed_bwd(const run *r, float *d, const um_beats_layer_acts *a, const um_beats_layer *l)
{
    const um_mark mark = um_arena_mark(r->scratch);
    const float *dsum = norm_bwd(r, d, &a->feed, &l->end_norm);
    um_mlp_bwd(r->dev, d, &l->mlp, &a->mlp, dsum, a->feed.in, r->e.T, r->scratch);
    um_arena_reset(r->scratch, mark);
}

/* Group q of the convolution. Forward was conv[:, q] = windows of group q's columns of rows, between zeros, times W_q^T + bias.
 * dconv [T,D]; drows [T,D]: the group's columns of it are set (=). */
static void group_bwd(const run *r, float *drows, const float *dconv, float *dbias,
                      const um_beats_acts *a, int q)
{
    um_beats *b = r->b;
    um_dev *dev = r->dev;
    const um_mark mark = um_arena_mark(r->scratch);
    const int T = r->e.T, D = r->m->dim, K = r->m->conv_pos, C = D / r->m->conv_groups, KC = K * C;
    const size_t t = (size_t)T, c = (size_t)C, before = um_at((size_t)(K / 2), 0, c);
    float *group = um_tower_zeros(dev, r->scratch, um_at(t + (size_t)K, 0, c)),
          *dy = um_arena_f32(r->scratch, t, c), *dyt = um_arena_f32(r->scratch, c, t),
          *dcols = um_arena_f32(r->scratch, t, (size_t)KC);
    dev->ops->copy_2d(dev, group + before, C, a->rows + q * C, D, T, C);
    dev->ops->copy_2d(dev, dy, C, dconv + q * C, D, T, C);
    if (dbias != NULL) dev->ops->sum_rows(dev, dbias + q * C, dy, T, C);
    um_matrix windows = {.dtype = UM_F32, .N = KC, .K = T};
    windows.data = um_arena_alloc(r->scratch, um_matrix_bytes(UM_F32, KC, T));
    dev->ops->pack_device(dev, &windows, group, C, true);
    dev->ops->transpose(dev, dyt, dy, T, C);
    dev->ops->gemm(dev, b->conv_grad + um_at((size_t)(q * C), 0, (size_t)KC), KC, dyt, T, C,
                   &windows, NULL, true);
    float *dgroup = um_tower_zeros(dev, r->scratch, um_at(t + (size_t)K, 0, c));
    dev->ops->gemm(dev, dcols, KC, dy, C, T, &b->conv_t[q], NULL, false);
    dev->ops->windows_add(dev, dgroup, dcols, T, KC, C);
    dev->ops->copy_2d(dev, drows + q * C, D, dgroup + before, C, T, C);
    um_arena_reset(r->scratch, mark);
}

/* Forward was sum = rows + gelu(conv(rows) + bias). d [T,D]: the gradient of sum, which becomes that of rows. */
static void positions_bwd(const run *r, float *d, const um_beats_acts *a)
{
    const um_mark mark = um_arena_mark(r->scratch);
    const size_t n = um_at((size_t)r->e.T, 0, (size_t)r->m->dim);
    float *dconv = um_tower_zeros(r->dev, r->scratch, n), *drows = um_arena_f32(r->scratch, 1, n),
          *dbias = um_tower_grad(r->b->params, UM_PART_SOUND, UM_SLOT_POS_CONV_V, -1, UM_LEAF_BIAS);
    r->dev->ops->gelu_bwd(r->dev, dconv, d, a->conv, n);
    for (int q = 0; q < r->m->conv_groups; q++) group_bwd(r, drows, dconv, dbias, a, q);
    r->dev->ops->add(r->dev, d, drows, n);
    um_arena_reset(r->scratch, mark);
}

/* Forward was rows = project(norm(patch(cols))) for the real rows. d [T,D]: the gradient of rows. */
static void embed_bwd(const run *r, float *d, const um_beats_acts *a)
{
    const um_beats *b = r->b;
    const um_sound_model *m = r->m;
    const int real = r->e.real;
    const size_t n = um_at((size_t)real, 0, (size_t)m->patch_dim);
    float *draw = um_tower_zeros(r->dev, r->scratch, n), *dnormed = d;
    if (m->patch_dim != m->dim) {
        dnormed = um_tower_zeros(r->dev, r->scratch, n);
        um_linear_bwd(r->dev, dnormed, &b->project, d, a->normed, real, r->scratch);
    }
    um_norm_bwd(r->dev, draw, dnormed, a->raw, &b->patch_norm, real, m->patch_dim, UM_BEATS_EPS);
    um_linear_bwd(r->dev, NULL, &b->patch, draw, a->cols, real, r->scratch);
}

void um_beats_bwd(um_beats *b, const um_beats_acts *a, int real, const float *dout, um_dev *dev,
                  um_arena *scratch)
{
    const um_sound_model *m = b->model;
    const run r = {b, m, dev, scratch, um_beats_extent_of(b, real)};
    const um_mark mark = um_arena_mark(scratch);
    const int T = r.e.T, D = m->dim, copies = b->rows - T;
    const size_t n = um_at((size_t)T, 0, (size_t)D);
    sums_open(b, dev);
    b->summed = true;
    float *d = um_arena_f32(scratch, 1, n), *dsum = um_arena_f32(scratch, 1, n);
    dev->ops->copy(dev, d, dout, n * sizeof *d);
    if (copies > 0) dev->ops->sum_rows(dev, d + n - (size_t)D, dout + n, copies, D);
    for (int i = m->layers - 1; i >= 0; i--) {
        feed_bwd(&r, d, &a->layer[i], &b->layers[i]);
        attend_bwd(&r, d, &a->layer[i], &b->layers[i], i);
    }
    dev->ops->fill(dev, dsum, 0.0f, n);
    um_norm_bwd(dev, dsum, d, a->sum, &b->norm, T, D, UM_BEATS_EPS);
    positions_bwd(&r, dsum, a);
    embed_bwd(&r, dsum, a);
    um_arena_reset(scratch, mark);
}

/* --- what is computed from weights --- */

/* Forward was table[h, i] = bias[bucket i, h]. */
static void table_grads(um_beats *b, um_dev *dev, um_arena *scratch)
{
    const int width = 2 * b->rows - 1, heads = b->model->heads;
    float *bias = um_tower_grad(b->params, UM_PART_SOUND, UM_SLOT_RELATIVE_BIAS, 0, UM_LEAF_WEIGHT);
    float *by_distance = um_arena_f32(scratch, (size_t)width, (size_t)heads);
    if (bias == NULL) return;
    dev->ops->transpose(dev, by_distance, b->table_grad, heads, width);
    dev->ops->scatter_add(dev, bias, by_distance, b->buckets, width, heads);
}

/* Forward was w[o,k,i] = g[k] v[o,i,k] / |v_k|, |v_k| the norm over o and i of tap k. With s_k = sum over o and i of dw v / |v_k|:
 *   dg_k = s_k,   dv = g_k / |v_k| (dw - s_k v / |v_k|).
 * All on the host: dw [D,K,C], v and dv [D,C,K], in f64 from the f32 values. */
static void normalised_bwd(float *dg, float *dv, const float *dw, const float *g, const float *v,
                           int D, int C, int K)
{
    const size_t c = (size_t)C, taps = (size_t)K;
    for (size_t k = 0; k < taps; k++) {
        double squares = 0.0, sum = 0.0;
        for (size_t o = 0; o < (size_t)D; o++)
            for (size_t i = 0; i < c; i++) {
                const double x = (double)v[(o * c + i) * taps + k];
                squares += x * x;
                sum += x * (double)dw[(o * taps + k) * c + i];
            }
        const double size = sqrt(squares), s = sum / size, by = (double)g[k] / size;
        dg[k] = (float)s;
        for (size_t o = 0; o < (size_t)D; o++)
            for (size_t i = 0; i < c; i++) {
                const size_t at = (o * c + i) * taps + k;
                dv[at] =
                    (float)(by * ((double)dw[(o * taps + k) * c + i] - s * ((double)v[at] / size)));
            }
    }
}

/* Adds host values to a gradient; nothing where it is NULL. */
static void add_host(um_dev *dev, float *grad, const float *host, size_t n, um_arena *scratch)
{
    float *x = um_arena_f32(scratch, 1, n);
    if (grad == NULL) return;
    dev->ops->put(dev, x, host, n * sizeof *x);
    dev->ops->add(dev, grad, x, n);
}

static um_status conv_grads(um_beats *b, um_dev *dev, um_arena *host, um_arena *device, um_err *err)
{
    const um_sound_model *m = b->model;
    const int K = m->conv_pos, C = m->dim / m->conv_groups;
    const size_t n = um_spec_values(&b->conv_v->spec), taps = (size_t)K;
    um_param *pg = um_params_find(b->params, um_place_of(UM_PART_SOUND, UM_SLOT_POS_CONV_G, -1, -1),
                                  UM_LEAF_WEIGHT);
    if (!pg->trained && !b->conv_v->trained) return UM_OK;
    float *dw = um_arena_f32(host, 1, n), *v = um_arena_f32(host, 1, n),
          *dv = um_arena_f32(host, 1, n), *g = um_arena_f32(host, 1, taps),
          *dg = um_arena_f32(host, 1, taps);
    dev->ops->get(dev, dw, b->conv_grad, n * sizeof *dw);
    um_param_read(b->conv_v, v);
    um_param_read(pg, g);
    UM_TRY(um_dev_sync(dev, err));
    normalised_bwd(dg, dv, dw, g, v, m->dim, C, K);
    add_host(dev, um_param_grad(pg), dg, taps, device);
    add_host(dev, um_param_grad(b->conv_v), dv, n, device);
    return UM_OK;
}

um_status um_beats_grads(um_beats *b, um_err *err)
{
    const um_sound_model *m = b->model;
    um_dev *dev = b->params->how.dev;
    um_arena host, device;
    if (!b->summed) return UM_OK;
    um_arena_init(&host, "gradients", 1 << 20);
    um_dev_arena(&device, dev, "gradients", 1 << 20);
    table_grads(b, dev, &device);
    um_status st = conv_grads(b, dev, &host, &device, err);
    dev->ops->fill(dev, b->conv_grad, 0.0f, um_spec_values(&b->conv_v->spec));
    dev->ops->fill(dev, b->table_grad, 0.0f, um_at((size_t)m->heads, 0, 2 * (size_t)b->rows - 1));
    b->summed = false;
    um_arena_free(&device);
    um_arena_free(&host);
    return st;
}
