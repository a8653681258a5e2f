/* See table.h. */
#include "launch/eval/tasks/table.h"

#include <string.h>
#include <strings.h>

enum { FIELDS_MAX = 256 };

/* One field, from t->at, which moves behind it and stands then at a separator, a line's end or the end. */
static um_status field_read(um_table *t, const char **out, um_arena *arena, um_err *err)
{
    const char *p = t->at;
    if (p == t->end || *p != '"') {
        while (p < t->end && *p != t->separator && *p != '\n' && *p != '\r') p++;
        *out = um_arena_strn(arena, t->at, (size_t)(p - t->at));
        t->at = p;
        return UM_OK;
    }
    int begun = t->line;
    const char *close = ++p;
    for (;; close++) { /* a doubled quote is one quote */
        if (close == t->end)
            return UM_FAIL(err, UM_E_DATA, "line %d: a quote that does not end", begun);
        t->line += *close == '\n';
        if (*close != '"') continue;
        if (close + 1 < t->end && close[1] == '"')
            close++;
        else
            break;
    }
    char *s = um_arena_alloc(arena, (size_t)(close - p) + 1), *to = s;
    for (; p < close; p++) {
        *to++ = *p;
        if (*p == '"') p++;
    }
    *to = '\0';
    *out = s;
    t->at = close + 1;
    return UM_OK;
}

/* The fields of one line; *n 0 at the end. */
static um_status row_read(um_table *t, const char **fields, int *n, um_arena *arena, um_err *err)
{
    *n = 0;
    while (t->at < t->end && (*t->at == '\n' || *t->at == '\r')) t->line += *t->at++ == '\n';
    if (t->at == t->end) return UM_OK;
    int line = t->line;
    for (;;) {
        if (*n == FIELDS_MAX)
            return UM_FAIL(err, UM_E_DATA, "line %d: more than %d fields", line, FIELDS_MAX);
        UM_TRY(field_read(t, &fields[(*n)++], arena, err));
        if (t->at == t->end || *t->at == '\n' || *t->at == '\r') return UM_OK;
        if (*t->at != t->separator)
            return UM_FAIL(err, UM_E_DATA, "line %d: text behind a quoted field", line);
        t->at++;
    }
}

um_status um_table_open(um_table *t, const char *data, size_t n, char separator, um_arena *arena,
                        um_err *err)
{
    const char *fields[FIELDS_MAX];
    bool mark = n >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0;
    um_table out = {
        .at = data + (mark ? 3 : 0), .end = data + n, .separator = separator, .line = 1};
    UM_TRY(row_read(&out, fields, &out.n_head, arena, err));
    if (out.n_head == 0) return UM_FAIL(err, UM_E_DATA, "has no rows");
    out.head = um_arena_alloc(arena, (size_t)out.n_head * sizeof *out.head);
    memcpy(out.head, fields, (size_t)out.n_head * sizeof *out.head);
    *t = out;
    return UM_OK;
}

um_status um_table_next(um_table *t, const char ***row, um_arena *arena, um_err *err)
{
    const char *fields[FIELDS_MAX];
    int n = 0;
    *row = NULL;
    UM_TRY(row_read(t, fields, &n, arena, err));
    if (n == 0) return UM_OK;
    if (n != t->n_head)
        return UM_FAIL(err, UM_E_DATA, "line %d: %d fields, the first row has %d", t->line, n,
                       t->n_head);
    const char **out = um_arena_alloc(arena, (size_t)n * sizeof *out);
    memcpy(out, fields, (size_t)n * sizeof *out);
    *row = out;
    return UM_OK;
}

int um_table_column(const um_table *t, const char *name)
{
    for (int i = 0; i < t->n_head; i++)
        if (strcasecmp(t->head[i], name) == 0) return i;
    return -1;
}
