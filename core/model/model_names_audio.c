/* Names and shapes of the audio towers and their connectors (spec 2.4, 2.5, 3.2, 3.3). */
#include "core/model/tensor_visitor.h"

#include <stdio.h>

/* Where the four layers of an attention stand. */
typedef struct attention {
    um_slot norm, q, k, v, o;
} attention;
static const attention self = {UM_SLOT_NORM1, UM_SLOT_Q, UM_SLOT_K, UM_SLOT_V, UM_SLOT_O};
static const attention cross = {UM_SLOT_CROSS_NORM, UM_SLOT_CROSS_Q, UM_SLOT_CROSS_K,
                                UM_SLOT_CROSS_V, UM_SLOT_CROSS_O};

/* Whisper's attention: only the keys do not have a bias. */
static void whisper_attention(um_tensor_visitor *w, const attention *a, const char *layer,
                              const char *name, int64_t D)
{
    char prefix[160];
    snprintf(prefix, sizeof prefix, "%s%s.", layer, name);
    um_visit_pair(w, a->q, prefix, "q_proj", D, D);
    um_visit_normal(w, a->k, prefix, "k_proj.weight", D, D, 0, 0);
    um_visit_pair(w, a->v, prefix, "v_proj", D, D);
    um_visit_pair(w, a->o, prefix, "out_proj", D, D);
}

/* A layer of the encoder or, with crosses, of the decoder. */
static void whisper_layer(um_tensor_visitor *w, const char *prefix, int layer, int64_t D, int64_t F,
                          bool crosses)
{
    char at[120];
    snprintf(at, sizeof at, "%slayers.%d.", prefix, layer);
    w->s.at.layer = layer;
    um_visit_pair(w, self.norm, at, "self_attn_layer_norm", D, 0);
    whisper_attention(w, &self, at, "self_attn", D);
    if (crosses) {
        um_visit_pair(w, cross.norm, at, "encoder_attn_layer_norm", D, 0);
        whisper_attention(w, &cross, at, "encoder_attn", D);
    }
    um_visit_pair(w, UM_SLOT_NORM2, at, "final_layer_norm", D, 0);
    um_visit_pair(w, UM_SLOT_FC1, at, "fc1", F, D);
    um_visit_pair(w, UM_SLOT_FC2, at, "fc2", D, F);
    w->s.at.layer = -1;
}

static void visit_speech_aligner(um_tensor_visitor *w)
{
    const um_speech_model *s = &w->m->speech;
    char at[100];
    w->s.at.part = UM_PART_SPEECH_ALIGNER;
    um_visit_normal(w, UM_SLOT_QUERIES, s->names.queries, "", 1, s->queries, s->dim, 0);
    snprintf(at, sizeof at, "%sdecoder.audio_decoder.", s->names.prefix);
    um_visit_normal(w, UM_SLOT_POSITIONS, at, "embed_positions.weight", s->dec_positions, s->dim, 0,
                    0);
    for (int i = 0; i < s->dec_layers && w->st == UM_OK; i++)
        whisper_layer(w, at, i, s->dim, s->dec_ffn_dim, true);
    um_visit_pair(w, UM_SLOT_NORM, at, "layer_norm", s->dim, 0);
    snprintf(at, sizeof at, "%sprojector.", s->names.prefix);
    um_visit_projector(w, at, s->proj, s->proj_layers, s->dim, w->m->dim);
}

/* A convolution of three taps: NAME.weight and NAME.bias. */
static void conv_3(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                   int64_t out, int64_t in)
{
    char at[100];
    snprintf(at, sizeof at, "%s%s.", prefix, name);
    um_visit_normal(w, slot, at, "weight", out, in, 3, 0);
    um_visit_bias(w, slot, at, "bias", out);
}

static void visit_speech(um_tensor_visitor *w)
{
    const um_speech_model *s = &w->m->speech;
    const char *at = s->encoder_prefix ? "model.encoder." : "encoder.";
    w->s.at.part = UM_PART_SPEECH;
    conv_3(w, UM_SLOT_CONV1, at, "conv1", s->dim, s->mel_bins);
    conv_3(w, UM_SLOT_CONV2, at, "conv2", s->dim, s->dim);
    um_visit_normal(w, UM_SLOT_POSITIONS, at, "embed_positions.weight", s->positions, s->dim, 0, 0);
    for (int i = 0; i < s->layers && w->st == UM_OK; i++)
        whisper_layer(w, at, i, s->dim, s->ffn_dim, false);
    um_visit_pair(w, UM_SLOT_NORM, at, "layer_norm", s->dim, 0);
}

/* query, key and value of a BERT attention to rows of width `from`, its output layer and the norm after it. */
static void bert_attention(um_tensor_visitor *w, const attention *a, const char *layer,
                           const char *name, int64_t D, int64_t from)
{
    char prefix[160];
    snprintf(prefix, sizeof prefix, "%s%s.", layer, name);
    um_visit_pair(w, a->q, prefix, "attention.query", D, D);
    um_visit_pair(w, a->k, prefix, "attention.key", D, from);
    um_visit_pair(w, a->v, prefix, "attention.value", D, from);
    um_visit_pair(w, a->o, prefix, "output.dense", D, D);
    um_visit_pair(w, a->norm, prefix, "output.LayerNorm", D, 0);
}

static void visit_sound_aligner(um_tensor_visitor *w)
{
    const um_sound_model *s = &w->m->sound;
    char at[120];
    w->s.at.part = UM_PART_SOUND_ALIGNER;
    um_visit_normal(w, UM_SLOT_QUERIES, s->names.queries, "", 1, s->queries, s->q_dim, 0);
    snprintf(at, sizeof at, "%sqformer.qformer.", s->names.prefix);
    um_visit_pair(w, UM_SLOT_QUERY_NORM, at, "layernorm", s->q_dim, 0);
    for (int i = 0; i < s->q_layers && w->st == UM_OK; i++) {
        snprintf(at, sizeof at, "%sqformer.qformer.encoder.layer.%d.", s->names.prefix, i);
        w->s.at.layer = i;
        bert_attention(w, &self, at, "attention", s->q_dim, s->q_dim);
        if (i % s->q_cross == 0) bert_attention(w, &cross, at, "crossattention", s->q_dim, s->dim);
        um_visit_pair(w, UM_SLOT_FC1, at, "intermediate_query.dense", s->q_ffn_dim, s->q_dim);
        um_visit_pair(w, UM_SLOT_FC2, at, "output_query.dense", s->q_dim, s->q_ffn_dim);
        um_visit_pair(w, UM_SLOT_NORM2, at, "output_query.LayerNorm", s->q_dim, 0);
    }
    w->s.at.layer = -1;
    snprintf(at, sizeof at, "%sprojector.", s->names.prefix);
    um_visit_projector(w, at, s->proj, s->proj_layers, s->q_dim, w->m->dim);
}

/* The table of relative positions is the one in layer 0; files that repeat it in other layers have the same numbers there. */
static void beats_layer(um_tensor_visitor *w, int layer)
{
    const um_sound_model *s = &w->m->sound;
    char at[64];
    snprintf(at, sizeof at, "encoder.layers.%d.", layer);
    w->s.at.layer = layer;
    um_visit_pair(w, UM_SLOT_Q, at, "self_attn.q_proj", s->dim, s->dim);
    um_visit_pair(w, UM_SLOT_K, at, "self_attn.k_proj", s->dim, s->dim);
    um_visit_pair(w, UM_SLOT_V, at, "self_attn.v_proj", s->dim, s->dim);
    um_visit_pair(w, UM_SLOT_O, at, "self_attn.out_proj", s->dim, s->dim);
    if (layer == 0)
        um_visit_normal(w, UM_SLOT_RELATIVE_BIAS, at, "self_attn.relative_attention_bias.weight",
                        s->buckets, s->heads, 0, 0);
    if (s->gated) {
        w->s.exact = true; /* only 8 outputs: a smaller type would save nothing */
        um_visit_pair(w, UM_SLOT_GREP, at, "self_attn.grep_linear", 8, s->dim / s->heads);
        um_visit_ones(w, UM_SLOT_GREP_A, at, "self_attn.grep_a", 1, s->heads, 1, 1);
        w->s.exact = false;
    }
    um_visit_pair(w, UM_SLOT_NORM1, at, "self_attn_layer_norm", s->dim, 0);
    um_visit_pair(w, UM_SLOT_FC1, at, "fc1", s->ffn_dim, s->dim);
    um_visit_pair(w, UM_SLOT_FC2, at, "fc2", s->dim, s->ffn_dim);
    um_visit_pair(w, UM_SLOT_NORM2, at, "final_layer_norm", s->dim, 0);
    w->s.at.layer = -1;
}

static void visit_sound(um_tensor_visitor *w)
{
    static const char conv[] = "encoder.pos_conv.0.";
    const um_sound_model *s = &w->m->sound;
    w->s.at.part = UM_PART_SOUND;
    um_visit_normal(w, UM_SLOT_PATCH, "", "patch_embedding.weight", s->patch_dim, 1, s->patch,
                    s->patch);
    um_visit_pair(w, UM_SLOT_PATCH_NORM, "", "layer_norm", s->patch_dim, 0);
    if (s->patch_dim != s->dim)
        um_visit_pair(w, UM_SLOT_PATCH_PROJ, "", "post_extract_proj", s->dim, s->patch_dim);
    w->s.exact = true; /* the product of both is rounded once already */
    um_visit_ones(w, UM_SLOT_POS_CONV_G, conv, "weight_g", 1, 1, s->conv_pos, 0);
    um_visit_normal(w, UM_SLOT_POS_CONV_V, conv, "weight_v", s->dim, s->dim / s->conv_groups,
                    s->conv_pos, 0);
    um_visit_bias(w, UM_SLOT_POS_CONV_V, conv, "bias", s->dim);
    w->s.exact = false;
    um_visit_pair(w, UM_SLOT_NORM, "encoder.", "layer_norm", s->dim, 0);
    for (int i = 0; i < s->layers && w->st == UM_OK; i++) beats_layer(w, i);
}

void um_visit_audio(um_tensor_visitor *w)
{
    if (w->m->speech.present) {
        visit_speech_aligner(w);
        visit_speech(w);
    }
    if (w->m->sound.present) {
        visit_sound_aligner(w);
        visit_sound(w);
    }
}
