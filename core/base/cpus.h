/* How many processors this process may run on. */
#pragma once

#include <sched.h>
#include <sys/types.h>

/* By its affinity; at least 1. Hosts with more processors than a cpu_set_t holds (1,024) count too. */
int um_cpus_allowed(void);
/* The same with another sched_getaffinity, for tests. */
int um_cpus_allowed_by(int (*get)(pid_t pid, size_t bytes, cpu_set_t *set));
