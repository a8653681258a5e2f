/* See export_adapter.h. */
#include "launch/train/export_adapter.h"

#include "core/base/file.h"
#include "launch/model_dir/peft.h"

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
                t.name = um_arena_fmt(arena, UM_PEFT_PREFIX "%s", t.name);
                adapter->list[adapter->n++] = t;
            } else {
                rest->list[rest->n++] = t;
            }
        }
    qsort(adapter->list, adapter->n, sizeof *adapter->list, by_name);
    qsort(rest->list, rest->n, sizeof *rest->list, by_name);
}

um_status um_export_adapter(const um_config *cfg, const um_saved *saved, const um_select *select,
                            um_arena *arena, um_err *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    const char *folder = um_path_join(arena, cfg->out, "adapter");
    tensors adapter = {0}, rest = {0};
    const um_peft_config config = {.base = cfg->model,
                                   .r = select->adapters.r,
                                   .alpha = (double)select->adapters.alpha,
                                   .dropout = select->dropout};
    sort_out(saved, &adapter, &rest, arena);
    if (adapter.n == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "--save adapter: nothing was trained by adapters; --save model writes the "
                       "whole model");
    UM_TRY(um_peft_write(folder, adapter.list, adapter.n, &config, arena, err));
    if (rest.n == 0) return UM_OK;
    return um_tensors_write(um_path_join(arena, folder, "non_lora_trainables.safetensors"),
                            rest.list, rest.n, metadata, err);
}
