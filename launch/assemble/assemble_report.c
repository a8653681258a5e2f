/* Which experts are identical, and assembly.json: what a mixture was made of. See assemble_job.h. */
#include "launch/assemble/assemble_job.h"

#include "core/base/file.h"
#include "core/base/log.h"
#include "launch/model_dir/interrupt.h"
#include "launch/model_dir/json_text.h"

#include <inttypes.h>
#include <string.h>

enum { PIECE = 1 << 16 };

/* --- digests --- */

/* Adds the values in f32: the same values have the same digest in any type. */
static void digest_add(um_sha256 *h, const um_source_tensor *t, float *values)
{
    for (size_t at = 0; at < t->values;) {
        const size_t n = t->values - at < PIECE ? t->values - at : PIECE;
        um_source_read_f32(values, t, at, n);
        um_sha256_update(h, values, n * sizeof *values);
        at += n;
    }
    um_source_forget(t);
}

static um_status mlp_digest(um_stock *s, int layer, float *values, um_err *err)
{
    static const char *const proj[] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const leaf[] = {".weight", "_lora_A.weight", "_lora_B.weight"};
    um_sha256 h;
    char name[128];
    um_sha256_init(&h);
    for (int i = 0; i < 9; i++) {
        snprintf(name, sizeof name, "base_model.model.model.layers.%d.mlp.%s%s", layer, proj[i / 3],
                 leaf[i % 3]);
        const um_source_tensor *t = um_source_get(s->list, um_convert_bare(name));
        if (t == NULL) t = um_source_get(s->list, name);
        if (t != NULL) digest_add(&h, t, values);
    }
    UM_TRY(um_sha256_final(&h, s->digest[layer], err));
    return um_interrupt_check(err);
}

/* --- who is identical --- */

/* "0-3, 7" */
static const char *layers_text(um_assembly *a, const uint8_t *layer)
{
    um_text t = {0};
    const int layers = a->base.model.layers;
    for (int from = 0; from < layers; from++) {
        int to = from;
        if (!layer[from]) continue;
        while (to + 1 < layers && layer[to + 1]) to++;
        um_text_fmt(&t, t.n > 0 ? ", %d" : "%d", from);
        if (to > from) um_text_fmt(&t, "-%d", to);
        from = to;
    }
    const char *s = um_arena_str(&a->cv.arena, t.n > 0 ? t.s : "");
    um_text_free(&t);
    return s;
}

/* Whether expert e of the recipe equals expert f in a layer: with noise no two are equal. */
static bool equal_in(const um_assembly *a, int e, int f, int layer)
{
    return a->recipe.expert[e].noise == 0.0 && a->recipe.expert[f].noise == 0.0 &&
           strcmp(a->expert[e]->digest[layer], a->expert[f]->digest[layer]) == 0;
}

/* The layers in which two experts are equal; how many. */
static int equal_layers(const um_assembly *a, uint8_t *same, int e, int f)
{
    int n = 0;
    for (int l = 0; l < a->base.model.layers; l++) {
        same[l] = a->moe_layer[l] && equal_in(a, e, f, l);
        n += same[l];
    }
    return n;
}

static const char *where_text(um_assembly *a, const uint8_t *same, int n)
{
    int all = 0;
    for (int l = 0; l < a->base.model.layers; l++) all += a->moe_layer[l];
    return n == all ? "in every layer"
                    : um_arena_fmt(&a->cv.arena, "in layers %s", layers_text(a, same));
}

/* All experts equal expert 0 everywhere: what upcycling makes. */
static bool all_equal(const um_assembly *a, uint8_t *same)
{
    int all = 0;
    for (int l = 0; l < a->base.model.layers; l++) all += a->moe_layer[l];
    for (int e = 1; e < a->recipe.experts; e++)
        if (equal_layers(a, same, 0, e) != all) return false;
    return a->recipe.experts > 1;
}

/* One warning for each pair; the first of a group of equal ones speaks for the others. */
static void warn_equal(um_assembly *a, uint8_t *same)
{
    const um_recipe *r = &a->recipe;
    for (int f = 1; f < r->experts; f++) {
        for (int e = 0; e < f; e++) {
            const int n = equal_layers(a, same, e, f);
            if (n == 0) continue;
            const char *line =
                um_arena_fmt(&a->cv.arena, "experts %d (%.64s) and %d (%.64s) are identical %s", e,
                             r->expert[e].name, f, r->expert[f].name, where_text(a, same, n));
            um_log_warn("%s", line);
            um_convert_note(&a->cv, "%s", line);
            break;
        }
    }
}

um_status um_assemble_compare(um_assembly *a, um_err *err)
{
    uint8_t *same = um_arena_alloc(&a->cv.arena, (size_t)a->base.model.layers);
    float *values = um_arena_f32(&a->cv.arena, 1, PIECE);
    for (int i = 0; i < a->stocks; i++)
        for (int l = 0; l < a->base.model.layers; l++)
            if (a->moe_layer[l]) UM_TRY(mlp_digest(&a->stock[i], l, values, err));
    if (a->recipe.manifest[0] == '\0') {
        if (all_equal(a, same))
            um_convert_note(&a->cv,
                            "the %d experts are copies of one MLP: the model answers as the dense "
                            "one does until it is trained; --noise makes them differ",
                            a->recipe.experts);
        return UM_OK;
    }
    warn_equal(a, same);
    return UM_OK;
}

/* --- assembly.json --- */

static void text_member(um_text *t, const char *key, const char *value)
{
    um_text_fmt(t, ", \"%s\": ", key);
    um_text_json(t, value);
}

static void expert_entry(um_assembly *a, um_text *t, const um_ingredient *x, const um_stock *s,
                         int e)
{
    um_text_fmt(t, "%s\n  {\"expert\": %d", e > 0 ? "," : "", e);
    text_member(t, "name", x->name);
    text_member(t, "from", x->from);
    if (s->sha256[0] != '\0') text_member(t, "sha256", s->sha256);
    if (x->note[0] != '\0') text_member(t, "note", x->note);
    um_text_fmt(t, ", \"noise\": ");
    um_json_real(t, x->noise);
    um_text_fmt(t, ",\n   \"mlp_sha256\": [");
    for (int l = 0; l < a->base.model.layers; l++) {
        um_text_fmt(t, "%s\n    ", l > 0 ? "," : "");
        if (a->moe_layer[l])
            um_text_json(t, s->digest[l]);
        else
            um_text_fmt(t, "null");
    }
    um_text_fmt(t, "]}");
}

static void experts_list(um_assembly *a, um_text *t, const char *key, const um_ingredient *x,
                         um_stock *const *s, int n)
{
    um_text_fmt(t, " \"%s\": [", key);
    for (int e = 0; e < n; e++) expert_entry(a, t, &x[e], s[e], e);
    um_text_fmt(t, "\n ],\n");
}

um_status um_assemble_report(um_assembly *a, um_err *err)
{
    static const char *const gate[UM_GATE_STYLES] = {
        [UM_GATE_MIXTRAL] = "mixtral", [UM_GATE_GSHARD] = "gshard", [UM_GATE_DYNAMIC] = "dynamic"};
    const um_recipe *r = &a->recipe;
    um_text t = {0};
    um_text_fmt(&t, "{\n \"format\": \"unimoe-assembly\", \"version\": 1");
    text_member(&t, "program", "unimoe " UM_VERSION);
    text_member(&t, "base", a->base.model.dir);
    if (r->note[0] != '\0') text_member(&t, "note", r->note);
    um_text_fmt(&t,
                ",\n \"gate\": \"%s\", \"experts_per_token\": %d, \"layers\": \"%s\", \"seed\": "
                "%" PRIu64 ",\n",
                gate[a->gate], a->cv.model.top_k, layers_text(a, a->moe_layer), r->seed);
    experts_list(a, &t, "experts", r->expert, a->expert, r->experts);
    if (r->shareds > 0) experts_list(a, &t, "shared", r->shared, a->shared, r->shareds);
    um_text_fmt(&t, " \"connectors\": {");
    for (int m = 0, n = 0; m < UM_MODALITIES; m++) {
        if (r->connector[m] == NULL) continue;
        um_text_fmt(&t, "%s\"%s\": ", n++ > 0 ? ", " : "", um_modality_name((um_modality)m));
        um_text_json(&t, r->connector[m]);
    }
    um_text_fmt(&t, "}\n}\n");
    um_status st =
        um_file_write(um_path_join(&a->cv.arena, a->cv.tmp, "assembly.json"), t.s, t.n, err);
    um_text_free(&t);
    return st;
}
