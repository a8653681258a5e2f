/* What /proc says of processes. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/log.h"
#include "core/base/process.h"

static void test_process(void **state)
{
    (void)state;
    um_process self, child;
    /* A name with spaces and parentheses, as any program may have. */
    prctl(PR_SET_NAME, ") R 1 (x) S", 0, 0, 0);
    assert_true(um_process_read(&self, getpid()));
    assert_int_equal(self.state, 'R');
    assert_int_equal(self.parent, getppid());
    assert_true(self.started > 0);
    assert_true(um_process_lives(getpid()));
    pid_t pid = fork();
    if (pid == 0) {
        raise(SIGSTOP);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(um_process_read(&child, pid));
    assert_int_equal(child.state, 'T');
    assert_int_equal(child.parent, getpid());
    assert_true(child.started >= self.started);
    assert_true(um_process_lives(pid));
    kill(pid, SIGKILL);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_true(um_process_read(&child, pid)); /* a zombie, until it is waited for */
    assert_int_equal(child.state, 'Z');
    assert_false(um_process_lives(pid));
    waitpid(pid, NULL, 0);
    child.parent = 7;
    assert_false(um_process_read(&child, pid));
    assert_int_equal(child.parent, 7);
    assert_false(um_process_lives(pid));
    assert_false(um_process_read(&child, -1));
}

static void test_program(void **state)
{
    (void)state;
    char path[4096], tiny[4] = "abc";
    um_err err = {0};
    assert_int_equal(um_process_program(path, sizeof path, &err), UM_OK);
    assert_int_equal(path[0], '/');
    assert_string_equal(strrchr(path, '/'), "/test_process");
    assert_int_equal(um_process_program(tiny, sizeof tiny, &err), UM_E_LIMIT);
}

static void test_log_levels(void **state)
{
    (void)state;
    assert_int_equal(um_log_level_from_name("error"), UM_LOG_ERROR);
    assert_int_equal(um_log_level_from_name("trace"), UM_LOG_TRACE);
    assert_int_equal(um_log_level_from_name("loud"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_program),
        cmocka_unit_test(test_log_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
