/* See death.h. */
#include "tests/support/death.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

bool aborts(void (*f)(void *), void *arg)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL); /* cmocka's handler would go on with the next test */
        f(arg);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) abort();
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}
