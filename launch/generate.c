/* unimoe generate: one question, or a file of requests, through a job. See command.h. */
#include "launch/command.h"

#include "core/base/bytes.h"
#include "launch/requests.h"

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

um_status um_generate(const um_config *given, um_err *err)
{
    um_config cfg = *given;
    um_arena arena;
    um_job job = {0};
    um_text requests = {0};
    um_answers answers = {.out = stdout, .log = stderr, .json = cfg.json};
    um_arena_init(&arena, "generate", 1 << 16);
    um_status st = check(&cfg, err);
    if (st == UM_OK) st = um_requests_build(&requests, &answers.wanted, &cfg, &arena, err);
    cfg.requests = "-";
    if (st == UM_OK)
        st = um_prepare(&job, &cfg, um_min_int(answers.wanted, (int)cfg.max_batch), &arena, err);
    if (st == UM_OK && job.argc > 0) {
        st = um_run_job(&job, &requests, &answers, err);
        if (st == UM_OK) st = um_answers_verdict(&answers, err);
    }
    um_text_free(&requests);
    um_arena_free(&arena);
    return st;
}
