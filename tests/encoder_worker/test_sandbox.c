/* The walls: entered in a child of its own, each forbidden thing is tried once and must be refused or deadly; and decoding within
 * ever less memory must end in an answer or an error, never in a crash. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "encoder_worker/sandbox/video_read.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "encoder_worker/sandbox/sandbox.h"
#include "encoder_worker/sandbox/wave_read.h"
#include "tests/support/media_files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, DONE = 0, REFUSED = 40, NO_WALLS = 41 };

/* Runs the attempt behind the walls and returns what waitpid said. The attempt returns DONE when it got what it wanted. */
static int behind_walls(int (*attempt)(void *ctx), void *ctx, int64_t memory, int64_t cpu)
{
    int how = 0;
    pid_t pid = fork();
    if (pid == 0) {
        um_err err = {0};
        signal(SIGALRM, SIG_DFL);
        alarm(60);
        if (um_sandbox_enter(memory, cpu, &err) != UM_OK) {
            fprintf(stderr, "%s\n", err.msg);
            _exit(NO_WALLS);
        }
        _exit(attempt(ctx));
    }
    assert_true(pid > 0);
    while (waitpid(pid, &how, 0) < 0) assert_int_equal(errno, EINTR);
    return how;
}

static int result(bool got_it) { return got_it ? DONE : REFUSED; }

static int try_nothing(void *ctx) { return (void)ctx, DONE; }

static int try_work(void *ctx)
{
    (void)ctx;
    struct timespec t;
    um_arena a;
    um_arena_init(&a, "test", 1 << 12);
    memset(um_arena_alloc(&a, 4 * MIB), 1, 4 * MIB);
    um_arena_free(&a);
    return clock_gettime(CLOCK_MONOTONIC, &t) == 0 && write(STDERR_FILENO, "", 0) == 0 ? DONE
                                                                                       : REFUSED;
}

static int try_open(void *ctx) { return result(open(ctx, O_RDONLY) >= 0); }
static int try_create(void *ctx) { return result(open(ctx, O_WRONLY | O_CREAT, 0600) >= 0); }
static int try_socket(void *ctx)
{
    return result(syscall(SYS_socket, 2, 1, 0) >= 0 || ctx != NULL);
}
static int try_fork(void *ctx)
{
    return (void)ctx, result(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) >= 0);
}
static int try_exec(void *ctx)
{
    char *argv[] = {ctx, NULL};
    execv(ctx, argv);
    return REFUSED;
}
static int try_memory(void *ctx)
{
    (void)ctx;
    return result(mmap(NULL, 512 * (size_t)MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0) != MAP_FAILED);
}
static int try_code(void *ctx)
{
    (void)ctx;
    return result(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0) != MAP_FAILED);
}
static int try_make_code(void *ctx)
{
    (void)ctx;
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return result(mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0);
}
static int try_map_file(void *ctx)
{
    (void)ctx;
    return result(mmap(NULL, 4096, PROT_READ, MAP_SHARED, STDIN_FILENO, 0) != MAP_FAILED);
}
static int try_ptrace(void *ctx)
{
    return (void)ctx, result(syscall(SYS_ptrace, 16, getppid(), 0, 0) == 0);
}
static int try_kill(void *ctx) { return result(kill(*(pid_t *)ctx, SIGTERM) == 0); }
static int try_kill_thread(void *ctx)
{
    pid_t pid = *(pid_t *)ctx;
    return result(syscall(SYS_tgkill, pid, pid, SIGTERM) == 0);
}
static int try_dup(void *ctx) { return (void)ctx, result(dup(STDERR_FILENO) >= 0); }
static int try_unlink(void *ctx) { return result(unlink(ctx) == 0); }
static int try_limits(void *ctx)
{
    (void)ctx;
    struct rlimit r = {1, 1};
    return result(setrlimit(RLIMIT_CORE, &r) == 0);
}
static int try_setuid(void *ctx) { return (void)ctx, result(syscall(SYS_setuid, 0) == 0); }
static int try_io_uring(void *ctx)
{
    return (void)ctx, result(syscall(SYS_io_uring_setup, 1, 0) >= 0);
}
static int try_to_spin(void *ctx)
{
    (void)ctx;
    for (volatile unsigned i = 0;; i++) {
    }
    return DONE;
}
static int try_abort(void *ctx)
{
    (void)ctx;
    abort();
    return DONE;
}

static bool exited_with(int how, int code) { return WIFEXITED(how) && WEXITSTATUS(how) == code; }
static bool died_by(int how, int sig) { return WIFSIGNALED(how) && WTERMSIG(how) == sig; }

static void test_work_goes_on(void **state)
{
    (void)state;
    assert_true(exited_with(behind_walls(try_nothing, NULL, 64 * MIB, 10), DONE));
    assert_true(exited_with(behind_walls(try_work, NULL, 64 * MIB, 10), DONE));
    assert_true(died_by(behind_walls(try_abort, NULL, 64 * MIB, 10), SIGABRT));
}

static void test_walls(void **state)
{
    (void)state;
    pid_t self = getpid();
    char made[] = "unimoe-sandbox-test-file", program[] = "/bin/true", readable[] = "/etc/passwd";
    const struct {
        const char *what;
        int (*attempt)(void *ctx);
        void *ctx;
    } attempts[] = {
        {"read a file", try_open, readable},
        {"create a file", try_create, made},
        {"remove a file", try_unlink, made},
        {"open a socket", try_socket, NULL},
        {"fork", try_fork, NULL},
        {"start a program", try_exec, program},
        {"take much memory", try_memory, NULL},
        {"map code", try_code, NULL},
        {"make memory code", try_make_code, NULL},
        {"map a file", try_map_file, NULL},
        {"trace its parent", try_ptrace, NULL},
        {"send a signal to its parent", try_kill, &self},
        {"send a signal to a thread of its parent", try_kill_thread, &self},
        {"copy a descriptor", try_dup, NULL},
        {"raise its limits", try_limits, NULL},
        {"change its user", try_setuid, NULL},
        {"use io_uring", try_io_uring, NULL},
    };
    for (size_t i = 0; i < sizeof attempts / sizeof attempts[0]; i++) {
        int how = behind_walls(attempts[i].attempt, attempts[i].ctx, 64 * MIB, 10);
        if (!exited_with(how, REFUSED) && !died_by(how, SIGSYS))
            fail_msg("%s: wait status %x", attempts[i].what, (unsigned)how);
    }
    assert_int_equal(access(made, F_OK), -1);
}

/* The same attempts without the sandbox: those open to any process succeed, so the test above can fail. */
static void test_attempts_are_real(void **state)
{
    (void)state;
    char readable[] = "/etc/passwd";
    assert_int_equal(try_open(readable), DONE);
    assert_int_equal(try_socket(NULL), DONE);
    assert_int_equal(try_code(NULL), DONE);
    assert_int_equal(try_make_code(NULL), DONE);
    assert_int_equal(try_memory(NULL), DONE);
    assert_int_equal(try_dup(NULL), DONE);
}

static void test_processor_time(void **state)
{
    (void)state;
    int how = behind_walls(try_to_spin, NULL, 64 * MIB, 1);
    assert_true(died_by(how, SIGXCPU) || died_by(how, SIGKILL));
}

/* A process behind the walls dies with its parent: the middle one leaves, the inner one waits for ever. */
static int try_to_outlive(void *ctx)
{
    char c = 0;
    (void)ctx;
    return read(STDIN_FILENO, &c, 1) < 0 ? REFUSED : DONE;
}

static void test_dies_with_parent(void **state)
{
    (void)state;
    int live[2], quiet[2];
    char c = 0;
    assert_int_equal(pipe2(live, O_CLOEXEC), 0);
    assert_int_equal(pipe2(quiet, O_CLOEXEC), 0);
    pid_t middle = fork();
    if (middle == 0) {
        um_err err = {0};
        if (fork() == 0) {
            dup2(quiet[0], STDIN_FILENO); /* nobody ever writes there */
            if (um_sandbox_enter(64 * MIB, 10, &err) != UM_OK) _exit(NO_WALLS);
            if (write(live[1], "x", 1) != 1) _exit(1);
            _exit(try_to_outlive(NULL));
        }
        if (read(live[0], &c, 1) != 1) _exit(1);
        _exit(0);
    }
    close(live[1]);
    assert_int_equal(waitpid(middle, NULL, 0), middle);
    assert_int_equal(read(live[0], &c, 1),
                     0); /* the end of the file: the last writer, the inner one, is dead */
    close(live[0]);
    close(quiet[0]);
    close(quiet[1]);
}

/* ---- decoding in little memory ---- */

typedef struct work {
    media_blob blob;
    enum { IMAGE, WAVE, VIDEO } kind;
} work;

static um_status ignore(void *ctx, const um_image *p, um_err *err)
{
    (void)ctx, (void)p, (void)err;
    return UM_OK;
}

static int try_decode(void *ctx)
{
    const work *w = ctx;
    um_err err = {0};
    um_arena a;
    um_image p;
    um_wave wave;
    const um_video_limits limits = {.pixels = 1 << 24, .seconds = 60};
    um_arena_init(&a, "test", 1 << 12);
    um_status st = w->kind == IMAGE ? um_image_read(&p, w->blob.data, w->blob.n, 1 << 24, &a, &err)
                   : w->kind == WAVE
                       ? um_wave_read(&wave, w->blob.data, w->blob.n, 60, &a, &err)
                       : um_video_read(w->blob.data, w->blob.n, 8, &limits, ignore, NULL, &a, &err);
    if (st == UM_OK) return DONE;
    return st == UM_E_MEMORY || st == UM_E_DATA ? REFUSED : 1;
}

/* Not in the list: VP9, whose decoder in libavcodec 5.1 frees what it never got when its first small allocations fail. A crash of a
 * library is one error for one file too (test_decoder_faults). */
static void test_little_memory(void **state)
{
    (void)state;
#ifdef UM_SANITIZED
    skip(); /* a sanitizer's own allocator ends the process where malloc gives NULL */
#endif
    static const struct {
        const char *name;
        int kind;
    } files[] = {{"golden/media/photo.jpg", IMAGE}, {"golden/media/tall.png", IMAGE},
                 {"media/lossy.webp", IMAGE},       {"media/tones.flac", WAVE},
                 {"media/tones.m4a", WAVE},         {"golden/media/stereo11k.wav", WAVE},
                 {"media/count.mkv", VIDEO},        {"media/count.mp4", VIDEO}};
    um_arena arena;
    um_arena_init(&arena, "test", 1 << 16);
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        work w = {.blob = media_load(&arena, files[f].name)};
        w.kind = files[f].kind == IMAGE ? IMAGE : files[f].kind == WAVE ? WAVE : VIDEO;
        int done = 0;
        for (int64_t memory = 1 << 12; memory <= 512 * MIB; memory += memory / 4) {
            int how = behind_walls(try_decode, &w, memory, 30);
            if (!exited_with(how, DONE) && !exited_with(how, REFUSED))
                fail_msg("%s in %d kB: wait status %x", files[f].name, (int)(memory / 1024),
                         (unsigned)how);
            done += exited_with(how, DONE);
        }
        assert_true(done > 0);
    }
    um_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work_goes_on),      cmocka_unit_test(test_walls),
        cmocka_unit_test(test_attempts_are_real), cmocka_unit_test(test_processor_time),
        cmocka_unit_test(test_dies_with_parent),  cmocka_unit_test(test_little_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
