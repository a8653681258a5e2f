/* See json_text.h. */
#include "launch/model_dir/json_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void um_edit(um_edits *e, const char *key, const char *value)
{
    UM_ASSERT(e->n < UM_EDITS_MAX);
    e->key[e->n] = key;
    e->value[e->n++] = value;
}

void um_json_real(um_text *t, double v)
{
    char s[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, v);
        if (strtod(s, NULL) == v) break;
    }
    um_text_fmt(t, "%s%s", s, strpbrk(s, ".en") == NULL ? ".0" : "");
}

static void line(um_text *t, int level) { um_text_fmt(t, "\n%*s", level, ""); }

static void members(um_text *t, const um_json *j, int level)
{
    const char *key;
    void *iter = NULL;
    bool first = true;
    um_text_add(t, "{", 1);
    for (const um_json *v; (v = um_json_next(j, &iter, &key)) != NULL; first = false) {
        if (!first) um_text_add(t, ",", 1);
        line(t, level + 1);
        um_text_json(t, key);
        um_text_add(t, ": ", 2);
        um_json_write(t, v, level + 1);
    }
    if (!first) line(t, level);
    um_text_add(t, "}", 1);
}

static void elements(um_text *t, const um_json *j, int level)
{
    um_text_add(t, "[", 1);
    for (size_t i = 0; i < um_json_size(j); i++) {
        if (i > 0) um_text_add(t, ",", 1);
        line(t, level + 1);
        um_json_write(t, um_json_at(j, i), level + 1);
    }
    if (um_json_size(j) > 0) line(t, level);
    um_text_add(t, "]", 1);
}

void um_json_write(um_text *t, const um_json *j, int level)
{
    switch (um_json_kind_of(j)) {
    case UM_JSON_OBJECT:
        members(t, j, level);
        return;
    case UM_JSON_ARRAY:
        elements(t, j, level);
        return;
    case UM_JSON_STRING:
        um_text_json(t, um_json_str(j, ""));
        return;
    case UM_JSON_INT:
        um_text_fmt(t, "%" PRId64, um_json_int(j, 0));
        return;
    case UM_JSON_REAL:
        um_json_real(t, um_json_num(j, 0.0));
        return;
    case UM_JSON_BOOL:
        um_text_fmt(t, um_json_bool(j, false) ? "true" : "false");
        return;
    case UM_JSON_NULL:
    case UM_JSON_NONE:
        break;
    }
    um_text_fmt(t, "null");
}

static int edit_of(const um_edits *e, const char *key)
{
    for (int i = 0; i < e->n; i++) {
        if (strcmp(e->key[i], key) == 0) return i;
    }
    return -1;
}

void um_json_edited(um_text *t, const um_json *object, const um_edits *e, int level)
{
    const char *key;
    void *iter = NULL;
    bool first = true, done[UM_EDITS_MAX] = {false};
    um_text_add(t, "{", 1);
    for (const um_json *v; (v = um_json_next(object, &iter, &key)) != NULL; first = false) {
        int i = edit_of(e, key);
        if (!first) um_text_add(t, ",", 1);
        line(t, level + 1);
        um_text_json(t, key);
        um_text_add(t, ": ", 2);
        if (i < 0)
            um_json_write(t, v, level + 1);
        else
            um_text_fmt(t, "%s", e->value[i]);
        if (i >= 0) done[i] = true;
    }
    for (int i = 0; i < e->n; i++) {
        if (done[i]) continue;
        if (!first) um_text_add(t, ",", 1);
        first = false;
        line(t, level + 1);
        um_text_json(t, e->key[i]);
        um_text_fmt(t, ": %s", e->value[i]);
    }
    if (!first) line(t, level);
    um_text_add(t, "}", 1);
}
