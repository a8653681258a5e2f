/* See training_job.h. */
#include "launch/train/training_job.h"

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "launch/job/run.h"
#include "launch/plot/plot.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { DRAW_SHARE = 20 }; /* drawing takes at most one part in so many of the time */

enum { SHOW_NS = 2000000000 }; /* steps at which nothing happened are shown no more often */

/* What the callbacks of a job share. */
typedef struct view {
    um_train_record last;
    FILE *to;
    bool quiet;
    int64_t shown_ns; /* when a step was shown last; 0: none */
    bool ended;       /* the job's last line came: */
    bool stopped;     /* a signal ended it, after it had saved */
    uint64_t step, steps, skipped, lost;
    const char *folder;           /* of the run; NULL: it has no log */
    int64_t drawn_ns, drawing_ns; /* when training.svg was drawn last, and how long that took */
} view;

/* Draws the log as it is now: at the end, and before it not so often that the job would wait for it. */
static void draw(view *v, bool last)
{
    const int64_t since = um_now_ns();
    um_err why = {0};
    um_arena a;
    if (v->folder == NULL) return;
    if (!last && v->drawn_ns != 0 && since - v->drawn_ns < DRAW_SHARE * v->drawing_ns) return;
    um_arena_init(&a, "figure", 4096);
    if (um_plot_training(v->folder, um_path_join(&a, v->folder, "training.svg"), &why) != UM_OK)
        um_log_warn("training.svg: %s", why.msg);
    um_arena_free(&a);
    v->drawn_ns = um_now_ns();
    v->drawing_ns = v->drawn_ns - since;
}

static void show(view *v, const um_train_record *r)
{
    um_text line = {0};
    const bool news = r->skipped != NULL || r->saved != NULL || isfinite(r->eval_loss) ||
                      r->step == r->steps || r->lost > 0;
    const int64_t now = um_now_ns();
    if (v->quiet || (!news && v->shown_ns != 0 && now - v->shown_ns < SHOW_NS)) return;
    v->shown_ns = now;
    um_record_line(&line, r);
    fprintf(v->to, "%s\n", line.s);
    fflush(v->to);
    um_text_free(&line);
}

static void end(view *v, const um_json *j)
{
    v->ended = true;
    v->stopped = um_json_bool(um_json_get(j, "stopped"), false);
    v->step = (uint64_t)um_json_int(um_json_get(j, "step"), 0);
    v->steps = (uint64_t)um_json_int(um_json_get(j, "steps"), 0);
    v->skipped = (uint64_t)um_json_int(um_json_get(j, "skipped"), 0);
    v->lost = (uint64_t)um_json_int(um_json_get(j, "lost"), 0);
}

static um_job_next on_line(void *ctx, const char *line)
{
    view *v = ctx;
    um_json *j = NULL;
    um_err why = {0};
    um_train_record r;
    um_job_next next = UM_JOB_GO_ON;
    if (um_json_parse(&j, line, strlen(line), &why) != UM_OK) {
        fprintf(v->to, "%s\n", line);
        return UM_JOB_GO_ON;
    }
    if (um_record_read(&r, j)) {
        show(v, &r);
        if (r.saved != NULL) draw(v, false);
        r.media = r.skipped = r.saved = NULL;
        v->last = r;
    } else if (strcmp(um_json_str(um_json_get(j, "kind"), ""), "trained") == 0) {
        end(v, j);
        next = UM_JOB_LAST;
    }
    um_json_free(j);
    return next;
}

static void on_log(void *ctx, const char *line)
{
    view *v = ctx;
    fprintf(v->to, "%s\n", line);
}

um_status um_train_job_run(um_train_outcome *out, const um_job *job, const um_config *cfg, FILE *to,
                           bool quiet, um_err *err)
{
    const bool traces = cfg->request[0] != '\0';
    view v = {.to = to, .quiet = quiet, .folder = traces ? NULL : cfg->out};
    const um_job_io io = {.line = on_line, .log = on_log, .saves = !traces, .ctx = &v};
    um_status st = um_job_run(job, &io, err);
    if (v.ended) draw(&v, true);
    if (st != UM_E_STOPPED) err->signal = 0;
    if (st != UM_OK) return st;
    if (!v.ended) return UM_FAIL(err, UM_E_PEER, "the job ended before its last step");
    if (v.stopped)
        return UM_FAIL(err, UM_E_SAVED,
                       "stopped at step %" PRIu64 " of %" PRIu64
                       "; the checkpoint is written: --resume auto goes on",
                       v.step, v.steps);
    *out =
        (um_train_outcome){.steps = v.steps, .skipped = v.skipped, .lost = v.lost, .last = v.last};
    return UM_OK;
}
