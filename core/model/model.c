/* See model.h. Reads the language model's config.json; generation_config.json is read in model_generation.c, the towers in
 * model_vision.c and model_audio.c. */
#include "core/model/model.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/model/model_read.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* --- sizes --- */

static void read_sizes(um_model *m, um_reader *r)
{
    um_take_int(r, "hidden_size", true, 1, UM_MAX_WIDTH, &m->dim);
    um_take_int(r, "intermediate_size", true, 1, UM_MAX_WIDTH, &m->ffn_dim);
    um_take_int(r, "num_hidden_layers", true, 1, UM_MAX_LAYERS, &m->layers);
    um_take_int(r, "num_attention_heads", true, 1, UM_MAX_HEADS, &m->heads);
    um_take_int(r, "vocab_size", true, 1, UM_MAX_VOCAB, &m->vocab);
    m->kv_heads = m->heads;
    um_take_int(r, "num_key_value_heads", false, 1, UM_MAX_HEADS, &m->kv_heads);
    m->max_positions = 2048; /* LlamaConfig's default */
    um_take_int(r, "max_position_embeddings", false, 1, UM_MAX_POSITIONS, &m->max_positions);
    if (r->st != UM_OK) return;
    if (m->heads % m->kv_heads != 0) {
        um_refuse(r, "num_key_value_heads: %d, must divide num_attention_heads %d", m->kv_heads,
                  m->heads);
    }
    if (!um_given(r, "head_dim") && m->dim % m->heads != 0) {
        um_refuse(r,
                  "num_attention_heads: %d, must divide hidden_size %d when there is no head_dim",
                  m->heads, m->dim);
    }
    m->head_dim = m->dim / m->heads;
    um_take_int(r, "head_dim", false, 1, UM_MAX_WIDTH, &m->head_dim);
    if (r->st != UM_OK) return;
    if (m->head_dim % 2 != 0 || m->head_dim == 0)
        um_refuse(r, "head_dim: %d, must be even (rotary pairs)", m->head_dim);
    if ((int64_t)m->heads * m->head_dim > UM_MAX_WIDTH) {
        um_refuse(r, "num_attention_heads x head_dim: %d x %d, allowed at most %d", m->heads,
                  m->head_dim, UM_MAX_WIDTH);
    }
}

/* Reads "rope_scaling": null, or {"type": "linear", "factor": 2.0}. */
static void read_rope_scaling(um_model *m, um_reader *r)
{
    m->rope_factor = 1.0f;
    if (!um_given(r, "rope_scaling") || r->st != UM_OK) return;
    um_reader in = *r;
    in.j = um_json_get(r->j, "rope_scaling");
    const char *type = NULL;
    if (um_json_kind_of(in.j) != UM_JSON_OBJECT)
        um_refuse(&in, "rope_scaling: allowed null or an object");
    um_take_str(&in, "type", &type);
    if (type == NULL) um_take_str(&in, "rope_type", &type);
    if (type != NULL && strcmp(type, "linear") == 0) {
        um_take_f32(&in, "factor", true, 1e-3, 1e6, &m->rope_factor);
    } else if (type == NULL || strcmp(type, "default") != 0) {
        um_refuse(&in, "rope_scaling: type \"%.64s\", allowed \"linear\"",
                  type == NULL ? "" : type);
    }
    r->st = in.st;
}

/* Refuses switches that would change the numbers and that Uni-MoE models do not set. */
static void refuse_foreign(um_reader *r)
{
    static const char *const bias[] = {"attention_bias", "mlp_bias"};
    const char *act = "silu";
    um_take_str(r, "hidden_act", &act);
    if (strcmp(act, "silu") != 0) um_refuse(r, "hidden_act: \"%.64s\", allowed \"silu\"", act);
    for (int i = 0; i < 2; i++) {
        bool on = false;
        um_take_bool(r, bias[i], &on);
        if (on)
            um_refuse(r, "%s: true, allowed false: the layers of this model have no bias", bias[i]);
    }
}

static void read_numbers(um_model *m, um_reader *r)
{
    m->rms_eps = 1e-6f; /* LlamaConfig's default */
    m->rope_theta = 10000.0f;
    um_take_f32(r, "rms_norm_eps", false, 1e-12, 0.1, &m->rms_eps);
    um_take_f32(r, "rope_theta", false, 1.0, 1e12, &m->rope_theta);
    read_rope_scaling(m, r);
    um_take_bool(r, "tie_word_embeddings", &m->tied);
    refuse_foreign(r);
}

/* --- mixture of experts --- */

static bool is_moe(um_reader *r)
{
    const um_json *moe = um_json_get(r->j, "moe");
    return um_given(r, "moe") &&
           um_json_bool(moe, true); /* any value but null switches it on; false means false */
}

/* Which layers are MoE: "dense" all, "sparse" every moe_stride-th from 0; without moe_type the tensors decide. */
static void read_placement(um_model *m, um_reader *r, uint8_t *layer)
{
    const char *type = NULL;
    int stride = 1;
    um_take_str(r, "moe_type", &type);
    if (r->st != UM_OK) return;
    m->moe_unplaced = type == NULL;
    if (type != NULL && strcmp(type, "sparse") == 0) {
        um_take_int(r, "moe_stride", true, 1, UM_MAX_LAYERS, &stride);
    } else if (type != NULL && strcmp(type, "dense") != 0) {
        um_refuse(r,
                  "moe_type: \"%.64s\", allowed \"dense\" (every layer) and \"sparse\" (every "
                  "moe_stride-th)",
                  type);
    }
    for (int i = 0; i < m->layers; i++) layer[i] = i % stride == 0;
}

/* LoRA inside the experts and dense MLPs (spec 4.3). The keys are read for every model; um_checkpoint_open requires them when the
 * tensors contain a LoRA. */
static void read_lora(um_model *m, um_reader *r)
{
    m->lora_alpha = -1.0f;
    um_take_int(r, "lora_r", false, 0, 65536, &m->lora_r);
    um_take_f32(r, "lora_alpha", false, 0.0, 1e6, &m->lora_alpha);
}

/* Reads a width, given directly or as the factor by which the dense feed-forward width is divided. */
static void read_width(const um_model *m, um_reader *r, const char *key, const char *factor_key,
                       int *out)
{
    int factor = 0;
    um_take_int(r, key, false, 1, UM_MAX_WIDTH, out);
    um_take_int(r, factor_key, false, 1, UM_MAX_WIDTH, &factor);
    if (r->st != UM_OK || *out > 0) return;
    if (factor == 0) {
        um_refuse(r, "%s: missing (or %s)", key, factor_key);
    } else if (m->ffn_dim % factor != 0) {
        um_refuse(r, "%s: %d, must divide intermediate_size %d", factor_key, factor, m->ffn_dim);
    }
    *out = m->ffn_dim / um_max_int(factor, 1);
}

static void read_drop(um_dynamic_model *d, um_reader *r)
{
    const char *policy = "probs";
    d->capacity_factor = 1.0f;
    um_take_bool(r, "token_drop", &d->token_drop);
    um_take_int(r, "min_capacity", false, 0, INT32_MAX, &d->min_capacity);
    um_take_f32(r, "capacity_factor", false, 0.0, 1e6, &d->capacity_factor);
    um_take_str(r, "drop_policy", &policy);
    bool position = strcmp(policy, "position") == 0;
    d->drop_policy = position ? UM_DROP_POSITION : UM_DROP_PROBS;
    if (!position && strcmp(policy, "probs") != 0)
        um_refuse(r, "drop_policy: \"%.64s\", allowed \"probs\" and \"position\"", policy);
}

/* The dynamic gate (spec 10.1). With top_p a token may need every routed expert, so top_k, its number of slots, is then R. */
static void read_dynamic(um_model *m, um_reader *r)
{
    um_dynamic_model *d = &m->dynamic;
    d->top_p = 0.7f;
    d->top_k = 2;
    d->eps = 0.01f;
    m->gate = UM_GATE_DYNAMIC;
    um_take_int(r, "mlp_dynamic_expert_num", true, 1, UM_MAX_EXPERTS, &m->experts);
    um_take_int(r, "mlp_dynamic_null_expert_num", false, 0, UM_MAX_EXPERTS, &d->nulls);
    um_take_int(r, "mlp_fixed_expert_num", false, 0, UM_MAX_EXPERTS, &d->shared);
    um_take_f32(r, "mlp_dynamic_top_p", false, 0.0, 1.0, &d->top_p);
    um_take_int(r, "mlp_dynamic_top_k", false, 1, UM_MAX_EXPERTS, &d->top_k);
    um_take_f32(r, "router_jitter_noise", false, 0.0, 1.0, &d->eps);
    d->routed = m->experts;
    read_width(m, r, "dynamic_intermediate_size", "dynamic_mlp_size_factor", &m->expert_dim);
    if (d->shared > 0)
        read_width(m, r, "shared_intermediate_size", "fixed_mlp_size_factor", &d->shared_dim);
    read_drop(d, r);
    if (r->st == UM_OK && d->top_p == 0.0f && d->top_k > d->routed + d->nulls) {
        um_refuse(r,
                  "mlp_dynamic_top_k: %d, allowed 1..%d (mlp_dynamic_expert_num + "
                  "mlp_dynamic_null_expert_num)",
                  d->top_k, d->routed + d->nulls);
    }
    m->top_k = d->top_p > 0.0f ? m->experts : um_min_int(d->top_k, m->experts);
}

/* Every layer is MoE unless moe_type says otherwise. */
static void read_dynamic_moe(um_model *m, um_reader *r, uint8_t *layer)
{
    m->expert_dim = 0;
    read_dynamic(m, r);
    read_placement(m, r, layer);
    m->moe_unplaced = false;
}

static void read_moe(um_model *m, um_reader *r)
{
    const char *type = "llava";
    um_take_str(r, "model_type", &type);
    if (r->st != UM_OK) return;
    m->gate = strcmp(type, "llava_llama") == 0 ? UM_GATE_GSHARD : UM_GATE_MIXTRAL;
    uint8_t *layer = um_arena_zero(r->arena, (size_t)m->layers);
    m->moe_layer = layer;
    read_lora(m, r);
    m->expert_dim = m->ffn_dim;
    if (um_given(r, "mlp_dynamic_expert_num") &&
        um_json_bool(um_json_get(r->j, "moe"), true)) { /* these configs do not need "moe" */
        read_dynamic_moe(m, r, layer);
        return;
    }
    if (!is_moe(r)) return;
    m->top_k = 2;
    um_take_int(r, "num_experts", true, 1, UM_MAX_EXPERTS, &m->experts);
    um_take_int(r, "num_experts_per_tok", false, 1, UM_MAX_EXPERTS, &m->top_k);
    if (r->st == UM_OK && m->top_k > m->experts) {
        um_refuse(r, "num_experts_per_tok: %d, allowed 1..%d (num_experts)", m->top_k, m->experts);
    }
    read_placement(m, r, layer);
    um_take_bool(r, "use_fm_block", &m->fm_block);
    um_take_bool(r, "use_expert_bias", &m->expert_bias);
}

/* --- the whole model --- */

/* The name of the released variant (spec 0.2), or else a general name. */
static const char *variant_of(const um_model *m)
{
    if (m->experts == 0) return "dense";
    if (m->gate == UM_GATE_DYNAMIC) return "dynamic";
    bool all = m->moe_layers == m->layers, even = true;
    for (int i = 0; i < m->layers; i++) even = even && m->moe_layer[i] == (i % 2 == 0);
    bool beats = m->sound.present;
    if (beats && m->speech.present) return "unified";
    if (!(beats || m->speech.present) || m->top_k != 2 || m->moe_unplaced) return "custom";
    if (m->gate == UM_GATE_GSHARD) return m->experts == 8 && !beats ? "speech-8e" : "custom";
    if (m->experts != 4) return "custom";
    if (beats) return even ? "audio-4e" : "custom";
    return all ? "speech-4e" : even ? "speech-4e-interval" : "custom";
}

/* FNV-1a, 64 bits. */
static uint64_t hash_bytes(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

/* Writes the sizes of both audio parts; those of an absent part are zeros. */
static int audio_text(char *s, size_t size, const um_model *m)
{
    const um_speech_model *p = &m->speech;
    const um_sound_model *q = &m->sound;
    int n = snprintf(s, size, " speech %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %s",
                     p->present, p->dim, p->layers, p->heads, p->ffn_dim, p->mel_bins, p->positions,
                     p->rate, p->n_fft, p->hop, p->window_seconds, p->dec_layers, p->dec_heads,
                     p->dec_ffn_dim, p->dec_positions, p->queries, p->proj, p->proj_layers,
                     p->names.prefix);
    return n +
           snprintf(s + n, size - (size_t)n,
                    " sound %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %08x %d %d %s",
                    q->present, q->dim, q->layers, q->heads, q->ffn_dim, q->patch, q->patch_dim,
                    q->conv_pos, q->conv_groups, q->buckets, q->max_distance, q->gated,
                    q->window_seconds, q->q_dim, q->q_layers, q->q_heads, q->q_ffn_dim, q->q_cross,
                    q->queries, um_f32_bits(q->q_eps), q->proj, q->proj_layers, q->names.prefix);
}

/* The settings of dropping are left out, because they do not affect answers. */
static uint64_t hash_dynamic(uint64_t h, const um_model *m)
{
    const um_dynamic_model *d = &m->dynamic;
    char s[128];
    int n =
        snprintf(s, sizeof s, "dynamic %d %d %d %d %08x %d %08x ", m->expert_dim, d->nulls,
                 d->shared, d->shared_dim, um_f32_bits(d->top_p), d->top_k, um_f32_bits(d->eps));
    return hash_bytes(h, s, (size_t)n);
}

/* Computed over a text of all sizes, so that it does not depend on struct layout. Folders and sampling defaults are left out. */
static uint64_t fingerprint_of(const um_model *m)
{
    const um_vision_model *v = &m->vision;
    char s[2048];
    int n = snprintf(
        s, sizeof s,
        "llm %d %d %d %d %d %d %d %d %08x %08x %08x %d %d %d moe %d %d %d %d %d %d %08x ", m->dim,
        m->layers, m->heads, m->kv_heads, m->head_dim, m->ffn_dim, m->vocab, m->max_positions,
        um_f32_bits(m->rms_eps), um_f32_bits(m->rope_theta), um_f32_bits(m->rope_factor), m->bos,
        m->n_eos, m->tied, m->experts == 0 ? -1 : (int)m->gate, m->experts, m->top_k,
        m->moe_unplaced, m->fm_block, m->lora_r, um_f32_bits(m->lora_alpha));
    n += snprintf(s + n, sizeof s - (size_t)n,
                  "vision %d %d %d %d %d %d %d %d %d %d %08x %d %d %d %d %d %d %d %d %d %d %08x",
                  v->present, v->dim, v->layers, v->heads, v->ffn_dim, v->image_size, v->patch,
                  v->run_layers, v->keep_class, v->quick_gelu, um_f32_bits(v->eps), v->resize,
                  v->crop, v->resize_short, v->crop_w, v->crop_h, v->resize_w, v->resize_h,
                  v->pad_square, v->proj, v->proj_layers, um_f32_bits(v->rescale));
    for (int i = 0; i < 3; i++) {
        n += snprintf(s + n, sizeof s - (size_t)n, " %08x %08x %08x", um_f32_bits(v->mean[i]),
                      um_f32_bits(v->std[i]), um_f32_bits(v->fill[i]));
    }
    n += audio_text(s + n, sizeof s - (size_t)n, m);
    UM_ASSERT(n > 0 && (size_t)n < sizeof s);
    uint64_t h = hash_bytes(0xCBF29CE484222325u, s, (size_t)n);
    for (int i = 0; i < m->n_eos; i++) {
        n = snprintf(s, sizeof s, "eos %d ", m->eos[i]);
        h = hash_bytes(h, s, (size_t)n);
    }
    if (m->gate == UM_GATE_DYNAMIC) h = hash_dynamic(h, m);
    if (m->expert_bias) h = hash_bytes(h, "expert bias", 11);
    return hash_bytes(h, m->moe_layer, (size_t)m->layers);
}

static void renew(um_model *m)
{
    m->moe_layers = 0;
    for (int i = 0; i < m->layers; i++) m->moe_layers += m->moe_layer[i];
    m->variant = variant_of(m);
    m->fingerprint = fingerprint_of(m);
}

void um_model_resolve(um_model *m, um_gate_style gate, const uint8_t *moe_layer)
{
    m->gate = gate;
    m->moe_layer = moe_layer;
    m->moe_unplaced = false;
    m->fm_block = m->fm_block && gate == UM_GATE_GSHARD;
    m->expert_bias = m->expert_bias && gate != UM_GATE_DYNAMIC;
    renew(m);
}

static void check_total(const um_model *m, um_reader *r)
{
    int64_t a, b, c, d;
    if (r->st != UM_OK) return;
    /* widths are at most 2^20 and numbers of experts at most 2^22, so their products fit */
    int64_t experts = (int64_t)um_max_int(m->experts, 1) * um_max_int(m->ffn_dim, m->expert_dim),
            shared = (int64_t)m->dynamic.shared * m->dynamic.shared_dim;
    bool over = __builtin_mul_overflow((int64_t)m->layers, 3 * (int64_t)m->dim, &a) ||
                __builtin_mul_overflow(a, experts + shared, &b) ||
                __builtin_mul_overflow(a, (int64_t)um_model_gate_rows(m), &d) ||
                __builtin_add_overflow(b, 2 * (int64_t)m->vocab * m->dim, &c);
    over = over || d > UM_MAX_PARAMS;
    if (over || c > UM_MAX_PARAMS) {
        um_refuse(r,
                  "num_hidden_layers %d, num_experts %d, hidden_size %d, intermediate_size %d and "
                  "vocab_size %d make more "
                  "than 2^50 parameters",
                  m->layers, m->experts, m->dim, m->ffn_dim, m->vocab);
    }
}

um_status um_model_read(um_model *out, const char *dir, const um_towers *towers, um_arena *arena,
                        um_err *err)
{
    um_model m = {.dir = um_arena_str(arena, dir)};
    um_towers none = {0};
    um_json *root;
    um_reader r;
    if (towers == NULL) towers = &none;
    UM_TRY(um_model_folder_check(dir, err));
    um_status st =
        um_reader_open(&r, &root, um_path_join(arena, dir, "config.json"), false, arena, err);
    if (st == UM_OK) {
        read_sizes(&m, &r);
        read_numbers(&m, &r);
        read_moe(&m, &r);
        check_total(&m, &r);
        st = r.st;
    }
    if (st == UM_OK) {
        st = um_model_read_vision(&m.vision, &r, dir, towers->vision == NULL ? "" : towers->vision);
    }
    if (st == UM_OK) st = um_model_read_audio(&m.speech, &m.sound, &r, dir, towers);
    if (st == UM_OK) st = um_model_read_generation(&m, &r, dir);
    if (st == UM_OK) {
        renew(&m);
        *out = m;
    }
    um_json_free(root);
    return st;
}
