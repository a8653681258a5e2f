/* See host.h. Linux: /proc, /sys/fs/cgroup (version 2), /dev/shm. */
#include "launch/job/host.h"

#include "core/base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

void um_host_cpu_name(char out[96])
{
    if (!um_proc_line("/proc/cpuinfo", "model name", out, 96)) snprintf(out, 96, "unknown CPU");
}

double um_host_cpu_quota(void)
{
    char text[96];
    int64_t quota = 0, period = 0;
    if (!um_proc_line("/sys/fs/cgroup/cpu.max", "", text, sizeof text)) return 0;
    if (sscanf(text, "%" SCNd64 " %" SCNd64, &quota, &period) != 2 || period <= 0) return 0;
    return (double)quota / (double)period;
}

int64_t um_host_shm_free(void)
{
    struct statvfs v;
    return statvfs("/dev/shm", &v) == 0 ? (int64_t)v.f_bavail * (int64_t)v.f_frsize : 0;
}

int64_t um_host_memlock(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_MEMLOCK, &r) != 0) return 0;
    return r.rlim_cur == RLIM_INFINITY ? -1 : (int64_t)r.rlim_cur;
}
