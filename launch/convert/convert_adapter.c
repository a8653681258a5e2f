/* PEFT adapters (spec 5.1, 7.2): adapter_config.json with r and alpha, and X.lora_A.weight [r, in], X.lora_B.weight [out, r] for
 * each adapted X. Merging replaces X by X + (alpha / r) B A. See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"

#include <inttypes.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 24 };

static bool is_set(const um_json *root, const char *key)
{
    const um_json *v = um_json_get(root, key);
    switch (um_json_kind_of(v)) {
    case UM_JSON_NONE:
    case UM_JSON_NULL:
        return false;
    case UM_JSON_BOOL:
        return um_json_bool(v, false);
    case UM_JSON_OBJECT:
    case UM_JSON_ARRAY:
        return um_json_size(v) > 0;
    default:
        return true;
    }
}

/* Refuses the kinds of LoRA that must be merged differently. */
static um_status refuse_others(const um_json *root, um_err *err)
{
    static const char *const key[] = {"rank_pattern", "alpha_pattern",  "use_rslora",
                                      "use_dora",     "fan_in_fan_out", "modules_to_save"};
    const char *bias = um_json_str(um_json_get(root, "bias"), "none");
    const char *type = um_json_str(um_json_get(root, "peft_type"), "LORA");
    if (strcmp(type, "LORA") != 0)
        return UM_FAIL(err, UM_E_MODEL, "peft_type: \"%.64s\", allowed \"LORA\"", type);
    if (strcmp(bias, "none") != 0)
        return UM_FAIL(err, UM_E_MODEL, "bias: \"%.64s\", allowed \"none\"", bias);
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
        if (is_set(root, key[i]))
            return UM_FAIL(err, UM_E_MODEL, "%s is set, which is not supported", key[i]);
    }
    return UM_OK;
}

static um_status config_read(um_convert *cv, const char *path, um_err *err)
{
    um_json *root = NULL;
    double alpha = 0;
    UM_TRY(um_json_load_loose(&root, path, CONFIG_MAX, err));
    um_status st = um_json_read_int(root, "r", true, 1, 65536, &cv->adapter.r, err);
    if (st == UM_OK) st = um_json_read_num(root, "lora_alpha", true, 0.0, 1e6, &alpha, err);
    if (st == UM_OK) st = refuse_others(root, err);
    cv->adapter.scale = alpha / (double)cv->adapter.r;
    um_json_free(root);
    return um_wrap(err, st, "%s", path);
}

um_status um_convert_adapter_open(um_convert *cv, um_err *err)
{
    const char *dir = cv->cfg->tuned;
    if (dir[0] == '\0') return UM_OK;
    const char *config = um_path_join(&cv->arena, dir, "adapter_config.json");
    UM_TRY(um_source_find(&cv->src, &cv->adapter.list, dir, "adapter_model", err));
    bool there = um_file_exists(config);
    if (cv->adapter.list == NULL && !there) return UM_OK;
    if (cv->adapter.list == NULL)
        return UM_FAIL(err, UM_E_MODEL, "%s: there is an adapter_config.json but no adapter_model",
                       dir);
    if (!there)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: there is an adapter (%s) but no adapter_config.json, which says its r "
                       "and lora_alpha",
                       dir, cv->adapter.list->n > 0 ? cv->adapter.list->item[0].file : "empty");
    cv->adapter.dir = dir;
    return config_read(cv, config, err);
}

/* For X.lora_A.weight or X.lora_A.default.weight (or B): writes X.weight to target and returns 'A' or 'B'; returns 0 for other
 * names. */
static char part_of(char *target, size_t room, const char *name)
{
    const char *at = strstr(name, ".lora_");
    if (at == NULL || (at[6] != 'A' && at[6] != 'B')) return '\0';
    const char *rest = at + 7;
    if (strcmp(rest, ".weight") != 0 && strcmp(rest, ".default.weight") != 0) return '\0';
    int n = snprintf(target, room, "%.*s.weight", (int)(at - name), name);
    return n > 0 && (size_t)n < room ? at[6] : '\0';
}

static um_status one_match(um_convert *cv, um_source_tensor *t, um_err *err)
{
    char target[512];
    char part = part_of(target, sizeof target, um_convert_bare(t->name));
    if (part == '\0')
        return UM_FAIL(err, UM_E_MODEL, "%s: %.400s is no part of a LoRA", t->file, t->name);
    um_claim *c = um_convert_find(cv, UM_SET_LLM, target);
    if (c == NULL || !c->wanted)
        return UM_FAIL(err, UM_E_MODEL, "%s: the LoRA %.400s has no weight of the model to go to",
                       t->file, t->name);
    if (c->stage > UM_STAGE_MERGE) {
        t->unused =
            um_arena_fmt(&cv->arena, "%s replaces what it would be merged into", c->t->file);
        return UM_OK;
    }
    um_source_tensor **place = part == 'A' ? &c->a : &c->b;
    if (*place != NULL)
        return UM_FAIL(err, UM_E_MODEL, "%s: %.400s is there twice", t->file, t->name);
    *place = t;
    return UM_OK;
}

static um_status pair_check(um_convert *cv, const um_claim *c, um_err *err)
{
    const um_source_tensor *a = c->a, *b = c->b;
    char w[96], x[96], y[96];
    if (a == NULL || b == NULL)
        return UM_FAIL(err, UM_E_MODEL, "the LoRA of %.400s has lora_%c but no lora_%c", c->name,
                       a != NULL ? 'A' : 'B', a != NULL ? 'B' : 'A');
    um_shape_text(w, c->t->rank, c->t->shape);
    um_shape_text(x, a->rank, a->shape);
    um_shape_text(y, b->rank, b->shape);
    bool fits = c->t->rank == 2 && a->rank == 2 && b->rank == 2 && a->shape[0] == cv->adapter.r &&
                b->shape[1] == cv->adapter.r && a->shape[1] == c->t->shape[1] &&
                b->shape[0] == c->t->shape[0] && um_source_is_float(a) && um_source_is_float(b);
    if (fits) return UM_OK;
    return UM_FAIL(err, UM_E_MODEL,
                   "the LoRA of %.400s %s: A %s and B %s do not fit it at r %" PRId64, c->name, w,
                   x, y, cv->adapter.r);
}

static bool keeps(const um_convert *cv) { return strcmp(cv->cfg->adapter, "keep") == 0; }

um_status um_convert_adapter_match(um_convert *cv, um_err *err)
{
    const um_source_list *list = cv->adapter.list;
    um_folder *s = &cv->folder[UM_SET_LLM];
    for (size_t i = 0; list != NULL && i < list->n; i++) UM_TRY(one_match(cv, &list->item[i], err));
    for (size_t i = 0; i < s->n; i++) {
        um_claim *c = &s->claim[i];
        if (c->a == NULL && c->b == NULL) continue;
        UM_TRY(pair_check(cv, c, err));
        c->a->used = keeps(cv) ? c->a->name : um_arena_fmt(&cv->arena, "merged into %s", c->name);
        c->b->used = keeps(cv) ? c->b->name : c->a->used;
        if (keeps(cv)) c->a = c->b = NULL; /* kept beside the weights, not merged */
    }
    return UM_OK;
}

/* Copies adapter_config.json unchanged and writes the pairs that have an effect to adapter_model.safetensors. */
um_status um_convert_adapter_keep(um_convert *cv, um_err *err)
{
    const um_source_list *list = cv->adapter.list;
    if (list == NULL || !keeps(cv)) return UM_OK;
    um_tensor *out = um_arena_zero(&cv->arena, list->n * sizeof *out);
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++) {
        const um_source_tensor *t = &list->item[i];
        if (t->used == NULL) continue;
        um_tensor *o = &out[n++];
        *o = (um_tensor){.name = t->name, .dtype = t->dtype, .rank = t->rank};
        memcpy(o->shape, t->shape, sizeof o->shape);
        o->bytes = t->values * um_dtype_size(t->dtype);
        uint8_t *data = um_arena_alloc(&cv->arena, o->bytes); /* an adapter is small */
        um_source_read(data, t, 0, t->values);
        o->data = data;
    }
    static const char *const metadata[] = {"format", "pt", NULL};
    UM_TRY(um_tensors_write(um_path_join(&cv->arena, cv->tmp, "adapter_model.safetensors"), out, n,
                            metadata, err));
    return um_convert_copy(cv, um_path_join(&cv->arena, cv->adapter.dir, "adapter_config.json"),
                           "adapter_config.json", err);
}
