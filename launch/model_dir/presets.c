/* See presets.h. */
#include "launch/model_dir/presets.h"

#include <string.h>

/* clang-format off */
/* Sizes of CLIP ViT-L/14-336, Whisper small and BEATs, the towers of the released models (spec 2.1, 2.4, 2.5). */
#define CLIP_L {1024, 24, 16, 4096, 336, 14}
#define WHISPER_SMALL {768, 12, 12, 3072, 12, 448}
#define BEATS_BASE {768, 12, 12, 3072, 512, 12}
#define NONE {0, 0, 0, 0, 0, 0}

static const um_preset presets[] = {
    /* name, what, params,                       D  layers heads kv    F      V   positions  E K stride gshard vision, speech, sound */
    {"tiny", "for tests: text and images, 4 experts", 275136, 64,  2,  4,  4,    96,   400, 2048,  4, 2, 1, false,
     {32, 2, 2, 64, 56, 14}, NONE, NONE},
    {"small", "for a first run: text, images, speech and sound, 4 experts", 14872280, 256, 6, 8, 8, 512, 4096, 4096, 4, 2, 1, false,
     {128, 4, 4, 512, 112, 14}, {64, 2, 2, 256, 2, 64}, {64, 2, 4, 256, 32, 4}},
    {"encoders-full", "to measure encoders: towers of full size (CLIP-L/14-336, Whisper small, BEATs) on a small language model",
     708150896, 512, 1, 8, 8, 1024, 4096, 4096, 4, 2, 1, false, CLIP_L, WHISPER_SMALL, BEATS_BASE},
    {"moe-376m", "to measure text: 4 experts in 8 layers, no towers", 375964672, 1024,  8, 16, 16,  2816, 32000, 4096,  4, 2, 1, false,
     NONE, NONE, NONE},
    {"moe-1b", "the same with 4 experts in 10 layers", 947744256, 1536, 10, 24, 24,  4096, 32000, 4096,  4, 2, 1, false, NONE, NONE, NONE},
    {"speech-4e-7b", "sizes of Uni-MoE speech: 4 experts in every layer", INT64_C(20254083072), 4096, 32, 32, 32, 11008, 32000, 4096, 4, 2, 1, false,
     CLIP_L, WHISPER_SMALL, NONE},
    {"speech-4e-interval-7b", "the same with experts in every second layer",
     INT64_C(13761038336), 4096, 32, 32, 32, 11008, 32000, 4096,  4, 2, 2, false, CLIP_L, WHISPER_SMALL, NONE},
    {"speech-8e-7b", "sizes of Uni-MoE 8e: 8 experts in every layer", INT64_C(37568694272), 4096, 32, 32, 32, 11008, 32000, 4096, 8, 2, 1, true,
     CLIP_L, WHISPER_SMALL, NONE},
};
/* clang-format on */

const um_preset *um_preset_at(int i)
{
    return i >= 0 && i < (int)(sizeof presets / sizeof *presets) ? &presets[i] : NULL;
}

const um_preset *um_preset_find(const char *name)
{
    for (int i = 0; um_preset_at(i) != NULL; i++) {
        if (strcmp(presets[i].name, name) == 0) return &presets[i];
    }
    return NULL;
}

static void vision_keys(um_text *t, const um_preset *p)
{
    um_text_fmt(t,
                " \"mm_vision_tower\": \"vision_tower\",\n \"mm_hidden_size\": %d,\n"
                " \"mm_projector_type\": \"mlp2x_gelu\",\n \"mm_vision_select_layer\": -2,\n"
                " \"mm_vision_select_feature\": \"patch\",\n \"image_aspect_ratio\": \"square\",\n"
                " \"mm_use_im_start_end\": false,\n \"mm_use_im_patch_token\": false,\n",
                p->vision.dim);
}

static void qformer_keys(um_text *t, const um_preset *p)
{
    um_text_fmt(t,
                " \"mm_audio_qformer\": {\"hidden_size\": %d, \"num_hidden_layers\": %d, "
                "\"num_attention_heads\": %d, \"intermediate_size\": %d, "
                "\"cross_attention_frequency\": 2, \"encoder_hidden_size\": %d, "
                "\"layer_norm_eps\": 1e-12},\n",
                p->sound.dim, p->sound.q_layers, p->sound.heads, p->sound.ffn_dim, p->sound.dim);
}

static void audio_keys(um_text *t, const um_preset *p)
{
    bool speech = p->speech.dim > 0, sound = p->sound.dim > 0;
    if (!speech && !sound) return;
    if (speech && sound) {
        um_text_fmt(t, " \"mm_speech_tower\": \"speech_tower\",\n"
                       " \"mm_sound_tower\": \"sound_tower\",\n");
    } else {
        um_text_fmt(t, " \"mm_audio_tower\": \"%s_tower\",\n \"mm_audio_hidden_size\": %d,\n",
                    speech ? "speech" : "sound", speech ? p->speech.dim : p->sound.dim);
    }
    um_text_fmt(t, " \"mm_audio_select_layer\": 0,\n \"audio_projector_type\": \"linear\",\n"
                   " \"mm_query_tokens\": true,\n \"query_tokens_size\": 50,\n");
    if (sound) qformer_keys(t, p);
}

void um_preset_config(um_text *t, const um_preset *p, const char *dtype)
{
    um_text_fmt(t,
                "{\n \"architectures\": [\"LlavaLlamaForCausalLM\"],\n \"model_type\": \"%s\",\n",
                p->gshard ? "llava_llama" : "llava");
    um_text_fmt(
        t,
        " \"hidden_size\": %d,\n \"intermediate_size\": %d,\n \"num_hidden_layers\": %d,\n"
        " \"num_attention_heads\": %d,\n \"num_key_value_heads\": %d,\n \"vocab_size\": %d,\n"
        " \"max_position_embeddings\": %d,\n \"rms_norm_eps\": 1e-05,\n \"rope_theta\": 10000.0,\n"
        " \"rope_scaling\": null,\n \"hidden_act\": \"silu\",\n \"initializer_range\": 0.02,\n"
        " \"bos_token_id\": 1,\n \"eos_token_id\": 2,\n \"pad_token_id\": 0,\n "
        "\"tie_word_embeddings\": false,\n",
        p->dim, p->ffn_dim, p->layers, p->heads, p->kv_heads, p->vocab, p->positions);
    um_text_fmt(t,
                " \"moe\": true,\n \"num_experts\": %d,\n \"num_experts_per_tok\": %d,\n "
                "\"moe_type\": \"%s\",\n"
                " \"moe_stride\": %d,\n",
                p->experts, p->top_k, p->stride == 1 ? "dense" : "sparse", p->stride);
    if (p->vision.dim > 0) vision_keys(t, p);
    audio_keys(t, p);
    um_text_fmt(t, " \"torch_dtype\": \"%s\"\n}\n", dtype);
}

void um_preset_tower(um_text *t, const um_preset *p, const char *dtype)
{
    um_text_fmt(
        t,
        "{\n \"architectures\": [\"CLIPVisionModel\"],\n \"model_type\": \"clip_vision_model\",\n"
        " \"hidden_size\": %d,\n \"intermediate_size\": %d,\n \"num_hidden_layers\": %d,\n"
        " \"num_attention_heads\": %d,\n \"image_size\": %d,\n \"patch_size\": %d,\n "
        "\"num_channels\": 3,\n"
        " \"hidden_act\": \"quick_gelu\",\n \"layer_norm_eps\": 1e-05,\n \"torch_dtype\": "
        "\"%s\"\n}\n",
        p->vision.dim, p->vision.ffn_dim, p->vision.layers, p->vision.heads, p->vision.image,
        p->vision.patch, dtype);
}

void um_preset_preprocessor(um_text *t, const um_preset *p)
{
    int n = p->vision.image;
    um_text_fmt(
        t,
        "{\n \"image_processor_type\": \"CLIPImageProcessor\",\n \"do_convert_rgb\": true,\n"
        " \"do_resize\": true,\n \"size\": {\"shortest_edge\": %d},\n \"resample\": 3,\n"
        " \"do_center_crop\": true,\n \"crop_size\": {\"height\": %d, \"width\": %d},\n"
        " \"do_rescale\": true,\n \"rescale_factor\": 0.00392156862745098,\n \"do_normalize\": "
        "true,\n"
        " \"image_mean\": [0.48145466, 0.4578275, 0.40821073],\n"
        " \"image_std\": [0.26862954, 0.26130258, 0.27577711]\n}\n",
        n, n, n);
}

/* 30 s: 3000 frames of 10 ms, halved by the second convolution. */
void um_preset_speech_tower(um_text *t, const um_preset *p, const char *dtype)
{
    um_text_fmt(t,
                "{\n \"architectures\": [\"WhisperModel\"],\n \"model_type\": \"whisper\",\n"
                " \"d_model\": %d,\n \"encoder_layers\": %d,\n \"encoder_attention_heads\": %d,\n"
                " \"encoder_ffn_dim\": %d,\n \"decoder_layers\": %d,\n"
                " \"decoder_attention_heads\": %d,\n \"decoder_ffn_dim\": %d,\n"
                " \"num_mel_bins\": 80,\n \"max_source_positions\": 1500,\n"
                " \"max_target_positions\": %d,\n \"activation_function\": \"gelu\",\n"
                " \"scale_embedding\": false,\n \"torch_dtype\": \"%s\"\n}\n",
                p->speech.dim, p->speech.layers, p->speech.heads, p->speech.ffn_dim,
                p->speech.dec_layers, p->speech.heads, p->speech.ffn_dim, p->speech.dec_positions,
                dtype);
}

void um_preset_speech_preprocessor(um_text *t, const um_preset *p)
{
    (void)p; /* the same for all sizes */
    um_text_fmt(
        t, "{\n \"feature_extractor_type\": \"WhisperFeatureExtractor\",\n \"feature_size\": 80,\n"
           " \"sampling_rate\": 16000,\n \"hop_length\": 160,\n \"chunk_length\": 30,\n"
           " \"n_fft\": 400,\n \"padding_value\": 0.0\n}\n");
}

void um_preset_sound_tower(um_text *t, const um_preset *p, const char *dtype)
{
    um_text_fmt(t,
                "{\n \"model_type\": \"beats\",\n \"encoder_layers\": %d,\n"
                " \"encoder_embed_dim\": %d,\n \"encoder_ffn_embed_dim\": %d,\n"
                " \"encoder_attention_heads\": %d,\n \"activation_fn\": \"gelu\",\n"
                " \"layer_norm_first\": false,\n \"deep_norm\": true,\n \"conv_bias\": false,\n"
                " \"conv_pos\": 128,\n \"conv_pos_groups\": 16,\n"
                " \"relative_position_embedding\": true,\n \"num_buckets\": 320,\n"
                " \"max_distance\": 800,\n \"gru_rel_pos\": true,\n \"input_patch_size\": 16,\n"
                " \"embed_dim\": %d,\n \"finetuned_model\": false,\n \"torch_dtype\": \"%s\"\n}\n",
                p->sound.layers, p->sound.dim, p->sound.ffn_dim, p->sound.heads, p->sound.patch_dim,
                dtype);
}
