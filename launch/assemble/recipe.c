/* See recipe.h. */
#include "launch/assemble/recipe.h"

#include "core/base/file.h"
#include "core/base/nearest.h"
#include "core/base/sha256.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MANIFEST_MAX = 1 << 24, KEYS_MAX = 16 };

/* What is being read. */
typedef struct cook {
    um_recipe *r;
    const um_config *cfg;
    const char *folder; /* of the manifest */
    um_arena *arena;
} cook;

/* --- keys --- */

/* Refuses a key that nobody reads: most are misspelt. known ends with NULL. */
static um_status keys_check(const um_json *object, const char *const *known, um_err *err)
{
    const char *key;
    void *iter = NULL;
    int n = 0;
    while (known[n] != NULL) n++;
    while (um_json_next(object, &iter, &key) != NULL) {
        int i = 0;
        while (i < n && strcmp(known[i], key) != 0) i++;
        if (i < n) continue;
        const char *near = um_nearest(key, known, n);
        return UM_FAIL(err, UM_E_MODEL, "unknown key \"%.64s\"%s%s%s", key,
                       near != NULL ? ", did you mean \"" : "", near != NULL ? near : "",
                       near != NULL ? "\"?" : "");
    }
    return UM_OK;
}

static um_status take_text(cook *c, const char **out, const um_json *object, const char *key,
                           um_err *err)
{
    *out = "";
    return um_json_read_str(object, key, false, out, c->arena, err);
}

/* A path of the manifest, as it can be opened from here. */
static um_status take_path(cook *c, const char **out, const um_json *object, const char *key,
                           bool needed, um_err *err)
{
    const char *said = "";
    UM_TRY(um_json_read_str(object, key, needed, &said, c->arena, err));
    if (said[0] == '\0' && !needed) return UM_OK;
    *out = strcmp(c->folder, ".") == 0 ? said : um_path_join(c->arena, c->folder, said);
    if (said[0] == '\0') return UM_FAIL(err, UM_E_MODEL, "%s: \"\", allowed a path", key);
    if (um_file_exists(*out)) return UM_OK;
    return UM_FAIL(err, UM_E_MODEL, "%s: %s is not there", key, *out);
}

/* --- experts --- */

static um_status sha256_check(um_ingredient *x, um_err *err)
{
    if (x->sha256[0] == '\0') return UM_OK;
    for (const char *s = x->sha256; *s != '\0'; s++)
        if (strchr("0123456789abcdef", *s) == NULL)
            return UM_FAIL(err, UM_E_MODEL, "sha256: \"%.80s\", allowed %d lower-case hex digits",
                           x->sha256, UM_SHA256_HEX - 1);
    if (strlen(x->sha256) != UM_SHA256_HEX - 1)
        return UM_FAIL(err, UM_E_MODEL, "sha256: %zu digits, want %d", strlen(x->sha256),
                       UM_SHA256_HEX - 1);
    if (um_file_is_folder(x->from))
        return UM_FAIL(err, UM_E_MODEL,
                       "sha256: it is that of a file, but from is a folder: name the file in it");
    return UM_OK;
}

static um_status expert_read(cook *c, um_ingredient *x, const um_json *object, um_err *err)
{
    static const char *const known[] = {"name", "from", "sha256", "note", "noise", NULL};
    if (um_json_kind_of(object) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_MODEL, "allowed an object with \"from\"");
    UM_TRY(keys_check(object, known, err));
    UM_TRY(take_path(c, &x->from, object, "from", true, err));
    UM_TRY(take_text(c, &x->name, object, "name", err));
    UM_TRY(take_text(c, &x->note, object, "note", err));
    UM_TRY(take_text(c, &x->sha256, object, "sha256", err));
    UM_TRY(um_json_read_num(object, "noise", false, 0.0, 1.0, &x->noise, err));
    return sha256_check(x, err);
}

static um_status experts_read(cook *c, um_ingredient **out, int *n, const char *key, double noise,
                              um_err *err)
{
    const um_json *list = um_json_get(c->r->root, key);
    const size_t count = um_json_size(list);
    if (um_json_kind_of(list) != UM_JSON_ARRAY || count == 0 || count > UM_MAX_EXPERTS)
        return UM_FAIL(err, UM_E_MODEL, "%s: allowed a list of 1 to %d experts", key,
                       UM_MAX_EXPERTS);
    *out = um_arena_zero(c->arena, count * sizeof **out);
    for (size_t i = 0; i < count; i++) {
        um_ingredient *x = &(*out)[i];
        x->noise = noise;
        UM_TRY(um_wrap(err, expert_read(c, x, um_json_at(list, i), err), "%s[%zu]", key, i));
        if (x->name[0] == '\0') x->name = um_arena_fmt(c->arena, "%zu", i);
    }
    *n = (int)count;
    return UM_OK;
}

/* --- the rest --- */

static um_status connectors_read(cook *c, um_err *err)
{
    static const char *const known[] = {"image", "speech", "sound", NULL};
    static const um_modality at[] = {UM_IMAGE, UM_SPEECH, UM_SOUND};
    const um_json *object = um_json_get(c->r->root, "connectors");
    const um_json_kind kind = um_json_kind_of(object);
    if (kind == UM_JSON_NONE || kind == UM_JSON_NULL) return UM_OK;
    if (kind != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_MODEL, "allowed an object of image, speech and sound");
    UM_TRY(keys_check(object, known, err));
    for (int i = 0; known[i] != NULL; i++)
        UM_TRY(take_path(c, &c->r->connector[at[i]], object, known[i], false, err));
    return UM_OK;
}

/* What the rest of the manifest decides cannot be said twice. */
static um_status config_check(const um_json *config, um_err *err)
{
    static const char *const own[][2] = {{"moe", NULL},
                                         {"num_experts", "experts"},
                                         {"mlp_dynamic_expert_num", "experts"},
                                         {"mlp_fixed_expert_num", "shared"},
                                         {"num_experts_per_tok", "experts_per_token"},
                                         {"model_type", "gate"},
                                         {"moe_type", "layers"},
                                         {"moe_stride", "layers"}};
    if (um_json_kind_of(config) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_MODEL, "allowed an object of keys of config.json");
    if (um_json_size(config) > KEYS_MAX)
        return UM_FAIL(err, UM_E_MODEL, "%zu keys, allowed at most %d", um_json_size(config),
                       KEYS_MAX);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (um_json_kind_of(um_json_get(config, own[i][0])) == UM_JSON_NONE) continue;
        return UM_FAIL(err, UM_E_MODEL, "%s: it follows from %s%s%s", own[i][0],
                       own[i][1] != NULL ? "\"" : "the experts", own[i][1] != NULL ? own[i][1] : "",
                       own[i][1] != NULL ? "\" of the manifest" : "");
    }
    return UM_OK;
}

static um_status gate_check(const char *gate, um_err *err)
{
    static const char *const known[] = {"mixtral", "gshard", "dynamic"};
    if (gate[0] == '\0') return UM_OK;
    for (int i = 0; i < 3; i++)
        if (strcmp(gate, known[i]) == 0) return UM_OK;
    return UM_FAIL(err, UM_E_MODEL, "gate: \"%.64s\", allowed mixtral, gshard and dynamic", gate);
}

static bool is_given(const um_json *object, const char *key)
{
    const um_json_kind kind = um_json_kind_of(um_json_get(object, key));
    return kind != UM_JSON_NONE && kind != UM_JSON_NULL;
}

static um_status members_read(cook *c, um_err *err)
{
    static const char *const known[] = {"base", "experts", "shared",     "experts_per_token",
                                        "gate", "layers",  "seed",       "noise",
                                        "note", "config",  "connectors", NULL};
    um_recipe *r = c->r;
    int64_t per_token = 0, seed = 0;
    double noise = 0;
    if (um_json_kind_of(r->root) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_MODEL, "not a JSON object");
    UM_TRY(keys_check(r->root, known, err));
    UM_TRY(take_path(c, &r->base, r->root, "base", true, err));
    UM_TRY(um_json_read_num(r->root, "noise", false, 0.0, 1.0, &noise, err));
    UM_TRY(experts_read(c, &r->expert, &r->experts, "experts", noise, err));
    if (is_given(r->root, "shared"))
        UM_TRY(experts_read(c, &r->shared, &r->shareds, "shared", noise, err));
    UM_TRY(um_json_read_int(r->root, "experts_per_token", false, 1, r->experts, &per_token, err));
    UM_TRY(um_json_read_int(r->root, "seed", false, 0, INT64_MAX, &seed, err));
    UM_TRY(take_text(c, &r->gate, r->root, "gate", err));
    UM_TRY(gate_check(r->gate, err));
    UM_TRY(take_text(c, &r->layers, r->root, "layers", err));
    UM_TRY(take_text(c, &r->note, r->root, "note", err));
    UM_TRY(um_wrap(err, connectors_read(c, err), "connectors"));
    if (is_given(r->root, "config")) {
        r->config = um_json_get(r->root, "config");
        UM_TRY(um_wrap(err, config_check(r->config, err), "config"));
    }
    r->per_token = (int)per_token;
    r->seed = (uint64_t)seed;
    return UM_OK;
}

/* --- the command line --- */

static um_status upcycle(cook *c, um_err *err)
{
    um_recipe *r = c->r;
    const int64_t n = c->cfg->num_experts;
    if (n == 0)
        return UM_FAIL(err, UM_E_USAGE, "--upcycle: say how many experts with --num-experts N");
    r->base = um_arena_str(c->arena, c->cfg->upcycle);
    r->experts = (int)n;
    r->expert = um_arena_zero(c->arena, (size_t)n * sizeof *r->expert);
    for (int i = 0; i < r->experts; i++)
        r->expert[i] = (um_ingredient){
            .name = "copy", .from = r->base, .sha256 = "", .note = "", .noise = c->cfg->noise};
    return UM_OK;
}

static um_status options_apply(cook *c, um_err *err)
{
    um_recipe *r = c->r;
    const um_config *cfg = c->cfg;
    if (cfg->num_experts > 0 && cfg->num_experts != r->experts)
        return UM_FAIL(err, UM_E_USAGE, "--num-experts %lld, but %s has %d experts",
                       (long long)cfg->num_experts, r->manifest, r->experts);
    if (cfg->experts_per_token > r->experts)
        return UM_FAIL(err, UM_E_USAGE, "--experts-per-token %lld, but there are %d experts",
                       (long long)cfg->experts_per_token, r->experts);
    if (cfg->experts_per_token > 0) r->per_token = (int)cfg->experts_per_token;
    if (cfg->gate[0] != '\0') r->gate = cfg->gate;
    if (cfg->moe_layers[0] != '\0') r->layers = cfg->moe_layers;
    if (um_config_origin(cfg, "seed") != UM_FROM_DEFAULT) r->seed = (uint64_t)cfg->seed;
    for (int i = 0; um_config_origin(cfg, "noise") != UM_FROM_DEFAULT && i < r->experts; i++)
        r->expert[i].noise = cfg->noise;
    if (r->shareds > 0 && strcmp(r->gate, "dynamic") != 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: shared: only the dynamic gate has shared experts (\"gate\": "
                       "\"dynamic\")",
                       r->manifest);
    return UM_OK;
}

um_status um_recipe_read(um_recipe *out, const um_config *cfg, um_arena *arena, um_err *err)
{
    um_recipe r = {.manifest = cfg->manifest, .gate = "", .layers = "", .note = ""};
    cook c = {.r = &r, .cfg = cfg, .arena = arena};
    um_status st = UM_OK;
    if (cfg->manifest[0] != '\0' && cfg->upcycle[0] != '\0')
        return UM_FAIL(err, UM_E_USAGE, "a manifest excludes --upcycle: give one of them");
    if (cfg->manifest[0] == '\0' && cfg->upcycle[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "say what to assemble: a manifest, or --upcycle DIR --num-experts N");
    if (cfg->manifest[0] != '\0') {
        c.folder = um_path_dir(arena, cfg->manifest);
        st = um_model_fault(um_json_load(&r.root, cfg->manifest, MANIFEST_MAX, err));
        if (st == UM_OK) st = um_wrap(err, members_read(&c, err), "%s", cfg->manifest);
    } else {
        st = upcycle(&c, err);
    }
    if (st == UM_OK) st = options_apply(&c, err);
    if (st == UM_OK)
        *out = r;
    else
        um_recipe_free(&r);
    return st;
}

void um_recipe_free(um_recipe *r)
{
    um_json_free(r->root);
    *r = (um_recipe){0};
}

/* --- layers --- */

/* Reads "4" or "4-7". */
static bool range_read(const char **s, long *from, long *to)
{
    char *end = NULL;
    if (!isdigit((unsigned char)**s)) return false;
    *from = *to = strtol(*s, &end, 10);
    if (*end == '-') {
        if (!isdigit((unsigned char)end[1])) return false;
        *to = strtol(end + 1, &end, 10);
    }
    *s = end;
    return true;
}

static um_status numbers_read(uint8_t *layer, int layers, const char *words, um_err *err)
{
    const char *s = words;
    for (;;) {
        long from, to;
        if (!range_read(&s, &from, &to) || (*s != ',' && *s != '\0'))
            return UM_FAIL(err, UM_E_MODEL,
                           "layers: \"%.64s\", allowed all, interval, first-half, second-half, and "
                           "numbers as 0,2,4-7",
                           words);
        if (from > to || to >= layers)
            return UM_FAIL(err, UM_E_MODEL, "layers: \"%.64s\": the model has layers 0 to %d",
                           words, layers - 1);
        for (long i = from; i <= to; i++) layer[i] = 1;
        if (*s++ == '\0') return UM_OK;
    }
}

um_status um_recipe_layers(uint8_t *layer, int layers, const char *words, um_err *err)
{
    const int half = layers / 2;
    const bool all = words[0] == '\0' || strcmp(words, "all") == 0;
    const bool interval = strcmp(words, "interval") == 0;
    const bool first = strcmp(words, "first-half") == 0, second = strcmp(words, "second-half") == 0;
    memset(layer, 0, (size_t)layers);
    if (!all && !interval && !first && !second) return numbers_read(layer, layers, words, err);
    for (int i = 0; i < layers; i++)
        layer[i] = all || (interval && i % 2 == 0) || (first && i < half) || (second && i >= half);
    if ((first || second) && half == 0)
        return UM_FAIL(err, UM_E_MODEL, "layers: \"%.64s\": the model has one layer", words);
    return UM_OK;
}
