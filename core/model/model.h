/* The model: sizes and names, read once from config.json and the tower folders, checked once. Everything else trusts it.
 * Source of the keys: spec 7.3; of the names: spec 2.1, 3.1, 4, 7.2. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/model/modality.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum um_gate_style {
    UM_GATE_MIXTRAL, /* softmax over the K winning logits (spec 4.4.1): names mlp.gate, mlp.experts.E */
    UM_GATE_GSHARD, /* full softmax, winners renormalised (spec 4.4.2): names mlp.deepspeed_moe... */
    UM_GATE_DYNAMIC, /* as many experts as a token needs (spec 10.1): names mlp.gate, mlp.dynamic_real_moe..., mlp.fixed_real_moe */
    UM_GATE_STYLES
} um_gate_style;

typedef enum um_drop_policy {
    UM_DROP_PROBS,   /* an expert keeps the tokens with the highest logits */
    UM_DROP_POSITION /* ... those that come first */
} um_drop_policy;

/* The dynamic-capacity gate (spec 10.1). Its columns are R routed, then Z null, then F shared experts; routed and null ones
 * together are the dynamic ones, of which each token chooses. */
typedef struct um_dynamic_model {
    int routed, nulls, shared; /* R = um_model.experts, Z, F; all 0 with another gate */
    int shared_dim;            /* feed-forward width of a shared expert */
    float top_p;               /* 0: every token takes top_k dynamic experts */
    int top_k;
    float eps; /* router_jitter_noise: logits within 2 eps of the winner share its weight */
    /* dropping by capacity: max(min_capacity, ceil(S / (R + Z) * capacity_factor)) tokens of S for each dynamic expert */
    bool token_drop;
    um_drop_policy drop_policy;
    int min_capacity;
    float capacity_factor;
} um_dynamic_model;

/* Rows of a prompt, or of a new token. */
typedef enum um_phase { UM_PREFILL, UM_DECODE, UM_PHASES } um_phase;
/* "prefill" "decode" */
const char *um_phase_name(um_phase phase);

typedef enum um_projector { UM_PROJ_LINEAR, UM_PROJ_MLP } um_projector;

typedef struct um_vision_model {
    bool present;
    const char *dir; /* the tower's folder */
    int dim, layers, heads, ffn_dim, image_size, patch, channels;
    int run_layers;  /* layers that must be computed for the feature taken */
    bool keep_class; /* mm_vision_select_feature "cls_patch" */
    bool quick_gelu; /* else gelu */
    float eps;
    /* preprocessing (preprocessor_config.json) */
    bool resize, crop;
    int resize_short, crop_w, crop_h;
    int resize_w, resize_h; /* fixed size instead of shortest_edge when > 0 */
    float mean[3], std[3], rescale;
    float fill[3];   /* image_mean, normalised or not: the colour that "pad" fills with */
    bool pad_square; /* image_aspect_ratio "pad" */
    /* projector */
    um_projector proj;
    int proj_layers; /* linear layers of the projector */
} um_vision_model;

/* Names of the tensors of a connector begin with prefix, which ends in a dot; queries is the name of its query matrix. A model with
 * one audio tower (mm_audio_tower) uses the original's names, model.mm_audio_aligner. and, for speech, model.query_tokens. A model
 * that names towers by kind (mm_speech_tower, mm_sound_tower) uses model.mm_speech_aligner. and model.mm_sound_aligner., with
 * query_tokens inside. */
typedef struct um_aligner_names {
    char prefix[64], queries[64];
} um_aligner_names;

/* Speech: a Whisper encoder (spec 2.4), and a Whisper decoder fed with learned queries as connector (spec 3.2). Sizes are those of
 * the tower's config.json and preprocessor_config.json; those of the connector are settled by um_checkpoint_open, from its tensors. */
typedef struct um_speech_model {
    bool present;
    const char *dir;                                      /* the tower's folder */
    int dim, layers, heads, ffn_dim, mel_bins, positions; /* positions = 1500: 30 s after conv2 */
    /* front end */
    int rate, n_fft, hop, window_seconds; /* 16000, 400, 160, 30 */
    /* connector */
    um_aligner_names names;
    int dec_layers, dec_heads, dec_ffn_dim, dec_positions, queries;
    um_projector proj;
    int proj_layers;
    bool encoder_prefix; /* tower tensors are model.encoder.* (else encoder.*) */
    bool queries_given;  /* config.json says query_tokens_size: the tensors must agree */
} um_speech_model;

/* Sound: BEATs (spec 2.5), and a Q-Former as connector (spec 3.3). */
typedef struct um_sound_model {
    bool present;
    const char *dir;
    int dim, layers, heads, ffn_dim, patch, patch_dim; /* patch_dim = the cfg's embed_dim */
    int conv_pos, conv_groups, buckets, max_distance;
    bool gated; /* gru_rel_pos */
    /* connector; counted or measured in the tensors where mm_audio_qformer is absent */
    um_aligner_names names;
    int q_dim, q_layers, q_heads, q_ffn_dim, q_cross,
        queries; /* cross-attention every q_cross layers */
    float q_eps;
    um_projector proj;
    int proj_layers;
    bool queries_given, qformer_given; /* config.json has query_tokens_size, mm_audio_qformer */
} um_sound_model;

/* What the files say and the programs do not heed, a sentence each, for the command that a person started to show once: every rank
 * reads the same files. */
enum { UM_MAX_NOTES = 16, UM_MAX_EOS = 64 };
typedef struct um_notes {
    const char *line[UM_MAX_NOTES];
    int n;
} um_notes;
/* The text is copied into arena. Past UM_MAX_NOTES it is dropped. */
void um_note(um_notes *notes, um_arena *arena, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

typedef struct um_model {
    const char *dir;
    const char *
        variant; /* "speech-4e", "speech-4e-interval", "audio-4e", "speech-8e", "unified" (experts, speech and sound), "dynamic", "dense", or "custom" */
    int dim, layers, heads, kv_heads, head_dim, ffn_dim, vocab, max_positions;
    float rms_eps, rope_theta, rope_factor; /* rope_factor: linear scaling, 1 = none */
    int bos, pad;
    int eos[UM_MAX_EOS],
        n_eos; /* ids that end an answer, of config.json and generation_config.json */
    /* mixture of experts */
    um_gate_style gate;
    int experts,
        top_k; /* routed experts, 0: dense model; slots for them of a token (dynamic gate: at most) */
    int expert_dim; /* feed-forward width of a routed expert */
    um_dynamic_model dynamic;
    const uint8_t *moe_layer; /* [layers] 1 = MoE */
    int moe_layers;
    bool moe_unplaced; /* config names no placement: um_checkpoint_open takes it from the tensors */
    bool fm_block;     /* per-modality gate pre-projection (spec 4.4.3) */
    int lora_r;        /* LoRA built into experts and dense MLPs of 8e (0 = none) */
    float lora_alpha;  /* < 0: config.json does not say */
    bool tied;         /* lm_head is embed_tokens */
    um_vision_model vision;
    um_speech_model speech;
    um_sound_model sound;
    /* generation_config.json */
    bool do_sample;
    float temperature, top_p;
    int gen_top_k; /* 0: all */
    um_notes notes;
    uint64_t fingerprint; /* of all that the ranks must agree on */
} um_model;

/* Folders of towers that override those of config.json; NULL or "" leaves it to the config. */
typedef struct um_towers {
    const char *vision, *speech, *sound;
} um_towers;

/* UM_E_MODEL that says what dir is instead of a model directory: nothing, a file, a folder without config.json. */
um_status um_model_folder_check(const char *dir, um_err *err);
/* UM_E_MODEL when dir/tokenizer.model is missing, or is what downloads leave instead of it. Its content is checked by loading it. */
um_status um_model_tokenizer_check(const char *dir, um_err *err);

/* Reads dir/config.json (+ generation_config.json, tower config.json and preprocessor_config.json). towers may be NULL.
 * UM_E_MODEL names file, key, value and what is allowed. Strings and lists live in arena. */
um_status um_model_read(um_model *out, const char *dir, const um_towers *towers, um_arena *arena,
                        um_err *err);

/* The largest sizes that a config may name; every product of them that the programs make fits its type. Experts and layers
 * together are held by UM_MAX_PARAMS. */
enum {
    UM_MAX_LAYERS = 4096,
    UM_MAX_WIDTH = 1 << 20, /* hidden, feed-forward, head and projector sizes */
    UM_MAX_HEADS = 1 << 14,
    UM_MAX_VOCAB = 1 << 26,
    UM_MAX_POSITIONS = 1 << 28,
    UM_MAX_EXPERTS = 1 << 22,
    UM_MAX_IMAGE = 1 << 14, /* pixels a side that a tower may take */
    UM_MAX_ROWS = 1 << 16,  /* rows that a window of audio may have anywhere, and queries */
};
#define UM_MAX_PARAMS (INT64_C(1) << 50)

/* Puts into m what only the tensors show: the gate style and the MoE placement (config silent, or contradicted), and renews what
 * follows from them and from the connectors' sizes (moe_layers, variant, fingerprint). moe_layer [layers] must live as long as m. */
void um_model_resolve(um_model *m, um_gate_style gate, const uint8_t *moe_layer);

/* Which rank needs a tensor. */
typedef enum um_part {
    UM_PART_TRUNK,
    UM_PART_GATE,
    UM_PART_EXPERT,
    UM_PART_PROJECTOR, /* of images */
    UM_PART_SPEECH_ALIGNER,
    UM_PART_SOUND_ALIGNER,
    UM_PART_VISION, /* the towers, each from its own folder */
    UM_PART_SPEECH,
    UM_PART_SOUND,
    UM_PARTS
} um_part;

/* The folder that the tensors of a part are in. */
typedef enum um_set { UM_SET_LLM, UM_SET_VISION, UM_SET_SPEECH, UM_SET_SOUND, UM_SETS } um_set;
um_set um_set_of(um_part part);

typedef struct um_spec {
    char name[200];
    int rank;
    int64_t shape[4];
    um_part part;
    int layer, expert; /* -1 where it does not apply */
    bool optional;     /* may be absent (LoRA inside experts, fm_audio, ...) */
    enum { UM_INIT_NORMAL, UM_INIT_ONES, UM_INIT_ZEROS } init;
} um_spec;

typedef um_status (*um_spec_fn)(void *ctx, const um_spec *spec, um_err *err);
/* Calls fn for every tensor the model has, backbone first, layer by layer, towers last. Inspect, init, convert and the memory plan
 * take names and shapes from here; the loaders build the same names from the um_name_ functions below, and a test compares.
 * Stops at the first status that is not UM_OK and returns it. */
um_status um_model_for_each_tensor(const um_model *m, um_spec_fn fn, void *ctx, um_err *err);

/* Names. which: "gate_proj" "up_proj" "down_proj" and with "_lora_A"/"_lora_B" behind. */
void um_name_layer(char out[200], int layer, const char *rest); /* model.layers.N.rest */
void um_name_expert(char out[200], const um_model *m, int layer, int expert, const char *which);
void um_name_shared(char out[200], int layer, int shared, const char *which);
void um_name_gate(char out[200], const um_model *m, int layer);
void um_name_fm(char out[200], int layer, um_fm fm, const char *leaf); /* "weight" or "bias" */

/* true when the token ends an answer. */
static inline bool um_model_is_eos(const um_model *m, int id)
{
    for (int i = 0; i < m->n_eos; i++)
        if (m->eos[i] == id) return true;
    return false;
}

/* Rows of a gate's matrix: the experts, with the dynamic gate also the null and the shared ones. */
static inline int um_model_gate_rows(const um_model *m)
{
    return m->experts + m->dynamic.nulls + m->dynamic.shared;
}

/* Parameter totals of the language model (no tower, no projector, no LoRA), spec 0.2: total and activated per token (dynamic gate:
 * at most). */
void um_model_params(const um_model *m, int64_t *total, int64_t *active);
