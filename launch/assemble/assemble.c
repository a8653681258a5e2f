/* See assemble.h. The model is written as OUT.tmp.PID, opened and checked like any other, and renamed last. */
#include "launch/assemble/assemble.h"

#include "core/base/file.h"
#include "launch/assemble/assemble_job.h"
#include "launch/model_dir/copy.h"
#include "launch/model_dir/interrupt.h"

#include <string.h>

enum { CONFIG_MAX = 1 << 24 };

/* --- the base --- */

static um_status gate_choose(um_assembly *a, um_err *err)
{
    const char *said = a->recipe.gate;
    const um_model *m = &a->base.model;
    a->gate = said[0] == '\0'                ? m->gate
              : strcmp(said, "gshard") == 0  ? UM_GATE_GSHARD
              : strcmp(said, "dynamic") == 0 ? UM_GATE_DYNAMIC
                                             : UM_GATE_MIXTRAL;
    if (a->gate == UM_GATE_DYNAMIC && um_convert_stride(a->moe_layer, m->layers) == 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "layers: with the dynamic gate all or interval, since config.json must say "
                       "which layers have experts");
    return UM_OK;
}

static um_status base_open(um_assembly *a, um_err *err)
{
    um_convert *cv = &a->cv;
    const um_config *cfg = cv->cfg;
    const um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    UM_TRY(um_checkpoint_open(&a->base, a->recipe.base, &towers, err));
    const um_model *m = &a->base.model;
    if (m->experts > 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: it has %d experts already: the base is a dense model (\"moe\": false "
                       "in config.json, or without it)",
                       m->dir, m->experts);
    cv->config_path = um_path_join(&cv->arena, m->dir, "config.json");
    UM_TRY(um_json_load_loose(&cv->config, cv->config_path, CONFIG_MAX, err));
    a->gate_std = 0.02;
    UM_TRY(um_wrap(
        err, um_json_read_num(cv->config, "initializer_range", false, 0.0, 10.0, &a->gate_std, err),
        "%s", cv->config_path));
    const um_tensor *norm = um_tensors_find(a->base.llm, "model.norm.weight");
    a->dtype = norm != NULL ? norm->dtype : UM_F32;
    a->moe_layer = um_arena_zero(&cv->arena, (size_t)m->layers);
    UM_TRY(um_recipe_layers(a->moe_layer, m->layers, a->recipe.layers, err));
    return gate_choose(a, err);
}

/* The model that is made, read of its config as every program will, with the sizes of connectors that the base's tensors show. */
static um_status model_plan(um_assembly *a, um_err *err)
{
    um_convert *cv = &a->cv;
    const um_model *base = &a->base.model;
    const um_towers towers = {base->vision.present ? base->vision.dir : "",
                              base->speech.present ? base->speech.dir : "",
                              base->sound.present ? base->sound.dir : ""};
    UM_TRY(um_assemble_config(a, err));
    UM_TRY(um_model_read(&cv->model, cv->tmp, &towers, &cv->arena, err));
    cv->model.vision = base->vision;
    cv->model.speech = base->speech;
    cv->model.sound = base->sound;
    um_model_resolve(&cv->model, a->gate, a->moe_layer);
    cv->gshard = a->gate == UM_GATE_GSHARD;
    return UM_OK;
}

/* --- the steps --- */

static um_status write_all(um_assembly *a, um_err *err)
{
    um_convert *cv = &a->cv;
    UM_TRY(um_convert_weights(cv, err));
    UM_TRY(um_copy_model_files(cv->tmp, a->recipe.base, "", &cv->arena, err));
    UM_TRY(um_convert_audit(cv, err));
    UM_TRY(um_convert_report(cv, err));
    UM_TRY(um_assemble_report(a, err));
    return um_convert_finish(
        cv,
        um_arena_fmt(&cv->arena, "unimoe %s assemble; base %s; %s", UM_VERSION, a->recipe.base,
                     a->recipe.manifest[0] != '\0' ? a->recipe.manifest : "upcycled"),
        err);
}

static um_status steps(um_assembly *a, um_err *err)
{
    um_convert *cv = &a->cv;
    UM_TRY(um_recipe_read(&a->recipe, cv->cfg, &cv->arena, err));
    UM_TRY(base_open(a, err));
    UM_TRY(um_file_mkdirs(cv->tmp, err));
    UM_TRY(model_plan(a, err));
    UM_TRY(um_assemble_open(a, err));
    UM_TRY(um_assemble_claim(a, err));
    UM_TRY(um_convert_towers(cv, err));
    um_convert_resolve(cv);
    um_convert_uses(cv);
    UM_TRY(um_convert_tower_files(cv, err));
    UM_TRY(um_assemble_config(a, err));
    UM_TRY(um_assemble_compare(a, err));
    return cv->cfg->dry_run ? UM_OK : write_all(a, err);
}

static void assembly_close(um_assembly *a, um_status st)
{
    um_recipe_free(&a->recipe);
    if (a->base.llm != NULL) um_checkpoint_close(&a->base);
    for (int m = 0; m < UM_MODALITIES; m++)
        if (a->connector[m].llm != NULL) um_checkpoint_close(&a->connector[m]);
    um_convert_close(&a->cv, st);
}

um_status um_assemble_run(const um_config *cfg, FILE *out, um_err *err)
{
    um_assembly a = {0};
    um_interrupt interrupt;
    if (cfg->out[0] == '\0') return UM_FAIL(err, UM_E_USAGE, "say what to make with --out DIR");
    if (um_file_exists(cfg->out))
        return UM_FAIL(err, UM_E_USAGE, "%s: is there already: choose another --out, or delete it",
                       cfg->out);
    um_convert_open(&a.cv, cfg, out);
    um_interrupt_begin(&interrupt);
    um_status st = steps(&a, err);
    if (st == UM_OK || a.cv.problems.n > 0) um_convert_summary(&a.cv);
    assembly_close(&a, st);
    um_interrupt_end(&interrupt);
    return st;
}
