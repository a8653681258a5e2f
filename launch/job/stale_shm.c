/* See stale_shm.h. Linux: /dev/shm, /proc/PID/maps. */
#include "launch/job/stale_shm.h"

#include "core/base/arena.h"
#include "core/base/clock.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOMENT_US = 50000 };

static const char prefix[] = "vader_segment.";

/* Does a process have a file of this name mapped? Of other users' processes the kernel tells us nothing, but they do not map our
 * segments either. */
static bool maps(const char *pid, const char *name)
{
    char path[300], line[1024];
    snprintf(path, sizeof path, "/proc/%s/maps", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    bool found = false;
    while (!found && fgets(line, sizeof line, f) != NULL) found = strstr(line, name) != NULL;
    fclose(f);
    return found;
}

static bool in_use(const char *name)
{
    DIR *proc = opendir("/proc");
    if (proc == NULL) return true;
    bool found = false;
    for (struct dirent *e; !found && (e = readdir(proc)) != NULL;)
        found = isdigit((unsigned char)e->d_name[0]) && maps(e->d_name, name);
    closedir(proc);
    return found;
}

/* A segment of this user, on the way through a chain. */
typedef struct segment {
    struct segment *next;
    const char *name;
} segment;

/* The unused segments in dir. */
static segment *unused_segments(DIR *dir, int64_t since, um_arena *arena)
{
    segment *first = NULL;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        struct stat sb;
        bool ours = strncmp(e->d_name, prefix, sizeof prefix - 1) == 0 &&
                    fstatat(dirfd(dir), e->d_name, &sb, AT_SYMLINK_NOFOLLOW) == 0 &&
                    sb.st_uid == geteuid();
        if (!ours || sb.st_mtime < since || in_use(e->d_name)) continue;
        segment *s = um_arena_alloc(arena, sizeof *s);
        *s = (segment){first, um_arena_str(arena, e->d_name)};
        first = s;
    }
    return first;
}

int um_stale_shm(int64_t since, bool remove)
{
    DIR *dir = opendir("/dev/shm");
    if (dir == NULL) return 0;
    um_arena arena;
    um_arena_init(&arena, "leftovers", 4096);
    int n = 0;
    segment *list = unused_segments(dir, since, &arena);
    if (list != NULL) um_sleep_us(MOMENT_US);
    for (; list != NULL; list = list->next) {
        if (in_use(list->name)) continue;
        n++;
        if (remove) unlinkat(dirfd(dir), list->name, 0);
    }
    um_arena_free(&arena);
    closedir(dir);
    return n;
}
