/* See peft.h. */
#include "launch/model_dir/peft.h"

#include "core/base/file.h"
#include "core/base/json.h"
#include "launch/model_dir/json_text.h"

#include <string.h>

/* Every matrix by its full name: PEFT would find more of them by the last part. */
static void config_text(um_text *t, const um_peft_config *c, const um_tensor *list, size_t n)
{
    static const char prefix[] = UM_PEFT_PREFIX, behind[] = ".lora_A.weight";
    um_text_fmt(t,
                "{\n \"peft_type\": \"LORA\",\n \"task_type\": \"CAUSAL_LM\",\n \"r\": %d,\n"
                " \"lora_alpha\": ",
                c->r);
    um_json_real(t, c->alpha);
    um_text_fmt(t, ",\n \"lora_dropout\": ");
    um_json_real(t, c->dropout);
    um_text_fmt(t,
                ",\n \"bias\": \"none\",\n \"fan_in_fan_out\": false,\n \"inference_mode\": true,\n"
                " \"init_lora_weights\": true,\n \"modules_to_save\": null,\n"
                " \"base_model_name_or_path\": ");
    if (c->base != NULL)
        um_text_json(t, c->base);
    else
        um_text_fmt(t, "null");
    um_text_fmt(t, ",\n \"target_modules\": [");
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        const char *name = list[i].name;
        if (!um_starts_with(name, prefix) || !um_ends_with(name, behind)) continue;
        size_t bytes = strlen(name) - (sizeof behind - 1) - (sizeof prefix - 1);
        um_text_fmt(t, "%s\n  \"%.*s\"", first ? "" : ",", (int)bytes, name + sizeof prefix - 1);
        first = false;
    }
    um_text_fmt(t, "\n ]\n}\n");
}

um_status um_peft_write(const char *dir, const um_tensor *list, size_t n,
                        const um_peft_config *config, um_arena *arena, um_err *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    um_text t = {0};
    UM_TRY(um_file_mkdirs(dir, err));
    UM_TRY(um_tensors_write(um_path_join(arena, dir, "adapter_model.safetensors"), list, n,
                            metadata, err));
    if (config == NULL) return UM_OK;
    config_text(&t, config, list, n);
    um_status st = um_file_write(um_path_join(arena, dir, "adapter_config.json"), t.s, t.n, err);
    um_text_free(&t);
    return st;
}

void um_peft_merge_row(float *restrict w, float *restrict sum, const float *a, const float *b,
                       size_t r, size_t in, float scale)
{
    memset(sum, 0, in * sizeof *sum);
    for (size_t k = 0; k < r; k++) {
        const float *restrict row = a + k * in;
        for (size_t j = 0; j < in; j++) sum[j] += b[k] * row[j];
    }
    for (size_t j = 0; j < in; j++) w[j] += scale * sum[j];
}
