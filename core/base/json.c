/* See json.h. A um_json is a jansson value under another name: this file is the only one that knows. */
#include "core/base/json.h"

#include "core/base/file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const json_t *value_of(const um_json *j) { return (const json_t *)j; }
static const um_json *node_of(const json_t *v) { return (const um_json *)v; }

um_status um_json_parse(um_json **root, const void *data, size_t size, um_err *err)
{
    json_error_t e;
    /* jansson's own limit of nesting is JSON_PARSER_MAX_DEPTH, 2048 */
    json_t *v = json_loadb(data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (v == NULL)
        return UM_FAIL(err, UM_E_CORRUPT, "not JSON, line %d, column %d: %s", e.line, e.column,
                       e.text);
    *root = (um_json *)v;
    return UM_OK;
}

um_status um_json_load(um_json **root, const char *path, size_t limit, um_err *err)
{
    um_arena a;
    um_arena_init(&a, "json", 65536);
    uint8_t *data = NULL;
    size_t size = 0;
    um_status st = um_file_read(&data, &size, path, limit, &a, err); /* its errors name the path */
    if (st == UM_OK) st = um_wrap(err, um_json_parse(root, data, size, err), "%s", path);
    um_arena_free(&a);
    return st;
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

const um_json *um_json_member(const um_json *object, size_t i, const char **key)
{
    void *iter = NULL;
    const um_json *value = um_json_next(object, &iter, key);
    while (value != NULL && i-- > 0) value = um_json_next(object, &iter, key);
    return value;
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
    size_t n = json_dumpb(value_of(j), out, 63, JSON_ENCODE_ANY | JSON_COMPACT);
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

um_status um_json_read_int(const um_json *object, const char *key, bool required, int64_t min,
                           int64_t max, int64_t *out, um_err *err)
{
    const um_json *v = um_json_get(object, key);
    um_status st;
    if (!is_given(&st, v, key, required, err)) return st;
    int64_t i = um_json_int(v, 0);
    if (json_is_integer(value_of(v)) && i >= min && i <= max) {
        *out = i;
        return UM_OK;
    }
    char text[64];
    value_text(text, v);
    return UM_FAIL(err, UM_E_MODEL, "%s: %s, allowed %s%" PRId64 "..%" PRId64, key, text,
                   json_is_integer(value_of(v)) ? "" : "an integer ", min, max);
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

/* Room for n more bytes and the closing 0. */
static void text_reserve(um_text *t, size_t n)
{
    size_t want = t->n + n + 1;
    if (want <= t->cap) return;
    t->cap = want > 2 * t->cap ? want : 2 * t->cap;
    if (t->cap < 256) t->cap = 256;
    t->s = um_realloc(t->s, t->cap);
}

void um_text_add(um_text *t, const char *s, size_t n)
{
    text_reserve(t, n);
    if (n > 0) memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = '\0';
}

void um_text_fmt(um_text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    UM_ASSERT(n >= 0);
    text_reserve(t, (size_t)n);
    vsnprintf(t->s + t->n, (size_t)n + 1, fmt, again);
    va_end(again);
    t->n += (size_t)n;
}

/* Bytes of the UTF-8 character at s (RFC 3629: no overlong form, no surrogate, at most U+10FFFF), or 0. Never reads past the
 * closing 0, which is no continuation byte. */
static size_t utf8_length(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xC2 && p[0] < 0xE0   ? 2
               : p[0] >= 0xE0 && p[0] < 0xF0 ? 3
               : p[0] >= 0xF0 && p[0] < 0xF5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
    }
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F)) return 0;
    if ((p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F)) return 0;
    return n;
}

static void text_escape(um_text *t, unsigned char c)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *at = memchr(plain, c, sizeof plain - 1);
    if (at != NULL)
        um_text_fmt(t, "\\%c", letter[at - plain]);
    else
        um_text_fmt(t, "\\u%04x", c);
}

void um_text_json(um_text *t, const char *s)
{
    um_text_add(t, "\"", 1);
    while (*s != '\0') {
        unsigned char c = (unsigned char)*s;
        size_t n = utf8_length(s);
        if (c < 0x20 || c == '"' || c == '\\')
            text_escape(t, c);
        else if (n == 0)
            um_text_add(t, "\xEF\xBF\xBD", 3);
        else
            um_text_add(t, s, n);
        s += n == 0 ? 1 : n;
    }
    um_text_add(t, "\"", 1);
}

void um_text_free(um_text *t)
{
    um_free(t->s);
    *t = (um_text){0};
}
