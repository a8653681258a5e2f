/* Exports the LoRA of a model directory as a PEFT adapter: the adapter that was kept beside the weights, and the one built into
 * the experts and dense MLPs of 8-expert models (spec 4.3). See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"
#include "launch/model_dir/peft.h"

#include <inttypes.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 24 };

static const char key[] = "_proj_lora_";

/* Turns model.layers.N.mlp.gate_proj_lora_A.weight into base_model.model.model.layers.N.mlp.gate_proj.lora_A.weight. */
static const char *peft_name(um_arena *arena, const char *name)
{
    const char *at = strstr(name, key) + strlen("_proj");
    return um_arena_fmt(arena, UM_PEFT_PREFIX "%.*s.%s", (int)(at - name), name, at + 1);
}

/* Reads all values of a small tensor. */
static um_tensor whole(um_convert *cv, const char *name, um_source_tensor *t)
{
    um_tensor o = {.name = name, .dtype = t->dtype, .rank = t->rank};
    memcpy(o.shape, t->shape, sizeof o.shape);
    o.bytes = t->values * um_dtype_size(t->dtype);
    uint8_t *data = um_arena_alloc(&cv->arena, o.bytes);
    um_source_read(data, t, 0, t->values);
    o.data = data;
    t->used = name;
    return o;
}

/* The adapter in a folder of the output; config NULL: only its tensors. */
static um_status adapter_write(um_convert *cv, const char *folder, const um_tensor *list, size_t n,
                               const um_peft_config *config, um_err *err)
{
    for (size_t i = 0; i < n; i++) cv->written += (int64_t)list[i].bytes;
    return um_peft_write(um_path_join(&cv->arena, cv->tmp, folder), list, n, config, &cv->arena,
                         err);
}

static um_status builtin_write(um_convert *cv, const char *folder, const um_source_list *llm,
                               um_err *err)
{
    um_tensor *list = um_arena_alloc(&cv->arena, llm->n * sizeof *list);
    size_t n = 0;
    for (size_t i = 0; i < llm->n; i++) {
        um_source_tensor *t = &llm->item[i];
        if (strstr(t->name, key) != NULL)
            list[n++] = whole(cv, peft_name(&cv->arena, t->name), t);
        else
            t->unused = "no part of a LoRA";
    }
    if (n == 0 || cv->cfg->dry_run) return UM_OK;
    const um_peft_config config = {.r = cv->model.lora_r,
                                   .alpha = (double)cv->model.lora_alpha,
                                   .dropout =
                                       um_json_num(um_json_get(cv->config, "lora_dropout"), 0.0)};
    return adapter_write(cv, folder, list, n, &config, err);
}

static um_status kept_write(um_convert *cv, const um_source_list *kept, um_err *err)
{
    um_tensor *list = um_arena_alloc(&cv->arena, kept->n * sizeof *list);
    for (size_t i = 0; i < kept->n; i++) list[i] = whole(cv, kept->item[i].name, &kept->item[i]);
    if (cv->cfg->dry_run) return UM_OK;
    UM_TRY(adapter_write(cv, ".", list, kept->n, NULL, err));
    return um_convert_copy(cv, um_path_join(&cv->arena, cv->cfg->model, "adapter_config.json"),
                           "adapter_config.json", err);
}

static bool has_builtin(const um_source_list *llm)
{
    for (size_t i = 0; i < llm->n; i++) {
        if (strstr(llm->item[i].name, key) != NULL) return true;
    }
    return false;
}

um_status um_convert_to_peft(um_convert *cv, um_err *err)
{
    const um_source_list *llm, *kept;
    const char *dir = cv->cfg->model;
    cv->config_path = um_path_join(&cv->arena, dir, "config.json");
    UM_TRY(um_json_load_loose(&cv->config, cv->config_path, CONFIG_MAX, err));
    UM_TRY(um_source_find(&cv->src, &llm, dir, NULL, err));
    UM_TRY(um_source_find(&cv->src, &kept, dir, "adapter_model", err));
    if (llm == NULL) return UM_FAIL(err, UM_E_MODEL, "%s: no weights are there", dir);
    bool builtin = has_builtin(llm);
    if (kept == NULL && !builtin)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: there is no LoRA to write out: none is built into its experts, and no "
                       "adapter was kept beside its weights",
                       dir);
    if (builtin && (cv->model.lora_r < 1 || cv->model.lora_alpha < 0))
        return UM_FAIL(err, UM_E_MODEL, "%s: lora_r or lora_alpha is missing", cv->config_path);
    if (kept != NULL) UM_TRY(kept_write(cv, kept, err));
    if (kept != NULL && builtin)
        um_convert_note(cv, "the LoRA of the experts is in experts/, the kept adapter above it: "
                            "they have scales of their own");
    return builtin_write(cv, kept != NULL ? "experts" : ".", llm, err);
}
