/* What the name of a tensor says (um_name_parse in model.h). The names are composed in model_names.c. */
#include "core/model/tensor_visitor.h"

#include <string.h>

static bool skip(const char **s, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*s, word, n) != 0) return false;
    *s += n;
    return true;
}

/* Skips a number of at most nine digits and the dot after it. */
static bool skip_number(const char **s, int *out)
{
    int v = 0, n = 0;
    while ((*s)[n] >= '0' && (*s)[n] <= '9' && n < 9) v = v * 10 + ((*s)[n++] - '0');
    if (n == 0 || (*s)[n] != '.') return false;
    *s += n + 1;
    *out = v;
    return true;
}

um_name_parts um_name_parse(const char *s)
{
    um_name_parts p = {UM_NAME_OTHER, UM_GATE_MIXTRAL, -1, -1, strstr(s, "_proj_lora_") != NULL};
    if (!skip(&s, "model.layers.") || !skip_number(&s, &p.layer)) return p;
    for (int style = 0; style < UM_GATE_STYLES; style++) {
        const bool gate = strcmp(s, um_gate_name[style]) == 0;
        if (!gate && !skip(&s, um_experts_name[style])) continue;
        p.style = (um_gate_style)style;
        p.is = gate ? UM_NAME_GATE : skip_number(&s, &p.expert) ? UM_NAME_EXPERT : UM_NAME_OTHER;
        return p;
    }
    if (skip(&s, UM_SHARED_NAME)) {
        p.style = UM_GATE_DYNAMIC;
        if (skip_number(&s, &p.expert)) p.is = UM_NAME_SHARED;
    } else if (skip(&s, UM_FM_NAME)) {
        p.style = UM_GATE_GSHARD;
        p.is = UM_NAME_FM;
    } else if (skip(&s, "mlp.") && strncmp(s, "deepspeed_moe.", 14) != 0 &&
               strncmp(s, "dynamic_real_moe.", 17) != 0) {
        if (strcmp(s, "gate." UM_GATE_BIAS_NAME) != 0) p.is = UM_NAME_DENSE;
    }
    return p;
}
