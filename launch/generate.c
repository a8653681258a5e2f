/* unimoe generate: one question, or a file of requests, through a job. See command.h. */
#include "launch/command.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "launch/plot/plot.h"
#include "launch/job/requests.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

static um_status check(const um_config *cfg, um_err *err)
{
    int media = cfg->image.n + cfg->video.n + cfg->speech.n + cfg->sound.n;
    bool prompt = cfg->prompt[0] != '\0' || media > 0, file = cfg->requests[0] != '\0';
    if (cfg->model[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--model is missing: the model directory");
    if (prompt && file)
        return UM_FAIL(err, UM_E_USAGE, "--requests excludes --prompt and the media flags");
    if (!file && cfg->prompt[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--prompt is missing: the question (or --requests FILE)");
    return UM_OK;
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
    cfg->routing = um_path_join(arena, here, cfg->routing);
    n = strlen(cfg->routing);
    if (n > 4 && strcmp(cfg->routing + n - 4, ".svg") == 0) {
        *svg = cfg->routing;
        cfg->routing = um_arena_fmt(arena, "%s.csv", um_arena_strn(arena, *svg, n - 4));
    }
    const char *folder = um_path_dir(arena, cfg->routing);
    if (access(folder, W_OK) != 0)
        return UM_FAIL(err, UM_E_IO, "--routing: folder %s: %s", folder, strerror(errno));
    return UM_OK;
}

um_status um_generate(const um_config *given, um_err *err)
{
    um_config cfg = *given;
    um_arena arena;
    um_job job = {0};
    um_text requests = {0};
    um_results answers = {.out = stdout, .log = stderr, .json = cfg.json};
    um_arena_init(&arena, "generate", 1 << 16);
    const char *svg = "";
    um_status st = check(&cfg, err);
    if (st == UM_OK) st = routing_paths(&cfg, &svg, &arena, err);
    if (st == UM_OK) st = um_requests_build(&requests, &answers.wanted, &cfg, &arena, err);
    cfg.requests = "-";
    if (st == UM_OK)
        st = um_prepare(&job, &cfg, um_min_int(answers.wanted, (int)cfg.max_batch), &arena, err);
    if (st == UM_OK && job.argc > 0) {
        st = um_run_job(&job, &requests, &answers, err);
        if (st == UM_OK && svg[0] != '\0' && answers.done > 0)
            st = um_plot_routing(cfg.routing, svg, err);
        if (st == UM_OK) st = um_results_verdict(&answers, err);
    }
    um_text_free(&requests);
    um_arena_free(&arena);
    return st;
}
