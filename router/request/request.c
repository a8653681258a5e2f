/* See request.h. */
#include "router/request/request.h"

#include "core/base/json.h"
#include "core/base/nearest.h"
#include "router/request/messages.h"
#include "router/request/request_media.h"

#include <stdio.h>
#include <string.h>

enum {
    TURNS_MAX = 4096,
    NEW_TOKENS_MAX = 1 << 24 /* as --max-new-tokens */,
    STOPS_MAX = 64,
    IGNORED_MAX = 32
};

/* --- keys --- */

/* What a request may hold, besides the media keys. */
static const char *const known[] = {
    "id",    "prompt",         "messages",   "sample",        "system",     "stop",
    "seed",  "max_new_tokens", "max_tokens", "temperature",   "ignore_eos", "max_completion_tokens",
    "top_k", "top_p",          "model",      "conversations", "logprobs",   "score",
};
enum { KNOWN = sizeof known / sizeof known[0] };

/* What else a sample holds in the original's files. */
static const char *const sample_notes[] = {"tokens", "multi_info", "question_id", "custom_id"};

/* Options of other programs that change nothing at these values, so that their files can be read as they are. */
static const struct {
    const char *key;
    double value; /* null and false count as 0 */
    bool any;
} neutral[] = {
    {"stream", 0, true},
    {"stream_options", 0, true},
    {"user", 0, true},
    {"metadata", 0, true},
    {"store", 0, true},
    {"n", 1, false},
    {"best_of", 1, false},
    {"num_beams", 1, false},
    {"presence_penalty", 0, false},
    {"frequency_penalty", 0, false},
    {"repetition_penalty", 1, false},
    {"top_logprobs", 0, false},
    {"min_p", 0, false},
    {"echo", 0, false},
};

static bool is_among(const char *key, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(key, names[i]) == 0) return true;
    return false;
}

/* Whether key is one of neutral; *st says whether its value is. */
static bool is_neutral(um_status *st, const char *key, const um_json *value, um_err *err)
{
    for (size_t i = 0; i < sizeof neutral / sizeof neutral[0]; i++) {
        if (strcmp(key, neutral[i].key) != 0) continue;
        bool unset = um_json_kind_of(value) == UM_JSON_NULL ||
                     (um_json_kind_of(value) == UM_JSON_BOOL && !um_json_bool(value, true));
        if (!neutral[i].any && !unset && um_json_num(value, -1) != neutral[i].value)
            *st = UM_FAIL(err, UM_E_DATA, "%s: not supported, other than as %g", key,
                          neutral[i].value);
        return true;
    }
    return false;
}

static um_status unknown_key(const char *key, um_err *err)
{
    const char *names[KNOWN + UM_MEDIA_KEYS];
    char list[512] = "";
    for (int i = 0; i < KNOWN + UM_MEDIA_KEYS; i++) {
        names[i] = i < KNOWN ? known[i] : um_media_keys[i - KNOWN];
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    const char *near = um_nearest(key, names, KNOWN + UM_MEDIA_KEYS);
    return UM_FAIL(err, UM_E_DATA, "%.60s: unknown key, %s %s", key[0] != '\0' ? key : "\"\"",
                   near != NULL ? "did you mean" : "known are", near != NULL ? near : list);
}

/* Refuses a key that is not known; of a sample notes it instead. */
static um_status keys_check(um_request *r, const um_json *object, bool sample, bool recorded,
                            um_arena *arena, um_err *err)
{
    void *iter = NULL;
    const char *key = "";
    if (sample) r->ignored = um_arena_zero(arena, IGNORED_MAX * sizeof *r->ignored);
    for (const um_json *value; (value = um_json_next(object, &iter, &key)) != NULL;) {
        um_status st = UM_OK;
        if (is_among(key, known, KNOWN) || is_among(key, um_media_keys, UM_MEDIA_KEYS)) continue;
        if (recorded && (strcmp(key, "answer") == 0 || strncmp(key, "smallest_", 9) == 0)) continue;
        if (!sample && is_neutral(&st, key, value, err)) {
            UM_TRY(st);
            continue;
        }
        if (!sample) return unknown_key(key, err);
        if (is_among(key, sample_notes, sizeof sample_notes / sizeof sample_notes[0])) continue;
        if (r->n_ignored < IGNORED_MAX)
            r->ignored[r->n_ignored++] = um_arena_fmt(arena, "%.60s", key);
    }
    return UM_OK;
}

/* --- turns --- */

static bool is_content(const um_json *j)
{
    return um_json_kind_of(j) == UM_JSON_STRING || um_json_kind_of(j) == UM_JSON_ARRAY;
}

/* A text, cut at its placeholders, or a list of parts. */
static um_status content_read(um_turn *turn, um_media_set *media, const um_json *j,
                              const char *folder, const char *where, um_err *err)
{
    if (um_json_kind_of(j) == UM_JSON_ARRAY)
        return um_request_media_parts(media, turn, j, folder, where, err);
    return um_placeholder_cut(media, turn, um_json_str(j, ""), err);
}

/* The key somebody probably meant by "conversations", for the message that it is missing. */
static const char *near_conversations(const um_json *sample)
{
    static const char *const names[] = {"conversations"};
    void *iter = NULL;
    const char *key = "";
    while (um_json_next(sample, &iter, &key) != NULL)
        if (um_nearest(key, names, 1) != NULL) return key;
    return NULL;
}

/* Turn i of n of a data file. A leading turn that is not human is dropped (spec 1.1), and so is the answer at the end of a request. */
static um_status turn_read(um_request *r, um_media_set *media, const um_json *turn, size_t i,
                           size_t n, const um_request_source *source, const char *where,
                           um_err *err)
{
    bool role = um_json_get(turn, "from") == NULL && um_json_get(turn, "role") != NULL;
    const char *key = role ? "content" : "value";
    const um_json *value = um_json_get(turn, key);
    const char *from = um_json_str(um_json_get(turn, role ? "role" : "from"), "");
    bool chat = role || source->answered, last = i + 1 == n; /* "user" and "assistant" count */
    bool human = strcmp(from, "human") == 0 || (chat && strcmp(from, "user") == 0);
    bool machine = strcmp(from, "gpt") == 0 || (chat && strcmp(from, "assistant") == 0);
    char here[80];
    snprintf(here, sizeof here, "%s[%zu].%s", where, i, key);
    if (i == 0 && strcmp(from, "system") == 0)
        return um_system_read(r, value, here, media->arena, err);
    if ((!human && !machine) ||
        (!is_content(value) && (human || !last || um_json_kind_of(value) != UM_JSON_NULL)))
        return UM_FAIL(err, UM_E_DATA,
                       "%s[%zu]: want {\"from\": \"human\" or \"gpt\", \"value\": text or list of "
                       "parts}",
                       where, i);
    if (i == 0 && !human) return UM_OK;
    if (human != (r->n_turns % 2 == 0))
        return UM_FAIL(err, UM_E_DATA, "%s[%zu]: turns must alternate, human first", where, i);
    um_turn *out = &r->turns[r->n_turns++];
    out->human = human;
    if (last && !human && !source->answered) return UM_OK;
    return content_read(out, media, value, source->folder, here, err);
}

static um_status conversations_read(um_request *r, um_media_set *media, const um_json *sample,
                                    const um_request_source *source, const char *where, um_err *err)
{
    const um_json *list = um_json_get(sample, "conversations");
    size_t n = um_json_size(list);
    if (um_json_kind_of(list) != UM_JSON_ARRAY || n == 0 || n > TURNS_MAX) {
        const char *near = list == NULL ? near_conversations(sample) : NULL;
        return UM_FAIL(err, UM_E_DATA, "%s: want a list of 1 to %d turns%s%s%s", where, TURNS_MAX,
                       near != NULL ? " (" : "", near != NULL ? near : "",
                       near != NULL ? ": unknown key, did you mean conversations)" : "");
    }
    r->turns = um_arena_zero(media->arena, n * sizeof *r->turns);
    for (size_t i = 0; i < n; i++)
        UM_TRY(turn_read(r, media, um_json_at(list, i), i, n, source, where, err));
    if (r->n_turns == 0) return UM_FAIL(err, UM_E_DATA, "%s: no human turn", where);
    return UM_OK;
}

/* The flat form: one question. */
static um_status prompt_read(um_request *r, um_media_set *media, const um_json *prompt,
                             const char *folder, um_err *err)
{
    if (!is_content(prompt))
        return UM_FAIL(err, UM_E_DATA,
                       "prompt: want a text or a list of parts (or give messages or a sample)");
    r->turns = um_arena_zero(media->arena, sizeof *r->turns);
    r->turns[0].human = true;
    r->n_turns = 1;
    if (um_json_kind_of(prompt) == UM_JSON_ARRAY)
        return content_read(&r->turns[0], media, prompt, folder, "prompt", err);
    return um_placeholder_cut(media, &r->turns[0],
                              um_placeholder_front(media, um_json_str(prompt, "")), err);
}

/* --- options --- */

/* object[key], NULL when it is absent or null. */
static const um_json *given(const um_json *object, const char *key)
{
    const um_json *v = um_json_get(object, key);
    return um_json_kind_of(v) == UM_JSON_NULL ? NULL : v;
}

/* A text, or a whole number as its digits; NULL for anything else. */
static const char *id_text(const um_json *id, um_arena *arena)
{
    if (um_json_kind_of(id) == UM_JSON_STRING) return um_arena_str(arena, um_json_str(id, ""));
    if (um_json_kind_of(id) == UM_JSON_INT)
        return um_arena_fmt(arena, "%lld", (long long)um_json_int(id, 0));
    return NULL;
}

static um_status stop_read(um_request *r, const um_json *j, um_arena *arena, um_err *err)
{
    bool list = um_json_kind_of(j) == UM_JSON_ARRAY;
    size_t n = list ? um_json_size(j) : 1;
    if (j == NULL) return UM_OK;
    if (n > STOPS_MAX) return UM_FAIL(err, UM_E_DATA, "stop: %zu texts, at most %d", n, STOPS_MAX);
    r->stop = um_arena_zero(arena, n * sizeof *r->stop);
    for (size_t i = 0; i < n; i++) {
        const char *text = um_json_str(list ? um_json_at(j, i) : j, "");
        if (text[0] == '\0')
            return UM_FAIL(err, UM_E_DATA,
                           "stop: want a text that is not empty, or a list of them");
        r->stop[r->n_stop++] = um_arena_str(arena, text);
    }
    return UM_OK;
}

/* max_new_tokens has two other names in OpenAI's API; only one of the three may be given. */
static um_status max_new_tokens_read(um_request *r, const um_json *j, um_err *err)
{
    static const char *const names[] = {"max_new_tokens", "max_tokens", "max_completion_tokens"};
    const char *before = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (given(j, names[i]) == NULL) continue;
        if (before != NULL)
            return UM_FAIL(err, UM_E_DATA, "%s and %s: give one of them", before, names[i]);
        before = names[i];
        UM_TRY(um_json_read_whole(j, names[i], 0, NEW_TOKENS_MAX, &r->max_new_tokens, err));
    }
    return UM_OK;
}

/* Chat requests of OpenAI's API say true or false; its older form gives a number of alternatives, of which 0 is none. */
static um_status logprobs_read(um_request *r, const um_json *j, um_err *err)
{
    bool none = j == NULL || um_json_num(j, -1) == 0;
    if (!none && um_json_kind_of(j) != UM_JSON_BOOL)
        return UM_FAIL(err, UM_E_DATA, "logprobs: want true or false");
    r->logprobs = !none && um_json_bool(j, false);
    return UM_OK;
}

static um_status options_read(um_request *r, const um_json *j, um_arena *arena, um_err *err)
{
    const um_json *system = given(j, "system");
    UM_TRY(max_new_tokens_read(r, j, err));
    UM_TRY(um_json_read_whole(j, "top_k", 0, INT32_MAX, &r->top_k, err));
    UM_TRY(um_json_read_num(j, "temperature", false, 0, 100, &r->temperature, err));
    UM_TRY(um_json_read_num(j, "top_p", false, 0, 1, &r->top_p, err));
    if (r->top_p == 0) return UM_FAIL(err, UM_E_DATA, "top_p: 0, allowed more than 0, up to 1");
    UM_TRY(um_json_read_u64(j, "seed", &r->seed, &r->has_seed, err));
    UM_TRY(um_json_read_bool(j, "ignore_eos", &r->ignore_eos, &r->has_ignore_eos, err));
    UM_TRY(logprobs_read(r, given(j, "logprobs"), err));
    UM_TRY(stop_read(r, given(j, "stop"), arena, err));
    return system != NULL ? um_system_read(r, system, "system", arena, err) : UM_OK;
}

/* "score": an answer becomes the last turn, in place of the one that would be generated. */
static um_status score_read(um_request *r, const um_json *j, um_arena *arena, um_err *err)
{
    if (j == NULL) return UM_OK;
    if (um_json_kind_of(j) != UM_JSON_STRING)
        return UM_FAIL(err, UM_E_DATA, "score: want a text, the answer to be scored");
    int n = r->n_turns - (r->turns[r->n_turns - 1].human ? 0 : 1); /* an empty one is left out */
    um_turn *turns = um_arena_zero(arena, ((size_t)n + 1) * sizeof *turns);
    memcpy(turns, r->turns, (size_t)n * sizeof *turns);
    r->score = um_arena_str(arena, um_json_str(j, ""));
    turns[n].parts = um_arena_zero(arena, sizeof *turns[n].parts);
    turns[n].parts[0].text = r->score;
    turns[n].n = 1;
    r->turns = turns;
    r->n_turns = n + 1;
    return UM_OK;
}

/* --- the whole --- */

/* Which of the forms a training sample has. */
static um_status sample_form_find(const char **form, const um_json *j, um_err *err)
{
    static const char *const forms[] = {"conversations", "messages", "sample"};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (given(j, forms[i]) != NULL) {
            *form = forms[i];
            return UM_OK;
        }
    const char *near = near_conversations(j);
    return UM_FAIL(err, UM_E_DATA, "want a list of turns, under conversations or messages%s%s%s",
                   near != NULL ? " (" : "", near != NULL ? near : "",
                   near != NULL ? ": unknown key, did you mean conversations)" : "");
}

/* Which of the forms it is; two at once are refused. */
static um_status form_find(const char **form, const um_json *j, um_err *err)
{
    static const char *const forms[] = {"prompt", "messages", "sample", "conversations"};
    *form = NULL;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (given(j, forms[i]) == NULL) continue;
        if (*form != NULL)
            return UM_FAIL(err, UM_E_DATA, "%s and %s: give one of them", *form, forms[i]);
        *form = forms[i];
    }
    if (*form == NULL) *form = "prompt";
    return UM_OK;
}

static bool has_media(const um_media_set *m)
{
    for (int k = 0; k < UM_MODALITIES; k++)
        if (m->kind[k].n > 0) return true;
    return false;
}

static um_status turns_read(um_request *r, um_media_set *media, const um_json *j, const char *form,
                            const um_request_source *from, um_err *err)
{
    const um_json *body = um_json_get(j, form);
    const char *folder = from->folder;
    if (strcmp(form, "sample") == 0) {
        if (um_json_kind_of(body) != UM_JSON_OBJECT)
            return UM_FAIL(err, UM_E_DATA, "sample: want an object");
        UM_TRY(keys_check(r, body, true, false, media->arena, err));
        UM_TRY(um_wrap(err, um_request_media_read(media, body, folder, err), "sample"));
        return conversations_read(r, media, body, from, "sample.conversations", err);
    }
    UM_TRY(um_request_media_read(media, j, folder, err));
    if (strcmp(form, "conversations") == 0)
        return conversations_read(r, media, j, from, "conversations", err);
    if (strcmp(form, "messages") == 0)
        return um_messages_read(r, media, body, from->answered || has_media(media), from->answered,
                                folder, err);
    return prompt_read(r, media, body, folder, err);
}

/* A line of OpenAI's batch files has the request in "body". */
static um_status body_find(const um_json **body, const um_json *j, um_err *err)
{
    static const char *const names[] = {"custom_id", "method", "url", "body", "id"};
    void *iter = NULL;
    const char *key = "";
    *body = j;
    if (um_json_kind_of(j) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_DATA, "want a JSON object: {\"prompt\": TEXT, ...}");
    if (um_json_get(j, "body") == NULL || um_json_get(j, "conversations") != NULL) return UM_OK;
    if (um_json_kind_of(um_json_get(j, "body")) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_DATA, "body: want an object, the request");
    while (um_json_next(j, &iter, &key) != NULL)
        if (!is_among(key, names, sizeof names / sizeof names[0]))
            return UM_FAIL(err, UM_E_DATA,
                           "%.60s: unknown key beside body, known are custom_id, method and url",
                           key);
    *body = um_json_get(j, "body");
    return UM_OK;
}

/* "tokens" of a sample, or those of its "multi_info"; -1 when it has neither. */
static int64_t tokens_of(const um_json *sample)
{
    int64_t n = um_json_int(um_json_get(sample, "tokens"), -1);
    return n >= 0 ? n : um_json_int(um_json_get(um_json_get(sample, "multi_info"), "tokens"), -1);
}

/* Of a training sample: its form, and what stands beside the turns. */
static um_status sample_read(um_request *r, const um_json *j, const char **form, um_arena *arena,
                             um_err *err)
{
    if (um_json_kind_of(j) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_DATA, "want a JSON object: {\"conversations\": [...], ...}");
    UM_TRY(sample_form_find(form, j, err));
    const um_json *inner = strcmp(*form, "sample") == 0 ? um_json_get(j, "sample") : j;
    const um_json *system = given(inner, "system");
    r->tokens = tokens_of(inner);
    return system != NULL ? um_system_read(r, system, "system", arena, err) : UM_OK;
}

static um_status body_read(um_request *r, const um_json *root, const um_request_source *from,
                           um_arena *arena, um_err *err)
{
    um_media_set media = {.arena = arena, .voice_is_sound = from->voice_is_sound};
    const um_json *j = root;
    const char *form = NULL;
    if (from->answered) {
        UM_TRY(sample_read(r, j, &form, arena, err));
    } else {
        UM_TRY(body_find(&j, root, err));
        UM_TRY(form_find(&form, j, err));
        UM_TRY(keys_check(r, j, strcmp(form, "conversations") == 0, from->recorded, arena, err));
        UM_TRY(options_read(r, j, arena, err));
    }
    UM_TRY(turns_read(r, &media, j, form, from, err));
    um_status st = um_placeholder_check(&media, err);
    r->mismatched = st != UM_OK;
    if (st != UM_OK) return st;
    r->items = media.used.items;
    r->n_items = media.used.n;
    return from->answered ? UM_OK : score_read(r, given(j, "score"), arena, err);
}

/* "id", and what batch and data files call it; the first that is there. */
static const char *const id_names[] = {"id", "custom_id", "question_id"};
enum { ID_NAMES = sizeof id_names / sizeof id_names[0] };

/* any: an id of another kind counts as none. */
static um_status id_read(um_request *r, const um_json *j, bool any, um_arena *arena, um_err *err)
{
    for (int i = 0; i < ID_NAMES; i++) {
        const um_json *id = given(j, id_names[i]);
        if (id == NULL) continue;
        r->id = id_text(id, arena);
        if (r->id != NULL || any) return UM_OK;
        return UM_FAIL(err, UM_E_DATA, "%s: want a text or a whole number", id_names[i]);
    }
    return UM_OK;
}

const char *um_request_id(const char *json, size_t n, um_arena *arena)
{
    const char *id = NULL;
    for (int i = 0; i < ID_NAMES && id == NULL; i++) id = um_json_find(json, n, id_names[i], arena);
    return id;
}

/* Only a text whose first key is "cancel" is parsed, so that requests are not parsed twice. */
bool um_request_is_cancel(const char **id, const char *json, size_t n, um_arena *arena)
{
    static const char *const head[] = {"{", "\"cancel\"", ":"};
    um_json *root = NULL;
    size_t at = 0;
    *id = NULL;
    for (int i = 0; i < 3; i++) {
        size_t k = strlen(head[i]);
        while (at < n && strchr(" \t\r\n", json[at]) != NULL && json[at] != '\0') at++;
        if (n - at < k || memcmp(json + at, head[i], k) != 0) return false;
        at += k;
    }
    if (um_json_parse_large(&root, json, n, NULL) == UM_OK && um_json_size(root) == 1)
        *id = id_text(um_json_get(root, "cancel"), arena);
    um_json_free(root);
    return true;
}

um_status um_request_parse(um_request *out, const um_request_source *from, um_arena *arena,
                           um_err *err)
{
    um_json *root = NULL;
    um_request r = {
        .max_new_tokens = -1, .top_k = -1, .temperature = -1, .top_p = -1, .tokens = -1};
    um_status st = UM_OK;
    if (from->bytes > from->n)
        st = UM_FAIL(err, UM_E_DATA, "%zu bytes, one request may have %zu", from->bytes,
                     UM_REQUEST_BYTES_MAX);
    if (st == UM_OK) st = um_json_parse_large(&root, from->json, from->n, err);
    if (st == UM_OK)
        st = id_read(&r, root, from->answered, arena, err);
    else
        r.id = um_request_id(from->json, from->n, arena);
    if (r.id == NULL) r.id = um_arena_fmt(arena, "%llu", (unsigned long long)from->number);
    r.number = from->number;
    r.element = from->element;
    if (st == UM_OK) st = body_read(&r, root, from, arena, err);
    um_json_free(root);
    if (st == UM_OK)
        *out = r;
    else
        *out = (um_request){
            .id = r.id, .number = r.number, .element = r.element, .mismatched = r.mismatched};
    return st == UM_OK ? UM_OK : UM_E_DATA;
}

void um_request_head(um_text *out, const um_request *req, const char *kind)
{
    um_text_fmt(out, "{\"kind\":\"%s\",\"id\":", kind);
    um_text_json(out, req->id);
    um_text_fmt(out, ",\"%s\":%llu", req->element ? "element" : "line",
                (unsigned long long)req->number);
}

void um_request_error(um_text *out, const um_request *req, const char *message)
{
    um_request_head(out, req, "error");
    um_text_fmt(out, ",\"error\":");
    um_text_json(out, message);
    um_text_fmt(out, "}");
}
