/* The list of a model's tensors (spec 2.1, 3.1, 4, 7.2): the only place with their names and shapes; and their totals. The audio parts
 * are in model_names_audio.c, what a name says in model_name_parse.c. */
#include "core/model/tensor_visitor.h"

#include "core/base/bytes.h"

#include <stdio.h>
#include <string.h>

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

/* --- one tensor --- */

void um_visit_tensor(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                     int64_t a, int64_t b, int64_t c, int64_t d)
{
    int64_t shape[4] = {a, b, c, d};
    if (w->st != UM_OK || (w->sel.parts >> w->s.at.part & 1) == 0) return;
    w->s.at.slot = slot;
    w->s.rank = 0;
    memset(w->s.shape, 0, sizeof w->s.shape);
    while (w->s.rank < 4 && shape[w->s.rank] != 0) {
        w->s.shape[w->s.rank] = shape[w->s.rank];
        w->s.rank++;
    }
    snprintf(w->name, sizeof w->name, "%s%s", prefix, name);
    w->s.name = w->name;
    w->st = w->fn(w->ctx, &w->s, w->err);
}

void um_visit_normal(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                     int64_t a, int64_t b, int64_t c, int64_t d)
{
    w->s.leaf = UM_LEAF_WEIGHT;
    w->s.init = UM_INIT_NORMAL;
    um_visit_tensor(w, slot, prefix, name, a, b, c, d);
}

void um_visit_ones(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                   int64_t a, int64_t b, int64_t c, int64_t d)
{
    w->s.leaf = UM_LEAF_WEIGHT;
    w->s.init = UM_INIT_ONES;
    um_visit_tensor(w, slot, prefix, name, a, b, c, d);
}

void um_visit_bias(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                   int64_t n)
{
    w->s.leaf = UM_LEAF_BIAS;
    w->s.init = UM_INIT_ZEROS;
    um_visit_tensor(w, slot, prefix, name, n, 0, 0, 0);
}

void um_visit_pair(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                   int64_t n, int64_t k)
{
    char at[200];
    snprintf(at, sizeof at, "%s%s.", prefix, name);
    if (k > 0)
        um_visit_normal(w, slot, at, "weight", n, k, 0, 0);
    else
        um_visit_ones(w, slot, at, "weight", n, 0, 0, 0);
    um_visit_bias(w, slot, at, "bias", n);
}

/* --- the language model --- */

const char *const um_experts_name[UM_GATE_STYLES] = {
    [UM_GATE_MIXTRAL] = "mlp.experts.",
    [UM_GATE_GSHARD] = "mlp.deepspeed_moe.experts.deepspeed_experts.",
    [UM_GATE_DYNAMIC] = "mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts."};
const char *const um_gate_name[UM_GATE_STYLES] = {[UM_GATE_MIXTRAL] = "mlp.gate.weight",
                                                  [UM_GATE_GSHARD] =
                                                      "mlp.deepspeed_moe.gate.wg.weight",
                                                  [UM_GATE_DYNAMIC] = "mlp.gate.weight"};

/* The two factors of the LoRA beside a projection [n,k] of prefix (spec 4.3). */
static void visit_lora(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *proj,
                       int64_t n, int64_t k)
{
    char at[200];
    const um_spec was = w->s;
    snprintf(at, sizeof at, "%s%s_lora_", prefix, proj);
    w->s.optional = w->s.exact = true;
    w->s.leaf = UM_LEAF_LORA_A;
    w->s.init = UM_INIT_NORMAL;
    um_visit_tensor(w, slot, at, "A.weight", w->m->lora_r, k, 0, 0);
    w->s.leaf = UM_LEAF_LORA_B;
    w->s.init = UM_INIT_ZEROS;
    um_visit_tensor(w, slot, at, "B.weight", n, w->m->lora_r, 0, 0);
    w->s.optional = was.optional;
    w->s.exact = was.exact;
}

/* gate, up and down of a block of the given width, each with the LoRA that config.json announces. */
static void visit_ffn(um_tensor_visitor *w, const char *prefix, int index, int64_t width)
{
    static const struct {
        um_slot slot;
        const char *name, *file;
    } proj[] = {{UM_SLOT_GATE_PROJ, "gate_proj", "gate_proj.weight"},
                {UM_SLOT_UP_PROJ, "up_proj", "up_proj.weight"},
                {UM_SLOT_DOWN_PROJ, "down_proj", "down_proj.weight"}};
    w->s.at.index = index;
    for (int i = 0; i < 3 && w->st == UM_OK; i++) {
        const int64_t n = i < 2 ? width : w->m->dim, k = i < 2 ? w->m->dim : width;
        um_visit_normal(w, proj[i].slot, prefix, proj[i].file, n, k, 0, 0);
        if (w->m->lora_r > 0) visit_lora(w, proj[i].slot, prefix, proj[i].name, n, k);
    }
    w->s.at.index = -1;
}

static void visit_experts(um_tensor_visitor *w, const char *layer)
{
    const um_model *m = w->m;
    char at[200];
    w->s.at.part = UM_PART_EXPERT;
    if ((w->sel.parts >> UM_PART_EXPERT & 1) == 0) return;
    for (int e = 0; e < m->experts && w->st == UM_OK; e++) {
        if (w->sel.owns != NULL && !w->sel.owns(w->sel.ctx, w->s.at.layer, e)) continue;
        snprintf(at, sizeof at, "%s%s%d.", layer, um_experts_name[m->gate], e);
        visit_ffn(w, at, e, m->expert_dim);
    }
}

/* The shared experts, which every token uses; the routers compute them. */
static void visit_shared(um_tensor_visitor *w, const char *layer)
{
    char at[200];
    w->s.at.part = UM_PART_BACKBONE;
    for (int j = 0; j < w->m->dynamic.shared; j++) {
        snprintf(at, sizeof at, "%s" UM_SHARED_NAME "%d.", layer, j);
        visit_ffn(w, at, j, w->m->dynamic.shared_dim);
    }
}

/* The gate and its pre-projections, stored as 1x1 convolutions [D,D,1]. Always f32 (DESIGN 7). */
static void visit_gate(um_tensor_visitor *w, const char *layer)
{
    static const char *const fm[UM_FMS] = {"text", "image", "audio", "video"};
    const um_model *m = w->m;
    char at[200];
    w->s.at.part = UM_PART_GATE;
    w->s.exact = true;
    um_visit_normal(w, UM_SLOT_GATE, layer, um_gate_name[m->gate], um_model_gate_rows(m), m->dim, 0,
                    0);
    if (m->expert_bias && m->gate != UM_GATE_DYNAMIC) {
        snprintf(at, sizeof at, "%s%s", layer,
                 m->gate == UM_GATE_GSHARD ? "mlp.deepspeed_moe.gate." : "mlp.gate.");
        w->s.optional = m->expert_bias_begins;
        w->s.leaf = UM_LEAF_WEIGHT;
        w->s.init = UM_INIT_ZEROS;
        um_visit_tensor(w, UM_SLOT_GATE_BIAS, at, UM_GATE_BIAS_NAME, m->experts, 0, 0, 0);
        w->s.optional = false;
    }
    for (int i = 0; m->fm_block && m->gate == UM_GATE_GSHARD && i < UM_FMS; i++) {
        w->s.at.index = i;
        w->s.optional = i == UM_FM_AUDIO;
        snprintf(at, sizeof at, "%s" UM_FM_NAME "%s.", layer, fm[i]);
        um_visit_normal(w, UM_SLOT_FM, at, "weight", m->dim, m->dim, 1, 0);
        um_visit_bias(w, UM_SLOT_FM, at, "bias", m->dim);
    }
    w->s.at.index = -1;
    w->s.optional = w->s.exact = false;
}

static void visit_layer(um_tensor_visitor *w, int layer)
{
    const um_model *m = w->m;
    char at[64], mlp[80];
    int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    snprintf(at, sizeof at, "model.layers.%d.", layer);
    snprintf(mlp, sizeof mlp, "%smlp.", at);
    w->s.at.layer = layer;
    w->s.at.part = UM_PART_BACKBONE;
    um_visit_ones(w, UM_SLOT_NORM1, at, "input_layernorm.weight", m->dim, 0, 0, 0);
    um_visit_normal(w, UM_SLOT_Q, at, "self_attn.q_proj.weight", q, m->dim, 0, 0);
    um_visit_normal(w, UM_SLOT_K, at, "self_attn.k_proj.weight", kv, m->dim, 0, 0);
    um_visit_normal(w, UM_SLOT_V, at, "self_attn.v_proj.weight", kv, m->dim, 0, 0);
    um_visit_normal(w, UM_SLOT_O, at, "self_attn.o_proj.weight", m->dim, q, 0, 0);
    um_visit_ones(w, UM_SLOT_NORM2, at, "post_attention_layernorm.weight", m->dim, 0, 0, 0);
    if (m->moe_layer[layer]) {
        visit_gate(w, at);
        visit_shared(w, at);
        visit_experts(w, at);
    } else {
        visit_ffn(w, mlp, -1, m->ffn_dim);
    }
    w->s.at.layer = -1;
}

/* --- the image tower and its projector --- */

void um_visit_projector(um_tensor_visitor *w, const char *prefix, um_projector proj, int layers,
                        int64_t in, int64_t out)
{
    for (int i = 0; i < layers; i++) {
        char at[200], number[16] = "";
        if (proj == UM_PROJ_MLP)
            snprintf(number, sizeof number, "%d.", 2 * i); /* the odd ones are the GELUs */
        snprintf(at, sizeof at, "%s%s", prefix, number);
        w->s.at.index = i;
        um_visit_normal(w, UM_SLOT_PROJECTOR, at, "weight", out, i == 0 ? in : out, 0, 0);
        um_visit_bias(w, UM_SLOT_PROJECTOR, at, "bias", out);
    }
    w->s.at.index = -1;
}

static void visit_vision_layer(um_tensor_visitor *w, int layer)
{
    const um_vision_model *v = &w->m->vision;
    char at[64];
    snprintf(at, sizeof at, "vision_model.encoder.layers.%d.", layer);
    w->s.at.layer = layer;
    w->s.optional = w->s.idle =
        layer >= v->run_layers; /* after the layer of the selected feature */
    um_visit_pair(w, UM_SLOT_NORM1, at, "layer_norm1", v->dim, 0);
    um_visit_pair(w, UM_SLOT_Q, at, "self_attn.q_proj", v->dim, v->dim);
    um_visit_pair(w, UM_SLOT_K, at, "self_attn.k_proj", v->dim, v->dim);
    um_visit_pair(w, UM_SLOT_V, at, "self_attn.v_proj", v->dim, v->dim);
    um_visit_pair(w, UM_SLOT_O, at, "self_attn.out_proj", v->dim, v->dim);
    um_visit_pair(w, UM_SLOT_NORM2, at, "layer_norm2", v->dim, 0);
    um_visit_pair(w, UM_SLOT_FC1, at, "mlp.fc1", v->ffn_dim, v->dim);
    um_visit_pair(w, UM_SLOT_FC2, at, "mlp.fc2", v->dim, v->ffn_dim);
    w->s.at.layer = -1;
    w->s.optional = w->s.idle = false;
}

static void visit_vision(um_tensor_visitor *w)
{
    static const char embed[] = "vision_model.embeddings.";
    const um_vision_model *v = &w->m->vision;
    int64_t side = v->image_size / v->patch;
    w->s.at.part = UM_PART_VISION;
    um_visit_normal(w, UM_SLOT_CLASS, embed, "class_embedding", v->dim, 0, 0, 0);
    um_visit_normal(w, UM_SLOT_PATCH, embed, "patch_embedding.weight", v->dim, v->channels,
                    v->patch, v->patch);
    um_visit_normal(w, UM_SLOT_POSITIONS, embed, "position_embedding.weight", side * side + 1,
                    v->dim, 0, 0);
    /* spelled so in the files */
    um_visit_pair(w, UM_SLOT_PRE_NORM, "vision_model.", "pre_layrnorm", v->dim, 0);
    for (int i = 0; i < v->layers && w->st == UM_OK; i++) visit_vision_layer(w, i);
    w->s.optional = w->s.idle = true;
    um_visit_pair(w, UM_SLOT_POST_NORM, "vision_model.", "post_layernorm", v->dim, 0);
    w->s.optional = w->s.idle = false;
}

/* --- all --- */

um_status um_model_for_each_selected(const um_model *m, const um_selection *sel, um_spec_fn fn,
                                     void *ctx, um_err *err)
{
    um_tensor_visitor w = {.m = m, .sel = *sel, .fn = fn, .ctx = ctx, .err = err};
    w.s.at = um_place_of(UM_PART_BACKBONE, UM_SLOT_EMBED, -1, -1);
    w.s.mapped = !m->tied;
    um_visit_normal(&w, UM_SLOT_EMBED, "model.", "embed_tokens.weight", m->vocab, m->dim, 0, 0);
    w.s.mapped = false;
    for (int i = 0; i < m->layers && w.st == UM_OK; i++) visit_layer(&w, i);
    w.s.at.part = UM_PART_BACKBONE;
    um_visit_ones(&w, UM_SLOT_NORM, "model.", "norm.weight", m->dim, 0, 0, 0);
    if (!m->tied) um_visit_normal(&w, UM_SLOT_HEAD, "", "lm_head.weight", m->vocab, m->dim, 0, 0);
    if (m->vision.present) {
        const um_vision_model *v = &m->vision;
        w.s.at.part = UM_PART_PROJECTOR;
        um_visit_projector(&w, "model.mm_projector.", v->proj, v->proj_layers, v->dim, m->dim);
        visit_vision(&w);
    }
    um_visit_audio(&w);
    return w.st;
}

um_status um_model_for_each_tensor(const um_model *m, um_spec_fn fn, void *ctx, um_err *err)
{
    const um_selection all = {.parts = UM_ALL_PARTS};
    return um_model_for_each_selected(m, &all, fn, ctx, err);
}

typedef struct wanted {
    um_place at;
    um_leaf leaf;
    char *name;
    bool found;
} wanted;

static um_status look(void *ctx, const um_spec *s, um_err *err)
{
    wanted *w = ctx;
    (void)err;
    if (s->at.slot != w->at.slot || s->at.layer != w->at.layer || s->at.index != w->at.index ||
        s->leaf != w->leaf)
        return UM_OK;
    snprintf(w->name, 200, "%s", s->name);
    w->found = true;
    return UM_E_STOPPED; /* the visit need not go on */
}

static bool same_expert(const void *ctx, int layer, int expert)
{
    const um_place *at = ctx;
    return layer == at->layer && expert == at->index;
}

bool um_model_tensor_name(const um_model *m, um_place at, um_leaf leaf, char out[200])
{
    wanted w = {.at = at, .leaf = leaf, .name = out};
    const um_selection sel = {.parts = 1u << at.part, .owns = same_expert, .ctx = &at};
    (void)um_model_for_each_selected(m, &sel, look, &w, NULL);
    return w.found;
}

/* --- totals --- */

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
