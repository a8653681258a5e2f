/* See request.h. */
#include "router/request/request.h"

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/nearest.h"
#include "router/request/request_media.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TURNS_MAX = 4096, NEW_TOKENS_MAX = 1 << 24 /* as --max-new-tokens */ };

/* Refuses a key that is not among known, naming the nearest. */
static um_status keys_check(const um_json *object, const char *where, const char *const *known,
                            int n, um_err *err)
{
    void *iter = NULL;
    const char *key = "";
    while (um_json_next(object, &iter, &key) != NULL) {
        bool found = false;
        for (int k = 0; k < n && !found; k++) found = strcmp(key, known[k]) == 0;
        if (found || strncmp(key, "smallest_", 9) == 0) continue; /* the golden data's notes */
        const char *near = um_nearest(key, known, n);
        return UM_FAIL(err, UM_E_DATA, "%s%s: unknown key%s%s", where, key,
                       near != NULL ? ", did you mean " : "", near != NULL ? near : "");
    }
    return UM_OK;
}

static bool is_content(const um_json *j)
{
    return um_json_kind_of(j) == UM_JSON_STRING || um_json_kind_of(j) == UM_JSON_ARRAY;
}

/* A text, cut at its placeholders, or a list of parts. */
static um_status content_read(um_turn *turn, um_request_media *media, const um_json *j,
                              const char *where, um_err *err)
{
    if (um_json_kind_of(j) == UM_JSON_ARRAY)
        return um_request_media_parts(media, turn, j, where, err);
    return um_request_media_cut(media, turn, um_json_str(j, ""), err);
}

/* A leading turn that is not human is dropped (spec 1.1). */
static um_status conversations_read(um_request *r, um_request_media *media, const um_json *list,
                                    um_err *err)
{
    size_t n = um_json_size(list);
    if (um_json_kind_of(list) != UM_JSON_ARRAY || n == 0 || n > TURNS_MAX)
        return UM_FAIL(err, UM_E_DATA, "sample.conversations: want a list of 1 to %d turns",
                       TURNS_MAX);
    r->turns = um_arena_zero(media->arena, n * sizeof *r->turns);
    for (size_t i = 0; i < n; i++) {
        const um_json *value = um_json_get(um_json_at(list, i), "value");
        const char *from = um_json_str(um_json_get(um_json_at(list, i), "from"), "");
        bool human = strcmp(from, "human") == 0;
        if ((!human && strcmp(from, "gpt") != 0) || !is_content(value))
            return UM_FAIL(
                err, UM_E_DATA,
                "sample.conversations[%zu]: want {\"from\": \"human\" or \"gpt\", \"value\": text "
                "or list of parts}",
                i);
        if (i == 0 && !human) continue;
        if (human != (r->n_turns % 2 == 0))
            return UM_FAIL(err, UM_E_DATA,
                           "sample.conversations[%zu]: turns must alternate, human first", i);
        char where[64];
        snprintf(where, sizeof where, "sample.conversations[%zu].value", i);
        r->turns[r->n_turns].human = human;
        UM_TRY(content_read(&r->turns[r->n_turns++], media, value, where, err));
    }
    if (r->n_turns == 0) return UM_FAIL(err, UM_E_DATA, "sample.conversations: no human turn");
    if (!r->turns[r->n_turns - 1].human && r->turns[r->n_turns - 1].n > 0)
        return UM_FAIL(err, UM_E_DATA,
                       "sample.conversations[%zu]: is answered already; leave its value empty",
                       n - 1);
    return UM_OK;
}

/* The flat form: one question. */
static um_status prompt_read(um_request *r, um_request_media *media, const um_json *prompt,
                             um_err *err)
{
    r->turns = um_arena_zero(media->arena, sizeof *r->turns);
    r->turns[0].human = true;
    r->n_turns = 1;
    if (um_json_kind_of(prompt) == UM_JSON_ARRAY)
        return content_read(&r->turns[0], media, prompt, "prompt", err);
    return um_request_media_cut(media, &r->turns[0],
                                um_request_media_fronted(media, um_json_str(prompt, "")), err);
}

/* object[key], NULL when it is absent or null. */
static const um_json *given(const um_json *object, const char *key)
{
    const um_json *v = um_json_get(object, key);
    return um_json_kind_of(v) == UM_JSON_NULL ? NULL : v;
}

static um_status number_read(const um_json *j, const char *key, double min, double max, double *out,
                             um_err *err)
{
    const um_json *v = given(j, key);
    um_json_kind kind = um_json_kind_of(v);
    if (v == NULL) return UM_OK;
    double x = um_json_num(v, NAN);
    if ((kind != UM_JSON_INT && kind != UM_JSON_REAL) || !(x >= min && x <= max))
        return UM_FAIL(err, UM_E_DATA, "%s: want a number from %g to %g", key, min, max);
    *out = x;
    return UM_OK;
}

static um_status int_read(const um_json *j, const char *key, int64_t min, int64_t max, int64_t *out,
                          um_err *err)
{
    const um_json *v = given(j, key);
    um_json_kind kind = um_json_kind_of(v);
    if (v == NULL) return UM_OK;
    int64_t x = um_json_int(v, min);
    if (kind != UM_JSON_INT || x < min || x > max)
        return UM_FAIL(err, UM_E_DATA, "%s: want a whole number from %lld to %lld", key,
                       (long long)min, (long long)max);
    *out = x;
    return UM_OK;
}

/* A text or a whole number, as text; NULL for anything else. */
static const char *id_text(const um_json *id, um_arena *arena)
{
    if (um_json_kind_of(id) == UM_JSON_STRING) return um_arena_str(arena, um_json_str(id, ""));
    if (um_json_kind_of(id) == UM_JSON_INT)
        return um_arena_fmt(arena, "%lld", (long long)um_json_int(id, 0));
    return NULL;
}

static um_status options_read(um_request *r, const um_json *j, um_arena *arena, um_err *err)
{
    const um_json *id = given(j, "id"), *eos = given(j, "ignore_eos");
    r->id = id_text(id, arena);
    if (id != NULL && r->id == NULL)
        return UM_FAIL(err, UM_E_DATA, "id: want a text or a whole number");
    UM_TRY(int_read(j, "max_new_tokens", 0, NEW_TOKENS_MAX, &r->max_new_tokens, err));
    UM_TRY(int_read(j, "top_k", 0, INT32_MAX, &r->top_k, err));
    UM_TRY(number_read(j, "temperature", 0, 100, &r->temperature, err));
    UM_TRY(number_read(j, "top_p", 0, 1, &r->top_p, err));
    if (r->top_p == 0) return UM_FAIL(err, UM_E_DATA, "top_p: want a number above 0, up to 1");
    int64_t seed = -1;
    UM_TRY(int_read(j, "seed", 0, INT64_MAX, &seed, err));
    r->has_seed = seed >= 0;
    r->seed = seed;
    if (eos != NULL && um_json_kind_of(eos) != UM_JSON_BOOL)
        return UM_FAIL(err, UM_E_DATA, "ignore_eos: want true or false");
    r->has_ignore_eos = eos != NULL;
    r->ignore_eos = um_json_bool(eos, false);
    return UM_OK;
}

static um_status body_read(um_request *r, const um_json *j, const char *folder, um_arena *arena,
                           um_err *err)
{
    static const char *const flat[] = {
        "id",    "prompt", "sample",      "image",          "speech",      "voice",
        "sound", "video",  "video_audio", "max_new_tokens", "temperature", "top_k",
        "top_p", "seed",   "model",       "ignore_eos",     "answer"};
    static const char *const nested[] = {"conversations", "image",     "speech",      "voice",
                                         "sound",         "video",     "video_audio", "id",
                                         "tokens",        "multi_info"};
    um_request_media media = {.folder = folder, .arena = arena};
    const um_json *sample = um_json_get(j, "sample"), *prompt = um_json_get(j, "prompt");
    if (um_json_kind_of(j) != UM_JSON_OBJECT) return UM_FAIL(err, UM_E_DATA, "want a JSON object");
    UM_TRY(keys_check(j, "", flat, (int)(sizeof flat / sizeof *flat), err));
    UM_TRY(options_read(r, j, arena, err));
    if (sample != NULL) {
        if (prompt != NULL) return UM_FAIL(err, UM_E_DATA, "prompt and sample: give one of them");
        if (um_json_kind_of(sample) != UM_JSON_OBJECT)
            return UM_FAIL(err, UM_E_DATA, "sample: want an object");
        UM_TRY(keys_check(sample, "sample.", nested, (int)(sizeof nested / sizeof *nested), err));
        UM_TRY(um_request_media_read(&media, sample, err));
        UM_TRY(conversations_read(r, &media, um_json_get(sample, "conversations"), err));
    } else {
        if (!is_content(prompt))
            return UM_FAIL(err, UM_E_DATA,
                           "prompt: want a text or a list of parts (or give a sample)");
        UM_TRY(um_request_media_read(&media, j, err));
        UM_TRY(prompt_read(r, &media, prompt, err));
    }
    UM_TRY(um_request_media_check(&media, err));
    r->items = media.used.items;
    r->n_items = media.used.n;
    return UM_OK;
}

um_status um_request_parse(um_request *out, const char *json, size_t n, const char *folder,
                           um_arena *arena, um_err *err)
{
    um_json *root = NULL;
    um_request r = {.max_new_tokens = -1, .top_k = -1, .temperature = -1, .top_p = -1};
    um_status st = um_json_parse(&root, json, n, err);
    if (st == UM_OK) st = body_read(&r, root, folder, arena, err);
    um_json_free(root);
    if (st != UM_OK) return um_wrap(err, UM_E_DATA, "request");
    *out = r;
    return UM_OK;
}

const char *um_request_id(const char *json, size_t n, um_arena *arena)
{
    um_json *root = NULL;
    um_err ignored = {0};
    const char *id = NULL;
    if (um_json_parse(&root, json, n, &ignored) == UM_OK) id = id_text(given(root, "id"), arena);
    um_json_free(root);
    return id;
}
