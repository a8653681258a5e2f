/* See aux_coefficients.h. */
#include "router/train/aux_coefficients.h"

#include "core/base/file.h"

enum { CONFIG_LIMIT = 16 << 20 };

const char *um_aux_name(um_aux_term term)
{
    static const char *const name[UM_AUX_TERMS] = {[UM_AUX_BALANCE] = "aux_balance_loss",
                                                   [UM_AUX_MULTIMODAL] = "aux_multimodal_loss",
                                                   [UM_AUX_KL] = "aux_kl_loss"};
    return name[term];
}

static const um_json *key_of(const um_json *config, const um_json *more, const char *key)
{
    const um_json *found = um_json_get(more, key);
    return found != NULL ? found : um_json_get(config, key);
}

/* The coefficient of a term: that of the option when it is given, else that of the files when they switch it on. */
static float coefficient(float *off, double given, const um_json *config, const um_json *more,
                         um_aux_term term, um_arena *arena)
{
    const char *name = um_aux_name(term);
    const char *coef = um_arena_fmt(arena, "%s_coef", name);
    *off = (float)um_json_num(key_of(config, more, coef), 0);
    if (given >= 0) return (float)given;
    return um_json_bool(key_of(config, more, name), false) ? *off : 0;
}

/* The experts that config.json names for a modality, a byte each. */
static const uint8_t *meant(const um_json *config, const um_json *more, const char *key, int E,
                            um_arena *arena)
{
    const um_json *list = key_of(config, more, key);
    if (um_json_kind_of(list) != UM_JSON_ARRAY) return NULL;
    uint8_t *is = um_arena_zero(arena, (size_t)E);
    for (size_t i = 0; i < um_json_size(list); i++) {
        int64_t e = um_json_int(um_json_at(list, i), -1);
        if (e >= 0 && e < E) is[e] = 1;
    }
    return is;
}

um_status um_aux_read(um_aux *out, float off[UM_AUX_TERMS], const um_config *cfg, const um_model *m,
                      const um_json *more, um_arena *arena, um_err *err)
{
    um_json *config = NULL;
    UM_TRY(
        um_json_load_loose(&config, um_path_join(arena, m->dir, "config.json"), CONFIG_LIMIT, err));
    const double given[UM_AUX_TERMS] = {[UM_AUX_BALANCE] = cfg->balance_coef,
                                        [UM_AUX_MULTIMODAL] = cfg->multimodal_coef,
                                        [UM_AUX_KL] = cfg->kl_coef};
    um_aux a = {.coef[UM_AUX_Z] = (float)cfg->z_coef};
    off[UM_AUX_Z] = 0;
    for (int k = 0; k < UM_AUX_TERMS; k++)
        if (um_aux_name((um_aux_term)k) != NULL)
            a.coef[k] = coefficient(&off[k], given[k], config, more, (um_aux_term)k, arena);
    a.meant[UM_FM_IMAGE] = meant(config, more, "image_expert_indices", m->experts, arena);
    a.meant[UM_FM_AUDIO] = meant(config, more, "audio_expert_indices", m->experts, arena);
    a.meant[UM_FM_VIDEO] = meant(config, more, "video_expert_indices", m->experts, arena);
    um_json_free(config);
    bool named = a.meant[UM_FM_IMAGE] != NULL || a.meant[UM_FM_AUDIO] != NULL ||
                 a.meant[UM_FM_VIDEO] != NULL;
    if (a.coef[UM_AUX_MULTIMODAL] > 0 && !named)
        return UM_FAIL(err, UM_E_USAGE,
                       "--multimodal-coef: config.json of %s names no experts: it wants "
                       "image_expert_indices, audio_expert_indices or video_expert_indices",
                       m->dir);
    *out = a;
    return UM_OK;
}
