/* Whether another process of this host still runs, from /proc. A number alone is not enough, since the system gives numbers again:
 * a process is its number and the time it was started. */
#pragma once

#include <stdint.h>

typedef enum um_alive { UM_ALIVE_RUNS, UM_ALIVE_HALTED, UM_ALIVE_GONE } um_alive;

/* When process pid was started, in clock ticks since boot. 0: there is none, it has ended, or /proc does not tell. */
uint64_t um_alive_started(int pid);
/* HALTED: stopped by a signal or a debugger. A process that has ended but was not waited for is GONE. */
um_alive um_alive_look(int pid, uint64_t started);
