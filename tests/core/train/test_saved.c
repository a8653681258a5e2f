/* Checkpoints of a training: whole or not there, damage is named, old ones leave. */
#include "core/train/saved.h"
#include "tests/support/fixture.h"

#include "core/base/file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static um_err err;

static void ok(um_status st)
{
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* A checkpoint with one file of one tensor, whose value is the step. */
static const char *save(uint64_t step)
{
    const char *folder = NULL;
    const float value = (float)step;
    const um_tensor t = {.name = "master.x",
                         .dtype = UM_F32,
                         .rank = 1,
                         .shape = {1},
                         .data = (const uint8_t *)&value,
                         .bytes = sizeof value};
    um_saved_file file = {.name = "router.safetensors"};
    ok(um_saved_begin(&folder, dir, step, &arena, &err));
    ok(um_tensors_write(um_path_join(&arena, folder, file.name), &t, 1, NULL, &err));
    ok(um_saved_measure(&file, folder, &err));
    ok(um_saved_commit(&folder, dir, step, &file, 1, "{\"step\":1}", &arena, &err));
    return folder;
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_read_replaced_and_pruned, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(a_part_of_one_is_none, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(damage_is_named_and_passed_over, folder_setup,
                                        folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
