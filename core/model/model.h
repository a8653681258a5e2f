/* The model: sizes and names, read once from config.json and the tower folders and checked once. All other code relies on them. Source
 * of the keys: spec 7.3; of the names: spec 2.1, 3.1, 4, 7.2. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/model/modality.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum um_gate_style {
    UM_GATE_MIXTRAL, /* softmax over the top K logits (spec 4.4.1): names mlp.gate, mlp.experts.E */
    UM_GATE_GSHARD,  /* full softmax, top K renormalised (spec 4.4.2): names mlp.deepspeed_moe... */
    UM_GATE_DYNAMIC, /* as many experts as a token needs (spec 10.1): names mlp.gate, mlp.dynamic_real_moe..., mlp.fixed_real_moe */
    UM_GATE_STYLES
} um_gate_style;

typedef enum um_drop_policy {
    UM_DROP_PROBS,   /* an expert keeps the tokens with the highest logits */
    UM_DROP_POSITION /* an expert keeps the tokens that come first */
} um_drop_policy;

/* The dynamic-capacity gate (spec 10.1). Its columns are R routed, then Z null, then F shared experts. Routed and null experts together
 * are the dynamic ones, among which each token chooses. */
typedef struct um_dynamic_model {
    int routed, nulls, shared; /* R = um_model.experts, Z, F; all 0 with another gate */
    int shared_dim;            /* feed-forward width of a shared expert */
    float top_p;               /* 0: every token uses top_k dynamic experts */
    int top_k;
    float eps; /* router_jitter_noise: logits within 2 eps of the winner share its weight */
    /* dropping by capacity: max(min_capacity, ceil(T / (R + Z) * capacity_factor)) of T tokens for each dynamic expert */
    bool token_drop;
    um_drop_policy drop_policy;
    int min_capacity;
    float capacity_factor;
} um_dynamic_model;

/* Whether rows are of a prompt (prefill) or of a new token (decode). */
typedef enum um_phase { UM_PREFILL, UM_DECODE, UM_PHASES } um_phase;
/* "prefill" "decode" */
const char *um_phase_name(um_phase phase);

typedef enum um_projector { UM_PROJ_LINEAR, UM_PROJ_MLP } um_projector;

typedef struct um_vision_model {
    bool present;
    const char *dir; /* the tower's folder */
    int dim, layers, heads, ffn_dim, image_size, patch, channels;
    int run_layers;  /* layers to compute for the selected feature */
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

/* The names of a connector's tensors begin with prefix, which ends in a dot; queries is the name of its query matrix. A model with one
 * audio tower (mm_audio_tower) uses the original's names: model.mm_audio_aligner. and, for speech, model.query_tokens. A model that
 * names its towers by modality (mm_speech_tower, mm_sound_tower) uses model.mm_speech_aligner. and model.mm_sound_aligner., with
 * query_tokens under them. */
typedef struct um_aligner_names {
    char prefix[64], queries[64];
} um_aligner_names;

/* Speech: a Whisper encoder (spec 2.4), and a Whisper decoder fed with learned queries as connector (spec 3.2). The sizes are those of
 * the tower's config.json and preprocessor_config.json; um_checkpoint_open resolves the connector's sizes from its tensors. */
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
    bool queries_given;  /* config.json has query_tokens_size: the tensors must agree */
} um_speech_model;

/* Sound: BEATs (spec 2.5), and a Q-Former as connector (spec 3.3). */
typedef struct um_sound_model {
    bool present;
    const char *dir;
    int dim, layers, heads, ffn_dim, patch, patch_dim; /* patch_dim = the cfg's embed_dim */
    int conv_pos, conv_groups, buckets, max_distance;
    bool gated; /* gru_rel_pos */
    int window_seconds; /* of sound that become the rows of one window: 30, unless the cfg says "window_seconds" */
    /* connector; counted or measured in the tensors where mm_audio_qformer is absent */
    um_aligner_names names;
    int q_dim, q_layers, q_heads, q_ffn_dim, q_cross,
        queries; /* cross-attention every q_cross layers */
    float q_eps;
    um_projector proj;
    int proj_layers;
    bool queries_given, qformer_given; /* config.json has query_tokens_size, mm_audio_qformer */
} um_sound_model;

/* What the files say but the programs ignore, one sentence each. Only the command that the user started prints them, once, because
 * every rank reads the same files. */
enum { UM_MAX_NOTES = 16, UM_MAX_EOS = 64 };
typedef struct um_notes {
    const char *line[UM_MAX_NOTES];
    int n;
} um_notes;
/* Adds a note; the text is copied into arena. Notes beyond UM_MAX_NOTES are dropped. */
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
        n_eos; /* ids that end an answer, from config.json and generation_config.json */
    /* mixture of experts */
    um_gate_style gate;
    int experts,
        top_k; /* routed experts, 0: dense model; top-k slots of a token (dynamic gate: maximum) */
    int expert_dim; /* feed-forward width of a routed expert */
    um_dynamic_model dynamic;
    const uint8_t *moe_layer; /* [layers] 1 = MoE */
    int moe_layers;
    /* config does not give the placement: um_checkpoint_open reads it from the tensors */
    bool moe_unplaced;
    bool fm_block; /* per-modality gate pre-projection (spec 4.4.3) */
    /* config.json use_expert_bias: a bias of each expert, for the choice alone (core/nn/gate.h) */
    bool expert_bias;
    bool expert_bias_begins; /* training adds it: where the files have none it begins at zero */
    int lora_r;              /* LoRA built into experts and dense MLPs of 8e (0 = none) */
    float lora_alpha;        /* < 0: not in config.json */
    bool tied;               /* lm_head is embed_tokens */
    um_vision_model vision;
    um_speech_model speech;
    um_sound_model sound;
    /* generation_config.json */
    bool do_sample;
    float temperature, top_p;
    int gen_top_k; /* 0: all */
    um_notes notes;
    uint64_t fingerprint; /* hash of everything that the ranks must agree on */
} um_model;

/* Folders of towers that override those of config.json; NULL or "": use the config's. */
typedef struct um_towers {
    const char *vision, *speech, *sound;
} um_towers;

/* Checks that dir is a model directory. UM_E_MODEL says what it is instead: missing, a file, a folder without config.json. */
um_status um_model_folder_check(const char *dir, um_err *err);
/* UM_E_MODEL when dir/tokenizer.model is missing or is a remnant of a failed download. Loading it checks its content. */
um_status um_model_tokenizer_check(const char *dir, um_err *err);

/* Reads dir/config.json (+ generation_config.json, tower config.json and preprocessor_config.json). towers may be NULL. UM_E_MODEL
 * names the file, the key, the value and the allowed values. Strings and lists live in arena. */
um_status um_model_read(um_model *out, const char *dir, const um_towers *towers, um_arena *arena,
                        um_err *err);

/* The maximum sizes that a config may give; every product of them that the programs compute fits its type. UM_MAX_PARAMS limits experts
 * and layers together. */
enum {
    UM_MAX_LAYERS = 4096,
    UM_MAX_WIDTH = 1 << 20, /* hidden, feed-forward, head and projector sizes */
    UM_MAX_HEADS = 1 << 14,
    UM_MAX_VOCAB = 1 << 26,
    UM_MAX_POSITIONS = 1 << 28,
    UM_MAX_EXPERTS = 1 << 22,
    UM_MAX_IMAGE = 1 << 14, /* pixels per side of a tower's input */
    UM_MAX_ROWS = 1 << 16,  /* rows of an audio window at any stage, and queries */
};
#define UM_MAX_PARAMS (INT64_C(1) << 50)

/* Sets in m what only the tensors show, the gate style and the MoE placement (when the config does not give them, or the tensors
 * contradict it), and updates what depends on them and on the connectors' sizes (moe_layers, variant, fingerprint). moe_layer [layers]
 * must live as long as m. */
void um_model_resolve(um_model *m, um_gate_style gate, const uint8_t *moe_layer);

/* The part of the model that a tensor belongs to; it determines which ranks need the tensor. */
typedef enum um_part {
    UM_PART_BACKBONE,
    UM_PART_GATE,
    UM_PART_EXPERT,
    UM_PART_PROJECTOR, /* of the image tower */
    UM_PART_SPEECH_ALIGNER,
    UM_PART_SOUND_ALIGNER,
    UM_PART_VISION, /* the towers, each from its own folder */
    UM_PART_SPEECH,
    UM_PART_SOUND,
    UM_PARTS
} um_part;

/* The folder that contains the tensors of a part. */
typedef enum um_set { UM_SET_LLM, UM_SET_VISION, UM_SET_SPEECH, UM_SET_SOUND, UM_SETS } um_set;
um_set um_set_of(um_part part);

/* Which tensor of a part: with the layer and an index it is the identity of a tensor, whatever its name. */
typedef enum um_slot {
    UM_SLOT_EMBED, /* token table [V,D] */
    UM_SLOT_HEAD,  /* [V,D]; a tied model has none */
    UM_SLOT_NORM,  /* after the last layer; BEATs: before the first */
    UM_SLOT_NORM1,
    UM_SLOT_NORM2, /* of a layer: of its self-attention, of its feed-forward block */
    UM_SLOT_Q,
    UM_SLOT_K,
    UM_SLOT_V,
    UM_SLOT_O, /* self-attention */
    UM_SLOT_CROSS_NORM,
    UM_SLOT_CROSS_Q,
    UM_SLOT_CROSS_K,
    UM_SLOT_CROSS_V,
    UM_SLOT_CROSS_O,
    UM_SLOT_GATE_PROJ,
    UM_SLOT_UP_PROJ,
    UM_SLOT_DOWN_PROJ, /* index: the expert, the shared expert; -1: the dense MLP */
    UM_SLOT_FC1,
    UM_SLOT_FC2, /* feed-forward block of towers and connectors */
    UM_SLOT_GATE,
    UM_SLOT_GATE_BIAS, /* [E] for the choice of experts alone */
    UM_SLOT_FM,        /* pre-projection of the gate; index: um_fm */
    UM_SLOT_PROJECTOR, /* index: which of its linear layers */
    UM_SLOT_QUERIES,
    UM_SLOT_QUERY_NORM, /* of a connector */
    UM_SLOT_POSITIONS,
    UM_SLOT_CLASS,
    UM_SLOT_PATCH,
    UM_SLOT_PATCH_NORM,
    UM_SLOT_PATCH_PROJ,
    UM_SLOT_PRE_NORM,
    UM_SLOT_POST_NORM,
    UM_SLOT_CONV1,
    UM_SLOT_CONV2, /* Whisper's front */
    UM_SLOT_POS_CONV_G,
    UM_SLOT_POS_CONV_V, /* BEATs' convolution over positions, by size and direction */
    UM_SLOT_RELATIVE_BIAS,
    UM_SLOT_GREP,
    UM_SLOT_GREP_A, /* BEATs' gated position bias */
    UM_SLOTS
} um_slot;

/* Which tensor of a slot: the weight of a matrix, a norm or a table; its bias; the two factors of a LoRA that is a part of the model; those
 * of an adapter, which training adds (core/nn/params.h). */
typedef enum um_leaf {
    UM_LEAF_WEIGHT,
    UM_LEAF_BIAS,
    UM_LEAF_LORA_A,
    UM_LEAF_LORA_B,
    UM_LEAF_ADAPTER_A,
    UM_LEAF_ADAPTER_B
} um_leaf;

typedef struct um_place {
    um_part part;
    um_slot slot;
    int layer, index; /* -1 where it does not apply */
} um_place;
static inline um_place um_place_of(um_part part, um_slot slot, int layer, int index)
{
    return (um_place){part, slot, layer, index};
}

/* One tensor of the model. Its name and shape stand nowhere else: whoever needs them asks for the tensor by its place. */
typedef struct um_spec {
    const char *name; /* valid while the visit calls */
    int rank;
    int64_t shape[4];
    um_place at;
    um_leaf leaf;
    bool optional; /* may be absent (LoRA inside experts, fm_audio, ...) */
    bool idle;     /* no rank computes with it: a tower's layers after the selected feature */
    /* not loaded: its rows are read from the mapped file (the token table, unless it is the head too) */
    bool mapped;
    bool exact; /* kept in f32 whatever --weights says: gates, LoRA, small ones */
    enum { UM_INIT_NORMAL, UM_INIT_ONES, UM_INIT_ZEROS } init;
} um_spec;

/* Which tensors to visit. */
typedef struct um_selection {
    uint32_t parts; /* bits 1 << um_part */
    /* of the experts, those for which it is true; NULL: all */
    bool (*owns)(const void *ctx, int layer, int expert);
    const void *ctx;
} um_selection;
enum { UM_ALL_PARTS = (1 << UM_PARTS) - 1 };

typedef um_status (*um_spec_fn)(void *ctx, const um_spec *spec, um_err *err);
/* Calls fn for every tensor of the model, backbone first, layer by layer, towers last. Stops at the first status other than UM_OK and
 * returns it. Names and shapes are read from here by all: loading (core/nn/params.h), inspect, init, convert and the memory plan. */
um_status um_model_for_each_tensor(const um_model *m, um_spec_fn fn, void *ctx, um_err *err);
/* The same for the selected tensors. The time is that of the selected experts, not of all. */
um_status um_model_for_each_selected(const um_model *m, const um_selection *sel, um_spec_fn fn,
                                     void *ctx, um_err *err);
/* Copies the name of one tensor; false when the model does not have it. Visits the tensor's whole part. */
bool um_model_tensor_name(const um_model *m, um_place at, um_leaf leaf, char out[200]);

/* What the name of a tensor of the language model says, whatever the model: for detecting what a checkpoint contains. */
typedef enum um_name_kind {
    UM_NAME_OTHER,
    UM_NAME_GATE,
    UM_NAME_EXPERT,
    UM_NAME_SHARED,
    UM_NAME_FM,
    UM_NAME_DENSE
} um_name_kind;
typedef struct um_name_parts {
    um_name_kind is;
    um_gate_style
        style; /* of all but OTHER and DENSE; MIXTRAL and DYNAMIC gates have the same name: MIXTRAL stands for both */
    int layer, expert; /* -1 where the name does not contain it */
    bool lora;
} um_name_parts;
um_name_parts um_name_parse(const char *name);

/* true when the token ends an answer. */
static inline bool um_model_is_eos(const um_model *m, int id)
{
    for (int i = 0; i < m->n_eos; i++)
        if (m->eos[i] == id) return true;
    return false;
}

/* Number of rows of one image: one per patch, preceded by the class row where the model keeps it. */
static inline int um_vision_rows(const um_vision_model *m)
{
    int side = m->image_size / m->patch;
    return side * side + (m->keep_class ? 1 : 0);
}

/* Positions that the model was made for; linear scaling of the angles stretches them. */
static inline int64_t um_model_positions(const um_model *m)
{
    double factor = m->rope_factor > 1 ? (double)m->rope_factor : 1;
    return (int64_t)((double)m->max_positions * factor);
}

/* Rows of a gate's matrix: one per expert; with the dynamic gate also one per null and per shared expert. */
static inline int um_model_gate_rows(const um_model *m)
{
    return m->experts + m->dynamic.nulls + m->dynamic.shared;
}

/* Numbers of parameters of the language model (without towers, projectors and LoRA), spec 0.2: in total and activated per token
 * (dynamic gate: maximum). */
void um_model_params(const um_model *m, int64_t *total, int64_t *active);
