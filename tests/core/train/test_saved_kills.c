/* A process that is killed at any single operation on files while it saves, removes or sets aside checkpoints leaves a whole checkpoint,
 * which the next one finds; and one that is killed while it cleans up behind the first does too. */
#include "core/base/rng.h"
#include "core/train/saved.h"
#include "tests/core/train/made_checkpoint.h"
#include "tests/support/fixture.h"

#include "core/base/file.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* The linker brings these calls here (--wrap). Each is an operation after which a kill may come. */
int __real_rename(const char *from, const char *to);
int __real_unlink(const char *path);
int __real_rmdir(const char *path);
int __real_mkdir(const char *path, mode_t mode);
int __real_fsync(int fd);
ssize_t __real_write(int fd, const void *data, size_t n);
int __wrap_rename(const char *from, const char *to);
int __wrap_unlink(const char *path);
int __wrap_rmdir(const char *path);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_fsync(int fd);
ssize_t __wrap_write(int fd, const void *data, size_t n);

static long left; /* operations until this process is killed; 0: it is not */

static void operation(void)
{
    if (left > 0 && --left == 0) raise(SIGKILL);
}

int __wrap_rename(const char *from, const char *to)
{
    int rc = __real_rename(from, to);
    operation();
    return rc;
}

int __wrap_unlink(const char *path)
{
    int rc = __real_unlink(path);
    operation();
    return rc;
}

int __wrap_rmdir(const char *path)
{
    int rc = __real_rmdir(path);
    operation();
    return rc;
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    int rc = __real_mkdir(path, mode);
    operation();
    return rc;
}

int __wrap_fsync(int fd)
{
    int rc = __real_fsync(fd);
    operation();
    return rc;
}

/* Half of it is written when the kill comes. */
ssize_t __wrap_write(int fd, const void *data, size_t n)
{
    ssize_t rc = __real_write(fd, data, left == 1 ? n / 2 : n);
    operation();
    return rc;
}

static um_err err;

static void ok(um_status st)
{
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* --- what is killed --- */

static void the_next(void)
{
    made_checkpoint(8, 8);
    um_saved_prune(dir, 1, 0);
}

static void the_same_again(void) { made_checkpoint(7, 70); }

static void back_to_an_older_one(void) { um_saved_set_aside(dir, 6); }

static void cleaning_up(void)
{
    const char *newest = NULL;
    ok(um_saved_newest(&newest, dir, &arena, &err));
    um_saved_prune(dir, 2, 0);
}

/* Runs it in another process, which is killed after n operations. False: it had fewer. */
static bool killed(void (*work)(void), long n)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        left = n;
        work();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void whole_one_is_there(uint64_t least, long n, long m)
{
    const char *newest = NULL;
    um_saved s;
    float v = 0;
    ok(um_saved_newest(&newest, dir, &arena, &err));
    if (newest == NULL) fail_msg("killed after %ld and %ld operations: nothing is there", n, m);
    ok(um_saved_open(&s, newest, true, &err));
    um_tensor_to_f32(&v, um_saved_tensor(&s, "master.", "x"));
    assert_true(s.step >= least && (v == (float)s.step || (s.step == 7 && v == 70.0f)));
    um_saved_close(&s);
}

static void nothing_half_done_is_left(void)
{
    DIR *d = opendir(dir);
    um_saved_prune(dir, 2, 0);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strncmp(e->d_name, ".tmp", 4) == 0) fail_msg("%s is left", e->d_name);
    closedir(d);
}

/* older: there is another checkpoint before the one at 7. */
static void at_every_operation(void (*work)(void), bool older, uint64_t least)
{
    um_rng rng = um_rng_seed(1, 2);
    long n = 0;
    for (bool dies = true; dies;) {
        if (older) made_checkpoint(6, 6);
        made_checkpoint(7, 7);
        dies = killed(work, ++n);
        const long m = 1 + (long)um_rng_below(&rng, 12);
        killed(cleaning_up, m);
        whole_one_is_there(least, n, m);
        nothing_half_done_is_left();
        whole_one_is_there(least, n, m);
        folder_teardown(NULL);
        folder_setup(NULL);
    }
    assert_true(n > 1);
}

static void while_the_next_is_saved(void **state)
{
    (void)state;
    at_every_operation(the_next, false, 7);
    at_every_operation(the_next, true, 7);
}

static void while_the_only_one_is_saved_again(void **state)
{
    (void)state;
    at_every_operation(the_same_again, false, 7);
}

static void while_a_later_one_is_set_aside(void **state)
{
    (void)state;
    at_every_operation(back_to_an_older_one, true, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(while_the_next_is_saved, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(while_the_only_one_is_saved_again, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(while_a_later_one_is_set_aside, folder_setup,
                                        folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
