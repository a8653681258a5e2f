/* See export_adapter.h. */
#include "launch/train/export_adapter.h"

#include "core/base/file.h"
#include "launch/model_dir/json_text.h"

#include <stdlib.h>
#include <string.h>

static const char master[] = "master.", factor_a[] = ".lora_A.weight",
                  factor_b[] = ".lora_B.weight";

typedef struct tensors {
    um_tensor *list;
    size_t n;
} tensors;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const um_tensor *)a)->name, ((const um_tensor *)b)->name);
}

/* All masters of a checkpoint: those of adapters, and the others, under the names that they get. */
static void sort_out(const um_saved *saved, tensors *adapter, tensors *rest, um_arena *arena)
{
    size_t all = 0;
    for (int s = 0; s < saved->n_sets; s++) all += um_tensors_count(saved->sets[s]);
    adapter->list = um_arena_alloc(arena, (all + 1) * sizeof *adapter->list);
    rest->list = um_arena_alloc(arena, (all + 1) * sizeof *rest->list);
    for (int s = 0; s < saved->n_sets; s++)
        for (size_t i = 0; i < um_tensors_count(saved->sets[s]); i++) {
            um_tensor t = *um_tensors_at(saved->sets[s], i);
            if (!um_starts_with(t.name, master)) continue;
            t.name += sizeof master - 1;
            if (um_ends_with(t.name, factor_a) || um_ends_with(t.name, factor_b)) {
                t.name = um_arena_fmt(arena, "base_model.model.%s", t.name);
                adapter->list[adapter->n++] = t;
            } else {
                rest->list[rest->n++] = t;
            }
        }
    qsort(adapter->list, adapter->n, sizeof *adapter->list, by_name);
    qsort(rest->list, rest->n, sizeof *rest->list, by_name);
}

/* adapter_config.json, with every matrix by its full name: PEFT would find more of them by the last part. */
static void config_text(um_text *out, const um_config *cfg, const um_select *select,
                        const tensors *adapter)
{
    static const char prefix[] = "base_model.model.";
    um_text_fmt(out, "{\n \"peft_type\": \"LORA\",\n \"task_type\": \"CAUSAL_LM\",\n");
    um_text_fmt(out, " \"base_model_name_or_path\": ");
    um_text_json(out, cfg->model);
    um_text_fmt(out, ",\n \"r\": %d,\n \"lora_alpha\": ", select->adapters.r);
    um_json_real(out, (double)select->adapters.alpha);
    um_text_fmt(out, ",\n \"lora_dropout\": ");
    um_json_real(out, select->dropout);
    um_text_fmt(out, ",\n \"bias\": \"none\",\n \"fan_in_fan_out\": false,\n"
                     " \"inference_mode\": true,\n \"init_lora_weights\": true,\n"
                     " \"modules_to_save\": null,\n \"target_modules\": [");
    int n = 0;
    for (size_t i = 0; i < adapter->n; i++) {
        const char *name = adapter->list[i].name + sizeof prefix - 1;
        if (!um_ends_with(name, factor_a)) continue;
        um_text_fmt(out, "%s\n  \"%.*s\"", n++ > 0 ? "," : "",
                    (int)(strlen(name) - (sizeof factor_a - 1)), name);
    }
    um_text_fmt(out, "\n ]\n}\n");
}

um_status um_export_adapter(const um_config *cfg, const um_saved *saved, const um_select *select,
                            um_arena *arena, um_err *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    const char *folder = um_path_join(arena, cfg->out, "adapter");
    tensors adapter = {0}, rest = {0};
    um_text text = {0};
    sort_out(saved, &adapter, &rest, arena);
    if (adapter.n == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "--save adapter: nothing was trained by adapters; --save model writes the "
                       "whole model");
    UM_TRY(um_file_mkdirs(folder, err));
    UM_TRY(um_tensors_write(um_path_join(arena, folder, "adapter_model.safetensors"), adapter.list,
                            adapter.n, metadata, err));
    if (rest.n > 0)
        UM_TRY(um_tensors_write(um_path_join(arena, folder, "non_lora_trainables.safetensors"),
                                rest.list, rest.n, metadata, err));
    config_text(&text, cfg, select, &adapter);
    um_status st =
        um_file_write(um_path_join(arena, folder, "adapter_config.json"), text.s, text.n, err);
    um_text_free(&text);
    return st;
}
