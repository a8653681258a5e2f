/* See asking.h. */
#include "launch/eval/asking.h"

#include "core/base/file.h"
#include "core/base/sha256.h"
#include "router/request/media_source.h"

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

/* Content that stands in the question becomes a file of the folder, called by its SHA-256; a path stays. */
static um_status medium_file(const char **source, const char *folder, um_arena *arena, um_err *err)
{
    enum { PATH_BYTES = 4096 }; /* no path is longer */
    char hex[UM_SHA256_HEX];
    um_media_data data = {0};
    const char *name = NULL;
    um_err why = {0};
    if (strlen(*source) <= PATH_BYTES) return UM_OK;
    if (um_media_source(&name, &data, *source, "/", "media", arena, &why) != UM_OK ||
        data.bytes == NULL)
        return UM_OK; /* the router will say what is wrong with it */
    UM_TRY(um_sha256_of(hex, data.bytes, data.n, err));
    *source = um_path_join(arena, folder, hex);
    if (um_file_exists(*source)) return UM_OK;
    UM_TRY(um_file_mkdirs(folder, err));
    return um_file_write(*source, data.bytes, data.n, err);
}

/* *media: that of the item, as files. */
static um_status media_files(um_eval_medium **media, const um_eval_item *item, const char *folder,
                             um_arena *arena, um_err *err)
{
    um_eval_medium *list = um_arena_alloc(arena, ((size_t)item->n_media + 1) * sizeof *list);
    for (int i = 0; i < item->n_media; i++) {
        list[i] = item->media[i];
        UM_TRY(medium_file(&list[i].source, folder, arena, err));
    }
    *media = list;
    return UM_OK;
}

/* Request i as a line. scratch holds the media of the item before, which requests for the same item share. */
static um_status request_write(um_text *line, const um_asking *a, size_t i, const char *folder,
                               int max_new_tokens, um_eval_medium **media, um_arena *scratch,
                               um_err *err)
{
    char id[32];
    const um_asked *q = &a->list[i];
    const um_eval_task *task = &a->tasks->list[q->task].task;
    um_eval_item item = task->items[q->item];
    if (i == 0 || q->item != q[-1].item || q->task != q[-1].task) {
        um_arena_reset(scratch, (um_mark){0});
        UM_TRY(media_files(media, &item, folder, scratch, err));
    }
    snprintf(id, sizeof id, "%zu", i);
    item.id = id;
    item.media = *media;
    if (q->choice >= 0)
        um_eval_score_request(line, &item, q->choice);
    else
        um_eval_request(line, &item, task->metric, max_new_tokens);
    return UM_OK;
}

um_status um_asking_write(const um_asking *a, const char *path, const char *media,
                          int max_new_tokens, um_err *err)
{
    um_text line = {0};
    um_arena scratch;
    um_eval_medium *files = NULL;
    um_status st = UM_OK;
    FILE *f = fopen(path, "we");
    if (f == NULL) return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    um_arena_init(&scratch, "media of a question", 1 << 16);
    for (size_t i = 0; i < a->n && st == UM_OK; i++) {
        line.n = 0;
        st = request_write(&line, a, i, media, max_new_tokens, &files, &scratch, err);
        errno = 0;
        if (st == UM_OK && fwrite(line.s, 1, line.n, f) != line.n)
            st = UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno != 0 ? errno : EIO));
    }
    um_text_free(&line);
    um_arena_free(&scratch);
    if (fclose(f) != 0 && st == UM_OK) st = UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    return st;
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
