/* Exports the LoRA of a model directory as a PEFT adapter: the adapter that was kept beside the weights, and the one built into
 * the experts and dense MLPs of 8-expert models (spec 4.3). See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"
#include "launch/model_dir/json_text.h"

#include <inttypes.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 24 };

static const char key[] = "_proj_lora_";

/* Turns model.layers.N.mlp.gate_proj_lora_A.weight into base_model.model.model.layers.N.mlp.gate_proj.lora_A.weight. */
static const char *peft_name(um_arena *arena, const char *name)
{
    const char *at = strstr(name, key) + strlen("_proj");
    return um_arena_fmt(arena, "base_model.model.%.*s.%s", (int)(at - name), name, at + 1);
}

static void builtin_config(um_convert *cv, um_text *t, um_tensor *const list, size_t n)
{
    static const char prefix[] = "base_model.model.", behind[] = ".lora_A.weight";
    um_text_fmt(t,
                "{\n \"peft_type\": \"LORA\",\n \"task_type\": \"CAUSAL_LM\",\n \"r\": %d,\n"
                " \"lora_alpha\": ",
                cv->model.lora_r);
    um_json_real(t, (double)cv->model.lora_alpha);
    um_text_fmt(t, ",\n \"lora_dropout\": ");
    um_json_real(t, um_json_num(um_json_get(cv->config, "lora_dropout"), 0.0));
    um_text_fmt(t,
                ",\n \"bias\": \"none\",\n \"fan_in_fan_out\": false,\n \"inference_mode\": true,\n"
                " \"init_lora_weights\": true,\n \"modules_to_save\": null,\n"
                " \"base_model_name_or_path\": null,\n \"target_modules\": [");
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        const char *name = list[i].name;
        size_t bytes = strlen(name), tail = sizeof behind - 1;
        if (bytes < tail || strcmp(name + bytes - tail, behind) != 0) continue;
        um_text_fmt(t, "%s\n  \"%.*s\"", first ? "" : ",", (int)(bytes - tail - sizeof prefix + 1),
                    name + sizeof prefix - 1);
        first = false;
    }
    um_text_fmt(t, "\n ]\n}\n");
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

static um_status adapter_write(um_convert *cv, const char *folder, const um_tensor *list, size_t n,
                               um_err *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    const char *dir = um_path_join(&cv->arena, cv->tmp, folder);
    UM_TRY(um_file_mkdirs(dir, err));
    for (size_t i = 0; i < n; i++) cv->written += (int64_t)list[i].bytes;
    return um_tensors_write(um_path_join(&cv->arena, dir, "adapter_model.safetensors"), list, n,
                            metadata, err);
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
    um_text t = {0};
    UM_TRY(adapter_write(cv, folder, list, n, err));
    builtin_config(cv, &t, list, n);
    um_status st = um_file_write(
        um_arena_fmt(&cv->arena, "%s/%s/adapter_config.json", cv->tmp, folder), t.s, t.n, err);
    um_text_free(&t);
    return st;
}

static um_status kept_write(um_convert *cv, const um_source_list *kept, um_err *err)
{
    um_tensor *list = um_arena_alloc(&cv->arena, kept->n * sizeof *list);
    for (size_t i = 0; i < kept->n; i++) list[i] = whole(cv, kept->item[i].name, &kept->item[i]);
    if (cv->cfg->dry_run) return UM_OK;
    UM_TRY(adapter_write(cv, ".", list, kept->n, err));
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
