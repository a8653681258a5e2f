/* See log.h. One write(2) a line, so that the lines of many ranks and threads do not mix. */
#include "core/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int log_level = UM_LOG_WARN;
static _Thread_local char log_name[32];

int um_log_level_from_name(const char *name)
{
    static const char *const names[] = {"error", "warn", "info", "debug", "trace"};
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

void um_log_set_level(um_log_level level) { atomic_store(&log_level, (int)level); }

bool um_log_enabled(um_log_level level) { return (int)level <= atomic_load(&log_level); }

void um_log_set_name(const char *name) { snprintf(log_name, sizeof log_name, "%s", name); }

void um_log_at(um_log_level level, const char *fmt, ...)
{
    if (!um_log_enabled(level)) return;
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    char line[1400];
    int n =
        snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld %c %s ", tm.tm_hour, tm.tm_min, tm.tm_sec,
                 now.tv_nsec / 1000000, "EWIDT"[level], log_name[0] ? log_name : "unimoe");
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    size_t len = strnlen(line, sizeof line - 1);
    (void)m;
    line[len] = '\n';
    ssize_t done = write(STDERR_FILENO, line, len + 1);
    (void)done;
}
