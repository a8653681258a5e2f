/* Names and shapes of the audio towers and their connectors (spec 2.4, 2.5, 3.2, 3.3). */
#include "core/model/tensor_visitor.h"

#include <stdio.h>

/* PREFIX NAME of one tensor of any shape. */
static void give(um_tensor_visitor *w, const char *prefix, const char *name, int64_t a, int64_t b,
                 int64_t c, int64_t d)
{
    snprintf(w->s.name, sizeof w->s.name, "%s%s", prefix, name);
    w->s.init = UM_INIT_NORMAL;
    um_visit_tensor(w, a, b, c, d);
}

/* Whisper's attention: only the keys do not have a bias. */
static void whisper_attention(um_tensor_visitor *w, const char *layer, const char *name, int64_t D)
{
    char prefix[160];
    snprintf(prefix, sizeof prefix, "%s%s.", layer, name);
    um_visit_pair(w, prefix, "q_proj", D, D);
    give(w, prefix, "k_proj.weight", D, D, 0, 0);
    um_visit_pair(w, prefix, "v_proj", D, D);
    um_visit_pair(w, prefix, "out_proj", D, D);
}

/* A layer of the encoder or, with cross, of the decoder. */
static void whisper_layer(um_tensor_visitor *w, const char *prefix, int layer, int64_t D, int64_t F,
                          bool cross)
{
    char at[120];
    snprintf(at, sizeof at, "%slayers.%d.", prefix, layer);
    w->s.layer = layer;
    um_visit_pair(w, at, "self_attn_layer_norm", D, 0);
    whisper_attention(w, at, "self_attn", D);
    if (cross) {
        um_visit_pair(w, at, "encoder_attn_layer_norm", D, 0);
        whisper_attention(w, at, "encoder_attn", D);
    }
    um_visit_pair(w, at, "final_layer_norm", D, 0);
    um_visit_pair(w, at, "fc1", F, D);
    um_visit_pair(w, at, "fc2", D, F);
    w->s.layer = -1;
}

static void visit_speech_aligner(um_tensor_visitor *w)
{
    const um_speech_model *s = &w->m->speech;
    char at[100];
    w->s.part = UM_PART_SPEECH_ALIGNER;
    give(w, s->names.queries, "", 1, s->queries, s->dim, 0);
    snprintf(at, sizeof at, "%sdecoder.audio_decoder.", s->names.prefix);
    give(w, at, "embed_positions.weight", s->dec_positions, s->dim, 0, 0);
    for (int i = 0; i < s->dec_layers && w->st == UM_OK; i++)
        whisper_layer(w, at, i, s->dim, s->dec_ffn_dim, true);
    um_visit_pair(w, at, "layer_norm", s->dim, 0);
    snprintf(at, sizeof at, "%sprojector.", s->names.prefix);
    um_visit_projector(w, at, s->proj, s->proj_layers, s->dim, w->m->dim);
}

/* A convolution of three taps: NAME.weight and NAME.bias. */
static void conv_3(um_tensor_visitor *w, const char *prefix, const char *name, int64_t out,
                   int64_t in)
{
    char full[100];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    give(w, full, "", out, in, 3, 0);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    um_visit_zeros(w, full, out, 0);
}

static void visit_speech(um_tensor_visitor *w)
{
    const um_speech_model *s = &w->m->speech;
    const char *at = s->encoder_prefix ? "model.encoder." : "encoder.";
    w->s.part = UM_PART_SPEECH;
    conv_3(w, at, "conv1", s->dim, s->mel_bins);
    conv_3(w, at, "conv2", s->dim, s->dim);
    give(w, at, "embed_positions.weight", s->positions, s->dim, 0, 0);
    for (int i = 0; i < s->layers && w->st == UM_OK; i++)
        whisper_layer(w, at, i, s->dim, s->ffn_dim, false);
    um_visit_pair(w, at, "layer_norm", s->dim, 0);
}

/* query, key and value of a BERT attention to rows of width `from`, and its output layer. */
static void bert_attention(um_tensor_visitor *w, const char *layer, const char *name, int64_t D,
                           int64_t from)
{
    char prefix[160];
    snprintf(prefix, sizeof prefix, "%s%s.", layer, name);
    um_visit_pair(w, prefix, "attention.query", D, D);
    um_visit_pair(w, prefix, "attention.key", D, from);
    um_visit_pair(w, prefix, "attention.value", D, from);
    um_visit_pair(w, prefix, "output.dense", D, D);
    um_visit_pair(w, prefix, "output.LayerNorm", D, 0);
}

static void visit_sound_aligner(um_tensor_visitor *w)
{
    const um_sound_model *s = &w->m->sound;
    char at[120];
    w->s.part = UM_PART_SOUND_ALIGNER;
    give(w, s->names.queries, "", 1, s->queries, s->q_dim, 0);
    snprintf(at, sizeof at, "%sqformer.qformer.", s->names.prefix);
    um_visit_pair(w, at, "layernorm", s->q_dim, 0);
    for (int i = 0; i < s->q_layers && w->st == UM_OK; i++) {
        snprintf(at, sizeof at, "%sqformer.qformer.encoder.layer.%d.", s->names.prefix, i);
        w->s.layer = i;
        bert_attention(w, at, "attention", s->q_dim, s->q_dim);
        if (i % s->q_cross == 0) bert_attention(w, at, "crossattention", s->q_dim, s->dim);
        um_visit_pair(w, at, "intermediate_query.dense", s->q_ffn_dim, s->q_dim);
        um_visit_pair(w, at, "output_query.dense", s->q_dim, s->q_ffn_dim);
        um_visit_pair(w, at, "output_query.LayerNorm", s->q_dim, 0);
    }
    w->s.layer = -1;
    snprintf(at, sizeof at, "%sprojector.", s->names.prefix);
    um_visit_projector(w, at, s->proj, s->proj_layers, s->q_dim, w->m->dim);
}

/* The table of relative positions is the one in layer 0; files that repeat it in other layers have the same numbers there. */
static void beats_layer(um_tensor_visitor *w, int layer)
{
    const um_sound_model *s = &w->m->sound;
    static const char *const linear[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                         "self_attn.out_proj"};
    char at[64];
    snprintf(at, sizeof at, "encoder.layers.%d.", layer);
    w->s.layer = layer;
    for (int i = 0; i < 4; i++) um_visit_pair(w, at, linear[i], s->dim, s->dim);
    if (layer == 0)
        give(w, at, "self_attn.relative_attention_bias.weight", s->buckets, s->heads, 0, 0);
    if (s->gated) {
        um_visit_pair(w, at, "self_attn.grep_linear", 8, s->dim / s->heads);
        snprintf(w->s.name, sizeof w->s.name, "%sself_attn.grep_a", at);
        w->s.init = UM_INIT_ONES;
        um_visit_tensor(w, 1, s->heads, 1, 1);
    }
    um_visit_pair(w, at, "self_attn_layer_norm", s->dim, 0);
    um_visit_pair(w, at, "fc1", s->ffn_dim, s->dim);
    um_visit_pair(w, at, "fc2", s->dim, s->ffn_dim);
    um_visit_pair(w, at, "final_layer_norm", s->dim, 0);
    w->s.layer = -1;
}

static void visit_sound(um_tensor_visitor *w)
{
    const um_sound_model *s = &w->m->sound;
    w->s.part = UM_PART_SOUND;
    give(w, "", "patch_embedding.weight", s->patch_dim, 1, s->patch, s->patch);
    um_visit_pair(w, "", "layer_norm", s->patch_dim, 0);
    if (s->patch_dim != s->dim) um_visit_pair(w, "", "post_extract_proj", s->dim, s->patch_dim);
    snprintf(w->s.name, sizeof w->s.name, "encoder.pos_conv.0.weight_g");
    w->s.init = UM_INIT_ONES;
    um_visit_tensor(w, 1, 1, s->conv_pos, 0);
    give(w, "", "encoder.pos_conv.0.weight_v", s->dim, s->dim / s->conv_groups, s->conv_pos, 0);
    um_visit_zeros(w, "encoder.pos_conv.0.bias", s->dim, 0);
    um_visit_pair(w, "", "encoder.layer_norm", s->dim, 0);
    for (int i = 0; i < s->layers && w->st == UM_OK; i++) beats_layer(w, i);
}

void um_visit_audio(um_tensor_visitor *w)
{
    w->s.optional = false;
    if (w->m->speech.present) {
        visit_speech_aligner(w);
        visit_speech(w);
    }
    if (w->m->sound.present) {
        visit_sound_aligner(w);
        visit_sound(w);
    }
}
