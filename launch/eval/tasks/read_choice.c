/* Choices: MMBench, SEED-Bench, RACE and its spoken form. */
#include "core/base/file.h"
#include "launch/eval/tasks/eval_formats.h"
#include "launch/eval/tasks/table.h"

#include <stdlib.h>
#include <string.h>

/* --- MMBench --- */

/* What pandas writes for nothing. */
static const char *cell(const char **row, int column)
{
    const char *text = column < 0 ? "" : row[column];
    return strcmp(text, "nan") == 0 ? "" : text;
}

/* The image of a question asked again, with its options in another order, is the index of the question that has it. */
static const char *image_of(const um_eval_task *t, const char *text)
{
    if (strlen(text) >= 64) return text;
    for (size_t i = t->n; i > 0; i--)
        if (strcmp(t->items[i - 1].id, text) == 0 && t->items[i - 1].n_media > 0)
            return t->items[i - 1].media[0].source;
    return NULL;
}

static um_status mmbench_item(um_eval_task *t, const um_table *table, const char **row, um_err *err)
{
    int answer = um_eval_letter(cell(row, um_table_column(table, "answer"))), right = -1;
    const char *id = cell(row, um_table_column(table, "index"));
    const char *image = image_of(t, cell(row, um_table_column(table, "image")));
    if (image == NULL) return UM_FAIL(err, UM_E_DATA, "question %s: has no image", id);
    if (answer < 0) t->left_out++;
    if (answer < 0) return UM_OK;
    um_eval_item *item = um_eval_item_add(t);
    item->id = id;
    item->question = cell(row, um_table_column(table, "question"));
    item->context = cell(row, um_table_column(table, "hint"));
    item->group = cell(row, um_table_column(table, "category"));
    um_eval_medium_add(t, item, UM_IMAGE, image);
    for (char letter = 'A'; letter <= 'H'; letter++) {
        const char *option = cell(row, um_table_column(table, (char[]){letter, '\0'}));
        if (option[0] == '\0') continue; /* one in the middle may lack: those behind it move up */
        if (letter - 'A' == answer) right = item->n_options;
        um_eval_option_add(t, item, option);
    }
    return um_eval_right_set(t, item, right, err);
}

um_status um_read_mmbench(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    um_file f = {0};
    um_table table;
    const char **row = NULL;
    UM_TRY(um_file_map(&f, from->questions, err));
    um_status st = um_table_open(&table, (const char *)f.data, f.size, '\t', t->arena, err);
    if (st == UM_OK &&
        (um_table_column(&table, "image") < 0 || um_table_column(&table, "question") < 0))
        st = UM_FAIL(err, UM_E_DATA, "has no columns image and question");
    while (st == UM_OK) {
        st = um_table_next(&table, &row, t->arena, err);
        if (st != UM_OK || row == NULL) break;
        st = mmbench_item(t, &table, row, err);
    }
    um_file_unmap(&f);
    return st;
}

/* --- SEED-Bench --- */

static um_status seed_item(um_eval_task *t, const um_eval_source *from, const um_json *types,
                           const um_json *q, um_err *err)
{
    int answer = um_eval_letter(um_json_str(um_json_get(q, "answer"), ""));
    bool video = strcmp(um_json_str(um_json_get(q, "data_type"), "image"), "video") == 0;
    const char *file = um_eval_text(um_json_get(q, "data_id"), t->arena);
    if (answer < 0) t->left_out++;
    if (answer < 0) return UM_OK;
    um_eval_item *item = um_eval_item_add(t);
    const char *const names[] = {
        um_arena_fmt(t->arena, "SEED-Bench-%s/%s", video ? "video" : "image", file), file};
    item->id = um_eval_text(um_json_get(q, "question_id"), t->arena);
    item->question = um_eval_text(um_json_get(q, "question"), t->arena);
    void *iter = NULL;
    const char *name = "";
    for (const um_json *v; (v = um_json_next(types, &iter, &name)) != NULL;)
        if (um_json_int(v, -1) == um_json_int(um_json_get(q, "question_type_id"), -2))
            item->group = um_arena_str(t->arena, name);
    um_eval_medium_add(t, item, video ? UM_VIDEO : UM_IMAGE,
                       um_eval_media_find(from, names, 2, t->arena));
    for (char letter = 'a'; letter <= 'd'; letter++) {
        const char key[] = {'c', 'h', 'o', 'i', 'c', 'e', '_', letter, '\0'};
        um_eval_option_add(t, item, um_eval_text(um_json_get(q, key), t->arena));
    }
    return um_eval_right_set(t, item, answer, err);
}

um_status um_read_seed(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    um_json *root = NULL;
    UM_TRY(um_eval_json(&root, from->questions, err));
    const um_json *list = um_json_get(root, "questions");
    um_status st = um_eval_want_list(list, "{\"questions\": [...]}", err);
    for (size_t i = 0; i < um_json_size(list) && st == UM_OK; i++)
        st = seed_item(t, from, um_json_get(root, "question_type"), um_json_at(list, i), err);
    um_json_free(root);
    return st;
}

/* --- RACE --- */

typedef struct race {
    um_eval_task *t;
    const um_eval_source *from;
} race;

/* The passage read aloud, if its file is there: ID is high1.txt, its sound high1.mp3. */
static const char *race_sound(const race *r, const char *id)
{
    static const char *const ends[] = {"mp3", "wav", "flac", "m4a", "ogg"};
    size_t n = um_ends_with(id, ".txt") ? strlen(id) - 4 : strlen(id);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const char *path = um_eval_media_path(
            r->from, um_arena_fmt(r->t->arena, "%.*s.%s", (int)n, id, ends[i]), r->t->arena);
        if (um_file_exists(path)) return path;
    }
    return NULL;
}

static um_status race_passage(void *ctx, const um_json *p, const char *text, size_t n, long number,
                              um_err *err)
{
    race *r = ctx;
    um_arena *arena = r->t->arena;
    const um_json *questions = um_json_get(p, "questions"), *options = um_json_get(p, "options");
    const char *id = um_eval_text(um_json_get(p, "id"), arena);
    if (id[0] == '\0') id = um_arena_fmt(arena, "%ld", number);
    const char *sound = race_sound(r, id),
               *article = um_eval_text(um_json_get(p, "article"), arena);
    (void)text;
    (void)n;
    if (um_json_kind_of(questions) != UM_JSON_ARRAY)
        return UM_FAIL(err, UM_E_DATA,
                       "want {\"article\", \"questions\", \"options\", \"answers\"}");
    for (size_t i = 0; i < um_json_size(questions); i++) {
        const um_json *o = um_json_at(options, i);
        int answer = um_eval_letter(um_json_str(um_json_at(um_json_get(p, "answers"), i), ""));
        if (answer < 0) {
            r->t->left_out++;
            continue;
        }
        um_eval_item *item = um_eval_item_add(r->t);
        item->id = um_arena_fmt(arena, "%s#%zu", id, i);
        item->question = um_eval_text(um_json_at(questions, i), arena);
        item->group = um_starts_with(id, "high")     ? "high"
                      : um_starts_with(id, "middle") ? "middle"
                                                     : "";
        if (sound != NULL)
            um_eval_medium_add(r->t, item, UM_SPEECH, sound);
        else
            item->context = article;
        for (size_t k = 0; k < um_json_size(o); k++)
            um_eval_option_add(r->t, item, um_eval_text(um_json_at(o, k), arena));
        UM_TRY(um_eval_right_set(r->t, item, answer, err));
    }
    return UM_OK;
}

um_status um_read_race(um_eval_task *t, const um_eval_source *from, um_err *err)
{
    race r = {t, from};
    return um_eval_lines(from->questions, race_passage, &r, err);
}
