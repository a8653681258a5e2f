/* unimoe trace: one request through a job, with every tensor written to a file by router 0. See command.h. */
#include "launch/command.h"

#include "core/base/file.h"
#include "core/train/training_file.h"
#include "launch/train/training_job.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

enum { REQUEST_LIMIT = 64 << 20 };

/* The model that the request names, relative to the request's folder, unless --model was given. */
static um_status find_model(um_config *cfg, um_arena *arena, um_err *err)
{
    um_json *request = NULL;
    uint8_t *text = NULL;
    size_t n = 0;
    if (um_file_read(&text, &n, cfg->request, REQUEST_LIMIT, arena, err) != UM_OK) return UM_E_DATA;
    if (um_json_parse_large(&request, text, n, err) != UM_OK)
        return um_wrap(err, UM_E_DATA, "%s", cfg->request);
    const char *model = um_json_str(um_json_get(request, "model"), "");
    um_status st = UM_OK;
    if (um_json_kind_of(request) != UM_JSON_OBJECT)
        st = UM_FAIL(err, UM_E_DATA, "%s: not a JSON object", cfg->request);
    else if (cfg->model[0] == '\0' && model[0] == '\0')
        st = UM_FAIL(err, UM_E_USAGE, "%s names no \"model\": give --model DIR", cfg->request);
    else if (cfg->model[0] == '\0')
        cfg->model = um_path_join(arena, um_path_dir(arena, cfg->request), model);
    um_json_free(request);
    return st;
}

/* The request and the output, as absolute paths. */
static um_status settle_output(um_config *cfg, um_arena *arena, um_err *err)
{
    char path[PATH_MAX];
    if (cfg->request[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "the request is missing: unimoe trace REQUEST.json");
    if (cfg->out[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "--out is missing: the safetensors file to write");
    UM_TRY(um_absolute(&cfg->request, "request", UM_E_DATA, arena, err));
    if (getcwd(path, sizeof path) == NULL)
        return UM_FAIL(err, UM_E_IO, "this folder: %s", strerror(errno));
    cfg->out = um_path_join(arena, path, cfg->out);
    const char *folder = um_path_dir(arena, cfg->out);
    if (access(folder, W_OK) != 0)
        return UM_FAIL(err, UM_E_USAGE, "--out: folder %s: %s", folder, strerror(errno));
    return UM_OK;
}

static um_status settle_paths(um_config *cfg, um_arena *arena, um_err *err)
{
    UM_TRY(settle_output(cfg, arena, err));
    return find_model(cfg, arena, err);
}

/* --train: the file is a training file. */
static um_status trace_training(um_config *cfg, um_arena *arena, um_err *err)
{
    um_training_file f = {0};
    um_job job = {0};
    um_train_outcome out;
    UM_TRY(settle_output(cfg, arena, err));
    UM_TRY(um_training_file_open(&f, cfg->request, arena, err));
    um_status st = um_training_file_options(&f, cfg, arena, err);
    um_training_file_close(&f);
    if (st == UM_OK) st = um_prepare(&job, cfg, 1, arena, err);
    if (st != UM_OK || job.argc == 0) return st;
    return um_train_job_run(&out, &job, cfg, stderr, true, err);
}

um_status um_trace(const um_config *given, um_err *err)
{
    um_config cfg = *given;
    um_arena arena;
    um_job job = {0};
    um_results answers = {.out = stdout,
                          .log = stderr,
                          .quiet = true,
                          .no_figures = cfg.quiet,
                          .unnamed = true,
                          .wanted = 1};
    um_arena_init(&arena, "trace", 1 << 16);
    if (cfg.train) {
        um_status trained = trace_training(&cfg, &arena, err);
        um_arena_free(&arena);
        return trained;
    }
    um_status st = settle_paths(&cfg, &arena, err);
    if (st == UM_OK) st = um_prepare(&job, &cfg, 1, &arena, err);
    if (st == UM_OK && job.argc > 0) {
        st = um_run_job(&job, &cfg, NULL, &answers, err);
    }
    um_arena_free(&arena);
    return st;
}
