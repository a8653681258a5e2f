/* Loads the speech tower and its connector; see speech.h for the contract. */
#include "encoder_worker/towers/speech_parts.h"

#include "core/base/bytes.h"

/* Layer i of the encoder or of the connector's decoder, which has cross-attention. Keys have no bias. */
static um_status load_layer(um_speech_layer *b, um_params *ps, um_part part, int i, um_err *err)
{
    static const um_slot qkv[] = {UM_SLOT_Q, UM_SLOT_K, UM_SLOT_V},
                         kv[] = {UM_SLOT_CROSS_K, UM_SLOT_CROSS_V};
    const um_speech_model *m = &ps->ck->model.speech;
    const um_tower_layer l = {ps, part, i};
    const bool decodes = part == UM_PART_SPEECH_ALIGNER;
    const int heads = decodes ? m->dec_heads : m->heads;
    b->self.shape = um_speech_attention(m->dim, heads, UM_ATTENTION_QKV);
    b->cross.shape = um_speech_attention(m->dim, heads, UM_ATTENTION_Q_KV);
    UM_TRY(um_tower_load_norm(&l, &b->self_norm, UM_SLOT_NORM1, err));
    UM_TRY(um_tower_load_stacked(&l, &b->self.q, qkv, 3, err));
    UM_TRY(um_tower_load_linear(&l, &b->self.out, UM_SLOT_O, err));
    if (decodes) {
        UM_TRY(um_tower_load_norm(&l, &b->cross_norm, UM_SLOT_CROSS_NORM, err));
        UM_TRY(um_tower_load_linear(&l, &b->cross.q, UM_SLOT_CROSS_Q, err));
        UM_TRY(um_tower_load_stacked(&l, &b->cross.k, kv, 2, err));
        UM_TRY(um_tower_load_linear(&l, &b->cross.out, UM_SLOT_CROSS_O, err));
    }
    UM_TRY(um_tower_load_norm(&l, &b->ffn_norm, UM_SLOT_NORM2, err));
    UM_TRY(um_tower_load_linear(&l, &b->mlp.fc1, UM_SLOT_FC1, err));
    return um_tower_load_linear(&l, &b->mlp.fc2, UM_SLOT_FC2, err);
}

static um_status load_encoder(um_speech *s, um_params *ps, um_err *err)
{
    const um_speech_model *m = s->model;
    const um_part part = UM_PART_SPEECH;
    const um_tower_layer l = {ps, part, -1};
    UM_TRY(um_linear_load_conv(&s->conv1, ps, um_place_of(part, UM_SLOT_CONV1, -1, -1), err));
    UM_TRY(um_linear_load_conv(&s->conv2, ps, um_place_of(part, UM_SLOT_CONV2, -1, -1), err));
    UM_TRY(um_vector_load(&s->positions, ps, um_place_of(part, UM_SLOT_POSITIONS, -1, -1),
                          UM_LEAF_WEIGHT, err));
    s->encoder = um_arena_zero(ps->how.host, (size_t)m->layers * sizeof *s->encoder);
    for (int i = 0; i < m->layers; i++) UM_TRY(load_layer(&s->encoder[i], ps, part, i, err));
    return um_tower_load_norm(&l, &s->encoder_norm, UM_SLOT_NORM, err);
}

static um_status load_queries(um_speech *s, um_params *ps, um_err *err)
{
    const um_part part = UM_PART_SPEECH_ALIGNER;
    UM_TRY(um_vector_load(&s->queries, ps, um_place_of(part, UM_SLOT_QUERIES, -1, -1),
                          UM_LEAF_WEIGHT, err));
    return um_vector_load(&s->query_positions, ps, um_place_of(part, UM_SLOT_POSITIONS, -1, -1),
                          UM_LEAF_WEIGHT, err);
}

static um_status load_decoder(um_speech *s, um_params *ps, um_err *err)
{
    const um_speech_model *m = s->model;
    const um_tower_layer l = {ps, UM_PART_SPEECH_ALIGNER, -1};
    UM_TRY(load_queries(s, ps, err));
    s->decoder = um_arena_zero(ps->how.host, (size_t)m->dec_layers * sizeof *s->decoder);
    for (int i = 0; i < m->dec_layers; i++)
        UM_TRY(load_layer(&s->decoder[i], ps, UM_PART_SPEECH_ALIGNER, i, err));
    return um_tower_load_norm(&l, &s->decoder_norm, UM_SLOT_NORM, err);
}

um_status um_speech_load(um_speech **out, um_params *ps, um_err *err)
{
    const um_speech_model *m = &ps->ck->model.speech;
    if (!m->present) return UM_FAIL(err, UM_E_MODEL, "the model has no speech tower");
    um_speech *s = um_arena_zero(ps->how.host, sizeof *s);
    s->model = m;
    s->dim_out = ps->ck->model.dim;
    s->params = ps;
    UM_ASSERT(m->queries <= m->dec_positions); /* um_checkpoint_open checked it */
    um_mel_init(&s->mel, m->mel_bins, m->n_fft, m->hop, (int64_t)m->rate * m->window_seconds,
                m->rate, ps->how.host);
    UM_TRY(load_encoder(s, ps, err));
    UM_TRY(load_decoder(s, ps, err));
    UM_TRY(um_tower_load_projector(&s->projector, ps, UM_PART_SPEECH_ALIGNER, m->proj_layers, err));
    *out = s;
    return UM_OK;
}
