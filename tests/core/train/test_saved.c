/* Checkpoints of a training: whole or not there, damage is named, old ones leave. */
#include "core/train/saved.h"
#include "tests/core/train/made_checkpoint.h"
#include "tests/support/fixture.h"

#include "core/base/file.h"
#include "core/base/process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static um_err err;

static void ok(um_status st)
{
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* A checkpoint whose value is the step. */
static const char *save(uint64_t step) { return made_checkpoint(step, (float)step); }

static float value_of(const char *folder)
{
    um_saved s;
    float v = 0;
    ok(um_saved_open(&s, folder, true, &err));
    const um_tensor *t = um_saved_tensor(&s, "master.", "x");
    assert_non_null(t);
    assert_null(um_saved_tensor(&s, "m.", "x"));
    um_tensor_to_f32(&v, t);
    assert_int_equal(um_json_int(um_json_get(s.state, "step"), 0), 1);
    um_saved_close(&s);
    return v;
}

static bool there(const char *name) { return um_file_exists(um_path_join(&arena, dir, name)); }

static void written_read_replaced_and_pruned(void **state)
{
    (void)state;
    const char *newest = NULL;
    ok(um_saved_newest(&newest, dir, &arena, &err));
    assert_null(newest);
    for (uint64_t s = 1; s <= 12; s++) assert_true(value_of(save(s)) == (float)s);
    assert_true(value_of(save(12)) == 12.0f); /* the same again */
    ok(um_saved_newest(&newest, dir, &arena, &err));
    assert_true(value_of(newest) == 12.0f);
    um_saved_prune(dir, 2, 3);
    assert_true(there("checkpoint-12") && there("checkpoint-11") && there("checkpoint-3"));
    assert_false(there("checkpoint-10") || there("checkpoint-1"));
}

static void a_part_of_one_is_none(void **state)
{
    (void)state;
    const char *folder = NULL, *newest = NULL;
    save(4);
    ok(um_saved_begin(&folder, dir, 5, &arena, &err)); /* killed here */
    ok(um_saved_newest(&newest, dir, &arena, &err));
    assert_true(value_of(newest) == 4.0f);
    um_saved_prune(dir, 1, 0);
    assert_false(um_file_exists(folder));
}

static void damage(const char *folder, const char *name, int what)
{
    const char *path = um_path_join(&arena, folder, name);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    if (what == 0) {
        fseek(file, -2, SEEK_END);
        fputc('!', file);
    }
    fclose(file);
    if (what == 1) assert_int_equal(truncate(path, 4), 0);
    if (what == 2) assert_int_equal(unlink(path), 0);
}

static void damage_is_named_and_passed_over(void **state)
{
    static const struct {
        const char *name;
        int what;
        const char *message;
    } cases[] = {{"router.safetensors", 0, "router.safetensors is damaged"},
                 {"router.safetensors", 1, "router.safetensors has 4 bytes"},
                 {"router.safetensors", 2, "router.safetensors: No such file"},
                 {"trainer_state.json", 1, "trainer_state.json has 4 bytes, manifest.json says"},
                 {"manifest.json", 2, "manifest.json is missing"},
                 {"manifest.json", 1, "manifest.json"}};
    (void)state;
    save(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        um_saved s;
        const char *folder = save(7), *newest = NULL;
        damage(folder, cases[i].name, cases[i].what);
        assert_int_equal(um_saved_open(&s, folder, true, &err), UM_E_DATA);
        has(&err, cases[i].message);
        has(&err, folder);
        ok(um_saved_newest(&newest, dir, &arena, &err));
        assert_true(value_of(newest) == 1.0f);
    }
}

static void move(const char *from, const char *to)
{
    assert_int_equal(rename(um_path_join(&arena, dir, from), um_path_join(&arena, dir, to)), 0);
}

/* A run may be killed after each single change of a name. */
static void killed_between_two_renames(void **state)
{
    const char *newest = NULL, *folder = NULL;
    (void)state;
    /* the only one, which is being written again: it is out of the way, the new one not yet in place */
    save(7);
    move("checkpoint-7", ".tmp-checkpoint-7.old");
    ok(um_saved_begin(&folder, dir, 7, &arena, &err));
    ok(um_saved_newest(&newest, dir, &arena, &err));
    assert_true(value_of(newest) == 7.0f);
    move("checkpoint-7", ".tmp-checkpoint-7.old");
    um_saved_prune(dir, 1, 0);
    assert_true(there("checkpoint-7"));
    assert_false(there(".tmp-checkpoint-7") || there(".tmp-checkpoint-7.old"));
    /* the new one is in place, the old one not removed yet */
    ok(um_saved_begin(&folder, dir, 7, &arena, &err));
    move(".tmp-checkpoint-7", ".tmp-checkpoint-7.old");
    ok(um_saved_newest(&newest, dir, &arena, &err));
    assert_true(value_of(newest) == 7.0f);
    /* one that leaves: a part of it is never found under its name */
    save(6);
    move("checkpoint-6", ".tmp-checkpoint-6.gone");
    assert_int_equal(unlink(um_path_join(&arena, dir, ".tmp-checkpoint-6.gone/manifest.json")), 0);
    save(8);
    um_saved_prune(dir, 1, 0);
    assert_false(there("checkpoint-6") || there(".tmp-checkpoint-6.gone") || there("checkpoint-7"));
    assert_true(value_of(save(8)) == 8.0f);
}

static void when_all_are_damaged_none_is_taken(void **state)
{
    const char *newest = NULL;
    (void)state;
    damage(save(3), "router.safetensors", 0);
    assert_int_equal(um_saved_newest(&newest, dir, &arena, &err), UM_E_DATA);
    has(&err, "router.safetensors is damaged");
    has(&err, "there is no other");
    damage(save(9), "manifest.json", 2);
    assert_int_equal(um_saved_newest(&newest, dir, &arena, &err), UM_E_DATA);
    has(&err, "none of the checkpoints is whole");
    assert_null(newest);
}

/* A run that goes on from an older one: later ones are no part of it, and would count as newer than all that it saves. */
static void later_ones_are_set_aside(void **state)
{
    const char *newest = NULL;
    (void)state;
    for (uint64_t s = 10; s <= 30; s += 10) save(s);
    um_saved_set_aside(dir, 10);
    assert_true(there("checkpoint-10") && there("set-aside-checkpoint-20/manifest.json"));
    assert_false(there("checkpoint-20") || there("checkpoint-30"));
    save(15);
    um_saved_prune(dir, 1, 0);
    ok(um_saved_newest(&newest, dir, &arena, &err));
    assert_true(value_of(newest) == 15.0f);
    save(20);
    um_saved_set_aside(dir, 15); /* again: the name is taken */
    assert_true(there("set-aside-checkpoint-20/manifest.json"));
    assert_false(there("checkpoint-20"));
}

static void what_is_in_the_way_is_named(void **state)
{
    const char *folder = NULL;
    (void)state;
    ok(um_file_write(um_path_join(&arena, dir, "checkpoint-4"), "x", 1, &err));
    ok(um_saved_begin(&folder, dir, 4, &arena, &err));
    assert_int_equal(um_saved_commit(&folder, dir, 4, NULL, 0, "{}", &arena, &err), UM_E_IO);
    has(&err, "checkpoint-4: a file of this name is in the way");
    um_saved_drop(dir, 4);
    assert_false(there(".tmp-checkpoint-4"));
    assert_true(there("checkpoint-4"));
    ok(um_file_write(um_path_join(&arena, dir, ".tmp-checkpoint-5"), "x", 1, &err));
    assert_int_equal(um_saved_begin(&folder, dir, 5, &arena, &err), UM_E_IO);
    has(&err, ".tmp-checkpoint-5: a file, not a folder");
}

/* One that has the folder lets it go when it ends, in whatever way. */
static void a_folder_is_one_job_s_alone(void **state)
{
    int fd = -1, other = -1, pipes[2];
    char c = 0;
    (void)state;
    assert_int_equal(pipe(pipes), 0);
    const pid_t child = fork();
    if (child == 0) {
        if (um_saved_lock(&fd, dir, &err) != UM_OK || write(pipes[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    assert_int_equal(read(pipes[0], &c, 1), 1);
    other = open(um_path_join(&arena, dir, ".lock"), O_RDWR);
    assert_true(other >= 0);
    assert_int_equal(flock(other, LOCK_EX | LOCK_NB), -1);
    close(other);
    kill(child, SIGKILL);
    ok(um_saved_lock(&fd, dir, &err)); /* waits until the child is gone */
    assert_true(fd >= 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(fd);
    close(pipes[0]);
    close(pipes[1]);
}

/* More than the process may write: what could not be written is named and counted, and nothing stays of it. */
static void a_file_that_does_not_fit_is_counted(void **state)
{
    static float values[4096];
    const um_tensor t = {.name = "master.x",
                         .dtype = UM_F32,
                         .rank = 1,
                         .shape = {4096},
                         .data = (const uint8_t *)values,
                         .bytes = sizeof values};
    struct rlimit was, small;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    um_signals_watch(); /* as ranks that train do: an error, no signal */
    small = (struct rlimit){10000, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const um_status st =
        um_tensors_write(um_path_join(&arena, dir, "x.safetensors"), &t, 1, NULL, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_int_equal(st, UM_E_IO);
    has(&err, "x.safetensors.tmp.");
    has(&err, "File too large: ");
    const char *missing = strstr(err.msg, "large: ") + strlen("large: ");
    assert_true(strtol(missing, NULL, 10) > 6384 && strtol(missing, NULL, 10) < 6600);
    has(&err, " more bytes were to be written");
    assert_int_equal(rmdir(dir), 0); /* it is empty */
    assert_int_equal(mkdir(dir, 0755), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_read_replaced_and_pruned, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(a_part_of_one_is_none, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(damage_is_named_and_passed_over, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(killed_between_two_renames, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(when_all_are_damaged_none_is_taken, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(later_ones_are_set_aside, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(what_is_in_the_way_is_named, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(a_folder_is_one_job_s_alone, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(a_file_that_does_not_fit_is_counted, folder_setup,
                                        folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
