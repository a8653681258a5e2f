/* See eval_read.h. */
#include "launch/eval/tasks/eval_read.h"

#include "core/base/file.h"
#include "launch/eval/metrics/scores.h"
#include "launch/eval/tasks/eval_formats.h"

#include <string.h>

#define JSON_MAX ((size_t)4 << 30) /* the largest published file has 100 MB */

static const struct {
    const char *name;
    um_eval_metric metric;
    um_status (*read)(um_eval_task *t, const um_eval_source *from, um_err *err);
} formats[] = {
    {"vqa", UM_METRIC_VQA, um_read_vqa},
    {"aokvqa", UM_METRIC_VQA, um_read_aokvqa},
    {"aokvqa-choice", UM_METRIC_CHOICE, um_read_aokvqa_choice},
    {"textvqa", UM_METRIC_VQA, um_read_textvqa},
    {"pope", UM_METRIC_YES_NO, um_read_pope},
    {"mmbench", UM_METRIC_CHOICE, um_read_mmbench},
    {"seed", UM_METRIC_CHOICE, um_read_seed},
    {"race", UM_METRIC_CHOICE, um_read_race},
    {"clothoaqa", UM_METRIC_EXACT, um_read_clothoaqa},
    {"msvdqa", UM_METRIC_EXACT, um_read_msvdqa},
    {"activitynetqa", UM_METRIC_EXACT, um_read_activitynetqa},
    {"jsonl", UM_METRIC_EXACT, um_read_eval_lines},
};
enum { FORMATS = sizeof formats / sizeof *formats };

bool um_eval_format_known(const char *name)
{
    bool known = false;
    for (int k = 0; k < FORMATS; k++) known = known || strcmp(name, formats[k].name) == 0;
    return known;
}

const char *um_eval_formats(um_arena *arena)
{
    const char *all = "";
    for (int k = 0; k < FORMATS; k++)
        all = um_arena_fmt(arena, "%s%s%s", all, k > 0 ? " " : "", formats[k].name);
    return all;
}

/* What the metric needs of every question. The reference of a yes-or-no question becomes "yes" or "no", however it is written. */
static um_status items_check(um_eval_task *t, um_err *err)
{
    for (size_t i = 0; i < t->n; i++) {
        um_eval_item *item = &t->items[i];
        if (t->metric == UM_METRIC_CHOICE && item->right < 0)
            return UM_FAIL(err, UM_E_DATA, "question %s: has no options, but is to be a choice",
                           item->id);
        if (t->metric != UM_METRIC_YES_NO) continue;
        int is = item->n_refs > 0 ? um_yes_no_of(item->refs[0], t->arena) : -1;
        if (is < 0)
            return UM_FAIL(err, UM_E_DATA, "question %s: its answer is neither yes nor no",
                           item->id);
        item->refs[0] = is == 1 ? "yes" : "no";
    }
    return UM_OK;
}

um_status um_eval_read(um_eval_task *out, const um_eval_source *from, um_arena *arena, um_err *err)
{
    int k = 0;
    while (k < FORMATS && strcmp(from->format, formats[k].name) != 0) k++;
    if (k == FORMATS)
        return UM_FAIL(err, UM_E_USAGE, "%s: no such format, known are %s", from->format,
                       um_eval_formats(arena));
    um_eval_task t = {.name = formats[k].name, .metric = formats[k].metric, .arena = arena};
    um_eval_source source = *from;
    if (source.media_folder == NULL || source.media_folder[0] == '\0')
        source.media_folder = um_path_dir(arena, from->questions);
    if (source.annotations == NULL) source.annotations = "";
    if (source.metric == NULL) source.metric = "";
    if (source.metric[0] != '\0') t.metric = um_eval_metric_of(source.metric);
    if (t.metric == UM_EVAL_METRICS)
        return UM_FAIL(err, UM_E_USAGE, "%s: no such metric", source.metric);
    um_status st = formats[k].read(&t, &source, err);
    if (st == UM_OK && t.n == 0)
        st = UM_FAIL(err, UM_E_DATA, "no question with an answer%s",
                     t.left_out > 0 ? ": is it a test split?" : "");
    if (st == UM_OK) st = items_check(&t, err);
    if (st != UM_OK) return um_wrap(err, st == UM_E_USAGE ? st : UM_E_DATA, "%s", from->questions);
    *out = t;
    return UM_OK;
}

/* --- what the readers share --- */

const char *um_eval_media_path(const um_eval_source *from, const char *name, um_arena *arena)
{
    return um_path_join(arena, from->media_folder, name);
}

const char *um_eval_media_find(const um_eval_source *from, const char *const *names, int n,
                               um_arena *arena)
{
    for (int i = 0; i < n; i++) {
        const char *path = um_eval_media_path(from, names[i], arena);
        if (um_file_exists(path)) return path;
    }
    return um_eval_media_path(from, names[0], arena);
}

um_status um_eval_json(um_json **root, const char *path, um_err *err)
{
    return um_json_load_loose(root, path, JSON_MAX, err);
}

um_status um_eval_want_list(const um_json *j, const char *want, um_err *err)
{
    return um_json_kind_of(j) == UM_JSON_ARRAY ? UM_OK : UM_FAIL(err, UM_E_DATA, "want %s", want);
}

int um_eval_letter(const char *answer)
{
    char c = answer[0];
    if (c == '\0' || answer[1] != '\0') return -1;
    if (c >= 'a' && c <= 'z') c = (char)(c - 'a' + 'A');
    return c >= 'A' && c <= 'Z' ? c - 'A' : -1;
}
