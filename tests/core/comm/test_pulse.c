/* The pulse: silence is counted in observed time, and ends with the next beat. */
#include "core/comm/pulse.h"

#include "core/base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <unistd.h>

enum { PEERS = 3, PERIOD_NS = 5000000 };

typedef struct world {
    atomic_bool lives[PEERS];
    atomic_int turns;
    atomic_int stall_us; /* how long the next turn takes */
} world;

static void turn(void *ctx, bool *heard)
{
    world *w = ctx;
    um_sleep_us(atomic_exchange(&w->stall_us, 0));
    for (int i = 0; i < PEERS; i++) heard[i] = atomic_load(&w->lives[i]);
    atomic_fetch_add(&w->turns, 1);
}

static void turns_pass(world *w, int n)
{
    int end = atomic_load(&w->turns) + n;
    while (atomic_load(&w->turns) < end) um_sleep_us(1000);
}

static um_pulse *open_pulse(world *w)
{
    um_pulse *p = NULL;
    um_err err = {0};
    assert_int_equal(um_pulse_open(&p, PEERS, PERIOD_NS, turn, w, &err), UM_OK);
    return p;
}

static void silence_grows_and_ends(void **state)
{
    (void)state;
    world w = {.lives = {true, false, true}};
    um_pulse *p = open_pulse(&w);
    turns_pass(&w, 10);
    assert_int_equal(um_pulse_silent_ns(p, 0), 0);
    assert_true(um_pulse_silent_ns(p, 1) >= 5 * (int64_t)PERIOD_NS);
    assert_true(um_pulse_silent_ns(p, 1) <= 40 * (int64_t)PERIOD_NS);
    atomic_store(&w.lives[1], true);
    turns_pass(&w, 2);
    assert_int_equal(um_pulse_silent_ns(p, 1), 0);
    um_pulse_close(p);
}

/* A process that was stopped or got no processor time does not blame others for the time that it did not observe. */
static void time_that_was_not_observed_does_not_count(void **state)
{
    (void)state;
    world w = {.lives = {true, true, false}};
    um_pulse *p = open_pulse(&w);
    turns_pass(&w, 2);
    int64_t before = um_pulse_silent_ns(p, 2);
    atomic_store(&w.stall_us, 400000);
    turns_pass(&w, 3);
    /* three or four turns count at most two periods each: of the 400 ms slept at most 40 count */
    assert_true(um_pulse_silent_ns(p, 2) - before <= 8 * (int64_t)PERIOD_NS);
    um_pulse_close(p);
}

static void its_period_can_change_and_it_ends_at_once(void **state)
{
    (void)state;
    world w = {.lives = {true, true, true}};
    um_pulse *p = open_pulse(&w);
    turns_pass(&w, 1);
    um_pulse_set_period(p, (int64_t)3600 * 1000000000);
    um_sleep_us(20000);
    int turns = atomic_load(&w.turns);
    um_sleep_us(50000);
    assert_int_equal(atomic_load(&w.turns), turns);
    um_pulse_close(p); /* does not wait for the period of an hour to end */
    um_pulse_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silence_grows_and_ends),
        cmocka_unit_test(time_that_was_not_observed_does_not_count),
        cmocka_unit_test(its_period_can_change_and_it_ends_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
