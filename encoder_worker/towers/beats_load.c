/* Loads BEATs (beats.h): packs its weights and computes what depends on them alone, the normalised convolution and the bias of every
 * distance. */
#include "encoder_worker/towers/beats.h"

#include "core/base/bytes.h"

#include <math.h>

int um_beats_bucket(int distance, int buckets, int max_distance)
{
    const int half = buckets / 2, exact = half / 2;
    const int base = distance > 0 ? half : 0, n = distance < 0 ? -distance : distance;
    if (n < exact) return base + n;
    const double far = um_log((double)n / exact) / um_log((double)max_distance / exact);
    return base + um_min_int(half - 1, exact + (int)(far * (half - exact)));
}

static int reach_of(const um_sound_model *m, int rows)
{
    const int last = um_beats_bucket(-(rows - 1), m->buckets, m->max_distance);
    int d = rows - 1;
    while (d > 0 && um_beats_bucket(-(d - 1), m->buckets, m->max_distance) == last) d--;
    return d;
}

static um_place place(um_slot slot, int layer)
{
    return um_place_of(UM_PART_SOUND, slot, layer, -1);
}

static um_status load_table(um_beats *b, um_params *ps, um_err *err)
{
    const um_sound_model *m = b->model;
    const size_t width = 2 * (size_t)b->rows - 1, heads = (size_t)m->heads;
    um_arena scratch;
    UM_TRY(um_vector_load(&b->bias, ps, place(UM_SLOT_RELATIVE_BIAS, 0), UM_LEAF_WEIGHT, err));
    um_arena_init(&scratch, "buckets", width * sizeof(int32_t));
    int32_t *bucket = um_arena_i32(&scratch, width);
    for (size_t i = 0; i < width; i++)
        bucket[i] = um_beats_bucket((int)i - (b->rows - 1), m->buckets, m->max_distance);
    b->buckets = um_dev_put_i32(ps->how.dev, ps->how.device, bucket, width);
    um_arena_free(&scratch);
    b->gathered = um_arena_f32(ps->how.device, width, heads);
    b->table = um_arena_f32(ps->how.device, heads, width);
    b->reach = reach_of(m, b->rows);
    return UM_OK;
}

/* table[h, rows-1 + d] = bias[bucket of distance d, h] */
static void spread_table(um_beats *b)
{
    um_dev *dev = b->params->how.dev;
    const int width = 2 * b->rows - 1, heads = b->model->heads;
    dev->ops->gather(dev, b->gathered, b->bias, b->buckets, width, heads);
    dev->ops->transpose(dev, b->table, b->gathered, width, heads);
}

/* by[k] = g[k] / |v[:,:,k]|, the norm over all outputs and inputs of tap k. */
static um_status tap_scales(double *by, const float *g, const float *v, int D, int C, int K,
                            const char *name, um_err *err)
{
    for (int k = 0; k < K; k++) by[k] = 0.0;
    for (size_t i = 0; i < (size_t)D * (size_t)C; i++)
        for (int k = 0; k < K; k++) {
            const double x = (double)v[um_at(i, (size_t)k, (size_t)K)];
            by[k] += x * x;
        }
    for (int k = 0; k < K; k++) {
        if (!(by[k] > 0.0))
            return UM_FAIL(err, UM_E_MODEL, "tensor %s: tap %d is zero, which cannot be normalised",
                           name, k);
        by[k] = (double)g[k] / sqrt(by[k]);
    }
    return UM_OK;
}

/* Packs group q: outputs q*C .. q*C+C-1 as rows of [tap][input], the order in which a window of the group's rows is stored. */
static void pack_group(um_dev *dev, um_matrix *out, const float *v, const double *by, int q, int C,
                       int K, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const size_t c = (size_t)C, taps = (size_t)K;
    float *w = um_arena_f32(scratch, c, taps * c);
    for (size_t o = 0; o < c; o++)
        for (size_t i = 0; i < c; i++)
            for (size_t k = 0; k < taps; k++)
                w[(o * taps + k) * c + i] =
                    (float)((double)v[(((size_t)q * c + o) * c + i) * taps + k] * by[k]);
    dev->ops->pack(dev, out, w, UM_F32, K * C, false);
    um_arena_reset(scratch, mark);
}

static um_status load_conv(um_beats *b, um_params *ps, um_err *err)
{
    const um_sound_model *m = b->model;
    const int K = m->conv_pos, groups = m->conv_groups, C = m->dim / groups;
    UM_TRY(um_vector_load(&b->conv_g, ps, place(UM_SLOT_POS_CONV_G, -1), UM_LEAF_WEIGHT, err));
    UM_TRY(um_params_want(ps, &b->conv_v, place(UM_SLOT_POS_CONV_V, -1), UM_LEAF_WEIGHT, err));
    UM_TRY(um_vector_load(&b->conv_bias, ps, place(UM_SLOT_POS_CONV_V, -1), UM_LEAF_BIAS, err));
    b->conv_v->computed = true;
    b->conv = um_arena_zero(ps->how.host, (size_t)groups * sizeof *b->conv);
    for (int q = 0; q < groups; q++) {
        b->conv[q] = (um_matrix){.dtype = UM_F32, .N = C, .K = K * C};
        b->conv[q].data = um_arena_alloc(ps->how.device, um_matrix_bytes(UM_F32, C, K * C));
    }
    return UM_OK;
}

/* conv = g v / |v|. Kept in f32, because the product has already been rounded once. */
static um_status normalise_conv(um_beats *b, um_err *err)
{
    const um_sound_model *m = b->model;
    const int K = m->conv_pos, groups = m->conv_groups, C = m->dim / groups;
    um_dev *dev = b->params->how.dev;
    um_arena scratch;
    um_arena_init(&scratch, "conv", 1 << 20);
    double *by = um_arena_alloc(&scratch, (size_t)K * sizeof *by);
    float *g = um_arena_f32(&scratch, 1, (size_t)K),
          *v = um_arena_f32(&scratch, 1, um_spec_values(&b->conv_v->spec));
    dev->ops->get(dev, g, b->conv_g, (size_t)K * sizeof *g);
    um_param_read(b->conv_v, v);
    um_status st = um_dev_sync(dev, err);
    if (st == UM_OK) st = tap_scales(by, g, v, m->dim, C, K, b->conv_v->spec.name, err);
    for (int q = 0; q < groups && st == UM_OK; q++) {
        pack_group(dev, &b->conv[q], v, by, q, C, K, &scratch);
        if (b->conv_t != NULL) dev->ops->pack_transpose(dev, &b->conv_t[q], &b->conv[q]);
    }
    um_arena_free(&scratch);
    return st;
}

um_status um_beats_prepare(um_beats *b, um_err *err)
{
    spread_table(b);
    return normalise_conv(b, err);
}

static um_status load_layer(um_beats_layer *b, um_params *ps, int layer, um_err *err)
{
    static const um_slot kv[] = {UM_SLOT_K, UM_SLOT_V};
    const um_tower_layer l = {ps, UM_PART_SOUND, layer};
    b->attention.shape = um_beats_attention(&ps->ck->model.sound);
    UM_TRY(um_tower_load_linear(&l, &b->attention.q, UM_SLOT_Q, err));
    UM_TRY(um_tower_load_stacked(&l, &b->attention.k, kv, 2, err));
    UM_TRY(um_tower_load_linear(&l, &b->attention.out, UM_SLOT_O, err));
    UM_TRY(um_tower_load_linear(&l, &b->mlp.fc1, UM_SLOT_FC1, err));
    UM_TRY(um_tower_load_linear(&l, &b->mlp.fc2, UM_SLOT_FC2, err));
    UM_TRY(um_tower_load_norm(&l, &b->attn_norm, UM_SLOT_NORM1, err));
    UM_TRY(um_tower_load_norm(&l, &b->end_norm, UM_SLOT_NORM2, err));
    if (!ps->ck->model.sound.gated) return UM_OK;
    UM_TRY(um_tower_load_linear(&l, &b->grep, UM_SLOT_GREP, err));
    return um_vector_load(&b->grep_a, ps, place(UM_SLOT_GREP_A, layer), UM_LEAF_WEIGHT, err);
}

/* Computes the rows of a window, and checks that its frames can be divided among them. */
static um_status count_rows(um_beats *b, um_err *err)
{
    const int P = b->model->patch;
    b->frames = um_beats_frames(b->model);
    b->rows = um_beats_rows(b->model);
    if (b->rows < 1 || b->rows > b->frames)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: input_patch_size %d makes %d rows of a window of %d frames, wanted 1 "
                       "to as many as there are frames",
                       b->model->dir, P, b->rows, b->frames);
    return UM_OK;
}

um_status um_beats_load(um_beats *out, um_params *ps, um_err *err)
{
    const um_sound_model *m = &ps->ck->model.sound;
    const um_tower_layer l = {ps, UM_PART_SOUND, -1};
    um_beats b = {.model = m, .params = ps};
    UM_TRY(count_rows(&b, err));
    um_fbank_init(&b.fbank, ps->how.host);
    UM_TRY(um_tower_load_linear(&l, &b.patch, UM_SLOT_PATCH, err));
    UM_TRY(um_tower_load_norm(&l, &b.patch_norm, UM_SLOT_PATCH_NORM, err));
    if (m->patch_dim != m->dim)
        UM_TRY(um_tower_load_linear(&l, &b.project, UM_SLOT_PATCH_PROJ, err));
    UM_TRY(load_conv(&b, ps, err));
    UM_TRY(um_tower_load_norm(&l, &b.norm, UM_SLOT_NORM, err));
    UM_TRY(load_table(&b, ps, err));
    b.layers = um_arena_zero(ps->how.host, (size_t)m->layers * sizeof *b.layers);
    for (int i = 0; i < m->layers; i++) UM_TRY(load_layer(&b.layers[i], ps, i, err));
    *out = b;
    return UM_OK;
}
