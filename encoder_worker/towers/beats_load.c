/* Loads BEATs (beats.h): packs its weights and precomputes what depends on them alone, the normalised convolution and the bias of every
 * distance. */
#include "encoder_worker/towers/beats.h"

#include "core/base/bytes.h"

#include <math.h>
#include <stdio.h>

int um_beats_bucket(int distance, int buckets, int max_distance)
{
    const int half = buckets / 2, exact = half / 2;
    const int base = distance > 0 ? half : 0, n = distance < 0 ? -distance : distance;
    if (n < exact) return base + n;
    const double far = um_log((double)n / exact) / um_log((double)max_distance / exact);
    return base + um_min_int(half - 1, exact + (int)(far * (half - exact)));
}

/* out[heads, 2 rows - 1]: the bias of distance d of head h is out[h, rows-1 + d]. */
static const float *spread_table(const float *by_bucket, const um_sound_model *m, int rows,
                                 um_arena *model)
{
    const size_t width = 2 * (size_t)rows - 1;
    float *out = um_arena_f32(model, (size_t)m->heads, width);
    for (size_t i = 0; i < width; i++) {
        const int d = (int)i - (rows - 1);
        const size_t bucket = (size_t)um_beats_bucket(d, m->buckets, m->max_distance);
        for (size_t h = 0; h < (size_t)m->heads; h++)
            out[um_at(h, i, width)] = by_bucket[um_at(bucket, h, (size_t)m->heads)];
    }
    return out;
}

static int reach_of(const um_sound_model *m, int rows)
{
    const int last = um_beats_bucket(-(rows - 1), m->buckets, m->max_distance);
    int d = rows - 1;
    while (d > 0 && um_beats_bucket(-(d - 1), m->buckets, m->max_distance) == last) d--;
    return d;
}

static um_status load_table(const um_tower_loader *l, um_beats *b)
{
    const um_sound_model *m = b->model;
    const int64_t shape[] = {m->buckets, m->heads};
    const float *by_bucket = NULL;
    UM_TRY(um_tower_load_values(l, &by_bucket, "encoder.layers.0.self_attn.",
                                "relative_attention_bias.weight", 2, shape));
    b->table = spread_table(by_bucket, m, b->rows, l->model);
    b->reach = reach_of(m, b->rows);
    return UM_OK;
}

/* by[k] = g[k] / |v[:,:,k]|, the norm over all outputs and inputs of tap k. */
static um_status tap_scales(double *by, const float *g, const float *v, int D, int C, int K,
                            um_err *err)
{
    for (int k = 0; k < K; k++) by[k] = 0.0;
    for (size_t i = 0; i < (size_t)D * (size_t)C; i++)
        for (int k = 0; k < K; k++) {
            const double x = (double)v[um_at(i, (size_t)k, (size_t)K)];
            by[k] += x * x;
        }
    for (int k = 0; k < K; k++) {
        if (!(by[k] > 0.0))
            return UM_FAIL(err, UM_E_MODEL,
                           "tensor encoder.pos_conv.0.weight_v: tap %d is zero, which cannot be "
                           "normalised",
                           k);
        by[k] = (double)g[k] / sqrt(by[k]);
    }
    return UM_OK;
}

/* Packs group q: outputs q*C .. q*C+C-1 as rows of [tap][input], the order in which a window of the group's rows is stored. */
static void pack_group(const um_tower_loader *l, um_matrix *out, const float *v, const double *by,
                       int q, int C, int K, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const size_t c = (size_t)C, taps = (size_t)K;
    float *w = um_arena_f32(scratch, c, taps * c);
    for (size_t o = 0; o < c; o++)
        for (size_t i = 0; i < c; i++)
            for (size_t k = 0; k < taps; k++)
                w[(o * taps + k) * c + i] =
                    (float)((double)v[(((size_t)q * c + o) * c + i) * taps + k] * by[k]);
    *out = (um_matrix){.dtype = UM_F32, .N = C, .K = K * C};
    out->data = um_arena_alloc(l->model, um_matrix_bytes(UM_F32, C, K * C));
    l->dev->ops->pack(l->dev, out, w, UM_F32, K * C, false);
    um_arena_reset(scratch, mark);
}

/* w = g v / |v|. Stored in f32, because the product has already been rounded once. */
static um_status load_conv(const um_tower_loader *l, um_beats *b)
{
    const um_sound_model *m = b->model;
    const int K = m->conv_pos, groups = m->conv_groups, C = m->dim / groups;
    const int64_t g_shape[] = {1, 1, K}, v_shape[] = {m->dim, C, K};
    um_arena scratch;
    um_tower_loader aside = *l; /* the raw tensors are not kept */
    const float *g = NULL, *v = NULL;
    um_arena_init(&scratch, "conv", 1 << 20);
    aside.model = &scratch;
    double *by = um_arena_alloc(&scratch, (size_t)K * sizeof *by);
    um_status st = um_tower_load_values(&aside, &g, "encoder.pos_conv.0.", "weight_g", 3, g_shape);
    if (st == UM_OK)
        st = um_tower_load_values(&aside, &v, "encoder.pos_conv.0.", "weight_v", 3, v_shape);
    if (st == UM_OK) st = tap_scales(by, g, v, m->dim, C, K, l->err);
    if (st == UM_OK) {
        um_matrix *conv = um_arena_zero(l->model, (size_t)groups * sizeof *conv);
        for (int q = 0; q < groups; q++) pack_group(l, &conv[q], v, by, q, C, K, &scratch);
        b->conv = conv;
        st = um_vector_load(&b->conv_bias, l->set, "encoder.pos_conv.0.bias", m->dim, l->model,
                            l->err);
    }
    um_arena_free(&scratch);
    return st;
}

static um_status load_layer(const um_tower_loader *l, um_beats_layer *b, const um_sound_model *m,
                            int layer)
{
    struct {
        um_linear *to;
        const char *name;
        int N, K;
    } const linears[] = {
        {&b->attention.q, "self_attn.q_proj", m->dim, m->dim},
        {&b->attention.out, "self_attn.out_proj", m->dim, m->dim},
        {&b->mlp.fc1, "fc1", m->ffn_dim, m->dim},
        {&b->mlp.fc2, "fc2", m->dim, m->ffn_dim},
    };
    char at[64];
    b->attention.shape = um_beats_attention(m);
    snprintf(at, sizeof at, "encoder.layers.%d.", layer);
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        UM_TRY(um_tower_load_linear(l, linears[i].to, at, linears[i].name, linears[i].N,
                                    linears[i].K));
    UM_TRY(um_tower_load_pair(l, &b->attention.k, at, "self_attn.k_proj", "self_attn.v_proj",
                              m->dim, m->dim));
    UM_TRY(um_tower_load_norm(l, &b->attn_norm, at, "self_attn_layer_norm", m->dim));
    UM_TRY(um_tower_load_norm(l, &b->end_norm, at, "final_layer_norm", m->dim));
    if (!m->gated) return UM_OK;
    const int64_t shape[] = {1, m->heads, 1, 1};
    um_tower_loader exact = *l; /* only 8 outputs: a smaller type would save nothing */
    exact.keep = "f32";
    UM_TRY(
        um_tower_load_linear(&exact, &b->grep, at, "self_attn.grep_linear", 8, m->dim / m->heads));
    return um_tower_load_values(l, &b->grep_a, at, "self_attn.grep_a", 4, shape);
}

/* Computes the rows of a window, and checks that its frames can be divided among them. */
static um_status count_rows(um_beats *b, um_err *err)
{
    const int P = b->model->patch;
    b->frames = um_beats_frames();
    b->rows = um_beats_rows(b->model);
    if (b->rows < 1 || b->rows > b->frames)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: input_patch_size %d makes %d rows of a window of %d frames, wanted 1 "
                       "to as many as there are frames",
                       b->model->dir, P, b->rows, b->frames);
    return UM_OK;
}

um_status um_beats_load(um_beats *out, const um_sound_model *m, const um_tower_loader *l)
{
    static const char patch[] = "patch_embedding.weight";
    const int64_t conv[] = {m->patch_dim, 1, m->patch, m->patch};
    const um_tensor *t = NULL;
    um_beats b = {.model = m};
    UM_TRY(count_rows(&b, l->err));
    um_fbank_init(&b.fbank, l->model);
    UM_TRY(um_tensors_want(l->set, &t, patch, 4, conv, l->err));
    UM_TRY(um_linear_load_plain(&b.patch, l->set, patch, NULL, m->patch_dim, m->patch * m->patch,
                                l->keep, l->dev, l->model, l->err));
    UM_TRY(um_tower_load_norm(l, &b.patch_norm, "", "layer_norm", m->patch_dim));
    if (m->patch_dim != m->dim)
        UM_TRY(um_tower_load_linear(l, &b.project, "", "post_extract_proj", m->dim, m->patch_dim));
    UM_TRY(load_conv(l, &b));
    UM_TRY(um_tower_load_norm(l, &b.norm, "", "encoder.layer_norm", m->dim));
    UM_TRY(load_table(l, &b));
    b.layers = um_arena_zero(l->model, (size_t)m->layers * sizeof *b.layers);
    for (int i = 0; i < m->layers; i++) UM_TRY(load_layer(l, &b.layers[i], m, i));
    *out = b;
    return UM_OK;
}
