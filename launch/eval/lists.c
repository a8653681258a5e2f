/* See lists.h. */
#include "launch/eval/lists.h"

#include "core/base/file.h"
#include "launch/eval/item_index.h"
#include "launch/model_dir/tree.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* The parts of NAME=REST, in arena; of a word without a name *name is "". A word that is a path which exists is not cut. */
static void named_word(const char **name, const char **rest, const char *word, um_arena *arena)
{
    const char *eq = strchr(word, '=');
    bool named = eq != NULL && eq > word && !um_file_named(word) &&
                 memchr(word, '/', (size_t)(eq - word)) == NULL;
    *name = named ? um_arena_strn(arena, word, (size_t)(eq - word)) : "";
    *rest = named ? eq + 1 : word;
}

/* The last part of a path, without its ending when that is one of files. */
static const char *base_name(const char *path, bool file, um_arena *arena)
{
    size_t n = strlen(path), from = 0;
    while (n > 1 && path[n - 1] == '/') n--;
    for (size_t i = 0; i < n; i++)
        if (path[i] == '/' && i + 1 < n) from = i + 1;
    const char *name = um_arena_strn(arena, path + from, n - from), *dot = strrchr(name, '.');
    return file && dot != NULL && dot > name ? um_arena_strn(arena, name, (size_t)(dot - name))
                                             : name;
}

/* Names become names of files below --out. */
static um_status name_check(const char *what, const char *name, um_err *err)
{
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL || strlen(name) > 200)
        return UM_FAIL(err, UM_E_USAGE, "%s: \"%s\" cannot be a name: give one, NAME=...", what,
                       name);
    return UM_OK;
}

/* --- tasks --- */

typedef struct task_words {
    const char *name, *format, *part[3]; /* questions, annotations, media folder */
    int parts;
} task_words;

/* Cuts at colons; a file whose name has some is one part. */
static um_status task_cut(task_words *w, const char *word, const char *format, um_arena *arena,
                          um_err *err)
{
    *w = (task_words){.name = "", .format = format, .part = {"", "", ""}};
    const char *rest = word;
    named_word(&w->name, &rest, word, arena);
    for (const char *end; *rest != '\0'; rest = *end == ':' ? end + 1 : end) {
        end = um_file_exists(rest) ? rest + strlen(rest) : strchrnul(rest, ':');
        const char *part = um_arena_strn(arena, rest, (size_t)(end - rest));
        if (w->parts == 0 && *end == ':' && um_eval_format_known(part)) {
            w->format = part;
            continue;
        }
        if (w->parts == 3)
            return UM_FAIL(err, UM_E_USAGE,
                           "--task %s: want [NAME=][FORMAT:]QUESTIONS[:ANNOTATIONS[:MEDIA_FOLDER]]",
                           word);
        w->part[w->parts++] = part;
    }
    if (w->parts == 0) return UM_FAIL(err, UM_E_USAGE, "--task %s: names no file", word);
    return UM_OK;
}

/* A folder's path whatever the working directory is; "" stays. */
static um_status folder_find(const char **path, um_arena *arena, um_err *err)
{
    char real[PATH_MAX];
    if ((*path)[0] == '\0') return UM_OK;
    if (realpath(*path, real) == NULL)
        return UM_FAIL(err, UM_E_DATA, "%s: %s", *path, strerror(errno));
    *path = um_arena_str(arena, real);
    return UM_OK;
}

static um_status file_digest(um_sha256 *h, const char *path, um_err *err)
{
    um_file f = {0};
    if (path[0] == '\0') return UM_OK;
    UM_TRY(um_file_map(&f, path, err));
    um_sha256_update(h, &f.size, sizeof f.size);
    if (f.size > 0) um_sha256_update(h, f.data, f.size);
    um_file_unmap(&f);
    return UM_OK;
}

static um_status task_digest(um_listed_task *t, const um_eval_source *from, um_err *err)
{
    um_sha256 h;
    const char *metric = um_eval_metric_name(t->task.metric);
    um_sha256_init(&h);
    um_sha256_update(&h, from->format, strlen(from->format) + 1);
    um_sha256_update(&h, metric, strlen(metric) + 1);
    um_status st = file_digest(&h, from->questions, err);
    if (st == UM_OK) st = file_digest(&h, from->annotations, err);
    if (st == UM_OK) return um_sha256_final(&h, t->digest, err);
    um_sha256_drop(&h);
    return st;
}

static um_status task_read(um_listed_task *t, const um_config *cfg, const char *word,
                           um_arena *arena, um_err *err)
{
    task_words w;
    um_item_index index;
    UM_TRY(task_cut(&w, word, cfg->format, arena, err));
    um_eval_source from = {.format = w.format,
                           .questions = w.part[0],
                           .annotations = w.part[1],
                           .media_folder = w.part[2][0] != '\0' ? w.part[2] : cfg->media_folder,
                           .metric = cfg->metric};
    if (from.media_folder[0] == '\0') from.media_folder = um_path_dir(arena, from.questions);
    if (!um_file_exists(from.questions))
        return UM_FAIL(err, UM_E_DATA, "--task %s: there is no file %s", word, from.questions);
    UM_TRY(um_wrap(err, folder_find(&from.media_folder, arena, err), "--task %s", word));
    UM_TRY(um_eval_read(&t->task, &from, arena, err));
    UM_TRY(um_wrap(err, um_item_index_make(&index, &t->task, arena, err), "%s", from.questions));
    if (cfg->limit > 0 && (size_t)cfg->limit < t->task.n) t->task.n = (size_t)cfg->limit;
    t->name = w.name[0] != '\0' ? w.name : base_name(from.questions, true, arena);
    t->path = from.questions;
    UM_TRY(name_check("--task", t->name, err));
    return task_digest(t, &from, err);
}

um_status um_task_list_read(um_task_list *out, const um_config *cfg, um_arena *arena, um_err *err)
{
    um_task_list l = {um_arena_zero(arena, (size_t)cfg->task.n * sizeof *l.list), cfg->task.n};
    for (int i = 0; i < l.n; i++) {
        UM_TRY(task_read(&l.list[i], cfg, cfg->task.item[i], arena, err));
        for (int k = 0; k < i; k++)
            if (strcmp(l.list[i].name, l.list[k].name) == 0)
                return UM_FAIL(err, UM_E_USAGE,
                               "two tasks are called %s: give them names, --task NAME=FILE",
                               l.list[i].name);
    }
    *out = l;
    return UM_OK;
}

/* --- models --- */

static bool is_of_model(const char *name)
{
    const char *slash = strrchr(name, '/'), *file = slash != NULL ? slash + 1 : name;
    return um_ends_with(file, ".safetensors") || strcmp(file, "config.json") == 0 ||
           strcmp(file, "tokenizer.model") == 0 || strcmp(file, "preprocessor_config.json") == 0 ||
           strcmp(file, "generation_config.json") == 0 || strcmp(file, "adapter_config.json") == 0;
}

static um_status folder_digest(um_sha256 *h, const char *folder, um_arena *arena, um_err *err)
{
    um_names files;
    UM_TRY(um_tree_list(&files, folder, arena, err));
    for (size_t i = 0; i < files.n; i++) {
        if (!is_of_model(files.name[i]) || um_starts_with(files.name[i], "checkpoint-")) continue;
        um_sha256_update(h, files.name[i], strlen(files.name[i]) + 1);
        UM_TRY(file_digest(h, um_path_join(arena, folder, files.name[i]), err));
    }
    return UM_OK;
}

/* Of the model's folder, and of towers that are given apart from it. */
static um_status model_digest(um_listed_model *m, const um_config *cfg, um_arena *arena,
                              um_err *err)
{
    const char *const folders[] = {m->path, cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    um_sha256 h;
    um_status st = UM_OK;
    um_sha256_init(&h);
    for (int i = 0; i < 4 && st == UM_OK; i++)
        if (folders[i][0] != '\0' && um_file_is_folder(folders[i]))
            st = folder_digest(&h, folders[i], arena, err);
    if (st == UM_OK) return um_sha256_final(&h, m->digest, err);
    um_sha256_drop(&h);
    return st;
}

static um_status model_add(um_model_list *l, const char *word, bool answers, um_arena *arena,
                           um_err *err)
{
    um_listed_model *m = &l->list[l->n];
    const char *what = answers ? "--answers" : "model";
    *m = (um_listed_model){.answers = answers};
    named_word(&m->name, &m->path, word, arena);
    if (m->name[0] == '\0') m->name = base_name(m->path, answers, arena);
    if (!um_file_exists(m->path) && !um_file_is_folder(m->path))
        return UM_FAIL(err, answers ? UM_E_DATA : UM_E_MODEL, "%s %s: there is no %s", what,
                       m->path, answers ? "such file or folder" : "such folder");
    UM_TRY(name_check(what, m->name, err));
    for (int i = 0; i < l->n; i++)
        if (strcmp(l->list[i].name, m->name) == 0)
            return UM_FAIL(err, UM_E_USAGE, "two models are called %s: give them names, NAME=%s",
                           m->name, answers ? "FILE" : "FOLDER");
    l->n++;
    return UM_OK;
}

um_status um_model_list_read(um_model_list *out, const um_config *cfg, um_arena *arena, um_err *err)
{
    um_model_list l = {0};
    l.list = um_arena_zero(arena, (size_t)(cfg->args.n + cfg->answers.n) * sizeof *l.list);
    for (int i = 0; i < cfg->args.n; i++)
        UM_TRY(model_add(&l, cfg->args.item[i], false, arena, err));
    for (int i = 0; i < cfg->answers.n; i++)
        UM_TRY(model_add(&l, cfg->answers.item[i], true, arena, err));
    for (int i = 0; i < l.n; i++)
        if (!l.list[i].answers) UM_TRY(model_digest(&l.list[i], cfg, arena, err));
    *out = l;
    return UM_OK;
}
