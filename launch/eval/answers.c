/* See answers.h. */
#include "launch/eval/answers.h"

#include "core/base/json.h"
#include "launch/eval/item_index.h"
#include "launch/eval/tasks/eval_lines.h"

#include <string.h>

typedef struct reading {
    um_answers *out;
    um_item_index index;
    um_arena *arena;
} reading;

/* The first of the keys that the object has. */
static const um_json *first_of(const um_json *object, const char *const *keys, int n)
{
    const um_json *j = NULL;
    for (int i = 0; i < n && j == NULL; i++) j = um_json_get(object, keys[i]);
    return j;
}

static um_status answer_read(void *ctx, const um_json *object, const char *text, size_t n,
                             long number, um_err *err)
{
    static const char *const ids[] = {"id", "question_id"}, *const answers[] = {"answer", "text",
                                                                                "prediction"};
    reading *r = ctx;
    const char *kind = um_json_str(um_json_get(object, "kind"), "result");
    const um_json *id = first_of(object, ids, 2), *answer = first_of(object, answers, 3);
    (void)text;
    (void)n;
    (void)number;
    if (strcmp(kind, "result") != 0 && strcmp(kind, "error") != 0) return UM_OK;
    if (id == NULL || (answer == NULL && kind[0] == 'r'))
        return UM_FAIL(err, UM_E_DATA, "want {\"id\": ID, \"answer\": TEXT}");
    size_t item = um_item_index_find(&r->index, um_eval_text(id, r->arena));
    if (item == UM_NO_ITEM)
        r->out->others++;
    else if (kind[0] == 'e')
        r->out->failed++;
    else
        r->out->text[item] = um_eval_text(answer, r->arena);
    return UM_OK;
}

um_status um_answers_read(um_answers *out, const um_eval_task *t, const char *path, um_arena *arena,
                          um_err *err)
{
    um_answers a = {.text = um_arena_zero(arena, (t->n + 1) * sizeof(char *)), .n = t->n};
    reading r = {.out = &a, .arena = arena};
    UM_TRY(um_item_index_make(&r.index, t, arena, err));
    um_status st = um_eval_lines(path, answer_read, &r, err);
    if (st != UM_OK) return um_wrap(err, UM_E_DATA, "%s", path);
    for (size_t i = 0; i < a.n; i++) a.given += a.text[i] != NULL;
    *out = a;
    return UM_OK;
}
