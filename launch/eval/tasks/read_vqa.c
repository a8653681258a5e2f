/* Questions about images, answered by several people: VQAv2 and OK-VQA, A-OKVQA, TextVQA. */
#include "launch/eval/tasks/eval_formats.h"

#include <stdlib.h>
#include <string.h>

/* --- VQAv2, OK-VQA --- */

/* Annotations by question. */
typedef struct noted {
    int64_t question;
    const um_json *annotation;
} noted;

static int by_question(const void *a, const void *b)
{
    int64_t x = ((const noted *)a)->question, y = ((const noted *)b)->question;
    return (x > y) - (x < y);
}

/* The answers of people: texts, or objects with one. */
static void refs_add(um_eval_task *t, um_eval_item *item, const um_json *answers)
{
    for (size_t i = 0; i < um_json_size(answers); i++) {
        const um_json *one = um_json_at(answers, i);
        const um_json *text =
            um_json_kind_of(one) == UM_JSON_OBJECT ? um_json_get(one, "answer") : one;
        um_eval_ref_add(t, item, um_eval_text(text, t->arena));
    }
}

static void vqa_item(um_eval_task *t, const um_eval_source *from, const char *split,
                     const um_json *q, const um_json *annotation)
{
    um_eval_item *item = um_eval_item_add(t);
    const char *file = um_arena_fmt(t->arena, "COCO_%s_%012lld.jpg", split,
                                    (long long)um_json_int(um_json_get(q, "image_id"), 0));
    const char *const names[] = {um_arena_fmt(t->arena, "%s/%s", split, file), file};
    item->id = um_eval_text(um_json_get(q, "question_id"), t->arena);
    item->question = um_eval_text(um_json_get(q, "question"), t->arena);
    item->group = um_eval_text(um_json_get(annotation, "answer_type"), t->arena);
    um_eval_medium_add(t, item, UM_IMAGE, um_eval_media_find(from, names, 2, t->arena));
    refs_add(t, item, um_json_get(annotation, "answers"));
}

static um_status vqa_join(um_eval_task *t, const um_eval_source *from, const um_json *questions,
                          const um_json *annotations, um_err *err)
{
    const um_json *qs = um_json_get(questions, "questions"),
                  *as = um_json_get(annotations, "annotations");
    const char *split = um_json_str(um_json_get(questions, "data_subtype"), "val2014");
    size_t n = um_json_size(as);
    if (um_json_kind_of(qs) != UM_JSON_ARRAY || um_json_kind_of(as) != UM_JSON_ARRAY)
        return UM_FAIL(err, UM_E_DATA,
                       "want {\"questions\": [...]} and, in %s, {\"annotations\": [...]}",
                       from->annotations);
    noted *list = um_alloc_aligned((n + 1) * sizeof *list);
    for (size_t i = 0; i < n; i++) {
        const um_json *a = um_json_at(as, i);
        list[i] = (noted){um_json_int(um_json_get(a, "question_id"), -1), a};
    }
    qsort(list, n, sizeof *list, by_question);
    for (size_t i = 0; i < um_json_size(qs); i++) {
        const um_json *q = um_json_at(qs, i);
        noted key = {um_json_int(um_json_get(q, "question_id"), -2), NULL};
        const noted *found = bsearch(&key, list, n, sizeof *list, by_question);
        if (found == NULL || um_json_size(um_json_get(found->annotation, "answers")) == 0)
            t->left_out++;
        else
            vqa_item(t, from, split, q, found->annotation);
    }
    um_free(list);
    return UM_OK;
}

um_status um_read_vqa(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    um_json *questions = NULL, *annotations = NULL;
    if (from->annotations[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE,
                       "this format has its answers in a file of annotations: name it too");
    um_status st = um_eval_json(&questions, from->questions, err);
    if (st == UM_OK) st = um_eval_json(&annotations, from->annotations, err);
    if (st == UM_OK) st = vqa_join(t, from, questions, annotations, err);
    um_json_free(questions);
    um_json_free(annotations);
    return st;
}

/* --- A-OKVQA --- */

static um_status aokvqa_item(um_eval_task *t, const um_eval_source *from, const um_json *q,
                             bool choice, um_err *err)
{
    const um_json *choices = um_json_get(q, "choices"),
                  *right = um_json_get(q, "correct_choice_idx");
    const um_json *answers = um_json_get(q, "direct_answers");
    if (choice ? um_json_kind_of(right) != UM_JSON_INT : um_json_size(answers) == 0) {
        t->left_out++;
        return UM_OK;
    }
    um_eval_item *item = um_eval_item_add(t);
    item->id = um_eval_text(um_json_get(q, "question_id"), t->arena);
    item->question = um_eval_text(um_json_get(q, "question"), t->arena);
    const char *file = um_arena_fmt(t->arena, "%012lld.jpg",
                                    (long long)um_json_int(um_json_get(q, "image_id"), 0));
    um_eval_medium_add(t, item, UM_IMAGE, um_eval_media_path(from, file, t->arena));
    if (!choice) {
        refs_add(t, item, answers);
        return UM_OK;
    }
    for (size_t i = 0; i < um_json_size(choices); i++)
        um_eval_option_add(t, item, um_eval_text(um_json_at(choices, i), t->arena));
    return um_eval_right_set(t, item, (int)um_json_int(right, -1), err);
}

static um_status aokvqa(um_eval_task *t, const um_eval_source *from, bool choice, um_err *err)
{
    um_json *root = NULL;
    UM_TRY(um_eval_json(&root, from->questions, err));
    um_status st = um_eval_want_list(root, "a list of questions", err);
    for (size_t i = 0; i < um_json_size(root) && st == UM_OK; i++)
        st = aokvqa_item(t, from, um_json_at(root, i), choice, err);
    um_json_free(root);
    return st;
}

um_status um_read_aokvqa(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    return aokvqa(t, from, false, err);
}
um_status um_read_aokvqa_choice(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    return aokvqa(t, from, true, err);
}

/* --- TextVQA --- */

um_status um_read_textvqa(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    um_json *root = NULL;
    UM_TRY(um_eval_json(&root, from->questions, err));
    const um_json *data = um_json_get(root, "data");
    um_status st = um_eval_want_list(data, "{\"data\": [...]}", err);
    for (size_t i = 0; i < um_json_size(data) && st == UM_OK; i++) {
        const um_json *q = um_json_at(data, i);
        if (um_json_size(um_json_get(q, "answers")) == 0) {
            t->left_out++;
            continue;
        }
        um_eval_item *item = um_eval_item_add(t);
        const char *file =
            um_arena_fmt(t->arena, "%s.jpg", um_eval_text(um_json_get(q, "image_id"), t->arena));
        const char *const names[] = {um_arena_fmt(t->arena, "train_images/%s", file), file};
        item->id = um_eval_text(um_json_get(q, "question_id"), t->arena);
        item->question = um_eval_text(um_json_get(q, "question"), t->arena);
        um_eval_medium_add(t, item, UM_IMAGE, um_eval_media_find(from, names, 2, t->arena));
        refs_add(t, item, um_json_get(q, "answers"));
    }
    um_json_free(root);
    return st;
}
