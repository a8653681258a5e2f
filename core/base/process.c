/* See process.h. /proc/PID/stat is "pid (command) state ppid ..."; the command may hold anything, also ')', so fields are counted
 * from its last one. */
#include "core/base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { START_FIELD = 20 }; /* field 22, so the 20th behind the command */

bool um_process_read(um_process *out, int pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = '\0';
    const char *p = strrchr(text, ')');
    um_process got = {.parent = -1};
    if (p == NULL || sscanf(p + 1, " %c %d", &got.state, &got.parent) != 2) return false;
    for (int field = 0; field < START_FIELD && p != NULL; field++) p = strchr(p + 1, ' ');
    if (p != NULL) got.started = strtoull(p, NULL, 10);
    *out = got;
    return true;
}

bool um_process_lives(int pid)
{
    um_process p;
    return um_process_read(&p, pid) && p.state != 'Z' && p.state != 'X';
}

um_status um_process_program(char *out, size_t size, um_err *err)
{
    ssize_t n = readlink("/proc/self/exe", out, size);
    if (n < 0) return UM_FAIL(err, UM_E_IO, "/proc/self/exe: %s", strerror(errno));
    if ((size_t)n >= size)
        return UM_FAIL(err, UM_E_LIMIT, "/proc/self/exe: longer than %zu characters", size - 1);
    out[n] = '\0';
    return UM_OK;
}

/* The kernel refuses a set that is smaller than its own (EINVAL), and does not say how large that is: the set grows until it is
 * accepted. */
enum { CPUS_FIRST = 1024, CPUS_MOST = 1 << 20 };

int um_cpus_allowed_by(int (*get)(pid_t pid, size_t bytes, cpu_set_t *set))
{
    for (int cpus = CPUS_FIRST; cpus <= CPUS_MOST; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        if (set == NULL) break;
        int rc = get(0, bytes, set), why = errno;
        int allowed = rc == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (rc == 0 && allowed > 0) return allowed;
        if (rc == 0 || why != EINVAL) break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

int um_cpus_allowed(void) { return um_cpus_allowed_by(sched_getaffinity); }

/* --- signals of a training job --- */

static volatile sig_atomic_t save_asked, stop_asked; /* written by the handler: see process.h */

static void on_signal(int sig)
{
    if (sig == SIGUSR1)
        save_asked = 1;
    else
        stop_asked = 1;
}

void um_signals_watch(void)
{
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGUSR2, &a, NULL);
    a.sa_flags = (int)(SA_RESTART | SA_RESETHAND);
    sigaction(SIGTERM, &a, NULL);
    signal(SIGXFSZ, SIG_IGN); /* write() reports a file that ulimit -f does not allow */
}

bool um_signals_save(void)
{
    bool asked = save_asked != 0;
    if (asked) save_asked = 0;
    return asked;
}

bool um_signals_stop(void) { return stop_asked != 0; }

void um_signals_forget(void) { save_asked = stop_asked = 0; }
