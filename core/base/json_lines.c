/* See json_lines.h. A state machine over bytes:
 *
 *   START ── '[' ──► BETWEEN ── any byte but , ] and white space ──► ELEMENT ── its end ──► BETWEEN
 *     │                 └── ']' ──► START
 *     └─ any other ──► LINE ── '\n' ──► LINE ...
 *
 * An element ends where its brackets are balanced; a scalar ends before a comma, a bracket or white space. */
#include "core/base/json_lines.h"

#include "core/base/arena.h"
#include "core/base/status.h"

#include <string.h>

enum { START, LINE, BETWEEN, ELEMENT };
enum {
    HEAD = 65536
}; /* bytes kept of an item that is too long: enough to find its id in most cases */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* at: where data stands in the stream. */
static void keep(um_json_lines *l, const char *data, size_t n, uint64_t at)
{
    if (l->bytes == 0) l->at = at;
    l->bytes += n;
    if (l->bytes > l->limit) {
        n = l->n < HEAD ? (n < HEAD - l->n ? n : HEAD - l->n) : 0;
        if (l->n > HEAD) l->n = HEAD;
    }
    if (l->n + n + 1 > l->cap)
        l->buf = um_realloc(l->buf, l->cap = 2 * (l->n + n + 1) > 4096 ? 2 * (l->n + n + 1) : 4096);
    memcpy(l->buf + l->n, data, n);
    l->n += n;
}

/* Hands out what was kept and begins anew. A byte order mark in front is left out: files that have one are joined to others. */
static void emit(um_json_lines *l, um_json_item *out, uint64_t number, bool element)
{
    UM_ASSERT(l->n < l->cap);
    size_t mark = !element && l->n >= 3 && memcmp(l->buf, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    size_t n = l->n - mark;
    l->buf[l->n] = '\0';
    *out = (um_json_item){.text = l->buf + mark,
                          .n = n,
                          .number = number,
                          .element = element,
                          .at = l->at + mark,
                          .bytes = l->bytes > l->limit ? l->bytes : n};
    l->n = l->bytes = 0;
}

static bool is_blank(const um_json_lines *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (!is_space(l->buf[i])) return false;
    return true;
}

/* White space and a byte order mark in front. Returns the bytes skipped. */
static size_t start_read(um_json_lines *l, const char *data, size_t n)
{
    static const char mark[] = "\xEF\xBB\xBF";
    size_t i = 0;
    while (l->line == 0 && l->bom >= 0 && l->bom < 3 && i < n && data[i] == mark[l->bom]) {
        l->bom++;
        i++;
    }
    if (i == n) return n;
    if (l->bom > 0 && l->bom < 3) { /* not a mark after all */
        keep(l, mark, (size_t)l->bom, 0);
        l->state = LINE;
    }
    l->bom = -1;
    for (; l->state == START && i < n; i++) {
        if (data[i] == '\n') l->line++;
        if (is_space(data[i])) continue;
        l->state = data[i] == '[' ? BETWEEN : LINE;
        if (l->state == LINE) break;
        l->elements = 0;
    }
    return i;
}

static size_t line_read(um_json_lines *l, um_json_item *out, const char *data, size_t n,
                        uint64_t at)
{
    const char *end = memchr(data, '\n', n);
    size_t take = end != NULL ? (size_t)(end - data) : n;
    keep(l, data, take, at);
    if (end == NULL) return n;
    l->line++;
    if (is_blank(l))
        l->n = l->bytes = 0;
    else
        emit(l, out, l->line, false);
    return take + 1;
}

static size_t between_read(um_json_lines *l, const char *data, size_t n)
{
    size_t i = 0;
    while (i < n && (is_space(data[i]) || data[i] == ',')) l->line += data[i++] == '\n';
    if (i == n) return n;
    if (data[i] == ']') {
        l->state = START;
        return i + 1;
    }
    l->state = ELEMENT;
    l->elements++;
    l->depth = 0;
    l->string = l->escape = false;
    return i;
}

/* Whether the element ends with this byte (1), before it (0), or goes on (-1). */
static int element_step(um_json_lines *l, char c)
{
    if (l->string) {
        if (!l->escape && c == '"') l->string = false;
        l->escape = !l->escape && c == '\\';
        return !l->string && l->depth == 0 ? 1 : -1;
    }
    if (l->depth == 0 && (c == ',' || c == ']' || is_space(c))) return 0;
    if (c == '"') l->string = true;
    if (c == '{' || c == '[') l->depth++;
    if (c != '}' && c != ']') return -1;
    l->depth--;
    return l->depth <= 0 ? 1 : -1;
}

static size_t element_read(um_json_lines *l, um_json_item *out, const char *data, size_t n,
                           uint64_t at)
{
    int end = -1;
    size_t i = 0;
    for (; i < n && end < 0; i++) {
        l->line += data[i] == '\n';
        end = element_step(l, data[i]);
    }
    if (end == 0) i--; /* the byte behind the element stays */
    keep(l, data, i, at);
    if (end < 0) return n;
    if (end == 0 && data[i] == '\n') l->line--; /* will be read, and counted, again */
    l->state = BETWEEN;
    emit(l, out, l->elements, true);
    return i;
}

size_t um_json_lines_read(um_json_lines *l, um_json_item *out, const char *data, size_t n)
{
    UM_ASSERT(l->limit >= HEAD);
    *out = (um_json_item){0};
    size_t i = 0;
    while (i < n && out->text == NULL) {
        switch (l->state) {
        case START:
            i += start_read(l, data + i, n - i);
            break;
        case LINE:
            i += line_read(l, out, data + i, n - i, l->read + i);
            break;
        case BETWEEN:
            i += between_read(l, data + i, n - i);
            break;
        default:
            i += element_read(l, out, data + i, n - i, l->read + i);
            break;
        }
    }
    l->read += i;
    return i;
}

void um_json_lines_end(um_json_lines *l, um_json_item *out)
{
    *out = (um_json_item){0};
    if (l->state == START && l->bom > 0 && l->bom < 3) { /* nothing but a part of a mark */
        keep(l, "\xEF\xBB\xBF", (size_t)l->bom, 0);
        l->bom = -1;
        l->state = LINE;
    }
    if (l->state == ELEMENT)
        emit(l, out, l->elements, true);
    else if (l->state == LINE && l->n > 0 && !is_blank(l))
        emit(l, out, ++l->line, false);
    l->state = START;
}

void um_json_lines_free(um_json_lines *l)
{
    um_free(l->buf);
    *l = (um_json_lines){.limit = l->limit};
}
