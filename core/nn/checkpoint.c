/* See checkpoint.h. */
#include "core/nn/checkpoint.h"

#include "core/base/text.h"
#include "core/nn/connectors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the tensor names show, collected in one pass. */
typedef struct survey {
    bool style[UM_GATE_STYLES];             /* names of this style exist */
    const um_tensor **gate[UM_GATE_STYLES]; /* [layers] the gate of each style, or NULL */
    const um_tensor **dense;                /* [layers] a tensor of the dense MLP, or NULL */
    const um_tensor *dynamic;               /* an expert of that style */
    const um_tensor *lora, *fm;
} survey;

static um_status survey_layer(survey *s, const um_model *m, const um_tensor *t,
                              const um_name_parts *p, um_err *err)
{
    if (p->layer >= m->layers) {
        return UM_FAIL(err, UM_E_MODEL,
                       "config.json num_hidden_layers: %d, but there is a tensor %.400s", m->layers,
                       t->name);
    }
    if (p->is == UM_NAME_GATE) s->gate[p->style][p->layer] = t;
    if (p->is == UM_NAME_DENSE && !p->lora) s->dense[p->layer] = t;
    return UM_OK;
}

static um_status survey_take(survey *s, const um_checkpoint *c, um_arena *scratch, um_err *err)
{
    const um_model *m = &c->model;
    size_t bytes = (size_t)m->layers * sizeof *s->dense;
    bool plain_gate = false;
    *s = (survey){.dense = um_arena_zero(scratch, bytes)};
    for (int i = 0; i < UM_GATE_STYLES; i++) s->gate[i] = um_arena_zero(scratch, bytes);
    for (size_t i = 0; i < um_tensors_count(c->llm); i++) {
        const um_tensor *t = um_tensors_at(c->llm, i);
        um_name_parts p = um_name_parse(t->name);
        if (p.layer >= 0) UM_TRY(survey_layer(s, m, t, &p, err));
        if (p.is == UM_NAME_GATE && p.style == UM_GATE_MIXTRAL)
            plain_gate = true;
        else if (p.is == UM_NAME_GATE || p.is == UM_NAME_EXPERT || p.is == UM_NAME_SHARED)
            s->style[p.style] = true;
        if (p.is == UM_NAME_EXPERT && p.style == UM_GATE_DYNAMIC) s->dynamic = t;
        if (p.is == UM_NAME_FM) s->fm = t;
        if (p.lora && (p.is == UM_NAME_EXPERT || p.is == UM_NAME_DENSE)) s->lora = t;
    }
    /* mlp.gate.weight belongs to the dynamic style when the files have tensors of that style, else to MIXTRAL */
    if (s->style[UM_GATE_DYNAMIC])
        s->gate[UM_GATE_DYNAMIC] = s->gate[UM_GATE_MIXTRAL];
    else
        s->style[UM_GATE_MIXTRAL] = s->style[UM_GATE_MIXTRAL] || plain_gate;
    return UM_OK;
}

/* --- config against tensors --- */

/* Tensors of the gate style must not name an expert beyond the config's number. */
static um_status experts_check(const um_checkpoint *c, um_gate_style style, um_err *err)
{
    const um_model *m = &c->model;
    bool dynamic = style == UM_GATE_DYNAMIC;
    for (size_t i = 0; i < um_tensors_count(c->llm); i++) {
        const char *name = um_tensors_at(c->llm, i)->name;
        um_name_parts p = um_name_parse(name);
        if (p.is == UM_NAME_EXPERT && p.style == style && p.expert >= m->experts) {
            return UM_FAIL(err, UM_E_MODEL, "config.json %s: %d, but there is a tensor %.400s",
                           dynamic ? "mlp_dynamic_expert_num" : "num_experts", m->experts, name);
        }
        if (p.is == UM_NAME_SHARED && dynamic && p.expert >= m->dynamic.shared) {
            return UM_FAIL(err, UM_E_MODEL,
                           "config.json mlp_fixed_expert_num: %d, but there is a tensor %.400s",
                           m->dynamic.shared, name);
        }
    }
    return UM_OK;
}

static um_status gate_check(const um_model *m, const um_tensor *t, um_err *err)
{
    char found[96];
    int rows = um_model_gate_rows(m);
    um_shape_text(found, t->rank, t->shape);
    if (t->rank == 2 && t->shape[0] == rows && t->shape[1] == m->dim) return UM_OK;
    if (t->rank == 2 && t->shape[1] == m->dim && m->gate == UM_GATE_DYNAMIC) {
        return UM_FAIL(err, UM_E_MODEL,
                       "config.json mlp_dynamic_expert_num, mlp_dynamic_null_expert_num and "
                       "mlp_fixed_expert_num: %d + %d + %d, but the gate %.400s has shape %s: they "
                       "must add up to %" PRId64,
                       m->experts, m->dynamic.nulls, m->dynamic.shared, t->name, found,
                       t->shape[0]);
    }
    if (t->rank == 2 && t->shape[1] == m->dim) {
        return UM_FAIL(err, UM_E_MODEL,
                       "config.json num_experts: %d, but the gate %.400s has shape %s: num_experts "
                       "must be %" PRId64,
                       m->experts, t->name, found, t->shape[0]);
    }
    return UM_FAIL(err, UM_E_MODEL, "tensor %.400s: shape %s, want [%d,%d]", t->name, found, rows,
                   m->dim);
}

static um_status vocab_check(const um_checkpoint *c, um_slot slot, um_err *err)
{
    const um_model *m = &c->model;
    char name[200];
    if (!um_model_tensor_name(m, um_place_of(UM_PART_BACKBONE, slot, -1, -1), UM_LEAF_WEIGHT, name))
        return UM_OK;
    const um_tensor *t = um_tensors_find(c->llm, name);
    if (t == NULL || (t->rank == 2 && t->shape[0] == m->vocab && t->shape[1] == m->dim))
        return UM_OK;
    char found[96];
    um_shape_text(found, t->rank, t->shape);
    return UM_FAIL(err, UM_E_MODEL,
                   "config.json vocab_size: %d and hidden_size: %d, but tensor %s has shape %s",
                   m->vocab, m->dim, name, found);
}

/* If the tensor names have one style only, that style decides. If they have several (8e folders keep the tensors of the 4-expert
 * model they were built from) or none, the config decides. Only the config has the sizes of the dynamic gate, so config and names must
 * agree on whether the gate is dynamic. */
static um_status style_of(um_gate_style *out, um_checkpoint *c, const survey *s, um_err *err)
{
    const um_model *m = &c->model;
    static const char *const names[UM_GATE_STYLES] = {[UM_GATE_MIXTRAL] =
                                                          "mlp.gate and mlp.experts",
                                                      [UM_GATE_GSHARD] = "mlp.deepspeed_moe",
                                                      [UM_GATE_DYNAMIC] = "mlp.dynamic_real_moe"};
    int styles = 0;
    um_gate_style style = m->gate;
    for (int i = 0; i < UM_GATE_STYLES; i++) {
        if (!s->style[i]) continue;
        styles++;
        style = (um_gate_style)i;
    }
    *out = styles == 1 ? style : m->gate;
    if (*out == m->gate) return UM_OK;
    if (m->gate == UM_GATE_DYNAMIC) {
        return UM_FAIL(err, UM_E_MODEL,
                       "config.json mlp_dynamic_expert_num: %d, but the tensors have %s names",
                       m->experts, names[style]);
    }
    if (style == UM_GATE_DYNAMIC) {
        return UM_FAIL(err, UM_E_MODEL,
                       "config.json mlp_dynamic_expert_num: missing, but the tensors have %s names",
                       names[style]);
    }
    um_note(&c->model.notes, &c->arena,
            "config.json model_type belongs to the other gate; the tensors have %s names, and "
            "these decide",
            names[style]);
    return UM_OK;
}

/* A layer with a gate is an MoE layer. Without moe_type the gates determine the placement; with it, both must agree. For a layer with
 * neither a gate nor a dense MLP, the loader reports the missing tensors. */
static um_status resolve_placement(um_checkpoint *c, const survey *s, um_gate_style style,
                                   um_err *err)
{
    const um_model *m = &c->model;
    uint8_t *layer = um_arena_zero(&c->arena, (size_t)m->layers);
    int gates = 0;
    for (int i = 0; i < m->layers; i++) {
        const um_tensor *gate = s->gate[style][i];
        layer[i] = m->moe_unplaced ? gate != NULL : m->moe_layer[i];
        gates += gate != NULL;
        if (gate != NULL && !layer[i]) {
            return UM_FAIL(err, UM_E_MODEL,
                           "config.json moe_type and moe_stride: layer %d has no experts, but "
                           "there is a gate %.400s",
                           i, gate->name);
        }
        if (gate == NULL && layer[i] && s->dense[i] != NULL) {
            return UM_FAIL(err, UM_E_MODEL,
                           "config.json moe_type and moe_stride: layer %d has experts, but it has "
                           "no gate and there "
                           "is a dense %.400s",
                           i, s->dense[i]->name);
        }
        if (gate != NULL) UM_TRY(gate_check(m, gate, err));
    }
    if (m->moe_unplaced && gates == 0) {
        return UM_FAIL(err, UM_E_MODEL,
                       "config.json num_experts: %d without moe_type, and no tensor is a gate: "
                       "nothing says which "
                       "layers have experts",
                       m->experts);
    }
    um_model_resolve(&c->model, style, layer);
    return UM_OK;
}

static um_status dense_check(um_checkpoint *c, const survey *s, um_err *err)
{
    if (s->dynamic != NULL) {
        return UM_FAIL(
            err, UM_E_MODEL,
            "config.json mlp_dynamic_expert_num: absent, or moe is false, but there is an "
            "expert %.400s",
            s->dynamic->name);
    }
    for (int i = 0; i < c->model.layers; i++) {
        const um_tensor *gate = s->gate[UM_GATE_MIXTRAL][i] != NULL ? s->gate[UM_GATE_MIXTRAL][i]
                                                                    : s->gate[UM_GATE_GSHARD][i];
        if (gate != NULL) {
            return UM_FAIL(err, UM_E_MODEL,
                           "config.json moe: absent or null, but there is a gate %.400s: set moe, "
                           "num_experts and "
                           "num_experts_per_tok",
                           gate->name);
        }
    }
    um_model_resolve(&c->model, c->model.gate, c->model.moe_layer);
    return UM_OK;
}

static um_status lora_check(const um_model *m, const survey *s, um_err *err)
{
    if (s->lora == NULL || (m->lora_r > 0 && m->lora_alpha >= 0)) return UM_OK;
    return UM_FAIL(err, UM_E_MODEL, "config.json %s: missing, but there is a LoRA %.400s",
                   m->lora_r > 0 ? "lora_alpha" : "lora_r", s->lora->name);
}

/* Turns the pre-projection off when the config asks for it but the files do not have it (spec 4.4.3). */
static void resolve_fm(um_model *m, const survey *s, um_arena *arena)
{
    if (m->fm_block && s->fm == NULL) {
        um_note(&m->notes, arena,
                "config.json use_fm_block: true, but there is no tensor fm_text, fm_image, ...: "
                "the gates work without their pre-projection");
        m->fm_block = false;
    }
}

static um_status contradictions(um_checkpoint *c, um_err *err)
{
    um_arena scratch;
    survey s;
    um_arena_init(&scratch, "checkpoint", 1 << 16);
    um_status st = survey_take(&s, c, &scratch, err);
    if (st == UM_OK) st = vocab_check(c, UM_SLOT_EMBED, err);
    if (st == UM_OK) st = vocab_check(c, UM_SLOT_HEAD, err);
    if (st == UM_OK) st = lora_check(&c->model, &s, err);
    if (st == UM_OK) st = um_connectors_resolve(&c->model, c->llm, c->speech, err);
    if (st == UM_OK && c->model.experts == 0) {
        st = dense_check(c, &s, err);
    } else if (st == UM_OK) {
        um_gate_style style;
        st = style_of(&style, c, &s, err);
        if (st == UM_OK) resolve_fm(&c->model, &s, &c->arena);
        if (st == UM_OK) st = resolve_placement(c, &s, style, err);
        if (st == UM_OK) st = experts_check(c, style, err);
    }
    um_arena_free(&scratch);
    return um_wrap(err, st, "%s", um_tensors_path(c->llm));
}

um_status um_checkpoint_open(um_checkpoint *out, const char *dir, const um_towers *towers,
                             um_err *err)
{
    um_checkpoint c = {0};
    um_arena_init(&c.arena, "model config", 1 << 14);
    um_status st = um_model_read(&c.model, dir, towers, &c.arena, err);
    const um_model *m = &c.model;
    if (st == UM_OK) st = um_tensors_open(&c.llm, dir, err);
    if (st == UM_OK && m->vision.present) st = um_tensors_open(&c.vision, m->vision.dir, err);
    if (st == UM_OK && m->speech.present) st = um_tensors_open(&c.speech, m->speech.dir, err);
    if (st == UM_OK && m->sound.present) st = um_tensors_open(&c.sound, m->sound.dir, err);
    if (st == UM_OK) st = contradictions(&c, err);
    if (st == UM_OK)
        *out = c;
    else
        um_checkpoint_close(&c);
    return um_model_fault(st);
}

void um_checkpoint_close(um_checkpoint *c)
{
    um_tensors_close(c->llm);
    um_tensors_close(c->vision);
    um_tensors_close(c->speech);
    um_tensors_close(c->sound);
    um_arena_free(&c->arena);
    *c = (um_checkpoint){0};
}

void um_checkpoint_prints(const um_checkpoint *c, um_weight_prints *out, um_arena *arena)
{
    const um_tensors *const sets[] = {c->llm, c->vision, c->speech, c->sound};
    size_t all = 0;
    for (size_t s = 0; s < 4; s++) all += sets[s] == NULL ? 0 : (size_t)um_tensors_files(sets[s]);
    *out = (um_weight_prints){.print = um_arena_alloc(arena, all * sizeof *out->print),
                              .path = um_arena_alloc(arena, all * sizeof *out->path)};
    for (size_t s = 0; s < 4; s++) {
        for (int i = 0; sets[s] != NULL && i < um_tensors_files(sets[s]); i++) {
            out->path[out->n] = um_tensors_file(sets[s], i);
            out->print[out->n++] = um_tensors_print(sets[s], i);
        }
    }
}

const um_tensors *um_checkpoint_set_at(const um_checkpoint *c, um_set set)
{
    const um_tensors *const sets[UM_SETS] = {[UM_SET_LLM] = c->llm,
                                             [UM_SET_VISION] = c->vision,
                                             [UM_SET_SPEECH] = c->speech,
                                             [UM_SET_SOUND] = c->sound};
    return sets[set];
}

const um_tensors *um_checkpoint_set(const um_checkpoint *c, um_part part)
{
    return um_checkpoint_set_at(c, um_set_of(part));
}
