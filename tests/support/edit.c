/* See edit.h. */
#include "tests/support/edit.h"

#include "core/base/json.h"
#include "tests/support/folder.h"

#include <string.h>

const edit edit_text_model[EDIT_TEXT_MODEL] = {
    {"model_type", "\"llava\""},  {"hidden_size", "64"},
    {"intermediate_size", "96"},  {"num_hidden_layers", "4"},
    {"num_attention_heads", "4"}, {"vocab_size", "400"},
    {"rms_norm_eps", "1e-5"},     {"moe", "true"},
    {"num_experts", "4"},         {"num_experts_per_tok", "2"},
    {"moe_type", "\"dense\""},
};

void edit_config(const char *dir, const char *name, const edit *base, size_t n, const edit *change,
                 size_t changes)
{
    um_text t = {0};
    um_text_fmt(&t, "{\"_\":0");
    for (size_t i = 0; i < n; i++) {
        bool changed = false;
        for (size_t k = 0; k < changes; k++) {
            changed = changed || strcmp(change[k].key, base[i].key) == 0;
        }
        if (!changed) um_text_fmt(&t, ",\"%s\":%s", base[i].key, base[i].value);
    }
    for (size_t k = 0; k < changes; k++) {
        if (change[k].value != NULL) um_text_fmt(&t, ",\"%s\":%s", change[k].key, change[k].value);
    }
    um_text_fmt(&t, "}");
    folder_text(dir, name, t.s);
    um_text_free(&t);
}
