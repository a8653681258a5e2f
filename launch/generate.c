/* unimoe generate: one question, or a file of requests, through a job. See command.h. */
#include "launch/command.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json_lines.h"
#include "launch/plot/plot.h"
#include "launch/job/requests.h"
#include "router/request/request.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

static um_status check(const um_config *cfg, um_err *err)
{
    int media = cfg->image.n + cfg->video.n + cfg->speech.n + cfg->sound.n;
    bool text = cfg->prompt[0] != '\0', prompt_file = cfg->prompt_file[0] != '\0';
    bool file = cfg->requests[0] != '\0';
    if (cfg->model[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--model is missing: the model directory");
    if (file && (text || prompt_file || media > 0))
        return UM_FAIL(err, UM_E_USAGE, "--requests excludes --prompt%s and the media flags",
                       prompt_file ? ", --prompt-file" : "");
    if (text && prompt_file)
        return UM_FAIL(err, UM_E_USAGE, "--prompt and --prompt-file: give one of them");
    if (!file && !text && !prompt_file)
        return UM_FAIL(err, UM_E_USAGE, "--prompt is missing: the question (or --requests FILE)");
    return UM_OK;
}

/* Parses what is there of one item; when it cannot be answered, its error goes to answers. */
static bool item_check(const um_json_item *item, const char *folder, um_results *answers)
{
    um_arena arena;
    um_request request;
    um_err why = {0};
    um_text line = {0};
    um_arena_init(&arena, "request", 1 << 16);
    um_request_source from = {item->text, item->n,      item->bytes,
                              folder,     item->number, .element = item->element};
    bool good = um_request_parse(&request, &from, &arena, &why) == UM_OK;
    if (!good && answers != NULL) {
        um_request_error(&line, &request, why.msg);
        um_results_line(answers, line.s);
    }
    um_text_free(&line);
    um_arena_free(&arena);
    return good;
}

static bool is_cancel(const um_json_item *item)
{
    um_arena arena;
    const char *id = NULL;
    um_arena_init(&arena, "cancel", 4096);
    bool cancel = um_request_is_cancel(&id, item->text, item->n, &arena);
    um_arena_free(&arena);
    return cancel;
}

/* Counts the requests and how many of them can be answered; the errors of those that cannot go to answers, unless it is NULL. */
static int requests_check(int *good, const um_requests *r, const char *folder, um_results *answers)
{
    um_json_lines lines = {.limit = UM_REQUEST_BYTES_MAX};
    um_json_item item;
    int n = 0;
    *good = 0;
    for (size_t at = 0; at < r->head.n;) {
        at += um_json_lines_read(&lines, &item, r->head.s + at, r->head.n - at);
        if (item.text == NULL || is_cancel(&item)) continue;
        n++;
        *good += item_check(&item, folder, answers);
    }
    um_json_lines_end(&lines, &item);
    if (item.text != NULL && !is_cancel(&item)) {
        n++;
        *good += item_check(&item, folder, answers);
    }
    um_json_lines_free(&lines);
    return n;
}

/* Opens the requests. When all of them are there and none can be answered, no job is needed to say so. *job: it is. */
static um_status requests_open(um_requests *r, bool *job, um_config *cfg, um_results *answers,
                               um_arena *arena, um_err *err)
{
    int good = 0;
    *job = true;
    UM_TRY(um_requests_open(r, cfg, arena, err));
    answers->unnamed = !r->file;
    answers->source = r->name;
    answers->wanted = UM_WANTED_UNKNOWN;
    if (r->fd >= 0) return UM_OK;
    answers->wanted = requests_check(&good, r, cfg->media_folder, NULL);
    if (answers->wanted == 0) return UM_FAIL(err, UM_E_DATA, "%s: no request in it", r->name);
    if (good > 0) return UM_OK;
    *job = false;
    requests_check(&good, r, cfg->media_folder, answers);
    return um_results_verdict(answers, UM_OK, err);
}

/* --routing NAME.svg: the routers write NAME.csv, and *svg is drawn of it; else *svg is "". Ranks may start elsewhere, so the path
 * becomes absolute. */
static um_status routing_paths(um_config *cfg, const char **svg, um_arena *arena, um_err *err)
{
    char here[PATH_MAX];
    size_t n = strlen(cfg->routing);
    *svg = "";
    if (n == 0) return UM_OK;
    if (getcwd(here, sizeof here) == NULL)
        return UM_FAIL(err, UM_E_IO, "this folder: %s", strerror(errno));
    um_plot_format format;
    UM_TRY(um_plot_format_of(&format, "--routing", cfg->routing, UM_PLOT_CSV, err));
    cfg->routing = um_path_join(arena, here, cfg->routing);
    n = strlen(cfg->routing);
    if (format == UM_PLOT_SVG) {
        *svg = cfg->routing;
        cfg->routing = um_arena_fmt(arena, "%s.csv", um_arena_strn(arena, *svg, n - 4));
    }
    const char *folder = um_path_dir(arena, cfg->routing);
    if (access(folder, W_OK) != 0)
        return UM_FAIL(err, UM_E_USAGE, "--routing: folder %s: %s", folder, strerror(errno));
    return UM_OK;
}

um_status um_generate(const um_config *given, um_err *err)
{
    um_config cfg = *given;
    um_arena arena;
    um_job job = {0};
    um_requests requests = {.fd = -1};
    um_results answers = {.out = stdout, .log = stderr, .json = cfg.json, .no_figures = cfg.quiet};
    um_arena_init(&arena, "generate", 1 << 16);
    const char *svg = "";
    bool start = true;
    um_status st = check(&cfg, err);
    if (st == UM_OK) st = routing_paths(&cfg, &svg, &arena, err);
    if (st == UM_OK) st = requests_open(&requests, &start, &cfg, &answers, &arena, err);
    cfg.requests = "-";
    int64_t together = answers.wanted == UM_WANTED_UNKNOWN ? INT64_MAX : answers.wanted;
    if (st == UM_OK && start) st = um_prepare(&job, &cfg, together, &arena, err);
    if (st == UM_OK && job.argc > 0) {
        st = um_run_job(&job, &cfg, &requests, &answers, err);
        bool plot = st == UM_OK || (st == UM_E_DATA && answers.done > 0);
        if (plot && svg[0] != '\0' && answers.summary) {
            um_err why = {0};
            um_status drawn = um_plot_routing(cfg.routing, svg, &why);
            if (drawn != UM_OK && st == UM_OK) *err = why;
            if (st == UM_OK) st = drawn;
        }
    }
    um_requests_close(&requests);
    um_arena_free(&arena);
    return st;
}
