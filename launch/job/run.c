/* See run.h. One poll loop over four descriptors: signals, and mpirun's standard input, output and error. */
#include "launch/job/run.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/process.h"
#include "launch/job/mpirun_output.h"
#include "launch/job/stale_shm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHUNK_BYTES = 65536 }; /* of input at a time */
/* Milliseconds: to end after a fatal report or a signal; after the last line; for the pipes to close once mpirun is gone. */
enum { GRACE_MS = 3000, FINISH_MS = 10000, DRAIN_MS = 300 };

typedef struct lines {
    int fd; /* -1 once closed */
    char *buf;
    size_t n, cap;
} lines;

typedef struct run {
    const um_job_io *io;
    um_mpirun_output banner;
    pid_t mpirun;
    int signals, in;
    lines out, log;
    const char *input; /* what comes next for rank 0: of io->input, then of chunk */
    size_t input_left;
    int source; /* where more of it comes from; -1: nowhere, or at its end */
    char *chunk;
    int source_errno; /* why it could not be read to its end */
    bool ended;       /* mpirun was waited for */
    int exit_status;  /* as waitpid gives it */
    int stopped_by;   /* the first signal that asked us to stop */
    bool finishing;   /* the last line came */
    bool killed;      /* it had to be killed */
    int64_t deadline; /* ns; 0 = none */
} run;

static void within_ms(run *r, int64_t ms)
{
    int64_t at = um_now_ns() + ms * 1000000;
    if (r->deadline == 0 || at < r->deadline) r->deadline = at;
}

/* ---- start ---- */

/* In the new process: its own group, ended with us, then mpirun. */
static void become_mpirun(const um_job *job, char **env, const int fd[3], const sigset_t *mask,
                          pid_t parent)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    for (int i = 0; i < 3; i++)
        if (dup2(fd[i], i) < 0) _exit(1);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvpe(job->argv[0], (char *const *)(uintptr_t)job->argv, env);
    dprintf(STDERR_FILENO, "unimoe: %s cannot be started: %s; apt-get install openmpi-bin\n",
            job->argv[0], strerror(errno));
    _exit(127);
}

static void close_fd(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* pipes[i] = {read end, write end} of mpirun's descriptor i. The ends we keep do not block. */
static um_status open_pipes(int pipes[3][2], um_err *err)
{
    for (int i = 0; i < 3; i++)
        if (pipe2(pipes[i], O_CLOEXEC) != 0)
            return UM_FAIL(err, UM_E_IO, "pipe: %s", strerror(errno));
    fcntl(pipes[0][1], F_SETFL, O_NONBLOCK);
    fcntl(pipes[1][0], F_SETFL, O_NONBLOCK);
    fcntl(pipes[2][0], F_SETFL, O_NONBLOCK);
    return UM_OK;
}

static um_status start(run *r, const um_job *job, const sigset_t *mask, um_err *err)
{
    int pipes[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
    um_arena a;
    um_arena_init(&a, "environment", 1 << 14);
    char **env = um_config_environment(&a);
    um_status st = open_pipes(pipes, err);
    pid_t parent = getpid(), pid = -1;
    fflush(NULL);
    if (st == UM_OK && (pid = fork()) < 0) st = UM_FAIL(err, UM_E_IO, "fork: %s", strerror(errno));
    if (pid == 0)
        become_mpirun(job, env, (const int[]){pipes[0][0], pipes[1][1], pipes[2][1]}, mask, parent);
    if (st == UM_OK) {
        r->mpirun = pid;
        r->in = pipes[0][1];
        r->out.fd = pipes[1][0];
        r->log.fd = pipes[2][0];
        pipes[0][1] = pipes[1][0] = pipes[2][0] = -1;
    }
    for (int i = 0; i < 6; i++) close_fd(&pipes[i / 2][i % 2]);
    um_arena_free(&a);
    return st;
}

/* ---- the end ---- */

/* Kills our children; returns how many there were. Ranks whose mpirun is gone are ours, for we are their subreaper. */
static int kill_children(void)
{
    DIR *proc = opendir("/proc");
    if (proc == NULL) return 0;
    int n = 0;
    for (struct dirent *e; (e = readdir(proc)) != NULL;) {
        int pid = 0;
        um_process p;
        if (sscanf(e->d_name, "%d", &pid) != 1 || pid <= 1 || !um_process_read(&p, pid) ||
            p.parent != getpid())
            continue;
        kill(pid, SIGKILL);
        n++;
    }
    closedir(proc);
    return n;
}

static void reap(run *r)
{
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid != r->mpirun) continue;
        r->ended = true;
        r->exit_status = status;
        r->deadline = 0;
        within_ms(r, DRAIN_MS);
    }
}

/* Leaves nothing behind. Children of killed children become ours, so it takes rounds. */
static void sweep(run *r)
{
    for (int round = 0; round < 100 && kill_children() > 0; round++) {
        um_sleep_us(5000);
        reap(r);
    }
}

/* ---- the loop ---- */

static void take_line(run *r, lines *l, const char *line)
{
    if (l == &r->log) {
        um_mpirun_output_line(&r->banner, line);
        if (r->banner.fatal) within_ms(r, GRACE_MS);
    } else if (r->io->line(r->io->ctx, line)) {
        r->finishing = true;
        within_ms(r, FINISH_MS);
    }
}

/* Reads what is there and hands on whole lines; at the end of the stream also an unfinished one. */
static void read_lines(run *r, lines *l)
{
    for (;;) {
        if (l->cap - l->n < 4096) l->buf = um_realloc(l->buf, l->cap = l->cap * 2 + 8192);
        ssize_t got = read(l->fd, l->buf + l->n, l->cap - l->n - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return;
        size_t from = 0, seen = l->n;
        l->n += got > 0 ? (size_t)got : 0;
        for (char *nl; (nl = memchr(l->buf + seen, '\n', l->n - seen)) != NULL;) {
            *nl = '\0';
            take_line(r, l, l->buf + from);
            from = seen = (size_t)(nl - l->buf) + 1;
        }
        memmove(l->buf, l->buf + from, l->n - from);
        l->n -= from;
        if (got > 0) continue;
        l->buf[l->n] = '\0';
        if (l->n > 0) take_line(r, l, l->buf);
        close_fd(&l->fd);
        return;
    }
}

/* Hands on what there is for rank 0, and closes its standard input behind the last of it. */
static void write_input(run *r)
{
    while (r->input_left > 0) {
        ssize_t n = write(r->in, r->input, r->input_left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) { /* rank 0 is gone; mpirun will say why */
            r->source = -1;
            break;
        }
        r->input += n;
        r->input_left -= (size_t)n;
    }
    if (r->source < 0) close_fd(&r->in);
}

/* Reads more input, once all before it is written: as much as rank 0 is behind stays in the source, not here. */
static void read_source(run *r)
{
    ssize_t n = read(r->source, r->chunk, CHUNK_BYTES);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n < 0) r->source_errno = errno;
    if (n <= 0) r->source = -1;
    r->input = r->chunk;
    r->input_left = n > 0 ? (size_t)n : 0;
    write_input(r);
}

static void kill_job(run *r)
{
    r->killed = true;
    kill(-r->mpirun, SIGKILL);
    kill(r->mpirun, SIGKILL);
}

static void take_signals(run *r)
{
    struct signalfd_siginfo info;
    while (read(r->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD || r->ended) continue; /* reap() looks in any case */
        if (r->stopped_by != 0) {
            kill_job(r); /* asked twice */
        } else {
            r->stopped_by = (int)info.ssi_signo;
            kill(r->mpirun, SIGTERM);
            within_ms(r, GRACE_MS);
        }
    }
}

/* Milliseconds until the deadline, rounded up; -1 without one. */
static int time_left(const run *r)
{
    if (r->deadline == 0) return -1;
    int64_t ns = r->deadline - um_now_ns();
    return ns <= 0 ? 0 : (int)((ns + 999999) / 1000000);
}

static void loop(run *r)
{
    while (!r->ended || r->out.fd >= 0 || r->log.fd >= 0) {
        bool idle = r->input_left == 0; /* then only the end of rank 0 is news of its pipe */
        struct pollfd fds[] = {{r->signals, POLLIN, 0},
                               {r->out.fd, POLLIN, 0},
                               {r->log.fd, POLLIN, 0},
                               {r->in, idle ? 0 : POLLOUT, 0},
                               {r->in >= 0 && idle ? r->source : -1, POLLIN, 0}};
        int ready = poll(fds, 5, time_left(r));
        if (ready < 0 && errno != EINTR) break;
        if (fds[0].revents) take_signals(r);
        if (fds[1].revents) read_lines(r, &r->out);
        if (fds[2].revents) read_lines(r, &r->log);
        if (fds[3].revents & (POLLERR | POLLHUP)) close_fd(&r->in); /* nobody reads any more */
        if (r->in >= 0 && fds[3].revents) write_input(r);
        if (r->in >= 0 && fds[4].revents) read_source(r);
        reap(r);
        if (r->deadline != 0 && time_left(r) == 0) {
            if (r->ended) break; /* a stray process holds the pipes: sweep() ends it */
            kill_job(r);
            r->deadline = 0;
        }
    }
}

static um_status status_of_code(int code)
{
    for (um_status st = UM_E_USAGE; st <= UM_E_DATA; st++)
        if (um_exit_code(st) == code) return st;
    return UM_E_PEER;
}

static um_status verdict(const run *r, um_err *err)
{
    bool exited = WIFEXITED(r->exit_status);
    int code = exited ? WEXITSTATUS(r->exit_status) : 0;
    if (r->stopped_by != 0)
        return UM_FAIL(err, UM_E_STOPPED, "stopped by SIG%s", sigabbrev_np(r->stopped_by));
    if (r->banner.fatal) return UM_FAIL(err, status_of_code(code), "%s", r->banner.cause);
    if (r->killed && r->finishing)
        return UM_FAIL(err, UM_E_TIMEOUT, "the job had its results but did not end within %d s",
                       FINISH_MS / 1000);
    if (!exited)
        return UM_FAIL(err, UM_E_PEER, "%s was killed by signal %d", r->banner.job->argv[0],
                       WTERMSIG(r->exit_status));
    if (code > 128)
        return UM_FAIL(err, UM_E_PEER, "a rank was killed by signal %d (mpirun does not say which)",
                       code - 128);
    if (code != 0)
        return UM_FAIL(err, status_of_code(code), "%s ended with code %d", r->banner.job->argv[0],
                       code);
    return UM_OK;
}

static bool has_word(const um_job *job, const char *word)
{
    for (int i = 0; i < job->argc; i++)
        if (strcmp(job->argv[i], word) == 0) return true;
    return false;
}

um_status um_job_run(const um_job *job, const um_job_io *io, um_err *err)
{
    run r = {.io = io,
             .in = -1,
             .out.fd = -1,
             .log.fd = -1,
             .input = io->input,
             .input_left = io->input_size,
             .source = io->input_more ? io->input_fd : -1};
    r.banner.job = job;
    r.banner.print = io->log;
    r.banner.ctx = io->ctx;
    int64_t began = time(NULL);
    sigset_t ours, before;
    sigemptyset(&ours);
    for (size_t i = 0; i < 4; i++)
        sigaddset(&ours, (const int[]){SIGINT, SIGTERM, SIGHUP, SIGCHLD}[i]);
    sigprocmask(SIG_BLOCK, &ours, &before);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    um_status st = UM_OK;
    r.signals = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
    if (r.signals < 0) st = UM_FAIL(err, UM_E_IO, "signalfd: %s", strerror(errno));
    if (st == UM_OK) st = start(&r, job, &before, err);
    if (st == UM_OK) {
        r.chunk = um_zalloc(CHUNK_BYTES);
        write_input(&r);
        loop(&r);
        sweep(&r);
        um_mpirun_output_end(&r.banner);
        st = verdict(&r, err);
        if (st != UM_OK && r.banner.unreachable && has_word(job, "--hostfile"))
            io->log(io->ctx, "mpirun: some ranks found no way from their network interfaces to "
                             "those of others; --mpirun-args \"--mca btl_tcp_if_include "
                             "NETWORK/BITS\" names the network that joins the hosts");
        if (st == UM_OK && r.source_errno != 0)
            st = UM_FAIL(err, UM_E_IO, "the requests could not be read to their end: %s",
                         strerror(r.source_errno));
        if (st != UM_OK) um_stale_shm(began, true);
    }
    close_fd(&r.in);
    close_fd(&r.out.fd);
    close_fd(&r.log.fd);
    close_fd(&r.signals);
    um_free(r.chunk);
    um_free(r.out.buf);
    um_free(r.log.buf);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return st;
}
