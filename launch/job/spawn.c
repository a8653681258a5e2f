/* See spawn.h. */
#include "launch/job/spawn.h"

#include "core/base/file.h"
#include "core/options/config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char standard_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static bool executable(const char *path)
{
    return !um_file_is_folder(path) && access(path, X_OK) == 0;
}

const char *um_program_find(const char *name, um_arena *arena)
{
    if (strchr(name, '/') != NULL) return executable(name) ? name : NULL;
    for (const char *p = um_config_system("PATH", standard_path);; p++) {
        size_t n = strcspn(p, ":");
        const char *folder = n > 0 ? um_arena_strn(arena, p, n) : ".";
        const char *path = um_path_join(arena, folder, name);
        if (executable(path)) return path;
        if (p[n] == '\0') return NULL;
        p += n;
    }
}

static bool is_variable(const char *entry, const char *name)
{
    size_t n = strlen(name);
    return strncmp(entry, name, n) == 0 && entry[n] == '=';
}

/* Open MPI makes its session folder in "" + "/ompi.HOST.UID" when TMPDIR is empty, and cannot use a relative one. */
static char **environment(um_arena *arena)
{
    char here[PATH_MAX], **old = um_config_environment(arena);
    const char *tmp = um_config_temporary(), *path = um_config_system("PATH", standard_path);
    if (tmp[0] != '/' && getcwd(here, sizeof here) != NULL) tmp = um_path_join(arena, here, tmp);
    size_t n = 0, kept = 0;
    while (old[n] != NULL) n++;
    char **out = um_arena_alloc(arena, (n + 3) * sizeof *out);
    for (size_t i = 0; i < n; i++)
        if (!is_variable(old[i], "TMPDIR") && !is_variable(old[i], "PATH")) out[kept++] = old[i];
    out[kept++] = um_arena_fmt(arena, "TMPDIR=%s", tmp);
    out[kept++] = um_arena_fmt(arena, "PATH=%s", path);
    out[kept] = NULL;
    return out;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* pipes[i] = {read end, write end} of the program's descriptor i; pipes[3] brings its errno when exec fails. */
static um_status open_pipes(int pipes[4][2], um_err *err)
{
    for (int i = 0; i < 4; i++)
        if (pipe2(pipes[i], O_CLOEXEC) != 0)
            return UM_FAIL(err, UM_E_IO, "pipe: %s", strerror(errno));
    fcntl(pipes[0][1], F_SETFL, O_NONBLOCK);
    fcntl(pipes[1][0], F_SETFL, O_NONBLOCK);
    fcntl(pipes[2][0], F_SETFL, O_NONBLOCK);
    return UM_OK;
}

/* In the new process. Does not return. */
static void become(const char *path, const char *const *argv, char **env, int pipes[4][2],
                   const sigset_t *mask, pid_t parent)
{
    char here[PATH_MAX];
    const int ours[3] = {pipes[0][0], pipes[1][1], pipes[2][1]};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    for (int i = 0; i < 3; i++)
        if (dup2(ours[i], i) < 0) _exit(1);
    /* mpirun refuses to start in a folder that was deleted; all paths of a job are absolute. */
    if (getcwd(here, sizeof here) == NULL && chdir("/") != 0) _exit(1);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execve(path, (char *const *)(uintptr_t)argv, env);
    int why = errno;
    ssize_t told = write(pipes[3][1], &why, sizeof why);
    _exit(told == (ssize_t)sizeof why ? 127 : 126);
}

/* Waits until exec has closed the last pipe or has sent its errno. */
static um_status exec_result(const char *path, int fd, pid_t pid, um_err *err)
{
    int why = 0;
    ssize_t n;
    do n = read(fd, &why, sizeof why);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof why) return UM_OK;
    waitpid(pid, NULL, 0);
    return UM_FAIL(err, UM_E_IO, "%s cannot be started: %s", path, strerror(why));
}

static um_status spawn_in(um_spawned *out, const char *path, const char *const *argv,
                          const sigset_t *mask, um_arena *arena, um_err *err)
{
    int pipes[4][2] = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    char **env = environment(arena);
    um_status st = open_pipes(pipes, err);
    pid_t parent = getpid(), pid = -1;
    fflush(NULL);
    if (st == UM_OK && (pid = fork()) < 0) st = UM_FAIL(err, UM_E_IO, "fork: %s", strerror(errno));
    if (pid == 0) become(path, argv, env, pipes, mask, parent);
    close_fd(&pipes[3][1]);
    if (st == UM_OK) st = exec_result(path, pipes[3][0], pid, err);
    if (st == UM_OK) {
        *out = (um_spawned){pid, pipes[0][1], pipes[1][0], pipes[2][0]};
        pipes[0][1] = pipes[1][0] = pipes[2][0] = -1;
    }
    for (int i = 0; i < 8; i++) close_fd(&pipes[i / 2][i % 2]);
    return st;
}

um_status um_spawn(um_spawned *out, const char *const *argv, const sigset_t *mask, um_err *err)
{
    um_arena arena;
    um_arena_init(&arena, "start of a program", 1 << 14);
    const char *path = um_program_find(argv[0], &arena);
    um_status st;
    if (path == NULL)
        st = strchr(argv[0], '/') != NULL
                 ? UM_FAIL(err, UM_E_IO, "%s is missing or may not be executed", argv[0])
                 : UM_FAIL(err, UM_E_IO,
                           "%s is not in PATH (%s): apt-get install openmpi-bin, or load your "
                           "cluster's module",
                           argv[0], um_config_system("PATH", "which is not set"));
    else
        st = spawn_in(out, path, argv, mask, &arena, err);
    um_arena_free(&arena);
    return st;
}
