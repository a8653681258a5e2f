/* See answers.h. */
#include "launch/eval/answers.h"

#include "core/base/json.h"
#include "launch/eval/tasks/eval_lines.h"

#include <stdlib.h>
#include <string.h>

/* Items by id. */
typedef struct known {
    const char *id;
    size_t item;
} known;

typedef struct reading {
    um_answers *out;
    known *list; /* [n] sorted */
    size_t n;
    um_arena *arena;
} reading;

static int by_id(const void *a, const void *b)
{
    return strcmp(((const known *)a)->id, ((const known *)b)->id);
}

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
    const known key = {um_eval_text(id, r->arena), 0};
    const known *found = bsearch(&key, r->list, r->n, sizeof *r->list, by_id);
    if (found == NULL)
        r->out->others++;
    else if (kind[0] == 'e')
        r->out->failed++;
    else
        r->out->text[found->item] = um_eval_text(answer, r->arena);
    return UM_OK;
}

um_status um_answers_read(um_answers *out, const um_eval_task *t, const char *path, um_arena *arena,
                          um_err *err)
{
    um_answers a = {.text = um_arena_zero(arena, (t->n + 1) * sizeof(char *)), .n = t->n};
    reading r = {&a, um_arena_alloc(arena, (t->n + 1) * sizeof *r.list), t->n, arena};
    for (size_t i = 0; i < t->n; i++) r.list[i] = (known){t->items[i].id, i};
    qsort(r.list, r.n, sizeof *r.list, by_id);
    for (size_t i = 1; i < r.n; i++)
        if (strcmp(r.list[i - 1].id, r.list[i].id) == 0)
            return UM_FAIL(err, UM_E_DATA,
                           "two questions have the id %s: answers cannot be told apart",
                           r.list[i].id);
    um_status st = um_eval_lines(path, answer_read, &r, err);
    if (st != UM_OK) return um_wrap(err, UM_E_DATA, "%s", path);
    for (size_t i = 0; i < a.n; i++) a.given += a.text[i] != NULL;
    *out = a;
    return UM_OK;
}
