/* See decoder_child.h. */
#include "encoder_worker/decode/decoder_child.h"

#include "core/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    POLL_MS = 50,
    PIECE = 1 << 20, /* bytes transferred between two checks of the deadline */
    GRACE_MS = 1000, /* time for the exit status of a process that closed its socket */
};

um_decoder_wait um_decoder_wait_new(int64_t wait_ms)
{
    return (um_decoder_wait){.wait_ms = wait_ms, .deadline_ns = um_now_ns() + wait_ms * 1000000};
}

/* The child's files: 0 the socket, 1 and 2 /dev/null. Sanitizer builds keep 2, so that reports are visible. */
static int plan_files(posix_spawn_file_actions_t *files, int socket)
{
    int rc = posix_spawn_file_actions_adddup2(files, socket, STDIN_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_addopen(files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
#ifndef UM_SANITIZED
    if (rc == 0)
        rc = posix_spawn_file_actions_addopen(files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
#endif
    if (rc == 0) rc = posix_spawn_file_actions_addclosefrom_np(files, STDERR_FILENO + 1);
    return rc;
}

/* In the child all signals have their default action, and are unblocked but for those that ask a training job for a checkpoint, which
 * mpirun may send to all processes of a rank. */
static int plan_signals(posix_spawnattr_t *attr)
{
    sigset_t all, blocked;
    sigfillset(&all);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    int rc = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (rc == 0) rc = posix_spawnattr_setsigmask(attr, &blocked);
    if (rc == 0) rc = posix_spawnattr_setsigdefault(attr, &all);
    return rc;
}

static int spawn(pid_t *pid, const char *program, int socket)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    char *argv[] = {(char[]){"unimoe-decoder"}, NULL}, *env[] = {NULL};
    int rc = posix_spawn_file_actions_init(&files);
    if (rc != 0) return rc;
    rc = posix_spawnattr_init(&attr);
    if (rc == 0) {
        rc = plan_files(&files, socket);
        if (rc == 0) rc = plan_signals(&attr);
        if (rc == 0) rc = posix_spawn(pid, program, &files, &attr, argv, env);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&files);
    return rc;
}

um_status um_decoder_child_start(um_decoder_child *c, const char *program, um_err *err)
{
    int ends[2];
    pid_t pid = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return UM_FAIL(err, UM_E_IO, "socketpair: %s", strerror(errno));
    int rc = spawn(&pid, program, ends[1]);
    close(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        return UM_FAIL(err, UM_E_IO, "%s cannot be started: %s", program, strerror(rc));
    }
    *c = (um_decoder_child){.pid = pid, .fd = ends[0]};
    return UM_OK;
}

bool um_decoder_child_alive(um_decoder_child *c)
{
    if (c->pid <= 0) return false;
    if (waitpid(c->pid, NULL, WNOHANG) == 0) return true;
    close(c->fd);
    *c = (um_decoder_child){0};
    return false;
}

void um_decoder_child_stop(um_decoder_child *c)
{
    if (c->pid <= 0) return;
    kill(c->pid, SIGKILL);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR) {
    }
    close(c->fd);
    *c = (um_decoder_child){0};
}

static um_status ended_by(int sig, um_err *err)
{
    const char *name = sigabbrev_np(sig), *what = "crashed";
    if (sig == SIGKILL || sig == SIGTERM || sig == SIGINT || sig == SIGHUP) what = "was killed";
    if (sig == SIGXCPU) what = "used up its processor time";
    return UM_FAIL(err, UM_E_PEER, "the decoder %s (SIG%s)", what, name != NULL ? name : "?");
}

/* Called when the socket is closed: reports how the process ended, and reaps it. */
static um_status gone(um_decoder_child *c, um_err *err)
{
    int how = 0;
    pid_t got = 0;
    int64_t until = um_now_ns() + (int64_t)GRACE_MS * 1000000;
    while ((got = waitpid(c->pid, &how, WNOHANG)) == 0 && um_now_ns() < until) um_sleep_us(1000);
    if (got == c->pid) {
        close(c->fd);
        *c = (um_decoder_child){0};
    } else {
        um_decoder_child_stop(c);
        return UM_FAIL(err, UM_E_PEER, "the decoder closed its end");
    }
    if (WIFSIGNALED(how)) return ended_by(WTERMSIG(how), err);
    return UM_FAIL(err, UM_E_PEER, "the decoder ended (exit code %d)", WEXITSTATUS(how));
}

/* Transfers up to n bytes or waits briefly. */
static um_status move(um_decoder_child *c, void *data, size_t n, bool out, size_t *moved,
                      um_err *err)
{
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL; /* no SIGPIPE: the program may have its own handler */
    ssize_t k = out ? send(c->fd, data, n, flags) : recv(c->fd, data, n, flags);
    *moved = k > 0 ? (size_t)k : 0;
    if (k > 0 || (k < 0 && errno == EINTR)) return UM_OK;
    if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        struct pollfd p = {.fd = c->fd, .events = out ? POLLOUT : POLLIN};
        poll(&p, 1, POLL_MS);
        return UM_OK;
    }
    if (k == 0 || errno == EPIPE || errno == ECONNRESET) return gone(c, err);
    return UM_FAIL(err, UM_E_IO, "the decoder's socket: %s", strerror(errno));
}

static um_status transfer(um_decoder_child *c, uint8_t *data, size_t n, bool out,
                          const um_decoder_wait *w, um_err *err)
{
    for (size_t done = 0, moved = 0; done < n; done += moved) {
        size_t part = n - done < PIECE ? n - done : PIECE;
        UM_TRY(move(c, data + done, part, out, &moved, err));
        if (um_now_ns() > w->deadline_ns && done + moved < n)
            return UM_FAIL(err, UM_E_TIMEOUT, "the decoder took longer than %" PRId64 " ms",
                           w->wait_ms);
    }
    return UM_OK;
}

um_status um_decoder_child_send(um_decoder_child *c, const void *data, size_t n,
                                const um_decoder_wait *w, um_err *err)
{
    return transfer(c, (uint8_t *)(uintptr_t)data, n, true, w, err);
}

um_status um_decoder_child_receive(um_decoder_child *c, void *data, size_t n,
                                   const um_decoder_wait *w, um_err *err)
{
    return transfer(c, data, n, false, w, err);
}
