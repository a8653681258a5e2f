/* See json.h. A um_json is a jansson value under another name: this file is the only one that knows. */
#include "core/base/json.h"

#include "core/base/file.h"
#include "core/base/file_trouble.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_t *value_of(const um_json *j) { return (const json_t *)j; }
static const um_json *node_of(const json_t *v) { return (const um_json *)v; }

/* What is wrong, in words of JSON: some of the library's own name its flags. */
static const char *fault_words(const json_error_t *e)
{
    switch (json_error_code(e)) {
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return "a string holds the character U+0000 (\\u0000), which is not allowed";
    case json_error_invalid_utf8:
        return "the text is not UTF-8";
    case json_error_premature_end_of_input:
        return "it ends too early";
    case json_error_end_of_input_expected:
        return "something stands behind its end";
    case json_error_stack_overflow:
        return "nested too deeply, the depth allowed is 2048";
    default:
        return e->text;
    }
}

/* What people write into JSON by hand and other formats allow, from the byte where jansson stopped. */
static const char *syntax_hint(const char *data, size_t size, size_t at)
{
    size_t before = at < size ? at : size;
    if (before > 0)
        before--; /* position counts the bytes read, so the last one read is what surprised */
    while (before > 0 && strchr(" \t\r\n}]", data[before]) != NULL) before--;
    if (size == 0) return "";
    if (data[before] == ',') return " (JSON allows no comma before a closing bracket)";
    if (data[before] == '/' || data[before] == '#') return " (JSON has no comments)";
    if (data[before] == '\'') return " (JSON wants double quotes)";
    return "";
}

/* one_line: the data is usually a line of a file, whose own line number would only confuse. */
static um_status parse_fail(const json_error_t *e, const char *data, size_t size, bool one_line,
                            um_err *err)
{
    char where[64] = "";
    bool zero = size > 0 && memchr(data, 0, size) != NULL;
    if (!one_line || memchr(data, '\n', size) != NULL)
        snprintf(where, sizeof where, "line %d, ", e->line);
    if (json_error_code(e) == json_error_numeric_overflow)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "not JSON, %scolumn %d: a number is too large: whole numbers may go from "
                       "%" PRId64 " to %" PRId64 ", others to 1.8e308",
                       where, e->column, INT64_MIN, INT64_MAX);
    return UM_FAIL(err, UM_E_CORRUPT, "not JSON, %scolumn %d: %s%s", where, e->column,
                   zero ? "a zero byte (is the text UTF-16? it must be UTF-8)" : fault_words(e),
                   zero ? "" : syntax_hint(data, size, (size_t)e->position));
}

static um_status parse(um_json **root, const void *data, size_t size, size_t flags, um_err *err)
{
    json_error_t e;
    /* jansson's own limit of nesting is JSON_PARSER_MAX_DEPTH, 2048 */
    json_t *v = json_loadb(data, size, flags | JSON_DECODE_ANY, &e);
    if (v == NULL) return parse_fail(&e, data, size, false, err);
    *root = (um_json *)v;
    return UM_OK;
}

um_status um_json_parse(um_json **root, const void *data, size_t size, um_err *err)
{
    return parse(root, data, size, JSON_REJECT_DUPLICATES, err);
}

/* Bytes of the number that begins at s, before end. */
static size_t number_length(const char *s, const char *end)
{
    const char *p = s;
    while (p < end && *p != '\0' && strchr("+-.eE0123456789", *p) != NULL) p++;
    return (size_t)(p - s);
}

/* Whether the number s[0..n) is beyond int64 or double. */
static bool is_beyond(const char *s, size_t n)
{
    char text[400]; /* 1e308 written out has 309 digits */
    if (n >= sizeof text) return true;
    memcpy(text, s, n);
    text[n] = '\0';
    errno = 0;
    if (strpbrk(text, ".eE") != NULL) return fabs(strtod(text, NULL)) == HUGE_VAL;
    strtoll(text, NULL, 10);
    return errno == ERANGE;
}

/* The same text with numbers that are too large in quotes. */
static void quote_large(um_text *to, const char *data, size_t size)
{
    const char *end = data + size, *from = data;
    bool string = false;
    for (const char *p = data; p < end; p++) {
        if (*p == '"') string = !string;
        if (string && *p == '\\') p++;
        if (string || !((*p >= '0' && *p <= '9') || *p == '-')) continue;
        size_t n = number_length(p, end);
        if (is_beyond(p, n)) {
            um_text_add(to, from, (size_t)(p - from));
            um_text_add(to, "\"", 1);
            um_text_add(to, p, n);
            um_text_add(to, "\"", 1);
            from = p + n;
        }
        p += n - 1;
    }
    um_text_add(to, from, (size_t)(end - from));
}

um_status um_json_parse_large(um_json **root, const void *data, size_t size, um_err *err)
{
    json_error_t e;
    if (size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark */
        data = (const char *)data + 3;
        size -= 3;
    }
    json_t *v = json_loadb(data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (v == NULL && json_error_code(&e) == json_error_numeric_overflow) {
        um_text quoted = {0};
        quote_large(&quoted, data, size);
        v = json_loadb(quoted.s, quoted.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
        um_text_free(&quoted);
    }
    if (v == NULL) return parse_fail(&e, data, size, true, err);
    *root = (um_json *)v;
    return UM_OK;
}

/* ---- a member of a text that need not parse ---- */

/* The end of the string that begins at s ('"'), behind its closing quote; NULL when it has none before end. */
static const char *string_end(const char *s, const char *end)
{
    for (s++; s < end; s++) {
        if (*s == '\\')
            s++;
        else if (*s == '"')
            return s + 1;
    }
    return NULL;
}

static const char *space_end(const char *s, const char *end)
{
    while (s < end && (*s == ' ' || *s == '\t' || *s == '\r' || *s == '\n')) s++;
    return s;
}

/* A string, or a whole number as its digits. */
static const char *scalar_text(const char *s, const char *end, um_arena *arena)
{
    const char *stop = s < end && *s == '"' ? string_end(s, end) : NULL;
    if (stop != NULL) {
        json_t *v = json_loadb(s, (size_t)(stop - s), JSON_DECODE_ANY, NULL);
        const char *out = v != NULL ? um_arena_str(arena, json_string_value(v)) : NULL;
        json_decref(v);
        return out;
    }
    size_t n = number_length(s, end);
    if (n == 0 || n > 40 || memchr(s, '.', n) || memchr(s, 'e', n) || memchr(s, 'E', n))
        return NULL;
    return um_arena_strn(arena, s, n);
}

const char *um_json_find(const char *text, size_t size, const char *key, um_arena *arena)
{
    const char *end = text + size, *s = space_end(text, end);
    size_t n = strlen(key);
    int depth = 0;
    if (s == end || *s != '{') return NULL;
    for (; s < end; s++) {
        if (*s == '{' || *s == '[') depth++;
        if (*s == '}' || *s == ']') depth--;
        if (*s != '"') continue;
        const char *stop = string_end(s, end);
        if (stop == NULL) return NULL;
        const char *colon = space_end(stop, end);
        if (depth == 1 && colon < end && *colon == ':' && (size_t)(stop - s) == n + 2 &&
            memcmp(s + 1, key, n) == 0)
            return scalar_text(space_end(colon + 1, end), end, arena);
        s = stop - 1;
    }
    return NULL;
}

/* Blanks out a byte order mark, and writes strings over the numbers that only Python knows. Whoever reads such a key then refuses it;
 * nobody else is bothered. */
static void make_strict(char *s, size_t n)
{
    static const char *const words[][2] = {
        {"-Infinity", "\"-Inf\""}, {"Infinity", "\"Inf\""}, {"NaN", "\"?\""}};
    bool quoted = false;
    if (n >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0) memset(s, ' ', 3);
    for (size_t i = 0; i < n; i++) {
        if (quoted && s[i] == '\\') {
            i++;
        } else if (s[i] == '"') {
            quoted = !quoted;
        } else if (!quoted && (s[i] == '-' || s[i] == 'I' || s[i] == 'N')) {
            for (int w = 0; w < 3; w++) {
                size_t k = strlen(words[w][0]);
                if (n - i < k || memcmp(s + i, words[w][0], k) != 0) continue;
                memset(s + i, ' ', k);
                memcpy(s + i, words[w][1], strlen(words[w][1]));
                i += k - 1;
                break;
            }
        }
    }
}

static um_status load(um_json **root, const char *path, size_t limit, bool loose, um_err *err)
{
    um_arena a;
    um_arena_init(&a, "json", 65536);
    uint8_t *data = NULL;
    size_t size = 0;
    char why[UM_TROUBLE_TEXT];
    um_status st = um_file_read(&data, &size, path, limit, &a, err); /* its errors name the path */
    if (st == UM_OK) {
        if (loose) make_strict((char *)data, size);
        st = parse(root, (char *)data, size, loose ? 0 : JSON_REJECT_DUPLICATES, err);
        if (st != UM_OK && um_file_trouble(why, data, size)) st = UM_FAIL(err, st, "%s", why);
        st = um_wrap(err, st, "%s", path);
    }
    um_arena_free(&a);
    return st;
}

um_status um_json_load(um_json **root, const char *path, size_t limit, um_err *err)
{
    return load(root, path, limit, false, err);
}

um_status um_json_load_loose(um_json **root, const char *path, size_t limit, um_err *err)
{
    return load(root, path, limit, true, err);
}

void um_json_free(um_json *root) { json_decref((json_t *)root); }

um_json_kind um_json_kind_of(const um_json *j)
{
    if (j == NULL) return UM_JSON_NONE;
    switch (json_typeof(value_of(j))) {
    case JSON_OBJECT:
        return UM_JSON_OBJECT;
    case JSON_ARRAY:
        return UM_JSON_ARRAY;
    case JSON_STRING:
        return UM_JSON_STRING;
    case JSON_INTEGER:
        return UM_JSON_INT;
    case JSON_REAL:
        return UM_JSON_REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return UM_JSON_BOOL;
    case JSON_NULL:
        return UM_JSON_NULL;
    }
    return UM_JSON_NONE;
}

const um_json *um_json_get(const um_json *object, const char *key)
{
    return node_of(json_object_get(value_of(object), key));
}

size_t um_json_size(const um_json *j)
{
    const json_t *v = value_of(j);
    return json_is_object(v) ? json_object_size(v) : json_array_size(v);
}

const um_json *um_json_at(const um_json *array, size_t i)
{
    return node_of(json_array_get(value_of(array), i));
}

const um_json *um_json_next(const um_json *object, void **iter, const char **key)
{
    json_t *o =
        (json_t *)(uintptr_t)object; /* jansson's iterators want it writable and do not write */
    *iter = *iter == NULL ? json_object_iter(o) : json_object_iter_next(o, *iter);
    if (*iter == NULL) return NULL;
    *key = json_object_iter_key(*iter);
    return node_of(json_object_iter_value(*iter));
}

const char *um_json_str(const um_json *j, const char *fallback)
{
    const char *s = json_string_value(value_of(j));
    return s != NULL ? s : fallback;
}

int64_t um_json_int(const um_json *j, int64_t fallback)
{
    return json_is_integer(value_of(j)) ? json_integer_value(value_of(j)) : fallback;
}

double um_json_num(const um_json *j, double fallback)
{
    return json_is_number(value_of(j)) ? json_number_value(value_of(j)) : fallback;
}

bool um_json_bool(const um_json *j, bool fallback)
{
    return json_is_boolean(value_of(j)) ? json_is_true(value_of(j)) : fallback;
}

/* The value as it stands in the file, shortened to fit a message. */
static void value_text(char out[64], const um_json *j)
{
    size_t n =
        json_dumpb(value_of(j), out, 63, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    out[n < 63 ? n : 63] = '\0';
    if (n > 63) memcpy(out + 60, "...", 3);
}

/* true when there is a value to read; else *st says whether that is an error. */
static bool is_given(um_status *st, const um_json *v, const char *key, bool required, um_err *err)
{
    *st = UM_OK;
    um_json_kind kind = um_json_kind_of(v);
    if (kind != UM_JSON_NONE && kind != UM_JSON_NULL) return true;
    if (required) *st = UM_FAIL(err, UM_E_MODEL, "%s: missing, the key is required", key);
    return false;
}

/* The number v, when it is whole: 3.0 and 1e2 are 3 and 100, as other programs write them. */
static bool whole_number(int64_t *out, const um_json *v)
{
    double x = um_json_num(v, NAN);
    if (json_is_integer(value_of(v))) {
        *out = um_json_int(v, 0);
        return true;
    }
    if (!(fabs(x) <= 9007199254740992.0) || x != floor(x)) return false; /* 2^53: exact below */
    *out = (int64_t)x;
    return true;
}

/* exact: 3.0 is refused, as a sign that somebody meant another key. */
static um_status read_int(const um_json *object, const char *key, bool required, bool exact,
                          int64_t min, int64_t max, int64_t *out, um_err *err)
{
    const um_json *v = um_json_get(object, key);
    um_status st;
    if (!is_given(&st, v, key, required, err)) return st;
    int64_t i = 0;
    bool whole = whole_number(&i, v) && (!exact || json_is_integer(value_of(v)));
    if (whole && i >= min && i <= max) {
        *out = i;
        return UM_OK;
    }
    char text[64];
    value_text(text, v);
    return UM_FAIL(err, UM_E_MODEL, "%s: %s, allowed %s%" PRId64 "..%" PRId64, key, text,
                   whole ? "" : "an integer ", min, max);
}

um_status um_json_read_int(const um_json *object, const char *key, bool required, int64_t min,
                           int64_t max, int64_t *out, um_err *err)
{
    return read_int(object, key, required, true, min, max, out, err);
}

um_status um_json_read_whole(const um_json *object, const char *key, int64_t min, int64_t max,
                             int64_t *out, um_err *err)
{
    return read_int(object, key, false, false, min, max, out, err);
}

um_status um_json_read_num(const um_json *object, const char *key, bool required, double min,
                           double max, double *out, um_err *err)
{
    const um_json *v = um_json_get(object, key);
    um_status st;
    if (!is_given(&st, v, key, required, err)) return st;
    double x = um_json_num(v, 0);
    if (json_is_number(value_of(v)) && x >= min && x <= max) {
        *out = x;
        return UM_OK;
    }
    char text[64];
    value_text(text, v);
    return UM_FAIL(err, UM_E_MODEL, "%s: %s, allowed %s%g..%g", key, text,
                   json_is_number(value_of(v)) ? "" : "a number ", min, max);
}

um_status um_json_read_u64(const um_json *object, const char *key, uint64_t *out, bool *given,
                           um_err *err)
{
    const um_json *v = um_json_get(object, key);
    um_status st;
    int64_t i = -1;
    *given = is_given(&st, v, key, false, err);
    if (!*given) return UM_OK;
    const char *digits = um_json_str(v, NULL);
    if (digits != NULL && digits[0] != '\0' && strspn(digits, "0123456789") == strlen(digits)) {
        errno = 0;
        *out = strtoull(digits, NULL, 10);
        if (errno == 0) return UM_OK;
    } else if (whole_number(&i, v) && i >= 0) {
        *out = (uint64_t)i;
        return UM_OK;
    }
    char text[64];
    value_text(text, v);
    return UM_FAIL(err, UM_E_MODEL, "%s: %s, allowed an integer 0..%" PRIu64, key, text,
                   UINT64_MAX);
}

um_status um_json_read_bool(const um_json *object, const char *key, bool *out, bool *given,
                            um_err *err)
{
    const um_json *v = um_json_get(object, key);
    um_status st;
    *given = is_given(&st, v, key, false, err);
    if (!*given) return UM_OK;
    if (json_is_boolean(value_of(v))) {
        *out = json_is_true(value_of(v));
        return UM_OK;
    }
    char text[64];
    value_text(text, v);
    return UM_FAIL(err, UM_E_MODEL, "%s: %s, allowed true and false", key, text);
}

um_status um_json_read_str(const um_json *object, const char *key, bool required, const char **out,
                           um_arena *arena, um_err *err)
{
    const um_json *v = um_json_get(object, key);
    um_status st;
    if (!is_given(&st, v, key, required, err)) return st;
    const char *s = um_json_str(v, NULL);
    if (s != NULL) {
        *out = um_arena_str(arena, s);
        return UM_OK;
    }
    char text[64];
    value_text(text, v);
    return UM_FAIL(err, UM_E_MODEL, "%s: %s, allowed a string", key, text);
}

static int keep_text(const char *buffer, size_t size, void *ctx)
{
    um_text_add(ctx, buffer, size);
    return 0;
}

const char *um_json_compact(const um_json *j, um_arena *arena)
{
    um_text t = {0};
    json_dump_callback(value_of(j), keep_text, &t, JSON_COMPACT | JSON_ENCODE_ANY);
    const char *s = um_arena_str(arena, t.s == NULL ? "" : t.s);
    um_text_free(&t);
    return s;
}
