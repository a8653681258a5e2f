/* The watch over a job's processes: their output, their end, and that none is left behind. Shell scripts stand in for mpirun. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "launch/job/stale_shm.h"
#include "launch/job/run.h"
#include "launch/job/stale_session.h"
#include "launch/model_dir/tree.h"

#define EDGE "--------------------------------------------------------------------------\n"

typedef struct fixture {
    um_arena arena;
    um_err err;
    um_text seen; /* the lines received, each with a newline */
    int64_t start_ms;
} fixture;

static int setup(void **state)
{
    fixture *f = um_zalloc(sizeof *f);
    um_arena_init(&f->arena, "test", 1 << 14);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    um_text_free(&f->seen);
    um_arena_free(&f->arena);
    um_free(f);
    return 0;
}

static void keep(void *ctx, const char *line) { um_text_fmt(ctx, "%s\n", line); }

static const char *seen(const fixture *f) { return f->seen.n == 0 ? "" : f->seen.s; }

static um_job_next take(void *ctx, const char *line)
{
    um_text_fmt(ctx, "%s\n", line);
    return strcmp(line, "last") == 0   ? UM_JOB_LAST
           : strcmp(line, "stop") == 0 ? UM_JOB_STOP
                                       : UM_JOB_GO_ON;
}

/* Runs a shell script instead of mpirun. */
static um_status watch(fixture *f, const char *script, const char *input)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    um_job job = {.argv = argv, .argc = 3, .count = {1, 4, 1}};
    um_job_io io = {.input = input,
                    .input_size = input == NULL ? 0 : strlen(input),
                    .line = take,
                    .log = keep,
                    .start_ms = f->start_ms,
                    .ctx = &f->seen};
    f->seen.n = 0;
    f->err.msg[0] = '\0';
    return um_job_run(&job, &io, &f->err);
}

static void test_watch_output(void **state)
{
    fixture *f = *state;
    assert_int_equal(watch(f, "cat; printf 'no newline'", "one\ntwo\n"), UM_OK);
    assert_string_equal(f->seen.s, "one\ntwo\nno newline\n");
    assert_int_equal(watch(f, "cat >/dev/null; echo done", NULL),
                     UM_OK); /* no input: end of file at once */
    assert_string_equal(f->seen.s, "done\n");
    size_t big = 3u << 20; /* more than a pipe holds, both ways at once */
    char *text = um_arena_alloc(&f->arena, big + 1);
    memset(text, 'x', big);
    text[big - 1] = '\n';
    text[big] = '\0';
    assert_int_equal(watch(f, "cat", text), UM_OK);
    assert_int_equal(f->seen.n, big);
    assert_int_equal(watch(f, "exec <&-; echo deaf", text),
                     UM_OK); /* never reads: no hang, no SIGPIPE */
    assert_string_equal(f->seen.s, "deaf\n");
}

/* Input from a descriptor is passed on as it arrives, before its end. */
static void test_watch_stream(void **state)
{
    fixture *f = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t writer = fork();
    if (writer == 0) {
        char big[100000];
        memset(big, 'x', sizeof big);
        close(ends[0]);
        (void)!write(ends[1], "two\n", 4);
        while (access("test_run.tmp.seen", F_OK) != 0) usleep(1000);
        for (int i = 0; i < 30; i++) (void)!write(ends[1], big, sizeof big);
        _exit(0);
    }
    close(ends[1]);
    const char *const argv[] = {
        "sh", "-c", "read a; echo $a; read a; echo $a; touch test_run.tmp.seen; wc -c", NULL};
    um_job job = {.argv = argv, .argc = 3, .count = {1, 4, 1}};
    um_job_io io = {.input = "one\n",
                    .input_size = 4,
                    .input_more = true,
                    .input_fd = ends[0],
                    .line = take,
                    .log = keep,
                    .ctx = &f->seen};
    f->seen.n = 0;
    assert_int_equal(um_job_run(&job, &io, &f->err), UM_OK);
    assert_string_equal(f->seen.s, "one\ntwo\n3000000\n");
    close(ends[0]);
    unlink("test_run.tmp.seen");
    /* a job that ends before its input does */
    assert_int_equal(pipe(ends), 0);
    io.input_fd = ends[0];
    job.argv = (const char *const[]){"sh", "-c", "read a; echo last", NULL};
    f->seen.n = 0;
    assert_int_equal(um_job_run(&job, &io, &f->err), UM_OK);
    assert_string_equal(f->seen.s, "last\n");
    close(ends[0]);
    close(ends[1]);
    io.input_fd = open("/", O_RDONLY); /* cannot be read */
    job.argv = (const char *const[]){"cat", NULL};
    assert_int_equal(um_job_run(&job, &io, &f->err), UM_E_IO);
    assert_non_null(
        strstr(f->err.msg, "the requests could not be read to their end: Is a directory"));
    close(io.input_fd);
}

static void test_watch_codes(void **state)
{
    fixture *f = *state;
    assert_int_equal(watch(f, "exit 3", NULL), UM_E_MODEL);
    assert_string_equal(f->err.msg, "sh ended with code 3");
    assert_int_equal(watch(f, "exit 2", NULL), UM_E_USAGE);
    assert_int_equal(watch(f, "exit 77", NULL), UM_E_PEER);
    assert_int_equal(watch(f, "exit 137", NULL), UM_E_PEER);
    assert_string_equal(f->err.msg, "a rank was killed by signal 9 (mpirun does not say which)");
    assert_int_equal(watch(f, "kill -9 $$", NULL), UM_E_PEER);
    assert_string_equal(f->err.msg, "sh was killed by signal 9");
    um_job job = {.argv = (const char *const[]){"no-such-mpirun", NULL}, .argc = 1};
    um_job_io io = {.line = take, .log = keep, .ctx = &f->seen};
    assert_int_equal(um_job_run(&job, &io, &f->err), UM_E_IO);
    assert_non_null(strstr(f->err.msg, "no-such-mpirun is not in PATH ("));
    job.argv = (const char *const[]){"/proc/version", NULL};
    assert_int_equal(um_job_run(&job, &io, &f->err), UM_E_IO);
    assert_string_equal(f->err.msg, "/proc/version is missing or may not be executed");
}

static void test_watch_environment(void **state)
{
    fixture *f = *state;
    setenv("UNIMOE_WIRE", "bf16", 1);
    assert_int_equal(watch(f, "env", NULL), UM_OK); /* ranks get options as flags only */
    assert_null(strstr(f->seen.s, "UNIMOE_"));
    assert_non_null(strstr(f->seen.s, "PATH="));
    unsetenv("UNIMOE_WIRE");
}

/* What mpirun sees of our environment, however poor it is: a TMPDIR that is absolute, a PATH, a folder that exists. */
static void test_watch_poor_environment(void **state)
{
    fixture *f = *state;
    char here[4096], folder[] = "/tmp/test_run.XXXXXX";
    char *path = um_arena_str(&f->arena, (char *)(uintptr_t)um_config_system("PATH", ""));
    assert_non_null(getcwd(here, sizeof here));
    setenv("TMPDIR", "some/where", 1);
    assert_int_equal(watch(f, "echo $TMPDIR", NULL), UM_OK);
    assert_string_equal(f->seen.s, um_arena_fmt(&f->arena, "%s/some/where\n", here));
    setenv("TMPDIR", "", 1);
    assert_int_equal(watch(f, "echo $TMPDIR", NULL), UM_OK);
    assert_string_equal(f->seen.s, "/tmp\n");
    unsetenv("TMPDIR");
    unsetenv("PATH");
    assert_int_equal(watch(f, "ls / >/dev/null && echo found", NULL), UM_OK);
    assert_string_equal(f->seen.s, "found\n");
    setenv("PATH", um_arena_fmt(&f->arena, "/no/such:%s", path), 1);
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(watch(f, "/bin/pwd", NULL), UM_OK);
    assert_string_equal(f->seen.s, "/\n");
    assert_int_equal(chdir(here), 0);
    setenv("PATH", path, 1);
}

/* No process that has this argument, which each test makes its own. */
static void assert_gone(fixture *f, const char *mark)
{
    const char *script =
        um_arena_fmt(&f->arena,
                     "for p in /proc/[0-9]*; do tr '\\0' ' ' 2>/dev/null <$p/cmdline | grep -q "
                     "'sleep %s[ ]*$' && echo $p; done; true",
                     mark);
    assert_int_equal(watch(f, script, NULL), UM_OK);
    assert_string_equal(seen(f), "");
}

/* mpirun reports a dead rank and then hangs: it is killed, and so are children that left its process group. */
static void test_watch_fatal_hang(void **state)
{
    fixture *f = *state;
    assert_int_equal(watch(f,
                           "setsid sleep 7771 & trap '' TERM; printf %s '" EDGE
                           "mpirun noticed that process rank 2 with PID 0 on node h exited on "
                           "signal 9 (Killed).\n" EDGE "' >&2;"
                           "while :; do sleep 7771; done",
                           NULL),
                     UM_E_PEER);
    assert_string_equal(f->err.msg,
                        "expert/1 (rank 2, host h) was killed by signal 9 (by a person, "
                        "or by the kernel when memory ran out: dmesg)");
    assert_int_equal(f->err.signal, 9);
    assert_gone(f, "7771");
}

/* mpirun ends, but a child of it keeps the pipes open. */
static void test_watch_stray(void **state)
{
    fixture *f = *state;
    assert_int_equal(watch(f, "setsid sleep 7772 & echo out", NULL), UM_OK);
    assert_string_equal(f->seen.s, "out\n");
    assert_gone(f, "7772");
}

/* The process that watches gets SIGTERM: it ends the job and says so. */
static void test_watch_stopped(void **state)
{
    fixture *f = *state;
    assert_int_equal(watch(f, "kill -TERM $PPID; sleep 7773", NULL), UM_E_STOPPED);
    assert_string_equal(f->err.msg, "stopped by SIGTERM");
    assert_int_equal(f->err.signal, SIGTERM);
    assert_gone(f, "7773");
    /* A signal that was ignored at the start stays ignored: a job under nohup outlives its terminal. */
    signal(SIGHUP, SIG_IGN);
    assert_int_equal(watch(f, "kill -HUP $PPID; echo on", NULL), UM_OK);
    assert_string_equal(f->seen.s, "on\n");
    signal(SIGHUP, SIG_DFL);
}

/* The reader of the output closes it: the job ends at once, and later error messages are not reported. */
static void test_watch_unwanted(void **state)
{
    fixture *f = *state;
    assert_int_equal(watch(f,
                           "trap 'echo more; echo 12:04:31.208 E expert/1 asked to stop >&2; exit "
                           "1' TERM; echo stop; while :; do sleep 0.05; done",
                           NULL),
                     UM_E_STOPPED);
    assert_string_equal(f->seen.s, "stop\n");
    assert_int_equal(f->err.signal, 0);
}

/* Nothing arrives: the start has a deadline, and the message contains the output until then. */
static void test_watch_late(void **state)
{
    fixture *f = *state;
    f->start_ms = 300;
    assert_int_equal(watch(f, "echo 'ssh: no route' >&2; sleep 7774", NULL), UM_E_TIMEOUT);
    assert_string_equal(f->err.msg, "the job did not start within 1 s: ssh: no route");
    f->start_ms = 0;
    assert_gone(f, "7774");
    f->start_ms = 60000;
    assert_int_equal(watch(f, "echo first", NULL), UM_OK);
}

/* The process that watches is killed without a word: mpirun gets SIGTERM from the kernel. */
static void test_watch_killed(void **state)
{
    fixture *f = *state;
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(ready[0]);
        dup2(
            ready[1],
            9); /* the script's end of the pipe: closed only when the script and its watcher are gone */
        (void)watch(f, "trap 'exit 0' TERM; printf r >&9; while :; do sleep 0.05; done", NULL);
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 'r');
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(read(ready[0], &byte, 1),
                     0); /* would hang, and time out, if the script lived on */
    close(ready[0]);
}

/* Segments of killed jobs are counted and removed, those that a process has mapped and older ones are not. */
static void test_leftovers(void **state)
{
    fixture *f = *state;
    const int64_t late = INT64_C(1) << 32; /* seconds: a time that no other segment has */
    const char *path[3];
    void *mapped[3];
    assert_int_equal(um_stale_shm(late - 1, false), 0);
    for (int i = 0; i < 3; i++) {
        path[i] = um_arena_fmt(&f->arena, "/dev/shm/vader_segment.test.%d.%d", (int)getpid(), i);
        int fd = open(path[i], O_RDWR | O_CREAT | O_EXCL, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, 4096), 0);
        mapped[i] = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(mapped[i] != MAP_FAILED);
        time_t t = i == 2 ? late - 1 : late;
        assert_int_equal(futimens(fd, (const struct timespec[]){{t, 0}, {t, 0}}), 0);
        close(fd);
    }
    assert_int_equal(um_stale_shm(late - 1, true), 0); /* all in use */
    munmap(mapped[1], 4096);
    munmap(mapped[2], 4096);
    assert_int_equal(um_stale_shm(late - 1, false), 2);
    assert_int_equal(um_stale_shm(late, true), 1); /* not the one of before */
    assert_int_not_equal(access(path[1], F_OK), 0);
    munmap(mapped[0], 4096);
    assert_int_equal(um_stale_shm(late - 1, true), 2);
    assert_int_not_equal(access(path[0], F_OK), 0);
    assert_int_not_equal(access(path[2], F_OK), 0);
}

static const char *session(fixture *f, const char *tmp, const char *name, long pid)
{
    const char *top = um_arena_fmt(&f->arena, "%s/%s", tmp, name),
               *path = um_arena_fmt(&f->arena, "%s/pid.%ld", top, pid);
    mkdir(top, 0700);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(
        um_file_write(um_arena_fmt(&f->arena, "%s/contact.txt", path), "x", 1, &f->err), UM_OK);
    return path;
}

/* Session folders of this host and user whose mpirun is gone are removed; no other is. */
static void test_stale_sessions(void **state)
{
    fixture *f = *state;
    char tmp[] = "/tmp/test_run.XXXXXX", host[256] = "";
    assert_non_null(mkdtemp(tmp));
    gethostname(host, sizeof host - 1);
    host[strcspn(host, ".")] = '\0';
    pid_t dead = fork();
    if (dead == 0) _exit(0);
    waitpid(dead, NULL, 0);
    const char *ours = um_arena_fmt(&f->arena, "ompi.%s.%u", host, (unsigned)geteuid());
    const char *gone = session(f, tmp, ours, dead), *live = session(f, tmp, ours, getpid());
    const char *other =
        session(f, tmp, um_arena_fmt(&f->arena, "ompi.x%s.%u", host, (unsigned)geteuid()), dead);
    const char *file = um_arena_fmt(&f->arena, "%s/%s/pid.%dx", tmp, ours, (int)dead);
    assert_int_equal(mkdir(file, 0700), 0);
    assert_int_equal(um_stale_sessions(tmp, false), 1);
    assert_int_equal(um_stale_sessions(tmp, true), 1);
    assert_int_equal(um_stale_sessions(tmp, true), 0);
    assert_false(um_file_exists(gone));
    assert_true(um_file_exists(live) && um_file_exists(other) && um_file_exists(file));
    um_tree_remove(tmp);
    assert_int_equal(um_stale_sessions(tmp, true), 0); /* no such folder */
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_watch_output),           T(test_watch_stream),     T(test_watch_codes),
        T(test_watch_environment),      T(test_watch_fatal_hang), T(test_watch_stray),
        T(test_watch_stopped),          T(test_watch_killed),     T(test_leftovers),
        T(test_watch_poor_environment), T(test_watch_unwanted),   T(test_watch_late),
        T(test_stale_sessions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
