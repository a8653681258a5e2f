/* The learning rate over the steps, against what transformers' schedulers give. */
#include "core/train/schedule.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

static void near(double got, double want)
{
    if (fabs(got - want) > 1e-12) fail_msg("%.17g, want %.17g", got, want);
}

static um_schedule of(const char *kind, double warmup, double decay, double last, uint64_t steps)
{
    um_config cfg;
    um_config_default(&cfg);
    cfg.schedule = kind;
    cfg.warmup = warmup;
    cfg.decay = decay;
    cfg.min_lr = last;
    return um_schedule_of(&cfg, steps);
}

/* get_cosine_schedule_with_warmup(optimizer, 2, 10): the rates of steps 1..10 of lr 1 */
static void cosine_is_that_of_transformers(void **state)
{
    (void)state;
    static const double want[] = {0.0,
                                  0.5,
                                  1.0,
                                  0.9619397662556434,
                                  0.8535533905932737,
                                  0.6913417161825449,
                                  0.5,
                                  0.3086582838174551,
                                  0.14644660940672627,
                                  0.03806023374435663};
    um_schedule s = of("cosine", 2, 0, 0, 10);
    for (uint64_t i = 0; i < 10; i++) near(um_schedule_share(&s, i + 1), want[i]);
}

/* Its own series is the C library's cosine, and has its exact bits whatever machine computes it. */
static void the_cosine_has_one_result(void **state)
{
    (void)state;
    um_schedule s = of("cosine", 0, 0, 0, 1000);
    for (uint64_t i = 0; i < 1000; i++) {
        const double got = um_schedule_share(&s, i + 1),
                     want = 0.5 * (1 + cos(3.14159265358979323846 * (double)i / 1000));
        if (fabs(got - want) > 4e-16) fail_msg("step %d: %.17g, want %.17g", (int)i, got, want);
    }
    assert_true(um_schedule_share(&s, 1) == 1);
    assert_true(um_schedule_share(&s, 251) == 0x1.b504f333f9de6p-1);
    assert_true(um_schedule_share(&s, 334) == 0x1.803b6aa646231p-1);
}

static void shares_of_the_steps_round_up(void **state)
{
    (void)state;
    assert_int_equal(of("cosine", 0.03, 0, 0, 40).warmup, 2);
    assert_int_equal(of("cosine", 0, 0, 0, 40).warmup, 0);
    assert_int_equal(of("wsd", 5, 0.25, 0, 40).decay, 10);
    assert_int_equal(of("wsd", 5, 0.25, 0, 40).warmup, 5);
}

static void wsd_stays_and_falls(void **state)
{
    (void)state;
    um_schedule s = of("wsd", 2, 4, 0.2, 10);
    static const double want[] = {0, 0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4};
    for (uint64_t i = 0; i < 10; i++) near(um_schedule_share(&s, i + 1), want[i]);
}

static void constant_and_past_the_end(void **state)
{
    (void)state;
    um_schedule c = of("constant", 0, 4, 0.2, 10), w = of("wsd", 0, 4, 0.2, 10),
                cosine = of("cosine", 0, 4, 0.2, 10);
    for (uint64_t i = 1; i < 30; i++) near(um_schedule_share(&c, i), 1);
    for (uint64_t i = 11; i < 30; i++) near(um_schedule_share(&w, i), 0.2);
    for (uint64_t i = 11; i < 30; i++) near(um_schedule_share(&cosine, i), 0.2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosine_is_that_of_transformers),
        cmocka_unit_test(the_cosine_has_one_result),
        cmocka_unit_test(shares_of_the_steps_round_up),
        cmocka_unit_test(wsd_stays_and_falls),
        cmocka_unit_test(constant_and_past_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
