/* See cpus.h. The kernel refuses a set that is smaller than its own (EINVAL), and does not say how large that is: the set grows until it
 * is accepted. */
#include "core/base/cpus.h"

#include <errno.h>
#include <unistd.h>

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
