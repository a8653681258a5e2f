/* What a rank finds out about its neighbours; child processes of the test stand in for them. */
#include "core/comm/watch.h"

#include "core/comm/alive.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NEAR = 3 };

/* Rank 0 is this process; ranks 1..3 are children that do nothing. */
typedef struct host {
    um_arena arena;
    um_topology topo;
    um_neighbour near[NEAR];
    um_doorbell bell[NEAR];
    um_watch watch;
    pid_t child[NEAR];
} host;

static int setup(void **state)
{
    static host h;
    um_rank ranks[NEAR + 1] = {{.role = UM_ROLE_ROUTER, .pid = (int)getpid(), .hostname = "here"}};
    um_err err = {0};
    memset(&h, 0, sizeof h);
    um_arena_init(&h.arena, "test", 4096);
    for (int i = 0; i < NEAR; i++) {
        h.child[i] = fork();
        if (h.child[i] == 0) {
            for (;;) pause();
        }
        ranks[i + 1] =
            (um_rank){.role = UM_ROLE_EXPERT, .pid = (int)h.child[i], .hostname = "here"};
        h.near[i] = (um_neighbour){
            .rank = i + 1, .started = um_alive_started((int)h.child[i]), .bell = &h.bell[i]};
    }
    h.watch = (um_watch){.topo = &h.topo, .near = h.near, .n = NEAR};
    *state = &h;
    return um_topology_build(&h.topo, ranks, NEAR + 1, &h.arena, &err) == UM_OK ? 0 : 1;
}

static int teardown(void **state)
{
    host *h = *state;
    for (int i = 0; i < NEAR; i++) {
        kill(h->child[i], SIGKILL);
        waitpid(h->child[i], NULL, 0);
    }
    um_arena_free(&h->arena);
    return 0;
}

static void kill_child(host *h, int i)
{
    siginfo_t info;
    kill(h->child[i], SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)h->child[i], &info, WEXITED | WNOWAIT), 0);
}

static void end_child(host *h, int i, um_status st)
{
    atomic_store(&h->bell[i].ended, (unsigned)st + 1);
}

static void all_is_well_at_first(void **state)
{
    host *h = *state;
    um_err err = {0};
    assert_int_equal(um_watch_look(&h->watch, &err), UM_OK);
    assert_int_equal(um_watch_stopped(&h->watch, 1, &err), UM_OK);
}

static void the_killed_are_named(void **state)
{
    host *h = *state;
    um_err err = {0};
    char want[128];
    kill_child(h, 1);
    assert_int_equal(um_watch_look(&h->watch, &err), UM_E_PEER);
    snprintf(want, sizeof want, "expert/1 (rank 2, host here, pid %d) is gone", (int)h->child[1]);
    assert_non_null(strstr(err.msg, want));
    kill_child(h, 2);
    assert_int_equal(um_watch_look(&h->watch, &err), UM_E_PEER);
    assert_ptr_equal(strstr(err.msg, "expert/1 (rank 2, host here, pid "), err.msg);
    assert_non_null(strstr(err.msg, "), expert/2 (rank 3, host here, pid "));
    assert_non_null(strstr(err.msg, ") are gone"));
}

static void who_cannot_be_watched_is_not_missed(void **state)
{
    host *h = *state;
    um_err err = {0};
    h->near[0].started = 0;
    kill_child(h, 0);
    assert_int_equal(um_watch_look(&h->watch, &err), UM_OK);
}

static void an_end_with_a_reason_is_not_a_death(void **state)
{
    host *h = *state;
    um_err err = {0};
    end_child(h, 0, UM_E_PEER); /* only followed */
    assert_int_equal(um_watch_look(&h->watch, &err), UM_E_PEER);
    assert_non_null(strstr(err.msg, "expert/0 (rank 1"));
    end_child(h, 2, UM_E_MODEL);
    kill_child(h, 2);
    assert_int_equal(um_watch_look(&h->watch, &err), UM_E_PEER);
    assert_non_null(strstr(err.msg, "expert/2 (rank 3"));
    assert_non_null(strstr(err.msg, "ended the job"));
    assert_null(strstr(err.msg, "expert/0"));
    kill_child(h, 1); /* killed without a report, which is worse */
    assert_int_equal(um_watch_look(&h->watch, &err), UM_E_PEER);
    assert_non_null(strstr(err.msg, "expert/1 (rank 2"));
    assert_non_null(strstr(err.msg, "is gone"));
    assert_null(strstr(err.msg, "expert/2"));
}

static void who_was_asked_to_stop_is_not_to_blame(void **state)
{
    host *h = *state;
    um_err err = {0};
    end_child(h, 0, UM_E_STOPPED);
    kill_child(h, 0);
    assert_int_equal(um_watch_look(&h->watch, &err), UM_OK);
}

static void the_halted_are_named_after_some_looks(void **state)
{
    host *h = *state;
    um_err err = {0};
    siginfo_t info;
    kill(h->child[2], SIGSTOP);
    assert_int_equal(waitid(P_PID, (id_t)h->child[2], &info, WSTOPPED), 0);
    assert_int_equal(um_watch_look(&h->watch, &err), UM_OK);
    assert_int_equal(um_watch_stopped(&h->watch, 3, &err), UM_OK);
    assert_int_equal(um_watch_stopped(&h->watch, 3, &err), UM_OK);
    assert_int_equal(um_watch_stopped(&h->watch, 3, &err), UM_E_PEER);
    assert_non_null(strstr(err.msg, "expert/2 (rank 3, host here, pid "));
    kill(h->child[2], SIGCONT);
    assert_int_equal(waitid(P_PID, (id_t)h->child[2], &info, WCONTINUED), 0);
    assert_int_equal(um_watch_stopped(&h->watch, 1, &err), UM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_is_well_at_first, setup, teardown),
        cmocka_unit_test_setup_teardown(the_killed_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(who_cannot_be_watched_is_not_missed, setup, teardown),
        cmocka_unit_test_setup_teardown(an_end_with_a_reason_is_not_a_death, setup, teardown),
        cmocka_unit_test_setup_teardown(who_was_asked_to_stop_is_not_to_blame, setup, teardown),
        cmocka_unit_test_setup_teardown(the_halted_are_named_after_some_looks, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
