/* Names and shapes of a model's tensors (spec 2.1, 3.1, 4, 7.2), and their totals. The audio parts are in model_names_audio.c. */
#include "core/model/model.h"

#include "core/base/bytes.h"
#include "core/model/tensor_visitor.h"

#include <stdio.h>
#include <string.h>

/* After "model.layers.N.": the gate, and the text before the number of an expert. */
static const struct {
    const char *gate, *experts;
} moe_name[UM_GATE_STYLES] = {
    [UM_GATE_MIXTRAL] = {"mlp.gate.weight", "mlp.experts"},
    [UM_GATE_GSHARD] = {"mlp.deepspeed_moe.gate.wg.weight",
                        "mlp.deepspeed_moe.experts.deepspeed_experts"},
    [UM_GATE_DYNAMIC] = {"mlp.gate.weight",
                         "mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts"},
};

void um_name_layer(char out[200], int layer, const char *rest)
{
    snprintf(out, 200, "model.layers.%d.%s", layer, rest);
}

void um_name_expert(char out[200], const um_model *m, int layer, int expert, const char *which)
{
    snprintf(out, 200, "model.layers.%d.%s.%d.%s.weight", layer, moe_name[m->gate].experts, expert,
             which);
}

void um_name_shared(char out[200], int layer, int shared, const char *which)
{
    snprintf(out, 200, "model.layers.%d.mlp.fixed_real_moe.%d.%s.weight", layer, shared, which);
}

void um_name_gate(char out[200], const um_model *m, int layer)
{
    um_name_layer(out, layer, moe_name[m->gate].gate);
}

um_set um_set_of(um_part part)
{
    switch (part) {
    case UM_PART_VISION:
        return UM_SET_VISION;
    case UM_PART_SPEECH:
        return UM_SET_SPEECH;
    case UM_PART_SOUND:
        return UM_SET_SOUND;
    default:
        return UM_SET_LLM;
    }
}

const char *um_phase_name(um_phase phase)
{
    static const char *const name[UM_PHASES] = {"prefill", "decode"};
    return name[phase];
}

void um_name_fm(char out[200], int layer, um_fm fm, const char *leaf)
{
    static const char *const name[UM_FMS] = {"text", "image", "audio", "video"};
    snprintf(out, 200, "model.layers.%d.mlp.deepspeed_moe.fm_%s.%s", layer, name[fm], leaf);
}

void um_visit_tensor(um_tensor_visitor *w, int64_t a, int64_t b, int64_t c, int64_t d)
{
    int64_t shape[4] = {a, b, c, d};
    if (w->st != UM_OK) return;
    w->s.rank = 0;
    memset(w->s.shape, 0, sizeof w->s.shape);
    while (w->s.rank < 4 && shape[w->s.rank] != 0) {
        w->s.shape[w->s.rank] = shape[w->s.rank];
        w->s.rank++;
    }
    w->st = w->fn(w->ctx, &w->s, w->err);
}

void um_visit_normal(um_tensor_visitor *w, const char *name, int64_t a, int64_t b)
{
    snprintf(w->s.name, sizeof w->s.name, "%s", name);
    w->s.init = UM_INIT_NORMAL;
    um_visit_tensor(w, a, b, 0, 0);
}

void um_visit_ones(um_tensor_visitor *w, const char *name, int64_t a)
{
    snprintf(w->s.name, sizeof w->s.name, "%s", name);
    w->s.init = UM_INIT_ONES;
    um_visit_tensor(w, a, 0, 0, 0);
}

void um_visit_zeros(um_tensor_visitor *w, const char *name, int64_t a, int64_t b)
{
    snprintf(w->s.name, sizeof w->s.name, "%s", name);
    w->s.init = UM_INIT_ZEROS;
    um_visit_tensor(w, a, b, 0, 0);
}

static void ffn_name(char out[200], const um_model *m, int layer, int expert, const char *which)
{
    if (expert >= 0)
        um_name_expert(out, m, layer, expert, which);
    else
        snprintf(out, 200, "model.layers.%d.mlp.%s.weight", layer, which);
}

/* gate, up, down of one expert, or of the dense MLP when expert is -1, with the LoRA of 8e files. */
static void visit_ffn(um_tensor_visitor *w, int layer, int expert)
{
    static const char *const proj[] = {"gate_proj", "up_proj", "down_proj"};
    const um_model *m = w->m;
    w->s.part = expert >= 0 ? UM_PART_EXPERT : UM_PART_BACKBONE;
    w->s.expert = expert;
    for (int i = 0; i < 3 && w->st == UM_OK; i++) {
        int64_t width = expert >= 0 ? m->expert_dim : m->ffn_dim;
        int64_t n = i < 2 ? width : m->dim, k = i < 2 ? m->dim : width;
        char name[200], which[32];
        ffn_name(name, m, layer, expert, proj[i]);
        um_visit_normal(w, name, n, k);
        if (m->lora_r == 0 || m->gate != UM_GATE_GSHARD) continue;
        w->s.optional = true;
        snprintf(which, sizeof which, "%s_lora_A", proj[i]);
        ffn_name(name, m, layer, expert, which);
        um_visit_normal(w, name, m->lora_r, k);
        snprintf(which, sizeof which, "%s_lora_B", proj[i]);
        ffn_name(name, m, layer, expert, which);
        um_visit_zeros(w, name, n, m->lora_r);
        w->s.optional = false;
    }
    w->s.expert = -1;
}

/* The shared experts, which every token uses; the routers compute them. */
static void visit_shared(um_tensor_visitor *w, int layer)
{
    static const char *const proj[] = {"gate_proj", "up_proj", "down_proj"};
    const um_model *m = w->m;
    w->s.part = UM_PART_BACKBONE;
    for (int j = 0; j < m->dynamic.shared; j++) {
        for (int i = 0; i < 3 && w->st == UM_OK; i++) {
            char name[200];
            um_name_shared(name, layer, j, proj[i]);
            um_visit_normal(w, name, i < 2 ? m->dynamic.shared_dim : m->dim,
                            i < 2 ? m->dim : m->dynamic.shared_dim);
        }
    }
}

/* The gate and its pre-projections, stored as 1x1 convolutions [D,D,1]. */
static void visit_gate(um_tensor_visitor *w, int layer)
{
    const um_model *m = w->m;
    char name[200];
    w->s.part = UM_PART_GATE;
    um_name_gate(name, m, layer);
    um_visit_normal(w, name, um_model_gate_rows(m), m->dim);
    for (int i = 0; m->fm_block && m->gate == UM_GATE_GSHARD && i < UM_FMS; i++) {
        w->s.optional = i == UM_FM_AUDIO;
        um_name_fm(w->s.name, layer, (um_fm)i, "weight");
        w->s.init = UM_INIT_NORMAL;
        um_visit_tensor(w, m->dim, m->dim, 1, 0);
        um_name_fm(name, layer, (um_fm)i, "bias");
        um_visit_zeros(w, name, m->dim, 0);
    }
    w->s.optional = false;
}

static void visit_layer(um_tensor_visitor *w, int layer)
{
    const um_model *m = w->m;
    char name[200];
    int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    w->s.layer = layer;
    w->s.part = UM_PART_BACKBONE;
    um_name_layer(name, layer, "input_layernorm.weight");
    um_visit_ones(w, name, m->dim);
    um_name_layer(name, layer, "self_attn.q_proj.weight");
    um_visit_normal(w, name, q, m->dim);
    um_name_layer(name, layer, "self_attn.k_proj.weight");
    um_visit_normal(w, name, kv, m->dim);
    um_name_layer(name, layer, "self_attn.v_proj.weight");
    um_visit_normal(w, name, kv, m->dim);
    um_name_layer(name, layer, "self_attn.o_proj.weight");
    um_visit_normal(w, name, m->dim, q);
    um_name_layer(name, layer, "post_attention_layernorm.weight");
    um_visit_ones(w, name, m->dim);
    if (m->moe_layer[layer]) {
        visit_gate(w, layer);
        visit_shared(w, layer);
        for (int e = 0; e < m->experts && w->st == UM_OK; e++) visit_ffn(w, layer, e);
    } else {
        visit_ffn(w, layer, -1);
    }
    w->s.layer = -1;
}

void um_visit_projector(um_tensor_visitor *w, const char *prefix, um_projector proj, int layers,
                        int64_t in, int64_t out)
{
    for (int i = 0; i < layers; i++) {
        char name[200], number[16] = "";
        if (proj == UM_PROJ_MLP)
            snprintf(number, sizeof number, "%d.", 2 * i); /* the odd ones are the GELUs */
        snprintf(name, sizeof name, "%s%sweight", prefix, number);
        um_visit_normal(w, name, out, i == 0 ? in : out);
        snprintf(name, sizeof name, "%s%sbias", prefix, number);
        um_visit_zeros(w, name, out, 0);
    }
}

void um_visit_pair(um_tensor_visitor *w, const char *prefix, const char *name, int64_t n, int64_t k)
{
    char full[200];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    if (k > 0)
        um_visit_normal(w, full, n, k);
    else
        um_visit_ones(w, full, n);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    um_visit_zeros(w, full, n, 0);
}

static void visit_vision_layer(um_tensor_visitor *w, int layer)
{
    static const char *const attention[] = {"self_attn.q_proj", "self_attn.k_proj",
                                            "self_attn.v_proj", "self_attn.out_proj"};
    const um_vision_model *v = &w->m->vision;
    char prefix[64];
    snprintf(prefix, sizeof prefix, "vision_model.encoder.layers.%d.", layer);
    w->s.layer = layer;
    w->s.optional = layer >= v->run_layers; /* after the layer of the selected feature */
    um_visit_pair(w, prefix, "layer_norm1", v->dim, 0);
    for (int i = 0; i < 4; i++) um_visit_pair(w, prefix, attention[i], v->dim, v->dim);
    um_visit_pair(w, prefix, "layer_norm2", v->dim, 0);
    um_visit_pair(w, prefix, "mlp.fc1", v->ffn_dim, v->dim);
    um_visit_pair(w, prefix, "mlp.fc2", v->dim, v->ffn_dim);
    w->s.layer = -1;
}

static void visit_vision(um_tensor_visitor *w)
{
    const um_vision_model *v = &w->m->vision;
    int64_t side = v->image_size / v->patch;
    w->s.part = UM_PART_VISION;
    um_visit_normal(w, "vision_model.embeddings.class_embedding", v->dim, 0);
    snprintf(w->s.name, sizeof w->s.name, "vision_model.embeddings.patch_embedding.weight");
    um_visit_tensor(w, v->dim, v->channels, v->patch, v->patch);
    um_visit_normal(w, "vision_model.embeddings.position_embedding.weight", side * side + 1,
                    v->dim);
    um_visit_pair(w, "vision_model.", "pre_layrnorm", v->dim, 0); /* spelled so in the files */
    for (int i = 0; i < v->layers && w->st == UM_OK; i++) visit_vision_layer(w, i);
    w->s.optional = true;
    um_visit_pair(w, "vision_model.", "post_layernorm", v->dim, 0);
    w->s.optional = false;
}

um_status um_model_for_each_tensor(const um_model *m, um_spec_fn fn, void *ctx, um_err *err)
{
    um_tensor_visitor w = {.m = m,
                           .fn = fn,
                           .ctx = ctx,
                           .err = err,
                           .s = {.part = UM_PART_BACKBONE, .layer = -1, .expert = -1}};
    um_visit_normal(&w, "model.embed_tokens.weight", m->vocab, m->dim);
    for (int i = 0; i < m->layers && w.st == UM_OK; i++) visit_layer(&w, i);
    w.s.part = UM_PART_BACKBONE;
    um_visit_ones(&w, "model.norm.weight", m->dim);
    if (!m->tied) um_visit_normal(&w, "lm_head.weight", m->vocab, m->dim);
    if (m->vision.present) {
        const um_vision_model *v = &m->vision;
        w.s.part = UM_PART_PROJECTOR;
        um_visit_projector(&w, "model.mm_projector.", v->proj, v->proj_layers, v->dim, m->dim);
        visit_vision(&w);
    }
    um_visit_audio(&w);
    return w.st;
}

void um_model_params(const um_model *m, int64_t *total, int64_t *active)
{
    int64_t D = m->dim, q = (int64_t)m->heads * m->head_dim,
            kv = (int64_t)m->kv_heads * m->head_dim;
    int64_t ffn = 3 * D * m->ffn_dim, moe = m->moe_layers, fm = m->fm_block ? D * D + D : 0;
    int64_t expert = 3 * D * m->expert_dim, gate = um_model_gate_rows(m) * D,
            shared = m->dynamic.shared * 3 * D * m->dynamic.shared_dim;
    int64_t backbone = (m->tied ? 1 : 2) * D * m->vocab + D;
    backbone += m->layers * (2 * q * D + 2 * kv * D + 2 * D) + (m->layers - moe) * ffn;
    *total = backbone + moe * (gate + m->experts * expert + shared + UM_FMS * fm);
    *active = backbone + moe * (gate + m->top_k * expert + shared + fm);
}
