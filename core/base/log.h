/* Log lines to stderr: "12:04:31.207 W expert/3 exchange: ...". error = cannot go on, warn = odd but going on, info = once per
 * event a person asked for, debug = per object, trace = per message. Lower case, values after a space. The logger adds time,
 * level, role and rank. The sink and the level are the only mutable globals (with the stop flag). Thread: any. */
#pragma once

#include <stdbool.h>

typedef enum um_log_level {
    UM_LOG_ERROR,
    UM_LOG_WARN,
    UM_LOG_INFO,
    UM_LOG_DEBUG,
    UM_LOG_TRACE
} um_log_level;

/* The level of a name ("error", "warn", "info", "debug", "trace"), or -1. */
int um_log_level_from_name(const char *name);
void um_log_set_level(um_log_level level);
bool um_log_enabled(um_log_level level);
/* The calling thread's name in log lines, as "expert/3"; of which at most 31 characters are copied. */
void um_log_set_name(const char *name);
void um_log_at(um_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define um_log_error(...) um_log_at(UM_LOG_ERROR, __VA_ARGS__)
#define um_log_warn(...) um_log_at(UM_LOG_WARN, __VA_ARGS__)
#define um_log_info(...) um_log_at(UM_LOG_INFO, __VA_ARGS__)
#define um_log_debug(...) um_log_at(UM_LOG_DEBUG, __VA_ARGS__)
#define um_log_trace(...) um_log_at(UM_LOG_TRACE, __VA_ARGS__)
