/* The towers: the tensors of a CLIP or Whisper folder are kept, a BEATs .pt file becomes a folder (spec 2.5). See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"
#include "launch/model_dir/copy.h"
#include "launch/model_dir/json_text.h"

#include <inttypes.h>
#include <string.h>

/* Released configs name folders on their authors' cluster. The flag takes precedence; then the path in the config, if it exists;
 * then that path relative to the config. */
static um_status tower_find(um_convert *cv, const char **out, const char *key, const char *flag,
                            const char *flag_name, um_err *err)
{
    const char *said = um_json_str(um_json_get(cv->config, key), "");
    if (flag[0] != '\0') {
        if (!um_file_exists(flag))
            return UM_FAIL(err, UM_E_MODEL, "--%s %s: not there", flag_name, flag);
        *out = flag;
        return UM_OK;
    }
    if (said[0] == '\0') return UM_OK;
    const char *beside = um_path_join(&cv->arena, um_path_dir(&cv->arena, cv->config_path), said);
    *out = um_file_exists(said) ? um_arena_str(&cv->arena, said) : beside;
    if (um_file_exists(*out)) return UM_OK;
    return UM_FAIL(err, UM_E_MODEL, "%s: %s: \"%.200s\" is not here: say where it is with --%s",
                   cv->config_path, key, said, flag_name);
}

static void claim_set(um_convert *cv, int id, const um_source_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        um_convert_claim(cv, id, list->item[i].name, &list->item[i], UM_STAGE_BASE);
}

static um_status claim_folder(um_convert *cv, int id, const char *dir, um_err *err)
{
    const um_source_list *list;
    UM_TRY(um_source_find(&cv->src, &list, dir, NULL, err));
    if (list == NULL)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: no weights: neither model.safetensors nor pytorch_model.bin is there",
                       dir);
    claim_set(cv, id, list);
    return UM_OK;
}

/* --- BEATs --- */

static bool same_values(const um_source_tensor *a, const um_source_tensor *b)
{
    if (a->dtype != b->dtype || a->values != b->values) return false;
    size_t size = um_dtype_size(a->dtype);
    for (size_t i = 0; i < a->values; i++) {
        uint8_t x[8], y[8];
        um_source_read(x, a, i, 1);
        um_source_read(y, b, i, 1);
        if (memcmp(x, y, size) != 0) return false;
    }
    return true;
}

/* All layers share the table of layer 0: copies of it are left out, a different table is an error. */
static um_status claim_beats(um_convert *cv, const um_source_list *list, um_err *err)
{
    static const char table[] = ".self_attn.relative_attention_bias.weight";
    const um_source_tensor *first =
        um_source_get(list, "encoder.layers.0.self_attn.relative_attention_bias.weight");
    for (size_t i = 0; i < list->n; i++) {
        um_source_tensor *t = &list->item[i];
        if (t != first && strstr(t->name, table) != NULL) {
            if (first == NULL || !same_values(first, t))
                return UM_FAIL(err, UM_E_MODEL,
                               "%s: %s is not that of layer 0: BEATs layers share one table",
                               t->file, t->name);
            t->unused = "the table of layer 0, which all layers share";
            continue;
        }
        um_convert_claim(cv, UM_SET_SOUND, t->name, t, UM_STAGE_BASE);
    }
    return UM_OK;
}

static um_status claim_sound(um_convert *cv, const char *path, um_err *err)
{
    if (um_file_is_folder(path)) return claim_folder(cv, UM_SET_SOUND, path, err);
    const um_torch *f;
    const um_source_list *list;
    UM_TRY(um_source_torch(&cv->src, &f, path, err));
    cv->beats_cfg = um_value_get(um_torch_root(f), "cfg");
    const um_value *model = um_value_get(um_torch_root(f), "model");
    if (cv->beats_cfg == NULL || cv->beats_cfg->kind != UM_VALUE_DICT || model == NULL)
        return UM_FAIL(err, UM_E_MODEL, "%s: no BEATs checkpoint: it has no cfg and model", path);
    const char *slash = strrchr(path, '/');
    UM_TRY(um_source_dict(&cv->src, &list, f, model, slash == NULL ? path : slash + 1, err));
    return claim_beats(cv, list, err);
}

/* --- which towers --- */

static bool has_qformer(const um_convert *cv)
{
    static const char prefix[] = "model.mm_audio_aligner.qformer.";
    const um_folder *s = &cv->folder[UM_SET_LLM];
    for (size_t i = 0; i < s->n; i++) {
        if (strncmp(s->claim[i].name, prefix, sizeof prefix - 1) == 0) return true;
    }
    return false;
}

/* Released configs have one audio tower, mm_audio_tower; it is the sound tower when there is a Q-Former (only sounds use one),
 * else the speech tower. Configs of this program can name one of each kind. */
static void towers_name(um_convert *cv)
{
    static const char *const key[UM_SETS] = {"", "mm_vision_tower", "mm_speech_tower",
                                             "mm_sound_tower"};
    static const char *const folder[UM_SETS] = {"", "vision_tower", "speech_tower", "sound_tower"};
    int legacy = has_qformer(cv) ? UM_SET_SOUND : UM_SET_SPEECH;
    for (int id = UM_SET_VISION; id < UM_SETS; id++) {
        bool own = um_json_str(um_json_get(cv->config, key[id]), "")[0] != '\0';
        bool audio = !own && id == legacy;
        cv->key[id] = audio ? "mm_audio_tower" : key[id];
        cv->folder[id].name = audio ? "audio_tower" : folder[id];
    }
}

static const char *const flag_name[UM_SETS] = {"", "vision-tower", "speech-tower", "sound-tower"};

static um_status flags_check(const um_convert *cv, const char *const flag[UM_SETS], um_err *err)
{
    for (int id = UM_SET_VISION; id < UM_SETS; id++) {
        const char *said = um_json_str(um_json_get(cv->config, cv->key[id]), "");
        if (flag[id][0] != '\0' && said[0] == '\0')
            return UM_FAIL(err, UM_E_USAGE,
                           "--%s: this model has none (%s is not in %s); an audio tower is for "
                           "sounds (--sound-tower) when there is a Q-Former, else for speech "
                           "(--speech-tower)",
                           flag_name[id], cv->key[id], cv->config_path);
    }
    return UM_OK;
}

um_status um_convert_towers(um_convert *cv, um_err *err)
{
    const um_config *cfg = cv->cfg;
    const char *const flag[UM_SETS] = {"", cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    towers_name(cv);
    UM_TRY(flags_check(cv, flag, err));
    for (int id = UM_SET_VISION; id < UM_SETS; id++) {
        UM_TRY(tower_find(cv, &cv->tower[id], cv->key[id], flag[id], flag_name[id], err));
        if (cv->tower[id] == NULL) continue;
        UM_TRY(id == UM_SET_SOUND ? claim_sound(cv, cv->tower[id], err)
                                  : claim_folder(cv, id, cv->tower[id], err));
    }
    return UM_OK;
}

/* --- their config files --- */

/* Writes a value of the cfg as JSON; only lists of plain values may be nested in it. */
static um_status value_text(um_text *t, const um_value *v, int depth, um_err *err)
{
    switch (v->kind) {
    case UM_VALUE_NONE:
        um_text_fmt(t, "null");
        return UM_OK;
    case UM_VALUE_BOOL:
        um_text_fmt(t, v->flag ? "true" : "false");
        return UM_OK;
    case UM_VALUE_INT:
        um_text_fmt(t, "%" PRId64, v->number);
        return UM_OK;
    case UM_VALUE_REAL:
        if (v->real - v->real != 0.0) return UM_FAIL(err, UM_E_DATA, "a number is not finite");
        um_json_real(t, v->real);
        return UM_OK;
    case UM_VALUE_TEXT:
        um_text_json(t, v->text);
        return UM_OK;
    case UM_VALUE_LIST:
        if (depth > 0) break;
        um_text_add(t, "[", 1);
        for (size_t i = 0; i < v->n; i++) {
            if (i > 0) um_text_add(t, ", ", 2);
            UM_TRY(value_text(t, v->item[i], depth + 1, err));
        }
        um_text_add(t, "]", 1);
        return UM_OK;
    case UM_VALUE_DICT:
    case UM_VALUE_GLOBAL:
    case UM_VALUE_STORAGE:
    case UM_VALUE_TENSOR:
        break;
    }
    return UM_FAIL(err, UM_E_DATA, "a value is neither a number, a text nor a list of them");
}

static um_status beats_config(um_convert *cv, um_text *t, um_err *err)
{
    um_text_fmt(t, "{\n \"model_type\": \"beats\"");
    for (size_t i = 0; i < cv->beats_cfg->n; i++) {
        const um_value *key = cv->beats_cfg->item[2 * i], *v = cv->beats_cfg->item[2 * i + 1];
        if (key->kind != UM_VALUE_TEXT || strcmp(key->text, "model_type") == 0) continue;
        um_text_fmt(t, ",\n ");
        um_text_json(t, key->text);
        um_text_fmt(t, ": ");
        UM_TRY(um_wrap(err, value_text(t, v, 0, err), "%s: cfg: %.64s", cv->tower[UM_SET_SOUND],
                       key->text));
    }
    um_text_fmt(t, "\n}\n");
    return UM_OK;
}

static um_status folder_files(um_convert *cv, const char *from, const char *to, um_err *err)
{
    const char *dir = um_path_join(&cv->arena, cv->tmp, to);
    UM_TRY(um_file_mkdirs(dir, err));
    return um_file_is_folder(from) ? um_copy_tower_files(dir, from, &cv->arena, err) : UM_OK;
}

um_status um_convert_tower_files(um_convert *cv, um_err *err)
{
    for (int id = UM_SET_VISION; id < UM_SETS; id++) {
        if (cv->tower[id] == NULL) continue;
        UM_TRY(folder_files(cv, cv->tower[id], cv->folder[id].name, err));
    }
    if (cv->beats_cfg == NULL) return UM_OK;
    um_text t = {0};
    const char *path =
        um_arena_fmt(&cv->arena, "%s/%s/config.json", cv->tmp, cv->folder[UM_SET_SOUND].name);
    um_status st = beats_config(cv, &t, err);
    if (st == UM_OK) st = um_file_write(path, t.s, t.n, err);
    um_text_free(&t);
    return st;
}
