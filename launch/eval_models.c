/* unimoe eval: puts the questions of tasks to models, keeps what they answer, and reports. See command.h.
 *
 *   DIR/answers/MODEL/TASK.jsonl   what was answered, as it comes (launch/eval/kept.h)
 *   DIR/eval.json, DIR/eval.html   at the end
 *
 * One job a model answers all tasks. What is kept is not asked again, unless the model, the task or a setting that matters has changed. */
#include "launch/command.h"

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/nn/checkpoint.h"
#include "launch/eval/answers.h"
#include "launch/eval/asking.h"
#include "launch/eval/eval_report.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct evaluation {
    um_config cfg;
    um_model_list models;
    um_task_list tasks;
    um_given *given; /* [models][tasks] */
    long failed;     /* questions whose media could not be read and the like, over all models */
    um_arena arena;
} evaluation;

/* --- what a model's answers depend on, beside its weights --- */

static const char *settings_of(const um_config *cfg, const char *choices, um_arena *arena)
{
    return um_arena_fmt(
        arena,
        "max_new_tokens %lld, weights %s, wire %s, lora %s, image_aspect %s, image_orientation %s, "
        "video_frames %lld, exact_windows %d, gate_noise %d, seed %lld%s",
        (long long)cfg->max_new_tokens, cfg->weights, cfg->wire, cfg->lora, cfg->image_aspect,
        cfg->image_orientation, (long long)cfg->video_frames, cfg->speech_exact_windows,
        cfg->gate_noise, cfg->gate_noise ? (long long)cfg->seed : 0LL, choices);
}

static const char *origin_of(const evaluation *e, const um_listed_model *m, const um_listed_task *t,
                             um_arena *arena)
{
    um_text line = {0};
    um_text_fmt(&line, "{\"kind\":\"answers\",\"model\":");
    um_text_json(&line, m->name);
    um_text_fmt(&line, ",\"weights\":\"%s\",\"task\":\"%s\",\"settings\":", m->digest, t->digest);
    um_text_json(&line, settings_of(&e->cfg, "", arena));
    um_text_fmt(&line, ",\"version\":\"%s\"}", UM_VERSION);
    const char *s = um_arena_strn(arena, line.s, line.n);
    um_text_free(&line);
    return s;
}

/* --- one model --- */

static bool on_line(void *ctx, const um_json *line) { return um_asking_take(ctx, line); }

/* The job for what is not kept yet. */
static um_status ask_job(um_config *cfg, um_asking *asking, const char *requests, const char *media,
                         um_arena *arena, um_err *err)
{
    um_job job = {0};
    um_results results = {.out = stdout,
                          .log = stderr,
                          .take = on_line,
                          .ctx = asking,
                          .no_figures = cfg->quiet,
                          .source = requests,
                          .wanted = asking->n > INT_MAX ? UM_WANTED_UNKNOWN : (int)asking->n};
    um_requests input = {.file = true, .name = requests};
    UM_TRY(um_prepare(&job, cfg, (int64_t)asking->n, arena, err));
    UM_TRY(um_asking_write(asking, requests, media, (int)cfg->max_new_tokens, err));
    input.fd = open(requests, O_RDONLY | O_CLOEXEC);
    if (input.fd < 0) return UM_FAIL(err, UM_E_IO, "%s: %s", requests, strerror(errno));
    um_status st = um_run_job(&job, cfg, &input, &results, err);
    close(input.fd);
    unlink(requests);
    if (asking->st != UM_OK) {
        *err = asking->err;
        return asking->st;
    }
    if (st == UM_E_DATA && results.summary) st = UM_OK; /* requests failed: the report says which */
    return st;
}

/* Opens the model to learn which media it reads. */
static um_status model_plan(evaluation *e, um_asking *asking, um_kept *kept, bool **lacking,
                            const um_listed_model *m, um_err *err)
{
    um_checkpoint c;
    um_towers towers = {e->cfg.vision_tower, e->cfg.speech_tower, e->cfg.sound_tower};
    UM_TRY(um_checkpoint_open(&c, m->path, &towers, err));
    um_asking_plan(asking, &e->tasks, kept, &c.model, e->cfg.choices, &e->arena);
    for (int t = 0; t < e->tasks.n; t++) {
        const um_eval_task *task = &e->tasks.list[t].task;
        um_modality kind;
        for (size_t i = 0; i < task->n; i++)
            lacking[t][i] = um_asking_lacks(&kind, &task->items[i], &c.model);
    }
    um_checkpoint_close(&c);
    return UM_OK;
}

static size_t kept_count(const um_kept *k)
{
    size_t n = 0;
    for (size_t i = 0; i < k->task->n; i++) n += k->answer[i] != NULL || um_kept_scored(k, i);
    return n;
}

static um_status kept_open_all(evaluation *e, um_kept *kept, const um_listed_model *m, um_err *err)
{
    for (int t = 0; t < e->tasks.n; t++) {
        const um_listed_task *task = &e->tasks.list[t];
        const char *path =
            um_arena_fmt(&e->arena, "%s/answers/%s/%s.jsonl", e->cfg.out, m->name, task->name);
        UM_TRY(um_kept_open(&kept[t], path, origin_of(e, m, task, &e->arena), &task->task,
                            &e->arena, err));
        if (kept[t].begun[0] != '\0')
            fprintf(stderr,
                    "unimoe: %s, %s: %s since it was asked; it is asked again (the old answers are "
                    "in %s.old)\n",
                    m->name, task->name, kept[t].begun, path);
    }
    return UM_OK;
}

static um_status kept_close_all(um_kept *kept, int n, um_status st, um_err *err)
{
    for (int t = 0; t < n; t++) {
        um_err why = {0};
        um_status closed = um_kept_close(&kept[t], &why);
        if (st != UM_OK || closed == UM_OK) continue;
        st = closed;
        *err = why;
    }
    return st;
}

/* --dry-run: the job that would answer all questions; nothing is read or written but the model. */
static um_status model_dry_run(const evaluation *e, const um_listed_model *m, um_arena *arena,
                               um_err *err)
{
    um_job job = {0};
    um_config cfg = e->cfg;
    int64_t n = 0;
    cfg.model = m->path;
    cfg.media_folder = "/";
    cfg.requests = "-";
    cfg.out = "";
    for (int t = 0; t < e->tasks.n; t++) n += (int64_t)e->tasks.list[t].task.n;
    printf("%s:\n", m->name);
    return um_wrap(err, um_prepare(&job, &cfg, n, arena, err), "%s", m->name);
}

/* Asks one model what it has not answered yet. */
static um_status model_ask(evaluation *e, int k, um_err *err)
{
    const um_listed_model *m = &e->models.list[k];
    size_t n = (size_t)e->tasks.n;
    um_kept *kept = um_arena_zero(&e->arena, n * sizeof *kept);
    bool **lacking = um_arena_zero(&e->arena, n * sizeof *lacking);
    um_asking asking = {0};
    um_config cfg = e->cfg;
    cfg.model = m->path;
    cfg.media_folder = "/"; /* the paths of media are absolute */
    cfg.requests = "-";
    cfg.out = ""; /* no matter of the ranks' */
    const char *requests = um_arena_fmt(&e->arena, "%s/requests-%s.jsonl", e->cfg.out, m->name);
    for (size_t t = 0; t < n; t++)
        lacking[t] = um_arena_zero(&e->arena, (e->tasks.list[t].task.n + 1) * sizeof **lacking);
    um_status st = kept_open_all(e, kept, m, err);
    if (st == UM_OK) st = model_plan(e, &asking, kept, lacking, m, err);
    size_t there = 0;
    for (size_t t = 0; st == UM_OK && t < n; t++) there += kept_count(&kept[t]);
    if (st == UM_OK && !e->cfg.quiet && (there > 0 || asking.lacking > 0))
        fprintf(stderr, "%s: %zu questions are answered, %zu requests are to be made%s\n", m->name,
                there, asking.n, asking.lacking > 0 ? "; some questions cannot be put to it" : "");
    if (st == UM_OK && asking.n > 0)
        st = ask_job(&cfg, &asking, requests, um_path_join(&e->arena, e->cfg.out, "media"),
                     &e->arena, err);
    st = kept_close_all(kept, e->tasks.n, st, err);
    for (size_t t = 0; t < n; t++) {
        e->given[(size_t)k * n + t] = (um_given){.answer = kept[t].answer,
                                                 .likelihood = kept[t].likelihood,
                                                 .failure = kept[t].failure,
                                                 .lacking = lacking[t]};
        for (size_t i = 0; st == UM_OK && i < e->tasks.list[t].task.n; i++)
            e->failed += kept[t].failure[i] != NULL;
    }
    if (st == UM_E_STOPPED || st == UM_E_PEER)
        return um_wrap(err, st, "%s (what is answered is kept: the same command goes on)", m->name);
    return um_wrap(err, st, "%s", m->name);
}

/* Answers of another program to all tasks. */
static um_status answers_take(evaluation *e, int k, um_err *err)
{
    const um_listed_model *m = &e->models.list[k];
    bool folder = um_file_is_folder(m->path);
    size_t given = 0;
    for (int t = 0; t < e->tasks.n; t++) {
        const um_listed_task *task = &e->tasks.list[t];
        um_answers a = {0};
        const char *path =
            folder ? um_arena_fmt(&e->arena, "%s/%s.jsonl", m->path, task->name) : m->path;
        um_given *g = &e->given[k * e->tasks.n + t];
        *g = (um_given){.answer = um_arena_zero(&e->arena, (task->task.n + 1) * sizeof(char *))};
        if (folder && !um_file_exists(path)) {
            fprintf(stderr, "unimoe: --answers %s: no %s: the task is left out\n", m->name, path);
            continue;
        }
        UM_TRY(um_answers_read(&a, &task->task, path, &e->arena, err));
        g->answer = a.text;
        g->silence = a.given > 0;
        given += a.given;
        if (a.given == 0)
            fprintf(stderr,
                    "unimoe: --answers %s: none of its ids is one of task %s, which is left out\n",
                    m->name, task->name);
    }
    if (given == 0)
        return UM_FAIL(err, UM_E_DATA, "--answers %s: %s has no answer to any question", m->name,
                       m->path);
    return UM_OK;
}

/* --- all --- */

static um_status write_report(const evaluation *e, const um_outcome *o, um_err *err)
{
    um_text json = {0}, page = {0};
    um_arena arena;
    um_arena_init(&arena, "paths", 4096);
    um_eval_json_write(&json, o);
    um_eval_page(&page, o);
    um_status st =
        um_file_write(um_path_join(&arena, e->cfg.out, "eval.json"), json.s, json.n, err);
    if (st == UM_OK)
        st = um_file_write(um_path_join(&arena, e->cfg.out, "eval.html"), page.s, page.n, err);
    um_text_free(&json);
    um_text_free(&page);
    um_arena_free(&arena);
    return st;
}

static um_status settle(evaluation *e, um_err *err)
{
    um_config *cfg = &e->cfg;
    um_outcome nothing;
    if (cfg->args.n + cfg->answers.n == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "the model is missing: unimoe eval MODEL --task FILE -o DIR");
    if (cfg->task.n == 0) return UM_FAIL(err, UM_E_USAGE, "--task is missing: a file of questions");
    if (cfg->out[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--out is missing: the folder for answers and scores");
    UM_TRY(um_model_list_read(&e->models, cfg, &e->arena, err));
    UM_TRY(um_task_list_read(&e->tasks, cfg, &e->arena, err));
    if (!cfg->dry_run) {
        UM_TRY(um_file_mkdirs(cfg->out, err));
        UM_TRY(um_absolute(&cfg->out, "--out", UM_E_USAGE, &e->arena, err));
    }
    size_t n = (size_t)e->models.n * (size_t)e->tasks.n;
    e->given = um_arena_zero(&e->arena, n * sizeof *e->given);
    for (size_t i = 0; i < n; i++)
        e->given[i].answer = um_arena_zero(
            &e->arena, (e->tasks.list[i % (size_t)e->tasks.n].task.n + 1) * sizeof(char *));
    /* mistakes in --specialist are found before anything is asked */
    return um_outcome_make(&nothing, &e->models, &e->tasks, e->given, cfg, &e->arena, err);
}

static um_status run(evaluation *e, um_err *err)
{
    um_outcome o;
    UM_TRY(settle(e, err));
    for (int k = 0; e->cfg.dry_run && k < e->models.n; k++)
        if (!e->models.list[k].answers)
            UM_TRY(model_dry_run(e, &e->models.list[k], &e->arena, err));
    if (e->cfg.dry_run) return UM_OK;
    for (int k = 0; k < e->models.n; k++)
        UM_TRY(e->models.list[k].answers ? answers_take(e, k, err) : model_ask(e, k, err));
    UM_TRY(um_outcome_make(&o, &e->models, &e->tasks, e->given, &e->cfg, &e->arena, err));
    UM_TRY(write_report(e, &o, err));
    um_eval_table(stdout, &o);
    if (!e->cfg.quiet) fprintf(stderr, "scores are in %s/eval.json and eval.html\n", e->cfg.out);
    if (e->failed > 0)
        return UM_FAIL(
            err, UM_E_DATA,
            "%ld questions could not be put, which the scores leave out: see failures in "
            "eval.json; the same command asks them again",
            e->failed);
    return UM_OK;
}

um_status um_eval(const um_config *cfg, um_err *err)
{
    evaluation e = {.cfg = *cfg};
    um_arena_init(&e.arena, "evaluation", 1 << 20);
    um_status st = run(&e, err);
    um_arena_free(&e.arena);
    return st;
}
