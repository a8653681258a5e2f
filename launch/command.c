/* See command.h: what the commands that start a job have in common. */
#include "launch/command.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/nn/checkpoint.h"
#include "core/tensor/ops.h"
#include "launch/job/host.h"
#include "launch/job/memory_plan.h"
#include "launch/job/run.h"
#include "launch/job/start_check.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

um_status um_absolute(const char **path, const char *what, um_status st, um_arena *arena,
                      um_err *err)
{
    char real[PATH_MAX];
    if ((*path)[0] == '\0') return UM_OK;
    if (realpath(*path, real) == NULL)
        return UM_FAIL(err, st, "%s %s: %s", what, *path, strerror(errno));
    *path = um_arena_str(arena, real);
    return UM_OK;
}

/* load: of a job that trains; else NULL */
static um_status compose(um_job *job, um_config *cfg, const um_checkpoint *c, int64_t sequences,
                         const um_training_load *load, um_arena *arena, um_err *err)
{
    um_job_site site;
    um_job whole;
    um_memory_plan plan;
    UM_TRY(um_job_resolve(cfg, &c->model, err));
    cfg->progress = !cfg->dry_run;
    UM_TRY(um_job_site_here(&site, arena, err));
    UM_TRY(um_job_compose(&whole, cfg, &site, arena, err));
    UM_TRY(um_memory_plan_make(&plan, cfg, c, sequences, arena, err));
    if (load != NULL) UM_TRY(um_training_plan_add(&plan, cfg, c, load, arena, err));
    /* with a hostfile the ranks are spread, and nobody here knows the other machines' memory */
    int64_t available = cfg->hostfile[0] == '\0' ? um_memory_available() : 0;
    const char *shortage = um_memory_plan_shortage(&plan, available, arena);
    *job = (um_job){0};
    if (!cfg->dry_run) {
        if (load != NULL) UM_TRY(um_training_plan_check(&plan, available, err));
        if (shortage[0] != '\0') um_log_warn("%s", shortage);
        *job = whole;
        return UM_OK;
    }
    if (cfg->request[0] == '\0' && !cfg->train)
        fputs("unimoe: typed by hand, this line reads requests from standard input: add <FILE\n",
              stderr);
    printf("%s\n\n", um_job_line(&whole, arena));
    um_memory_plan_print(&plan, stdout);
    if (available > 0) {
        char room[32];
        um_bytes_text(room, available);
        printf("free on this machine: %s\n", room);
    }
    if (shortage[0] != '\0') printf("too little memory: %s\n", shortage);
    return UM_OK;
}

static um_status prepare(um_job *job, um_config *cfg, int64_t sequences,
                         const um_training_load *load, um_arena *arena, um_err *err)
{
    um_checkpoint c;
    UM_TRY(um_absolute(&cfg->model, "model", UM_E_MODEL, arena, err));
    UM_TRY(um_absolute(&cfg->vision_tower, "vision tower", UM_E_MODEL, arena, err));
    UM_TRY(um_absolute(&cfg->decoder, "decoder", UM_E_USAGE, arena, err));
    UM_TRY(um_absolute(&cfg->speech_tower, "speech tower", UM_E_MODEL, arena, err));
    UM_TRY(um_absolute(&cfg->sound_tower, "sound tower", UM_E_MODEL, arena, err));
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    UM_TRY(um_absolute(&cfg->hostfile, "hostfile", UM_E_USAGE, arena, err));
    UM_TRY(um_checkpoint_open(&c, cfg->model, &towers, err));
    um_status st = um_model_tokenizer_check(cfg->model, err);
    for (int i = 0; i < c.model.notes.n; i++) um_log_warn("%s", c.model.notes.line[i]);
    if (st == UM_OK) st = compose(job, cfg, &c, sequences, load, arena, err);
    um_checkpoint_close(&c);
    return st;
}

um_status um_prepare(um_job *job, um_config *cfg, int64_t sequences, um_arena *arena, um_err *err)
{
    return prepare(job, cfg, sequences, NULL, arena, err);
}

um_status um_prepare_training(um_job *job, um_config *cfg, const um_training_load *load,
                              um_arena *arena, um_err *err)
{
    return prepare(job, cfg, cfg->micro_batch, load, arena, err);
}

static um_job_next on_line(void *ctx, const char *line) { return um_results_line(ctx, line); }

static void on_log(void *ctx, const char *line)
{
    um_results *a = ctx;
    um_job_progress_clear(a->progress);
    fprintf(a->log, "%s\n", line);
}

static um_job_next on_tick(void *ctx)
{
    um_results *a = ctx;
    um_job_progress_tick(a->progress, um_now_ns());
    return um_results_wanted(a) ? UM_JOB_GO_ON : UM_JOB_STOP;
}

/* A rank that reads behind the end of a file that became shorter dies of SIGBUS; so does one that finds /dev/shm full. */
static um_status explain_bus_error(const um_config *cfg, um_status st, um_err *err)
{
    um_checkpoint c;
    um_err why = {0}, old = *err;
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    if (um_checkpoint_open(&c, cfg->model, &towers, &why) != UM_OK)
        return UM_FAIL(err, UM_E_MODEL, "%.300s: the model was changed while it was read: %.500s",
                       old.msg, why.msg);
    um_checkpoint_close(&c);
    char room[32];
    um_bytes_text(room, um_host_shm_free());
    return UM_FAIL(err, st,
                   "%.400s: a file that it reads became shorter, or /dev/shm is full "
                   "(%s are free now)",
                   old.msg, room);
}

static um_status check_start(const um_job *job, const um_config *cfg, um_arena *arena, um_err *err)
{
    um_job_site site;
    um_dev dev;
    UM_TRY(um_dev_open_cpu(&dev, (um_isa)um_isa_from_name(cfg->isa), 1, err));
    UM_TRY(um_job_site_here(&site, arena, err));
    return um_start_check(&(um_start){.ranks = cfg->hostfile[0] != '\0' ? 1 : um_job_ranks(job),
                                      .shared_memory = !um_job_has_word(job, "btl"),
                                      .site = &site},
                          arena, err);
}

um_status um_run_job(const um_job *job, const um_config *cfg, const um_requests *input,
                     um_results *a, um_err *err)
{
    um_arena arena;
    um_job_progress progress;
    um_job_io io = {.line = on_line,
                    .log = on_log,
                    .tick = on_tick,
                    .start_ms = cfg->start_timeout_ms,
                    .ctx = a};
    if (input != NULL) {
        io.input = input->head.s;
        io.input_size = input->head.n;
        io.input_more = input->fd >= 0;
        io.input_fd = input->fd;
    }
    if (io.start_ms == 0) io.start_ms = um_start_timeout_ms(um_job_ranks(job));
    um_arena_init(&arena, "start", 1 << 14);
    um_status st = check_start(job, cfg, &arena, err);
    um_arena_free(&arena);
    UM_TRY(st);
    um_job_progress_open(&progress, a->log, um_job_ranks(job), a->wanted,
                         cfg->quiet || !um_log_enabled(UM_LOG_WARN));
    a->progress = &progress;
    a->codec = strcmp(cfg->codec, "none") != 0;
    st = um_job_run(job, &io, err);
    um_job_progress_clear(&progress);
    a->progress = NULL;
    if (st != UM_OK && err->signal == SIGBUS) st = explain_bus_error(cfg, st, err);
    if (st != UM_E_STOPPED) err->signal = 0;
    return um_results_verdict(a, st, err);
}
