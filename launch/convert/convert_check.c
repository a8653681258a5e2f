/* Compares the claims with what the model wants (um_model_for_each_tensor): every wanted tensor must be present with its shape;
 * every unwanted one gets a reason. See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/text.h"
#include "core/nn/connectors.h"

#include <string.h>

static bool shape_fits(const um_source_tensor *t, const um_spec *s)
{
    if (t->rank != s->rank || !um_source_is_float(t)) return false;
    for (int i = 0; i < s->rank; i++) {
        if (s->shape[i] != t->shape[i]) return false;
    }
    return true;
}

static um_status hold(void *ctx, const um_spec *s, um_err *err)
{
    (void)err;
    um_convert *cv = ctx;
    um_claim *c = um_convert_find(cv, (int)um_set_of(s->at.part), s->name);
    char want[96], found[96];
    um_shape_text(want, s->rank, s->shape);
    if (c == NULL && s->optional) return UM_OK;
    if (c == NULL) {
        cv->missing++;
        um_text_fmt(&cv->problems, "missing %s %s\n", s->name, want);
        return UM_OK;
    }
    c->wanted = true;
    if (shape_fits(c->t, s)) return UM_OK;
    um_shape_text(found, c->t->rank, c->t->shape);
    cv->misshapen++;
    um_text_fmt(&cv->problems, "misshapen %s %s %s in %s, want %s of a float type\n", s->name,
                um_dtype_name(c->t->dtype), found, c->t->file, want);
    return UM_OK;
}

/* The token table of a speech aligner's decoder: never used here, but other programs need it for a complete decoder. */
static bool is_kept(const um_convert *cv, const char *name)
{
    return cv->model.speech.present && um_starts_with(name, cv->model.speech.names.prefix) &&
           um_ends_with(name, "decoder.audio_decoder.embed_tokens.weight");
}

static const char *why_not(const um_convert *cv, const char *name)
{
    if (um_ends_with(name, "rotary_emb.inv_freq")) return "computed from the config";
    if (um_starts_with(name, "model.vision_tower.") || um_starts_with(name, "model.audio_tower."))
        return "towers are taken from their own files";
    if (cv->gshard && (strstr(name, ".mlp.experts.") || um_ends_with(name, ".mlp.gate.weight")))
        return "of a 4-expert model, which this is not";
    if (strstr(name, ".deepspeed_moe.fm_") != NULL) return "use_fm_block is not set in the config";
    if (strstr(name, ".deepspeed_moe.") != NULL) return "this layer has no experts";
    if (cv->model.tied && strcmp(name, "lm_head.weight") == 0)
        return "tied to model.embed_tokens.weight";
    return "the model has no such tensor";
}

static void add_use(um_convert *cv, um_source_tensor *t, const char *name)
{
    t->used = t->used == NULL ? name : um_arena_fmt(&cv->arena, "%s, %s", t->used, name);
}

/* A source tensor that is also used under another name counts as used. */
void um_convert_uses(um_convert *cv)
{
    for (int id = 0; id < UM_FOLDERS; id++) {
        um_folder *s = &cv->folder[id];
        for (size_t i = 0; i < s->n; i++) {
            um_claim *c = &s->claim[i];
            /* towers keep everything that their files contain */
            c->wanted = c->wanted || id != UM_SET_LLM || is_kept(cv, c->name);
            if (c->wanted)
                add_use(cv, c->t, c->name);
            else if (c->t->unused == NULL)
                c->t->unused = why_not(cv, c->name);
        }
    }
}

/* A LoRA inside experts that the config does not describe would be lost silently: refuse it. */
static um_status lora_check(const um_convert *cv, um_err *err)
{
    const um_folder *s = &cv->folder[UM_SET_LLM];
    bool known = cv->model.lora_r > 0 && cv->model.lora_alpha >= 0;
    for (size_t i = 0; i < s->n && !known; i++) {
        if (strstr(s->claim[i].name, "_proj_lora_") != NULL)
            return UM_FAIL(err, UM_E_MODEL, "%s: %s: missing, but there is a LoRA %.400s in %s",
                           cv->config_path, cv->model.lora_r > 0 ? "lora_alpha" : "lora_r",
                           s->claim[i].name, s->claim[i].t->file);
    }
    return UM_OK;
}

/* The claims of a folder as a set of tensors without values. */
static um_tensors *described(um_convert *cv, int folder)
{
    const um_folder *s = &cv->folder[folder];
    um_tensor *list = um_arena_zero(&cv->arena, s->n * sizeof *list);
    for (size_t i = 0; i < s->n; i++) {
        const um_source_tensor *t = s->claim[i].t;
        list[i] = (um_tensor){.name = s->claim[i].name, .dtype = t->dtype, .rank = t->rank};
        memcpy(list[i].shape, t->shape, sizeof list[i].shape);
        list[i].bytes = t->values * um_dtype_size(t->dtype);
    }
    return um_tensors_describe(list, s->n, cv->cfg->base);
}

/* Resolves the connector sizes that only the tensors show, as um_checkpoint_open will do. */
static um_status settle_connectors(um_convert *cv, um_err *err)
{
    um_tensors *llm = described(cv, UM_SET_LLM), *speech = described(cv, UM_SET_SPEECH);
    um_status st = um_connectors_resolve(&cv->model, llm, speech, err);
    um_tensors_close(llm);
    um_tensors_close(speech);
    if (st == UM_OK) um_model_resolve(&cv->model, cv->model.gate, cv->model.moe_layer);
    return st;
}

um_status um_convert_check(um_convert *cv, um_err *err)
{
    UM_TRY(settle_connectors(cv, err));
    if (cv->gshard) UM_TRY(lora_check(cv, err));
    UM_TRY(um_model_for_each_tensor(&cv->model, hold, cv, err));
    um_convert_uses(cv);
    if (cv->missing + cv->misshapen > 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "%lld wanted tensors are missing and %lld have another shape: nothing is "
                       "written",
                       (long long)cv->missing, (long long)cv->misshapen);
    return UM_OK;
}
