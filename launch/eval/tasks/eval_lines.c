/* See eval_lines.h. */
#include "launch/eval/tasks/eval_lines.h"

#include "core/base/file.h"
#include "core/base/json_lines.h"

#define LINE_MAX_BYTES ((size_t)64 << 20)

const char *um_eval_text(const um_json *j, um_arena *arena)
{
    if (um_json_kind_of(j) == UM_JSON_STRING) return um_arena_str(arena, um_json_str(j, ""));
    if (um_json_kind_of(j) == UM_JSON_INT)
        return um_arena_fmt(arena, "%lld", (long long)um_json_int(j, 0));
    if (um_json_kind_of(j) == UM_JSON_REAL) return um_arena_fmt(arena, "%g", um_json_num(j, 0));
    return "";
}

um_status um_eval_lines(const char *path,
                        um_status (*item)(void *ctx, const um_json *object, const char *text,
                                          size_t n, long number, um_err *err),
                        void *ctx, um_err *err)
{
    um_file f = {0};
    um_json_lines lines = {.limit = LINE_MAX_BYTES};
    UM_TRY(um_file_map(&f, path, err));
    um_status st = UM_OK;
    for (size_t at = 0; st == UM_OK;) {
        um_json_item one;
        um_json *root = NULL;
        bool end = at == f.size;
        if (end)
            um_json_lines_end(&lines, &one);
        else
            at += um_json_lines_read(&lines, &one, (const char *)f.data + at, f.size - at);
        if (one.text != NULL) {
            st = one.bytes > one.n ? UM_FAIL(err, UM_E_DATA, "%zu bytes are too many", one.bytes)
                                   : um_json_parse_large(&root, one.text, one.n, err);
            if (st == UM_OK && um_json_kind_of(root) != UM_JSON_OBJECT)
                st = UM_FAIL(err, UM_E_DATA, "want a JSON object");
            if (st == UM_OK) st = item(ctx, root, one.text, one.n, (long)one.number, err);
            st = um_wrap(err, st, "%s %lld", one.element ? "element" : "line",
                         (long long)one.number);
            um_json_free(root);
        }
        if (end) break;
    }
    um_json_lines_free(&lines);
    um_file_unmap(&f);
    return st;
}
