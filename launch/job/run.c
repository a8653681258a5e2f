/* See run.h. One poll loop over four descriptors: signals, and mpirun's standard input, output and error. */
#include "launch/job/run.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/process.h"
#include "launch/job/mpirun_output.h"
#include "launch/job/spawn.h"
#include "launch/job/stale_session.h"
#include "launch/job/stale_shm.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHUNK_BYTES = 65536 }; /* of input at a time */
/* Milliseconds: to end after a fatal report or a signal, and after the last line, each for the job and for every rank (two cores
 * that end 200 ranks need time for each); for the pipes to close once mpirun is gone; between two ticks. */
enum { GRACE_MS = 3000, GRACE_RANK_MS = 20, FINISH_MS = 10000, FINISH_RANK_MS = 200 };
enum { DRAIN_MS = 300, TICK_MS = 200 };

typedef struct lines {
    int fd; /* -1 once closed */
    char *buf;
    size_t n, cap;
} lines;

typedef struct run {
    const um_job_io *io;
    um_mpirun_output output;
    pid_t mpirun;
    int signals, in;
    lines out, log;
    const char *input; /* what comes next for rank 0: of io->input, then of chunk */
    size_t input_left;
    int source; /* where more of it comes from; -1: nowhere, or at its end */
    char *chunk;
    int source_errno;   /* why it could not be read to its end */
    bool ended;         /* mpirun was waited for */
    int exit_status;    /* as waitpid gives it */
    int stopped_by;     /* the first signal that asked us to stop */
    bool asked_to_save; /* and to end then */
    bool unwanted;      /* UM_JOB_STOP came */
    bool finishing;     /* the last line came */
    bool late;          /* no line came before the start's deadline */
    bool killed;        /* it had to be killed */
    int64_t deadline;   /* ns; 0 = none */
    int64_t start_by;   /* ns, until the first line came; 0 = no deadline */
} run;

static void within_ms(run *r, int64_t ms)
{
    int64_t at = um_now_ns() + ms * 1000000;
    if (r->deadline == 0 || at < r->deadline) r->deadline = at;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static int64_t grace_ms(const run *r)
{
    return GRACE_MS + (int64_t)GRACE_RANK_MS * um_job_ranks(r->output.job);
}

static int64_t finish_ms(const run *r)
{
    return FINISH_MS + (int64_t)FINISH_RANK_MS * um_job_ranks(r->output.job);
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

/* Asks mpirun to end the job; what ranks say from now on about peers that are gone is no news. */
static void stop_job(run *r)
{
    r->output.stopping = true;
    if (!r->ended) kill(r->mpirun, SIGTERM);
    within_ms(r, grace_ms(r));
}

static void obey(run *r, um_job_next next)
{
    if (next == UM_JOB_LAST) {
        r->finishing = true;
        within_ms(r, finish_ms(r));
    } else if (next == UM_JOB_STOP && !r->unwanted) {
        r->unwanted = true;
        stop_job(r);
    }
}

static void read_line(run *r, lines *l, const char *line)
{
    if (l == &r->log) {
        um_mpirun_output_line(&r->output, line);
        if (r->output.fatal) within_ms(r, grace_ms(r));
        return;
    }
    r->start_by = 0;
    if (r->unwanted) return;
    obey(r, r->io->line(r->io->ctx, line));
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
            read_line(r, l, l->buf + from);
            from = seen = (size_t)(nl - l->buf) + 1;
        }
        memmove(l->buf, l->buf + from, l->n - from);
        l->n -= from;
        if (got > 0) continue;
        l->buf[l->n] = '\0';
        if (l->n > 0) read_line(r, l, l->buf);
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

static void read_signals(run *r)
{
    struct signalfd_siginfo info;
    while (read(r->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD || r->ended) continue; /* reap() looks in any case */
        if (info.ssi_signo == SIGUSR1) {
            kill(r->mpirun, SIGUSR1);
            continue;
        }
        if (r->io->saves && r->start_by == 0 && !r->asked_to_save && info.ssi_signo != SIGHUP) {
            r->asked_to_save = true;
            kill(r->mpirun, SIGUSR2);
            continue;
        }
        if (r->stopped_by != 0) {
            kill_job(r); /* asked twice */
        } else {
            r->stopped_by = (int)info.ssi_signo;
            stop_job(r);
        }
    }
}

/* Milliseconds until a moment, rounded up; -1 for 0, which means never. */
static int64_t ms_until(int64_t at)
{
    if (at == 0) return -1;
    int64_t ns = at - um_now_ns();
    return ns <= 0 ? 0 : (ns + 999999) / 1000000;
}

/* How long poll may sleep. */
static int nap_ms(const run *r)
{
    int64_t ms = r->io->tick != NULL ? TICK_MS : -1;
    const int64_t ends[] = {ms_until(r->deadline), ms_until(r->start_by)};
    for (size_t i = 0; i < 2; i++)
        if (ends[i] >= 0 && (ms < 0 || ends[i] < ms)) ms = ends[i];
    return ms > 60000 ? 60000 : (int)ms;
}

static void check_deadlines(run *r)
{
    if (ms_until(r->start_by) == 0 && !r->ended) {
        r->late = true;
        r->start_by = 0;
        stop_job(r);
    }
    if (r->deadline == 0 || ms_until(r->deadline) > 0 || r->ended) return;
    kill_job(r);
    r->deadline = 0;
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
        int ready = poll(fds, 5, nap_ms(r));
        if (ready < 0 && errno != EINTR) break;
        if (fds[0].revents) read_signals(r);
        if (fds[1].revents) read_lines(r, &r->out);
        if (fds[2].revents) read_lines(r, &r->log);
        if (fds[3].revents & (POLLERR | POLLHUP)) close_fd(&r->in); /* nobody reads any more */
        if (r->in >= 0 && fds[3].revents) write_input(r);
        if (r->in >= 0 && fds[4].revents) read_source(r);
        reap(r);
        if (r->io->tick != NULL) obey(r, r->io->tick(r->io->ctx));
        if (r->ended && ms_until(r->deadline) == 0)
            break; /* a stray process holds the pipes: sweep() ends it */
        check_deadlines(r);
    }
}

static um_status verdict(const run *r, um_err *err)
{
    const um_mpirun_output *said = &r->output;
    bool exited = WIFEXITED(r->exit_status);
    int code = exited ? WEXITSTATUS(r->exit_status) : 0;
    if (r->stopped_by != 0) {
        err->signal = r->stopped_by;
        return UM_FAIL(err, UM_E_STOPPED, "stopped by SIG%s", sigabbrev_np(r->stopped_by));
    }
    if (r->unwanted) {
        err->signal = 0;
        return UM_FAIL(err, UM_E_STOPPED, "the job was stopped");
    }
    if (r->late)
        return UM_FAIL(err, UM_E_TIMEOUT, "the job did not start within %lld s%s%s",
                       (long long)(r->io->start_ms + 999) / 1000, said->hint[0] ? ": " : "",
                       said->hint);
    err->signal = said->signal; /* the caller may know what it means */
    if (said->fatal) return UM_FAIL(err, um_exit_status(code), "%s", said->cause);
    if (r->killed && r->finishing)
        return UM_FAIL(err, UM_E_TIMEOUT, "the job had its results but did not end within %lld s",
                       (long long)finish_ms(r) / 1000);
    if (exited && code == 0) return UM_OK;
    return um_mpirun_output_explain(said, r->exit_status, err);
}

/* Of the signals that ask us to stop, those that were not ignored when we were started: a job under nohup outlives its terminal. */
static void wanted_signals(sigset_t *set, bool saves)
{
    sigemptyset(set);
    sigaddset(set, SIGCHLD);
    if (saves) sigaddset(set, SIGUSR1);
    for (size_t i = 0; i < 3; i++) {
        int sig = (const int[]){SIGINT, SIGTERM, SIGHUP}[i];
        struct sigaction now;
        if (sigaction(sig, NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaddset(set, sig);
    }
}

static um_status start(run *r, const um_job *job, const sigset_t *mask, um_err *err)
{
    um_spawned s;
    UM_TRY(um_spawn(&s, job->argv, mask, err));
    r->mpirun = s.pid;
    r->in = s.in;
    r->out.fd = s.out;
    r->log.fd = s.log;
    if (r->io->start_ms > 0) r->start_by = um_now_ns() + r->io->start_ms * 1000000;
    return UM_OK;
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
    r.output.job = job;
    r.output.print = io->log;
    r.output.ctx = io->ctx;
    int64_t began = time(NULL);
    sigset_t ours, before;
    wanted_signals(&ours, io->saves);
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
        um_mpirun_output_end(&r.output);
        st = verdict(&r, err);
        if (st != UM_OK && r.output.unreachable && um_job_has_word(job, "--hostfile"))
            io->log(io->ctx, "mpirun: some ranks found no way from their network interfaces to "
                             "those of others; --mpirun-args \"--mca btl_tcp_if_include "
                             "NETWORK/BITS\" names the network that joins the hosts");
        if (st == UM_OK && r.source_errno != 0)
            st = UM_FAIL(err, UM_E_IO, "the requests could not be read to their end: %s",
                         strerror(r.source_errno));
        if (st != UM_OK) {
            um_stale_shm(began, true);
            um_stale_sessions(um_config_temporary(), true);
        }
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
