/* Which rows a micro-batch contains: arithmetic, without an engine. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/engine/scheduler.h"

#include <stdbool.h>
#include <string.h>

enum { N = 64 };

typedef struct bench {
    um_demand d[N];
    int32_t order[N];
    int n;
    unsigned turn;
} bench;

/* lefts ends with -1. */
static bench bench_of(const int *lefts)
{
    bench b = {0};
    for (; lefts[b.n] >= 0; b.n++)
        b.d[b.n] = (um_demand){.left = lefts[b.n], .number = (uint64_t)b.n};
    return b;
}

static int run(bench *b, int max_rows, int prefill)
{
    return um_schedule(b->d, b->n, max_rows, max_rows, prefill, &b->turn, b->order);
}

static void takes_are(const bench *b, const int *want)
{
    for (int i = 0; i < b->n; i++) assert_int_equal(b->d[i].take, want[i]);
}

static void a_short_prompt_shares_the_step_of_a_long_one(void **state)
{
    (void)state;
    bench b = bench_of((int[]){16000, 5, -1});
    assert_int_equal(run(&b, 288, 256), 256);
    takes_are(&b, (int[]){251, 5});
}

static void one_prompt_has_all_rows(void **state)
{
    (void)state;
    bench b = bench_of((int[]){16000, -1});
    assert_int_equal(run(&b, 288, 256), 256);
    b = bench_of((int[]){100, -1});
    assert_int_equal(run(&b, 288, 256), 100);
    b = bench_of((int[]){-1});
    assert_int_equal(run(&b, 288, 256), 0);
}

static void generating_sequences_come_first(void **state)
{
    (void)state;
    bench b = bench_of((int[]){0, 500, 0, 0, 7, -1});
    assert_int_equal(run(&b, 100, 64), 67);
    takes_are(&b, (int[]){1, 57, 1, 1, 7});
    assert_int_equal(run(&b, 3, 64), 3);
    takes_are(&b, (int[]){1, 0, 1, 1, 0});
}

static void the_shortest_is_first_and_the_oldest_goes_on(void **state)
{
    (void)state;
    bench b = bench_of((int[]){1000, 90, 30, 60, -1});
    assert_int_equal(run(&b, 200, 100), 100);
    takes_are(&b, (int[]){25, 0, 30, 45});
}

/* Prompts of fifty rows for ever: the long one in front is read in four times the steps that it takes alone. */
static void a_long_prompt_is_not_starved(void **state)
{
    (void)state;
    bench b = bench_of((int[]){16000, 50, 50, 50, 50, 50, 50, 50, 50, -1});
    uint64_t next = 9;
    int steps = 0;
    for (; b.d[0].left > 0; steps++) {
        assert_int_equal(run(&b, 288, 256), 256);
        for (int i = 0; i < b.n; i++) {
            b.d[i].left -= b.d[i].take;
            if (i > 0 && b.d[i].left == 0) b.d[i] = (um_demand){.left = 50, .number = next++};
        }
    }
    assert_true(steps <= 16000 / 64);
}

/* Twelve generate and four fit: each has its turn in three steps. */
static void generating_sequences_take_turns(void **state)
{
    (void)state;
    bench b = bench_of((int[]){0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1});
    int times[12] = {0};
    for (int step = 0; step < 9; step++) {
        assert_int_equal(run(&b, 4, 256), 4);
        for (int i = 0; i < 12; i++) times[i] += b.d[i].take;
    }
    for (int i = 0; i < 12; i++) assert_int_equal(times[i], 3);
}

/* Any demand: never more rows than there is room for or than a sequence has, and no room idle that a sequence could use. */
static void bounds_hold_for_any_demand(void **state)
{
    (void)state;
    uint32_t x = 1;
    for (int round = 0; round < 3000; round++) {
        bench b = {0};
        int want = 0, generating = 0, rows = 0;
        x = x * 1664525u + 1013904223u;
        b.n = (int)(x >> 16) % N;
        int max_rows = 1 + (int)(x >> 8) % 90, prefill = 1 + (int)(x >> 4) % 70;
        for (int i = 0; i < b.n; i++) {
            x = x * 1664525u + 1013904223u;
            b.d[i] = (um_demand){.left = (x >> 30) == 0 ? 0 : (int)(x >> 12) % 200, .number = x};
            want += b.d[i].left;
            generating += b.d[i].left == 0;
        }
        int total = run(&b, max_rows, prefill);
        int first = generating < max_rows ? generating : max_rows;
        int room = prefill < max_rows - first ? prefill : max_rows - first;
        for (int i = 0; i < b.n; i++) {
            assert_true(b.d[i].take >= 0);
            assert_true(b.d[i].take <= (b.d[i].left == 0 ? 1 : b.d[i].left));
            rows += b.d[i].take;
        }
        assert_int_equal(rows, total);
        assert_int_equal(total, first + (want < room ? want : room));
    }
}

static void a_micro_batch_has_a_bound_of_its_own(void **state)
{
    (void)state;
    bench b = {0};
    for (b.n = 0; b.n < 10; b.n++) b.d[b.n] = (um_demand){.number = (uint64_t)b.n};
    assert_int_equal(um_schedule(b.d, b.n, 100, 4, 50, &b.turn, b.order), 4);
    takes_are(&b, (int[]){1, 1, 1, 1, 0, 0, 0, 0, 0, 0});
    /* what is under way takes no part, nor are rows lost to it */
    for (int i = 0; i < 4; i++) b.d[i].left = -1;
    assert_int_equal(um_schedule(b.d, b.n, 100, 4, 50, &b.turn, b.order), 4);
    takes_are(&b, (int[]){0, 0, 0, 0, 1, 1, 1, 1, 0, 0});
    b.d[8].left = 30;
    b.d[9].left = -1;
    assert_int_equal(um_schedule(b.d, b.n, 100, 4, 50, &b.turn, b.order), 34);
    takes_are(&b, (int[]){0, 0, 0, 0, 1, 1, 1, 1, 30, 0});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_prompt_shares_the_step_of_a_long_one),
        cmocka_unit_test(one_prompt_has_all_rows),
        cmocka_unit_test(generating_sequences_come_first),
        cmocka_unit_test(the_shortest_is_first_and_the_oldest_goes_on),
        cmocka_unit_test(a_long_prompt_is_not_starved),
        cmocka_unit_test(generating_sequences_take_turns),
        cmocka_unit_test(bounds_hold_for_any_demand),
        cmocka_unit_test(a_micro_batch_has_a_bound_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
