/* Loads the speech tower and its connector; see speech.h for the contract, spec 2.4 and 3.2 for the names. */
#include "encoder_worker/towers/speech_parts.h"

#include "core/base/bytes.h"

#include <stdio.h>
#include <string.h>

enum { NAME = 200 };

typedef struct loader {
    um_tower_loader to;
    char prefix[NAME / 2]; /* of the tensor names */
} loader;

typedef struct names {
    char weight[NAME], bias[NAME];
} names;

static names names_of(const loader *l, const char *rest)
{
    names n;
    snprintf(n.weight, sizeof n.weight, "%s%s.weight", l->prefix, rest);
    snprintf(n.bias, sizeof n.bias, "%s%s.bias", l->prefix, rest);
    return n;
}

static um_status load_linear(loader *l, um_linear *out, const char *rest, int N, int K)
{
    return um_tower_load_linear(&l->to, out, l->prefix, rest, N, K);
}

static um_status load_norm(loader *l, um_norm *out, const char *rest, int D)
{
    return um_tower_load_norm(&l->to, out, l->prefix, rest, D);
}

static um_status load_conv(loader *l, um_linear *out, const char *rest, int N, int C)
{
    names n = names_of(l, rest);
    return um_linear_load_conv(out, l->to.set, n.weight, n.bias, N, C, 3, l->to.keep, l->to.dev,
                               l->to.model, l->to.err);
}

/* A table [rows, D] in f32. */
static um_status load_table(loader *l, float **out, const char *name, int rank,
                            const int64_t *shape, int rows, int D)
{
    const um_tensor *t = NULL;
    UM_TRY(um_tensors_want(l->to.set, &t, name, rank, shape, l->to.err));
    *out = um_arena_f32(l->to.model, (size_t)rows, (size_t)D);
    um_tensor_to_f32(*out, t);
    um_tensors_forget(l->to.set, t);
    return UM_OK;
}

/* Packs q, k and v of an attention, or some of them, as one layer. Keys have no bias. */
static um_status load_stacked(loader *l, um_linear *out, const char *attention, const char *which,
                              int D)
{
    names n[3];
    um_linear_part part[3];
    int parts = 0;
    for (const char *w = which; *w != '\0'; w++) {
        char rest[64];
        snprintf(rest, sizeof rest, "%s.%c_proj", attention, *w);
        n[parts] = names_of(l, rest);
        part[parts] = (um_linear_part){n[parts].weight, *w == 'k' ? NULL : n[parts].bias, D};
        parts++;
    }
    return um_linear_load_stacked(out, l->to.set, part, parts, D, l->to.keep, l->to.dev,
                                  l->to.model, l->to.err);
}

/* Layer i under PREFIX. */
static um_status load_layer(const loader *of, um_speech_layer *b, int i, int D, int F, int heads,
                            bool cross)
{
    loader l = *of;
    b->self.shape = um_speech_attention(D, heads, UM_ATTENTION_QKV);
    b->cross.shape = um_speech_attention(D, heads, UM_ATTENTION_Q_KV);
    snprintf(l.prefix, sizeof l.prefix, "%slayers.%d.", of->prefix, i);
    UM_TRY(load_norm(&l, &b->self_norm, "self_attn_layer_norm", D));
    UM_TRY(load_stacked(&l, &b->self.q, "self_attn", "qkv", D));
    UM_TRY(load_linear(&l, &b->self.out, "self_attn.out_proj", D, D));
    if (cross) {
        UM_TRY(load_norm(&l, &b->cross_norm, "encoder_attn_layer_norm", D));
        UM_TRY(load_linear(&l, &b->cross.q, "encoder_attn.q_proj", D, D));
        UM_TRY(load_stacked(&l, &b->cross.k, "encoder_attn", "kv", D));
        UM_TRY(load_linear(&l, &b->cross.out, "encoder_attn.out_proj", D, D));
    }
    UM_TRY(load_norm(&l, &b->ffn_norm, "final_layer_norm", D));
    UM_TRY(load_linear(&l, &b->mlp.fc1, "fc1", F, D));
    return load_linear(&l, &b->mlp.fc2, "fc2", D, F);
}

static um_status load_encoder(loader *l, um_speech *s)
{
    const um_speech_model *m = s->model;
    int64_t shape[2] = {m->positions, m->dim};
    float *positions = NULL;
    snprintf(l->prefix, sizeof l->prefix, m->encoder_prefix ? "model.encoder." : "encoder.");
    UM_TRY(load_conv(l, &s->conv1, "conv1", m->dim, m->mel_bins));
    UM_TRY(load_conv(l, &s->conv2, "conv2", m->dim, m->dim));
    UM_TRY(load_table(l, &positions, names_of(l, "embed_positions").weight, 2, shape, m->positions,
                      m->dim));
    s->positions = positions;
    s->encoder = um_arena_zero(l->to.model, (size_t)m->layers * sizeof *s->encoder);
    for (int i = 0; i < m->layers; i++)
        UM_TRY(load_layer(l, &s->encoder[i], i, m->dim, m->ffn_dim, m->heads, false));
    return load_norm(l, &s->encoder_norm, "layer_norm", m->dim);
}

/* The queries stand at positions 0, 1, ...: the position embeddings are added to them once, here. */
static um_status load_queries(loader *l, um_speech *s)
{
    const um_speech_model *m = s->model;
    int64_t matrix[3] = {1, m->queries, m->dim}, table[2] = {m->dec_positions, m->dim};
    float *q = NULL;
    const um_tensor *t = NULL;
    UM_TRY(load_table(l, &q, m->names.queries, 3, matrix, m->queries, m->dim));
    UM_TRY(
        um_tensors_want(l->to.set, &t, names_of(l, "embed_positions").weight, 2, table, l->to.err));
    um_arena scratch;
    um_arena_init(&scratch, "positions", 1 << 16);
    float *p = um_arena_f32(&scratch, (size_t)m->dec_positions, (size_t)m->dim);
    um_tensor_to_f32(p, t);
    for (size_t i = 0; i < um_at((size_t)m->queries, 0, (size_t)m->dim); i++) q[i] += p[i];
    um_arena_free(&scratch);
    s->queries = q;
    return UM_OK;
}

static um_status load_decoder(loader *l, um_speech *s)
{
    const um_speech_model *m = s->model;
    snprintf(l->prefix, sizeof l->prefix, "%sdecoder.audio_decoder.", m->names.prefix);
    UM_TRY(load_queries(l, s));
    s->decoder = um_arena_zero(l->to.model, (size_t)m->dec_layers * sizeof *s->decoder);
    for (int i = 0; i < m->dec_layers; i++)
        UM_TRY(load_layer(l, &s->decoder[i], i, m->dim, m->dec_ffn_dim, m->dec_heads, true));
    return load_norm(l, &s->decoder_norm, "layer_norm", m->dim);
}

static um_status load_projector(loader *l, um_speech *s)
{
    const um_speech_model *m = s->model;
    snprintf(l->prefix, sizeof l->prefix, "%sprojector", m->names.prefix);
    return um_tower_load_projector(&l->to, &s->projector, l->prefix, m->proj, m->proj_layers,
                                   s->dim_out, m->dim);
}

um_status um_speech_load(um_speech **out, const um_checkpoint *ck, um_dev *dev, const char *weights,
                         um_arena *model, um_err *err)
{
    const um_speech_model *m = &ck->model.speech;
    loader l = {{um_checkpoint_set(ck, UM_PART_SPEECH), dev, weights, model, err}, ""};
    if (!m->present || l.to.set == NULL)
        return UM_FAIL(err, UM_E_MODEL, "the model has no speech tower");
    um_speech *s = um_arena_zero(model, sizeof *s);
    s->model = m;
    s->dim_out = ck->model.dim;
    UM_ASSERT(m->queries <= m->dec_positions); /* um_checkpoint_open checked it */
    um_mel_init(&s->mel, m->mel_bins, m->n_fft, m->hop, (int64_t)m->rate * m->window_seconds,
                m->rate, model);
    UM_TRY(load_encoder(&l, s));
    l.to.set = um_checkpoint_set(ck, UM_PART_SPEECH_ALIGNER);
    UM_TRY(load_decoder(&l, s));
    UM_TRY(load_projector(&l, s));
    *out = s;
    return UM_OK;
}
