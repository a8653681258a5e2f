/* Whether a process runs, is stopped or gone: with a child of our own. */
#include "core/comm/alive.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void we_ourselves_run(void **state)
{
    (void)state;
    uint64_t started = um_alive_started((int)getpid());
    assert_int_not_equal(started, 0);
    assert_int_equal(um_alive_look((int)getpid(), started), UM_ALIVE_RUNS);
    assert_int_equal(um_alive_look((int)getpid(), started + 1),
                     UM_ALIVE_GONE); /* the number was given again */
}

static void a_child_is_seen_through_its_life(void **state)
{
    (void)state;
    siginfo_t info;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (;;) pause();
    }
    uint64_t started = um_alive_started((int)child);
    assert_int_not_equal(started, 0);
    assert_int_equal(um_alive_look((int)child, started), UM_ALIVE_RUNS);
    kill(child, SIGSTOP);
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WSTOPPED), 0);
    assert_int_equal(um_alive_look((int)child, started), UM_ALIVE_HALTED);
    kill(child, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT),
                     0); /* now it is a zombie */
    assert_int_equal(um_alive_look((int)child, started), UM_ALIVE_GONE);
    assert_int_equal(um_alive_started((int)child), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(um_alive_look((int)child, started), UM_ALIVE_GONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(we_ourselves_run),
        cmocka_unit_test(a_child_is_seen_through_its_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
