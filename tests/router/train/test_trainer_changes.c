/* What a run of training may go on with: a step must be what it was, its course may change and is told. */
#include "core/base/json.h"
#include "router/train/trainer_state.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static const um_run_origin origin = {.data = "d1", .model = "m1"};

/* trainer_state.json of a run with these options. */
static um_json *state_of(const um_config *cfg)
{
    const um_trainer_state v = {.usual = 1.5, .seen = 3, .cursor = {1, 2}};
    um_text t = {0};
    um_json *j = NULL;
    um_err err = {0};
    um_trainer_state_write(&t, &v, 7, 20, cfg, &origin);
    if (um_json_parse(&j, t.s, t.n, &err) != UM_OK) fail_msg("%s", err.msg);
    um_text_free(&t);
    return j;
}

static void the_course_may_change_and_is_told(void **state)
{
    um_config cfg = {0};
    um_text t = {0};
    um_trainer_state v = {0};
    um_err err = {0};
    (void)state;
    um_config_default(&cfg);
    cfg.lr = 3e-4;
    um_json *j = state_of(&cfg);
    assert_int_equal(um_trainer_state_changes(&t, j, &cfg), 0);
    cfg.lr = 0.001;
    cfg.steps = 40;
    cfg.schedule = "wsd";
    cfg.lr_for = "gate:2";
    cfg.adam_beta2 = 0.98;
    cfg.kl_coef = 0.5;
    assert_int_equal(um_trainer_state_read(&v, j, &cfg, &origin, &err), UM_OK);
    assert_int_equal(v.last_step, 7);
    assert_int_equal(um_trainer_state_changes(&t, j, &cfg), 6);
    assert_string_equal(t.s, "--steps 40, which was 0; --lr 0.001, which was 0.0003; --lr-for "
                             "gate:2, which was none; --schedule wsd, which was cosine; "
                             "--adam-beta2 0.98, which was 0.999; --kl-coef 0.5, which was -1");
    um_text_free(&t);
    um_json_free(j);
}

static void a_step_must_be_what_it_was(void **state)
{
    um_config cfg = {0};
    um_trainer_state v = {0};
    um_err err = {0};
    um_run_origin other = origin;
    (void)state;
    um_config_default(&cfg);
    um_json *j = state_of(&cfg);
    other.data = "d2";
    assert_int_equal(um_trainer_state_read(&v, j, &cfg, &other, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "--data"));
    cfg.batch = 9;
    assert_int_equal(um_trainer_state_read(&v, j, &cfg, &origin, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "started with --batch \"8\", not \"9\""));
    cfg.batch = 8;
    cfg.micro_batch = 2;
    assert_int_equal(um_trainer_state_read(&v, j, &cfg, &origin, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "--micro-batch"));
    um_json_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_course_may_change_and_is_told),
        cmocka_unit_test(a_step_must_be_what_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
