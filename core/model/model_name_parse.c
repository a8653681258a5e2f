/* What the name of a tensor says (um_name_parse in model.h). The names themselves are composed in model_names.c. */
#include "core/model/model.h"

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
    if (!skip(&s, "model.layers.") || !skip_number(&s, &p.layer) || !skip(&s, "mlp.")) return p;
    if (skip(&s, "deepspeed_moe.")) {
        p.style = UM_GATE_GSHARD;
        if (strcmp(s, "gate.wg.weight") == 0)
            p.is = UM_NAME_GATE;
        else if (strncmp(s, "fm_", 3) == 0)
            p.is = UM_NAME_FM;
        else if (skip(&s, "experts.deepspeed_experts.") && skip_number(&s, &p.expert))
            p.is = UM_NAME_EXPERT;
    } else if (skip(&s, "dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts.")) {
        p.style = UM_GATE_DYNAMIC;
        if (skip_number(&s, &p.expert)) p.is = UM_NAME_EXPERT;
    } else if (skip(&s, "fixed_real_moe.")) {
        p.style = UM_GATE_DYNAMIC;
        if (skip_number(&s, &p.expert)) p.is = UM_NAME_SHARED;
    } else if (strcmp(s, "gate.weight") == 0) {
        p.is = UM_NAME_GATE;
    } else if (skip(&s, "experts.")) {
        if (skip_number(&s, &p.expert)) p.is = UM_NAME_EXPERT;
    } else {
        p.is = UM_NAME_DENSE;
    }
    return p;
}
