/* See training_fixture.h. */
#include "tests/cluster/train/training_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include "core/base/file.h"
#include "core/base/process.h"
#include "core/train/saved.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static um_err why; /* of the last call that failed */

static const char *write_data(const training_run *j)
{
    um_json *file = golden_json(golden_path(&arena, "training/s4/training.json"));
    const um_json *samples = um_json_get(file, "samples");
    const char *path = um_path_join(&arena, dir, "data.json");
    um_text t = {0};
    for (size_t i = 0; i < um_json_size(samples); i++)
        um_text_fmt(&t, "%s%s", i == 0 ? "[" : ",\n",
                    um_json_compact(um_json_at(samples, i), &arena));
    if (j->broken != NULL)
        um_text_fmt(&t,
                    ",{\"image\":\"%s\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>"
                    "\\nWhat?\"},{\"from\":\"gpt\",\"value\":\"a dog\"}]}",
                    j->broken);
    um_text_fmt(&t, "]\n");
    assert_int_equal(um_file_write(path, t.s, t.n, &why), UM_OK);
    um_text_free(&t);
    um_json_free(file);
    return path;
}

/* Keeps the lines, and asks for the end. */
static um_status tap(void *ctx, const char *line, um_err *err)
{
    training_run *j = ctx;
    char step[32];
    (void)err;
    snprintf(step, sizeof step, "\"step\":%llu,", (unsigned long long)j->stop);
    if (j->stop > 0 && strstr(line, step) != NULL) raise(SIGUSR2);
    size_t n = strlen(j->lines);
    snprintf(j->lines + n, sizeof j->lines - n, "%s\n", line);
    return UM_OK;
}

const char *training_go(training_run *j)
{
    cluster c;
    const char *newest = NULL;
    cluster_init(&c, j->model != NULL ? j->model : golden_path(&arena, "models/s4"));
    c.cfg.train = true;
    c.cfg.stage = j->stage != NULL ? j->stage : "3";
    if (j->freeze != NULL) c.cfg.freeze = j->freeze;
    c.cfg.data.item[c.cfg.data.n++] = j->data != NULL ? j->data : write_data(j);
    if (j->held_out) c.cfg.eval_data = c.cfg.data;
    c.cfg.eval_every = j->held_out ? 2 : 0;
    c.cfg.media_folder = golden_path(&arena, "training/s4");
    c.cfg.out = um_path_join(&arena, dir, j->out);
    c.cfg.resume = j->resume != NULL ? j->resume : "";
    c.cfg.steps = TRAINING_STEPS;
    c.cfg.batch = 3;
    c.cfg.micro_batch = 1;
    c.cfg.lr = j->lr > 0 ? j->lr : 1e-3;
    c.cfg.warmup = 0;
    c.cfg.save_every = j->save_every;
    c.cfg.keep = 100;
    if (j->log_every > 0) c.cfg.log_every = j->log_every;
    if (j->give_up > 0) c.cfg.give_up = j->give_up;
    if (j->recompute != NULL) c.cfg.recompute = j->recompute;
    c.cfg.routers = j->routers;
    c.cfg.experts = j->experts;
    c.cfg.encoders = um_arena_fmt(&arena, "%d", j->encoders);
    if (j->options != NULL) j->options(&c.cfg);
    c.fault = j->fault;
    c.tap = tap;
    c.tap_ctx = j;
    um_signals_forget();
    j->st = cluster_run(&c);
    um_signals_forget();
    j->err = c.err[0];
    for (int r = 0; r < c.ranks && j->st != UM_OK && j->lr < 1 && j->fault == NULL; r++)
        if (c.status[r] != UM_OK) print_message("rank %d: %s\n", r, c.err[r].msg);
    cluster_free(&c);
    assert_int_equal(um_saved_newest(&newest, c.cfg.out, &arena, &why), UM_OK);
    return newest;
}

void training_same(const char *a, const char *b)
{
    um_saved x, y;
    size_t n[2] = {0};
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(um_saved_open(&x, a, true, &why), UM_OK);
    assert_int_equal(um_saved_open(&y, b, true, &why), UM_OK);
    assert_int_equal(x.step, y.step);
    for (int s = 0; s < y.n_sets; s++) n[1] += um_tensors_count(y.sets[s]);
    for (int s = 0; s < x.n_sets; s++)
        for (size_t i = 0; i < um_tensors_count(x.sets[s]); i++, n[0]++) {
            const um_tensor *t = um_tensors_at(x.sets[s], i), *u = um_saved_tensor(&y, "", t->name);
            if (u == NULL) fail_msg("%s is not in %s", t->name, b);
            if (t->bytes != u->bytes || memcmp(t->data, u->data, t->bytes) != 0)
                fail_msg("%s differs between %s and %s", t->name, a, b);
        }
    assert_true(n[0] > 100);
    assert_int_equal(n[0], n[1]);
    um_saved_close(&y);
    um_saved_close(&x);
}
