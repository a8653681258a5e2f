/* See stale_session.h. */
#include "launch/job/stale_session.h"

#include "core/base/arena.h"
#include "core/base/process.h"
#include "launch/model_dir/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder of ours, not a link to one. */
static bool is_ours(int parent, const char *name)
{
    struct stat sb;
    return fstatat(parent, name, &sb, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(sb.st_mode) &&
           sb.st_uid == geteuid();
}

int um_stale_sessions(const char *tmp, bool remove)
{
    /* Open MPI names the folder after the host without its domain. */
    char host[256] = "", top[5000];
    gethostname(host, sizeof host - 1);
    host[strcspn(host, ".")] = '\0';
    snprintf(top, sizeof top, "%s/ompi.%s.%u", tmp, host, (unsigned)geteuid());
    DIR *dir = is_ours(AT_FDCWD, top) ? opendir(top) : NULL;
    if (dir == NULL) return 0;
    int n = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        int pid = 0, end = 0;
        if (sscanf(e->d_name, "pid.%d%n", &pid, &end) != 1 || e->d_name[end] != '\0' || pid <= 0 ||
            um_process_lives(pid) || !is_ours(dirfd(dir), e->d_name))
            continue;
        n++;
        if (!remove) continue;
        char path[sizeof top + 300];
        snprintf(path, sizeof path, "%s/%s", top, e->d_name);
        um_tree_remove(path);
    }
    closedir(dir);
    return n;
}
