/* See asking.h. */
#include "launch/eval/asking.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool um_asking_lacks(um_modality *kind, const um_eval_item *item, const um_model *m)
{
    for (int i = 0; i < item->n_media; i++) {
        um_modality k = item->media[i].modality;
        bool there = k == UM_SPEECH  ? m->speech.present
                     : k == UM_SOUND ? m->sound.present
                                     : m->vision.present;
        *kind = k;
        if (!there) return true;
    }
    return false;
}

/* Counts what is to be asked of a task, and lists it unless list is NULL. */
static size_t task_plan(um_asked *list, um_asking *a, int t, const um_model *m, const char *choices)
{
    const um_eval_task *task = &a->tasks->list[t].task;
    const um_kept *kept = &a->kept[t];
    bool choice = task->metric == UM_METRIC_CHOICE;
    bool generate = !choice || strcmp(choices, "likelihood") != 0;
    bool score = choice && strcmp(choices, "generated") != 0;
    um_modality kind;
    size_t n = 0;
    for (size_t i = 0; i < task->n; i++) {
        bool lacks = um_asking_lacks(&kind, &task->items[i], m);
        a->lacking += lacks && list != NULL;
        if (lacks) continue;
        int from = generate && kept->answer[i] == NULL ? -1 : 0;
        int to = score ? task->items[i].n_options : 0;
        for (int k = from; k < to; k++) {
            if (k >= 0 && kept->likelihood[i][k].tokens > 0) continue;
            if (list != NULL) list[n] = (um_asked){.task = t, .item = i, .choice = k};
            n++;
        }
    }
    return n;
}

void um_asking_plan(um_asking *out, const um_task_list *tasks, um_kept *kept, const um_model *m,
                    const char *choices, um_arena *arena)
{
    *out = (um_asking){.tasks = tasks, .kept = kept};
    size_t n = 0;
    for (int t = 0; t < tasks->n; t++) n += task_plan(NULL, out, t, m, choices);
    out->list = um_arena_alloc(arena, (n + 1) * sizeof *out->list);
    for (int t = 0; t < tasks->n; t++) out->n += task_plan(out->list + out->n, out, t, m, choices);
}

um_status um_asking_write(const um_asking *a, const char *path, int max_new_tokens, um_err *err)
{
    um_text line = {0};
    FILE *f = fopen(path, "we");
    if (f == NULL) return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    errno = 0;
    for (size_t i = 0; i < a->n; i++) {
        char id[32];
        const um_eval_task *task = &a->tasks->list[a->list[i].task].task;
        um_eval_item item = task->items[a->list[i].item];
        snprintf(id, sizeof id, "%zu", i);
        item.id = id;
        line.n = 0;
        if (a->list[i].choice >= 0)
            um_eval_score_request(&line, &item, a->list[i].choice);
        else
            um_eval_request(&line, &item, task->metric, max_new_tokens);
        fwrite(line.s, 1, line.n, f);
    }
    um_text_free(&line);
    bool written = !ferror(f);
    int why = errno;
    if (fclose(f) != 0 && written) {
        written = false;
        why = errno;
    }
    return written ? UM_OK : UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(why != 0 ? why : EIO));
}

bool um_asking_take(um_asking *a, const um_json *line)
{
    char *end = NULL;
    const char *id = um_json_str(um_json_get(line, "id"), "");
    size_t i = strtoul(id, &end, 10);
    if (a->st != UM_OK) return false;
    if (end == id || *end != '\0' || i >= a->n) return true; /* not ours */
    const um_asked *q = &a->list[i];
    um_kept *kept = &a->kept[q->task];
    if (strcmp(um_json_str(um_json_get(line, "kind"), ""), "error") == 0)
        um_kept_failure(kept, q->item, um_json_str(um_json_get(line, "error"), "failed"));
    else if (q->choice < 0)
        a->st =
            um_kept_answer(kept, q->item, um_json_str(um_json_get(line, "answer"), ""), &a->err);
    else
        a->st = um_kept_likelihood(kept, q->item, q->choice,
                                   (um_kept_score){um_json_num(um_json_get(line, "score"), 0),
                                                   (int)um_json_size(um_json_get(line, "ids"))},
                                   &a->err);
    return a->st == UM_OK;
}
