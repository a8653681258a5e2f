/* The doorbell between two threads: no ring is lost, and nobody sleeps past a ring. */
#include "core/comm/doorbell.h"

#include "core/base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

enum { TURNS = 20000, LONG_US = 60000000 };

typedef struct table {
    um_doorbell bell[2];
    atomic_int ball; /* number of the turn */
    int late;
} table;

typedef struct player {
    table *t;
    int who;
} player;

/* Waits for its turn on its doorbell only: after a lost ring the wait would last LONG_US, which is counted. */
static void *play(void *arg)
{
    player *p = arg;
    table *t = p->t;
    for (int turn = p->who; turn < TURNS; turn += 2) {
        while (atomic_load_explicit(&t->ball, memory_order_acquire) != turn) {
            int64_t start = um_now_ns();
            uint32_t ticket = um_doorbell_arm(&t->bell[p->who]);
            if (atomic_load_explicit(&t->ball, memory_order_acquire) != turn)
                um_doorbell_sleep(&t->bell[p->who], ticket, LONG_US);
            um_doorbell_disarm(&t->bell[p->who]);
            if (um_now_ns() - start >= (int64_t)LONG_US * 1000)
                __atomic_fetch_add(&t->late, 1, __ATOMIC_RELAXED);
        }
        atomic_store_explicit(&t->ball, turn + 1, memory_order_release);
        um_doorbell_ring(&t->bell[1 - p->who]);
    }
    return NULL;
}

static void no_ring_is_lost(void **state)
{
    (void)state;
    static table t;
    pthread_t thread;
    player a = {&t, 0}, b = {&t, 1};
    assert_int_equal(pthread_create(&thread, NULL, play, &b), 0);
    play(&a);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&t.ball), TURNS);
    assert_int_equal(t.late, 0);
}

static void ringing_the_wakeful_does_nothing(void **state)
{
    (void)state;
    static um_doorbell bell;
    assert_false(um_doorbell_ring(&bell));
    assert_int_equal(atomic_load(&bell.rung), 0);
    uint32_t ticket = um_doorbell_arm(&bell);
    assert_true(um_doorbell_ring(&bell));
    assert_true(
        um_doorbell_sleep(&bell, ticket, LONG_US)); /* rung since the ticket: does not sleep */
    um_doorbell_disarm(&bell);
    assert_false(um_doorbell_ring(&bell));
    assert_int_equal(atomic_load(&bell.rung), 1);
}

static void sleep_ends_by_itself(void **state)
{
    (void)state;
    static um_doorbell bell;
    int64_t start = um_now_ns();
    uint32_t ticket = um_doorbell_arm(&bell);
    assert_false(um_doorbell_sleep(&bell, ticket, 20000));
    um_doorbell_disarm(&bell);
    assert_true(um_now_ns() - start >= 20000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_ring_is_lost),
        cmocka_unit_test(ringing_the_wakeful_does_nothing),
        cmocka_unit_test(sleep_ends_by_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
