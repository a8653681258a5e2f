/* The verdict on a step, and what a checkpoint keeps of where a run stands. */
#include "router/train/trainer_state.h"
#include "router/train/train_step.h"
#include "tests/support/fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

enum { TARGETS = 10 };

/* A step of ten targets whose mean gradient has this norm. */
static um_step_verdict judge(um_trainer_state *v, double loss, double norm, const um_config *cfg)
{
    double value[UM_SUMS] = {0};
    value[UM_SUM_LOSS] = loss * TARGETS;
    value[UM_SUM_LOST] = 1;
    const um_step_totals totals = {.targets = TARGETS, .value = value, .values = UM_SUMS};
    return um_trainer_state_judge(v, &totals, norm * norm * TARGETS * TARGETS, cfg);
}

static um_config options(void)
{
    um_config cfg;
    um_config_default(&cfg);
    return cfg;
}

static void the_mean_and_clipping_as_in_torch(void **state)
{
    um_config cfg = options();
    um_trainer_state v = {0};
    (void)state;
    um_step_verdict a = judge(&v, 2, 3, &cfg);
    assert_null(a.skip);
    assert_true(a.norm == 3 && a.scale == 0.1);
    cfg.clip = 1.5;
    a = judge(&v, 2, 3, &cfg);
    assert_true(fabs(a.scale - 0.1 * 1.5 / (3 + 1e-6)) < 1e-15);
    a = judge(&v, 2, 1.5, &cfg); /* not over the limit */
    assert_true(a.scale == 0.1);
    assert_int_equal(v.last_step, 3);
    assert_int_equal(v.lost, 3);
}

static void what_is_not_finite_is_skipped(void **state)
{
    const um_config cfg = options();
    um_trainer_state v = {0};
    double nothing[UM_SUMS] = {0};
    const um_step_totals none = {.value = nothing, .values = UM_SUMS};
    (void)state;
    judge(&v, 1, 2, &cfg);
    says(judge(&v, NAN, 1, &cfg).skip, "the loss is not a finite number");
    says(judge(&v, INFINITY, 1, &cfg).skip, "the loss is not a finite number");
    says(judge(&v, 1, NAN, &cfg).skip, "the gradient is not finite");
    says(judge(&v, 1, INFINITY, &cfg).skip, "the gradient is not finite");
    says(um_trainer_state_judge(&v, &none, 0, &cfg).skip, "none of its samples could be used");
    assert_int_equal(v.row, 5);
    assert_int_equal(v.skipped, 5);
    assert_true(v.usual == 2 && v.seen == 1); /* what was skipped is not usual */
    assert_null(judge(&v, 1, 1, &cfg).skip);
    assert_int_equal(v.row, 0);
    assert_int_equal(v.skipped, 5);
    assert_int_equal(v.last_step, 7);
}

static void a_spike_is_one_only_when_the_usual_is_known(void **state)
{
    um_config cfg = options();
    um_trainer_state v = {0};
    (void)state;
    cfg.spike = 4;
    assert_null(judge(&v, 1, 1, &cfg).skip);
    assert_null(judge(&v, 1, 1000, &cfg).skip); /* the first steps may be anything */
    v = (um_trainer_state){0};
    for (int i = 0; i < 20; i++) assert_null(judge(&v, 1, 1, &cfg).skip);
    assert_null(judge(&v, 1, 3.9, &cfg).skip);
    v.usual = 1;
    says(judge(&v, 1, 4.1, &cfg).skip, "the gradient has norm 4.1, of late it was 1");
    assert_true(v.usual == 1);
    cfg.spike = 0;
    assert_null(judge(&v, 1, 1e9, &cfg).skip);
}

static void the_best_is_one_that_is_saved(void **state)
{
    um_trainer_state v = {0};
    (void)state;
    um_trainer_state_evaluated(&v, 1, 1.0, false);
    um_trainer_state_evaluated(&v, 2, NAN, true);
    assert_int_equal(v.best_step, 0);
    um_trainer_state_evaluated(&v, 3, 2.0, true);
    um_trainer_state_evaluated(&v, 4, 2.0, true);
    assert_int_equal(v.best_step, 3);
    um_trainer_state_evaluated(&v, 5, 1.5, true);
    assert_int_equal(v.best_step, 5);
    assert_true(v.best_loss == 1.5);
}

static const um_run_origin origin = {"data", "model"};

static um_status read_back(um_trainer_state *v, const char *text, const um_config *cfg,
                           const um_run_origin *o, um_err *err)
{
    um_json *j = NULL;
    assert_int_equal(um_json_parse(&j, text, strlen(text), err), UM_OK);
    const um_status st = um_trainer_state_read(v, j, cfg, o, err);
    um_json_free(j);
    return st;
}

static void it_is_read_back(void **state)
{
    const um_config cfg = options();
    const um_trainer_state v = {.usual = 1.0 / 3,
                                .seen = 21,
                                .row = 2,
                                .skipped = 5,
                                .lost = 7,
                                .last_step = 40,
                                .best_step = 30,
                                .best_loss = 2.0 / 7,
                                .cursor = {2, 13}};
    um_trainer_state got = {0};
    um_text t = {0};
    um_err err;
    (void)state;
    um_trainer_state_write(&t, &v, 40, 100, &cfg, &origin);
    assert_int_equal(read_back(&got, t.s, &cfg, &origin, &err), UM_OK);
    assert_true(got.usual == v.usual && got.best_loss == v.best_loss);
    assert_int_equal(got.seen, 21);
    assert_int_equal(got.row, 2);
    assert_int_equal(got.skipped, 5);
    assert_int_equal(got.lost, 7);
    assert_int_equal(got.last_step, 40);
    assert_int_equal(got.best_step, 30);
    assert_int_equal(got.cursor.epoch, 2);
    assert_int_equal(got.cursor.step, 13);
    um_text_free(&t);
    /* one that was written before an option was kept */
    assert_int_equal(read_back(&got, "{\"step\":3,\"options\":{}}", &cfg, &origin, &err), UM_OK);
    assert_int_equal(got.last_step, 3);
}

static void another_run_is_refused(void **state)
{
    const um_config was = options();
    um_text t = {0};
    um_err err;
    um_trainer_state v = {0};
    (void)state;
    um_trainer_state_write(&t, &v, 1, 2, &was, &origin);
    um_config now[] = {was, was, was, was, was, was};
    const char *const words[] = {
        "--stage \"\", not \"2\"",    "--freeze \"\", not \"a\"b\"", "--train-what",
        "--lora-r \"-1\", not \"8\"", "--seed \"0\", not \"3\"",     "--micro-batch"};
    now[0].stage = "2";
    now[1].freeze = "a\"b";
    now[2].train_what = "*";
    now[3].lora_r = 8;
    now[4].seed = 3;
    now[5].micro_batch = 7;
    for (size_t i = 0; i < sizeof now / sizeof *now; i++) {
        assert_int_equal(read_back(&v, t.s, &now[i], &origin, &err), UM_E_USAGE);
        has(&err, words[i]);
    }
    const um_run_origin data = {"other", "model"}, model = {"data", "other"};
    assert_int_equal(read_back(&v, t.s, &was, &data, &err), UM_E_USAGE);
    has(&err, "the files of --data");
    assert_int_equal(read_back(&v, t.s, &was, &model, &err), UM_E_USAGE);
    has(&err, "are not those that the run was started with");
    now[0] = was;
    now[0].lr = 0.5; /* what may change */
    now[0].clip = 3;
    assert_int_equal(read_back(&v, t.s, &now[0], &origin, &err), UM_OK);
    um_text_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_mean_and_clipping_as_in_torch),
        cmocka_unit_test(what_is_not_finite_is_skipped),
        cmocka_unit_test(a_spike_is_one_only_when_the_usual_is_known),
        cmocka_unit_test(the_best_is_one_that_is_saved),
        cmocka_unit_test(it_is_read_back),
        cmocka_unit_test(another_run_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
