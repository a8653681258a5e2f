/* Questions about sounds and videos: ClothoAQA, MSVD-QA, ActivityNet-QA. */
#include "core/base/file.h"
#include "launch/eval/tasks/eval_formats.h"
#include "launch/eval/tasks/table.h"

#include <stdlib.h>
#include <string.h>

/* --- ClothoAQA --- */

/* Three people answered each question, a row each; the rows of a file stand together. */
static um_eval_item *asked_already(const um_eval_task *t, const char *path, const char *question)
{
    for (size_t i = t->n; i > 0 && strcmp(t->items[i - 1].media[0].source, path) == 0; i--)
        if (strcmp(t->items[i - 1].question, question) == 0) return &t->items[i - 1];
    return NULL;
}

static um_status clothoaqa_rows(um_eval_task *t, const um_eval_source *from, um_table *table,
                                um_err *err)
{
    int file = um_table_column(table, "file_name"),
        question = um_table_column(table, "QuestionText"),
        answer = um_table_column(table, "answer");
    if (file < 0 || question < 0 || answer < 0)
        return UM_FAIL(err, UM_E_DATA, "want columns file_name, QuestionText and answer");
    for (;;) {
        const char **row = NULL;
        UM_TRY(um_table_next(table, &row, t->arena, err));
        if (row == NULL) return UM_OK;
        const char *path = um_eval_media_path(from, row[file], t->arena);
        um_eval_item *item = asked_already(t, path, row[question]);
        if (row[answer][0] == '\0') {
            t->left_out++;
            continue;
        }
        if (item == NULL) {
            item = um_eval_item_add(t);
            item->id = um_arena_fmt(t->arena, "%s#%zu", row[file], t->n);
            item->question = row[question];
            um_eval_medium_add(t, item, UM_SOUND, path);
        }
        um_eval_ref_add(t, item, row[answer]);
    }
}

um_status um_read_clothoaqa(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    um_file f = {0};
    um_table table;
    UM_TRY(um_file_map(&f, from->questions, err));
    um_status st = um_table_open(&table, (const char *)f.data, f.size, ',', t->arena, err);
    if (st == UM_OK) st = clothoaqa_rows(t, from, &table, err);
    um_file_unmap(&f);
    return st;
}

/* --- videos --- */

/* The file of a video, whose name is before + id + an ending that people have. */
static const char *video_find(const um_eval_source *from, const char *before, const char *id,
                              um_arena *arena)
{
    static const char *const ends[] = {"mp4", "avi", "webm", "mkv"};
    const char *names[8];
    for (int i = 0; i < 8; i++)
        names[i] = um_arena_fmt(arena, "%s%s.%s", i < 4 ? before : "", id, ends[i % 4]);
    return um_eval_media_find(from, names, 8, arena);
}

um_status um_read_msvdqa(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    um_json *root = NULL;
    UM_TRY(um_eval_json(&root, from->questions, err));
    um_status st = um_eval_want_list(root, "a list of questions", err);
    for (size_t i = 0; i < um_json_size(root) && st == UM_OK; i++) {
        const um_json *q = um_json_at(root, i);
        const char *answer = um_eval_text(um_json_get(q, "answer"), t->arena);
        if (answer[0] == '\0') {
            t->left_out++;
            continue;
        }
        um_eval_item *item = um_eval_item_add(t);
        item->id = um_eval_text(um_json_get(q, "id"), t->arena);
        item->question = um_eval_text(um_json_get(q, "question"), t->arena);
        um_eval_medium_add(
            t, item, UM_VIDEO,
            video_find(from, "vid", um_eval_text(um_json_get(q, "video_id"), t->arena), t->arena));
        um_eval_ref_add(t, item, answer);
    }
    um_json_free(root);
    return st;
}

/* Answers by question. */
typedef struct answered {
    const char *question;
    const um_json *answer;
} answered;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const answered *)a)->question, ((const answered *)b)->question);
}

static void activitynet_join(um_eval_task *t, const um_eval_source *from, const um_json *qs,
                             const um_json *as)
{
    size_t n = um_json_size(as);
    answered *list = um_alloc_aligned((n + 1) * sizeof *list);
    for (size_t i = 0; i < n; i++) {
        const um_json *a = um_json_at(as, i);
        list[i] = (answered){um_eval_text(um_json_get(a, "question_id"), t->arena), a};
    }
    qsort(list, n, sizeof *list, by_name);
    for (size_t i = 0; i < um_json_size(qs); i++) {
        const um_json *q = um_json_at(qs, i);
        answered key = {um_eval_text(um_json_get(q, "question_id"), t->arena), NULL};
        const answered *found = bsearch(&key, list, n, sizeof *list, by_name);
        if (found == NULL) {
            t->left_out++;
            continue;
        }
        um_eval_item *item = um_eval_item_add(t);
        item->id = key.question;
        item->question = um_eval_text(um_json_get(q, "question"), t->arena);
        item->group = um_eval_text(um_json_get(found->answer, "type"), t->arena);
        um_eval_medium_add(
            t, item, UM_VIDEO,
            video_find(from, "v_", um_eval_text(um_json_get(q, "video_name"), t->arena), t->arena));
        um_eval_ref_add(t, item, um_eval_text(um_json_get(found->answer, "answer"), t->arena));
    }
    um_free(list);
}

um_status um_read_activitynetqa(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    um_json *questions = NULL, *answers = NULL;
    if (from->annotations[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "this format has its answers in a file of their own: name it too");
    um_status st = um_eval_json(&questions, from->questions, err);
    if (st == UM_OK) st = um_eval_json(&answers, from->annotations, err);
    if (st == UM_OK) st = um_eval_want_list(questions, "a list of questions", err);
    if (st == UM_OK) st = um_eval_want_list(answers, "a list of answers", err);
    if (st == UM_OK) activitynet_join(t, from, questions, answers);
    um_json_free(questions);
    um_json_free(answers);
    return st;
}
