/* See alive.h. proc(5): /proc/PID/stat is "pid (command) state ppid ..."; the command may hold anything, also ')'; the start time is
 * field 22, so the 20th one after the command. */
#include "core/comm/alive.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { START_FIELD = 20 };

/* The state letter ('\0': no such process) and the start time. */
static char stat_read(int pid, uint64_t *started)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    *started = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return '\0';
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return '\0';
    text[n] = '\0';
    const char *p = strrchr(text, ')');
    if (p == NULL || p[1] != ' ' || p[2] == '\0') return '\0';
    char state = p[2];
    for (int field = 0; field < START_FIELD && p != NULL; field++) p = strchr(p + 1, ' ');
    if (p != NULL) *started = strtoull(p, NULL, 10);
    return state;
}

static int is_over(char state) { return state == '\0' || state == 'Z' || state == 'X'; }

uint64_t um_alive_started(int pid)
{
    uint64_t started;
    return is_over(stat_read(pid, &started)) ? 0 : started;
}

um_alive um_alive_look(int pid, uint64_t started)
{
    uint64_t now;
    char state = stat_read(pid, &now);
    if (is_over(state) || now != started) return UM_ALIVE_GONE;
    return state == 'T' || state == 't' ? UM_ALIVE_HALTED : UM_ALIVE_RUNS;
}
