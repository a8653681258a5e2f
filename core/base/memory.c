/* See memory.h. Linux: /proc, /sys/fs/cgroup (version 2). */
#include "core/base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool um_proc_line(const char *path, const char *key, char *out, int size)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, f) != NULL) {
        size_t n = strlen(key);
        if (strncmp(line, key, n) != 0) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, (size_t)size, "%s", line + n + strspn(line + n, " \t:"));
        found = true;
    }
    fclose(f);
    return found;
}

bool um_proc_number(const char *path, const char *key, int64_t *out)
{
    char text[96];
    return um_proc_line(path, key, text, sizeof text) && sscanf(text, "%" SCNd64, out) == 1;
}

int64_t um_memory_available(void)
{
    int64_t kib = 0, limit = 0, used = 0;
    if (!um_proc_number("/proc/meminfo", "MemAvailable", &kib)) return 0;
    int64_t bytes = kib * 1024;
    if (um_proc_number("/sys/fs/cgroup/memory.max", "", &limit) &&
        um_proc_number("/sys/fs/cgroup/memory.current", "", &used) && limit - used < bytes)
        bytes = limit > used ? limit - used : 0;
    return bytes;
}

void um_memory_self(uint64_t *now, uint64_t *peak)
{
    int64_t rss = 0, most = 0;
    um_proc_number("/proc/self/status", "VmRSS", &rss);
    um_proc_number("/proc/self/status", "VmHWM", &most);
    *now = (uint64_t)rss * 1024;
    *peak = (uint64_t)most * 1024;
}
