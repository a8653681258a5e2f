/* See command.h: what generate and trace have in common. */
#include "launch/command.h"

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/nn/checkpoint.h"
#include "launch/job/memory_plan.h"
#include "launch/job/run.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* path as the file system resolves it; "" stays. what names it in the message. */
static um_status absolute(const char **path, const char *what, um_status st, um_arena *arena,
                          um_err *err)
{
    char real[PATH_MAX];
    if ((*path)[0] == '\0') return UM_OK;
    if (realpath(*path, real) == NULL)
        return UM_FAIL(err, st, "%s %s: %s", what, *path, strerror(errno));
    *path = um_arena_str(arena, real);
    return UM_OK;
}

static um_status compose(um_job *job, um_config *cfg, const um_checkpoint *c, int64_t sequences,
                         um_arena *arena, um_err *err)
{
    um_job_site site;
    um_job whole;
    um_memory_plan plan;
    UM_TRY(um_job_resolve(cfg, &c->model, err));
    UM_TRY(um_job_site_here(&site, arena, err));
    UM_TRY(um_job_compose(&whole, cfg, &site, arena, err));
    UM_TRY(um_memory_plan_make(&plan, cfg, c, sequences, arena, err));
    /* with a hostfile the ranks are spread, and nobody here knows the other machines' memory */
    int64_t available = cfg->hostfile[0] == '\0' ? um_memory_available() : 0;
    const char *shortage = um_memory_plan_shortage(&plan, available, arena);
    *job = (um_job){0};
    if (!cfg->dry_run) {
        if (shortage[0] != '\0') um_log_warn("%s", shortage);
        *job = whole;
        return UM_OK;
    }
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

um_status um_prepare(um_job *job, um_config *cfg, int64_t sequences, um_arena *arena, um_err *err)
{
    um_checkpoint c;
    UM_TRY(absolute(&cfg->model, "model", UM_E_MODEL, arena, err));
    UM_TRY(absolute(&cfg->vision_tower, "vision tower", UM_E_MODEL, arena, err));
    UM_TRY(absolute(&cfg->decoder, "decoder", UM_E_USAGE, arena, err));
    UM_TRY(absolute(&cfg->speech_tower, "speech tower", UM_E_MODEL, arena, err));
    UM_TRY(absolute(&cfg->sound_tower, "sound tower", UM_E_MODEL, arena, err));
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    UM_TRY(absolute(&cfg->hostfile, "hostfile", UM_E_USAGE, arena, err));
    UM_TRY(um_checkpoint_open(&c, cfg->model, &towers, err));
    um_status st = um_model_tokenizer_check(cfg->model, err);
    for (int i = 0; i < c.model.notes.n; i++) um_log_warn("%s", c.model.notes.line[i]);
    if (st == UM_OK) st = compose(job, cfg, &c, sequences, arena, err);
    um_checkpoint_close(&c);
    return st;
}

static bool on_line(void *ctx, const char *line) { return um_results_line(ctx, line); }

static void on_log(void *ctx, const char *line)
{
    um_results *a = ctx;
    fprintf(a->log, "%s\n", line);
}

um_status um_run_job(const um_job *job, const um_requests *input, um_results *a, um_err *err)
{
    um_job_io io = {.line = on_line, .log = on_log, .ctx = a};
    if (input != NULL) {
        io.input = input->head.s;
        io.input_size = input->head.n;
        io.input_more = input->fd >= 0;
        io.input_fd = input->fd;
    }
    return um_job_run(job, &io, err);
}
