/* Training in a whole cluster of threads: the golden training files, on several numbers of ranks. */
#include "tests/cluster/train/training_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/process.h"
#include "core/comm/exchange.h"
#include "core/train/record.h"
#include "core/train/saved.h"
#include "core/train/training_file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static um_err why; /* of the last call that failed */

static void run(cluster *c)
{
    um_status st = cluster_run(c);
    for (int r = 0; r < c->ranks && st != UM_OK; r++)
        if (c->status[r] != UM_OK) print_message("rank %d: %s\n", r, c->err[r].msg);
    assert_int_equal(st, UM_OK);
    cluster_free(c);
}

/* Traces a golden training file; returns the path of what was written. */
static const char *trace(const char *model, int routers, int experts, int encoders, bool guarded)
{
    cluster c;
    um_training_file file = {0};
    const char *out =
        um_arena_fmt(&arena, "%s/%s-%d-%d-%d.safetensors", dir, model, routers, experts, encoders);
    cluster_init(&c, "");
    c.cfg.request = golden_path(&arena, "training/%s/training.json", model);
    if (um_training_file_open(&file, c.cfg.request, &arena, &why) != UM_OK ||
        um_training_file_options(&file, &c.cfg, &arena, &why) != UM_OK)
        fail_msg("%s", why.msg);
    um_training_file_close(&file);
    c.cfg.out = out;
    c.cfg.routers = routers;
    c.cfg.experts = experts;
    c.cfg.encoders = um_arena_fmt(&arena, "%d", encoders);
    c.guarded = guarded;
    run(&c);
    return out;
}

static um_tensors *open_tensors(const char *path)
{
    um_tensors *s = NULL;
    if (um_tensors_open(&s, path, &why) != UM_OK) fail_msg("%s", why.msg);
    return s;
}

/* How far a tensor may be off, as a share of the largest value wanted; by its name. */
static float bound(const char *name)
{
    if (strncmp(name, "losses", 6) == 0) return 2e-4f;
    if (strstr(name, ".loss") != NULL || strstr(name, ".balance") != NULL) return 1e-5f;
    return 1e-4f;
}

static void compare(const char *name, const um_tensor *got, const um_tensor *want, float most)
{
    um_mark mark = um_arena_mark(&arena);
    const size_t n = um_tensor_values(want);
    if (got == NULL) fail_msg("%s is missing", name);
    if (um_tensor_values(got) != n || got->rank != want->rank ||
        memcmp(got->shape, want->shape, (size_t)want->rank * sizeof *want->shape) != 0)
        fail_msg("%s has another shape", name);
    if (want->dtype == UM_I32) {
        if (memcmp(got->data, want->data, want->bytes) != 0) fail_msg("%s differs", name);
        return;
    }
    float *x = um_arena_f32(&arena, 1, n), *y = um_arena_f32(&arena, 1, n);
    um_tensor_to_f32(x, got);
    um_tensor_to_f32(y, want);
    float d = distance(x, y, n);
    if (!(d <= most)) fail_msg("%s is off by %.3g of its largest value", name, (double)d);
    um_arena_reset(&arena, mark);
}

/* Everything that the original wrote is there and near, and no gradient that it has not. */
static void matches(const char *model, const char *path)
{
    um_tensors *got = open_tensors(path),
               *want = open_tensors(golden_path(&arena, "training/%s/expected.safetensors", model)),
               *after = open_tensors(
                   golden_path(&arena, "training/%s/trainable_after10.safetensors", model));
    um_json *file = golden_json(golden_path(&arena, "training/%s/training.json", model));
    const um_json *losses = um_json_get(file, "losses");
    char name[256];
    for (size_t i = 0; i < um_tensors_count(want); i++) {
        const um_tensor *w = um_tensors_at(want, i);
        compare(w->name, um_tensors_find(got, w->name), w, bound(w->name));
    }
    for (size_t i = 0; i < um_tensors_count(got); i++) {
        const um_tensor *g = um_tensors_at(got, i);
        if (strstr(g->name, ".grad.") != NULL && um_tensors_find(want, g->name) == NULL)
            fail_msg("%s has no gradient in the original", g->name);
    }
    for (size_t i = 0; i < um_tensors_count(after); i++) {
        const um_tensor *w = um_tensors_at(after, i);
        snprintf(name, sizeof name, "after.%s", w->name);
        compare(name, um_tensors_find(got, name), w, 1e-2f);
    }
    const um_tensor *l = um_tensors_find(got, "losses");
    assert_non_null(l);
    assert_int_equal(um_tensor_values(l), um_json_size(losses));
    for (size_t i = 0; i < um_json_size(losses); i++) {
        float v = 0;
        memcpy(&v, l->data + i * sizeof v, sizeof v);
        double wanted = um_json_num(um_json_at(losses, i), 0);
        if (!(fabs((double)v - wanted) <= 2e-4 * wanted))
            fail_msg("loss %zu is %.7g, want %.7g", i, (double)v, wanted);
    }
    um_json_free(file);
    um_tensors_close(after);
    um_tensors_close(want);
    um_tensors_close(got);
}

static void same_bytes(const char *a, const char *b)
{
    uint8_t *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    if (um_file_read(&x, &n, a, 1 << 28, &arena, &why) != UM_OK ||
        um_file_read(&y, &m, b, 1 << 28, &arena, &why) != UM_OK)
        fail_msg("%s", why.msg);
    if (n != m || memcmp(x, y, n) != 0) fail_msg("%s and %s differ", a, b);
}

static void golden(void **state, const char *model)
{
    (void)state;
    const char *one = trace(model, 1, 1, 1, false);
    matches(model, one);
    same_bytes(one, trace(model, 2, 3, 2, true));
}

static void the_four_expert_speech_model(void **state) { golden(state, "s4"); }
static void the_four_expert_audio_model(void **state) { golden(state, "a4"); }
static void the_eight_expert_model(void **state) { golden(state, "s8"); }

/* --- whole runs --- */

/* Reads a log, one record after another. */
typedef struct log_reader {
    const char *text;
    um_json *line; /* of the record that was read */
    um_train_record r;
} log_reader;

static log_reader log_open(const char *out, const char *name)
{
    uint8_t *text = NULL;
    size_t n = 0;
    const char *path = um_arena_fmt(&arena, "%s/%s/%s", dir, out, name);
    assert_int_equal(um_file_read(&text, &n, path, 1 << 20, &arena, &why), UM_OK);
    return (log_reader){.text = (const char *)text};
}

static bool log_next(log_reader *l)
{
    const char *end = strchr(l->text, '\n');
    um_json_free(l->line);
    l->line = NULL;
    if (end == NULL) return false;
    assert_int_equal(um_json_parse(&l->line, l->text, (size_t)(end - l->text), &why), UM_OK);
    assert_true(um_record_read(&l->r, l->line));
    um_expert_load_read(&l->r.load, um_json_get(l->line, "load"), &arena);
    l->text = end + 1;
    return true;
}

/* Every row of a step is counted once for each of its two experts, and two runs have counted the same. */
static void same_loads(const char *a, const char *b)
{
    log_reader x = log_open(a, "trainer_log.jsonl"), y = log_open(b, "trainer_log.jsonl");
    int steps = 0;
    for (; log_next(&x); steps++) {
        assert_true(log_next(&y));
        assert_int_equal(x.r.load.layers, 3);
        assert_string_equal(um_json_compact(um_json_get(x.line, "load"), &arena),
                            um_json_compact(um_json_get(y.line, "load"), &arena));
        for (int l = 0; l < x.r.load.layers; l++) {
            uint64_t sum = 0;
            for (int m = 0; m < UM_MODALITIES; m++)
                for (int e = 0; e < 4 && x.r.load.layer[l].rows[m] != NULL; e++)
                    sum += x.r.load.layer[l].rows[m][e];
            assert_int_equal(sum, 2 * x.r.rows);
        }
    }
    assert_false(log_next(&y));
    assert_int_equal(steps, TRAINING_STEPS);
}

static void weights_do_not_depend_on_the_ranks(void **state)
{
    static const struct {
        int routers, experts, encoders;
        const char *recompute;
    } ranks[] = {{2, 1, 1, "none"}, {4, 3, 2, "ffn"}, {3, 4, 1, "layer"}, {1, 2, 3, "none"}};
    (void)state;
    training_run one = {.routers = 1, .experts = 1, .encoders = 1, .out = "one"};
    const char *want = training_go(&one);
    assert_int_equal(one.st, UM_OK);
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        training_run j = {.routers = ranks[i].routers,
                          .experts = ranks[i].experts,
                          .encoders = ranks[i].encoders,
                          .recompute = ranks[i].recompute,
                          .out = um_arena_fmt(&arena, "run%zu", i)};
        training_same(want, training_go(&j));
        assert_int_equal(j.st, UM_OK);
        same_loads("one", j.out);
    }
}

/* Saved every step; ended by a signal after step 2, gone on with on other ranks, ended again, and gone on with. */
static void a_run_goes_on_with_the_same_bits(void **state)
{
    (void)state;
    training_run whole = {
        .routers = 1, .experts = 1, .encoders = 1, .out = "whole", .held_out = true};
    const char *want = training_go(&whole);
    training_run first = {.routers = 2, .experts = 2, .encoders = 1, .out = "run", .stop = 1};
    const char *at = training_go(&first);
    assert_int_equal(first.st, UM_OK);
    assert_non_null(strstr(first.lines, "\"stopped\":true"));
    assert_non_null(strstr(at, "checkpoint-2"));
    training_run second = {.routers = 1,
                           .experts = 3,
                           .encoders = 2,
                           .out = "run",
                           .resume = at,
                           .stop = 3,
                           .save_every = 1};
    at = training_go(&second);
    assert_non_null(strstr(at, "checkpoint-4"));
    training_run third = {.routers = 3, .experts = 1, .encoders = 1, .out = "run", .resume = at};
    training_same(want, training_go(&third));
    assert_null(strstr(third.lines, "\"stopped\":true"));
    /* from one checkpoint before, as after a crash: what was written later is written again */
    training_run again = {.routers = 1, .experts = 1, .encoders = 1, .out = "run"};
    again.resume = um_arena_fmt(&arena, "%s/run/checkpoint-3", dir);
    training_same(want, training_go(&again));
    same_loads("whole", "run");
    const char *table = log_open("run", "trainer_log.csv").text;
    char row[8];
    size_t lines = 0;
    for (const char *p = table; (p = strchr(p, '\n')) != NULL; lines++) {
        p++;
        snprintf(row, sizeof row, "%zu,", lines + 1);
        assert_true(*p == '\0' || strncmp(p, row, strlen(row)) == 0);
    }
    assert_int_equal(lines, 1 + TRAINING_STEPS);
}

/* With --log-every 4: step 4, the last, and those that were saved. */
static void records_are_as_many_as_asked_for(void **state)
{
    static const uint64_t want[] = {3, 4, 6};
    (void)state;
    training_run j = {.routers = 2, .experts = 1, .encoders = 1, .out = "run", .save_every = 3};
    j.log_every = 4;
    training_go(&j);
    assert_int_equal(j.st, UM_OK);
    log_reader l = log_open("run", "trainer_log.jsonl");
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_true(log_next(&l));
        assert_int_equal(l.r.step, want[i]);
        assert_int_equal(l.r.load.layers,
                         want[i] == 3 ? 0 : 3); /* counted where it was known before */
    }
    assert_false(log_next(&l));
}

static void a_medium_that_cannot_be_used_leaves_its_sample_out(void **state)
{
    (void)state;
    const char *broken[] = {"no/such.png", "training.json"};
    for (size_t i = 0; i < 2; i++) {
        training_run j = {.routers = 2,
                          .experts = 1,
                          .encoders = 1,
                          .out = um_arena_fmt(&arena, "run%zu", i),
                          .broken = broken[i]};
        training_go(&j);
        assert_int_equal(j.st, UM_OK);
        assert_non_null(strstr(j.lines, "\"lost\":1"));
    }
}

/* With a learning rate that makes the first step break the weights, all steps behind it are skipped: they keep the weights of the first. */
static void steps_that_are_not_finite_change_nothing(void **state)
{
    (void)state;
    training_run j = {
        .routers = 2, .experts = 2, .encoders = 1, .out = "run", .lr = 1e30, .stage = "0"};
    j.save_every = 1;
    um_saved s[2];
    const char *last = training_go(&j);
    assert_int_equal(j.st, UM_OK); /* fewer steps than --give-up */
    assert_non_null(strstr(j.lines, "\"skipped\":\"the "));
    for (int i = 0; i < 2; i++)
        assert_int_equal(
            um_saved_open(&s[i], i == 0 ? um_arena_fmt(&arena, "%s/run/checkpoint-1", dir) : last,
                          true, &why),
            UM_OK);
    for (int k = 0; k < s[0].n_sets; k++)
        for (size_t i = 0; i < um_tensors_count(s[0].sets[k]); i++) {
            const um_tensor *t = um_tensors_at(s[0].sets[k], i),
                            *u = um_saved_tensor(&s[1], "", t->name);
            if (u == NULL || memcmp(t->data, u->data, t->bytes) != 0)
                fail_msg("%s has changed in a step that was skipped", t->name);
        }
    um_saved_close(&s[0]);
    um_saved_close(&s[1]);
    j.give_up = 3;
    j.out = "gives-up";
    training_go(&j);
    assert_int_equal(j.st, UM_E_LIMIT);
    assert_non_null(strstr(j.err.msg, "gives up at step 4: 3 steps in a row were skipped"));
}

/* A um_comm_fault: damages the experts' rows of micro-batches that go forward only. */
static int damage_evaluations(void *ctx, int from, int to, um_msg *msg)
{
    (void)ctx;
    (void)from;
    (void)to;
    if (msg == NULL || msg->size <= UM_FRAME_HEADER) return 1;
    const bool forward = (um_get_u32(msg->data + 56) & UM_BATCH_FORWARD) != 0;
    if (msg->data[6] == UM_KIND_COMBINE && forward) msg->data[UM_FRAME_HEADER] ^= 1;
    return 1;
}

/* Media that have come for it are let go, so that the fault is what ends the job. */
static void an_evaluation_that_fails_ends_the_job_by_name(void **state)
{
    (void)state;
    training_run j = {.routers = 1, .experts = 1, .encoders = 1, .out = "run", .held_out = true};
    j.freeze =
        "*projector*,*align*"; /* no tower and no connector trains: rows of media lie in the cache */
    j.fault = damage_evaluations;
    training_go(&j);
    assert_int_equal(j.st, UM_E_CORRUPT);
    assert_non_null(strstr(j.lines, "\"step\":1,"));
    assert_null(strstr(j.lines, "\"step\":2,"));
    assert_non_null(strstr(j.err.msg, "expert"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_four_expert_speech_model, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(the_four_expert_audio_model, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(the_eight_expert_model, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(weights_do_not_depend_on_the_ranks, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(a_run_goes_on_with_the_same_bits, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(records_are_as_many_as_asked_for, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(a_medium_that_cannot_be_used_leaves_its_sample_out,
                                        folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(an_evaluation_that_fails_ends_the_job_by_name, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(steps_that_are_not_finite_change_nothing, folder_setup,
                                        folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
