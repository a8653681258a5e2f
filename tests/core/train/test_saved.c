/* Checkpoints of a training: whole or not there, damage is named, old ones leave; and the log of records. */
#include "core/train/record.h"
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

static um_train_record record(uint64_t step)
{
    um_train_record r = {.step = step,
                         .steps = 9,
                         .loss = 1.25,
                         .cross_entropy = 1.0,
                         .norm = INFINITY,
                         .lr = 1e-3,
                         .targets = 17,
                         .media = "image",
                         .skipped = step == 2 ? "the gradient is not finite" : NULL,
                         .eval_loss = NAN};
    for (int m = 0; m < UM_MODALITIES; m++) r.by_modality[m] = m == UM_IMAGE ? 0.5 : NAN;
    return r;
}

static void records_are_read_back(void **state)
{
    um_text t = {0}, line = {0};
    um_json *j = NULL;
    um_train_record r = record(2), back;
    (void)state;
    um_record_json(&t, &r);
    assert_int_equal(um_json_parse(&j, t.s, t.n, &err), UM_OK);
    assert_true(um_record_read(&back, j));
    assert_int_equal(back.step, 2);
    assert_int_equal(back.targets, 17);
    assert_true(back.loss == 1.25 && back.by_modality[UM_IMAGE] == 0.5 && isnan(back.norm));
    assert_true(isnan(back.by_modality[UM_TEXT]) && isnan(back.eval_loss));
    assert_string_equal(back.skipped, r.skipped);
    um_record_line(&line, &back);
    assert_non_null(strstr(line.s, "step 2/9  loss 1.2500"));
    assert_non_null(strstr(line.s, "skipped: the gradient is not finite"));
    um_json_free(j);
    um_text_free(&t);
    um_text_free(&line);
}

/* A run that goes on from step 2 makes record 3 again; what a killed run left of a line is no record. */
static void the_log_goes_on_where_the_run_does(void **state)
{
    (void)state;
    uint8_t *text = NULL;
    size_t n = 0;
    int fd = -1, lines = 0;
    for (int run = 0; run < 2; run++) {
        ok(um_record_log_open(&fd, dir, run == 0 ? 0 : 2, &err));
        for (uint64_t s = run == 0 ? 1 : 3; s <= 4; s++) {
            um_train_record r = record(s);
            ok(um_record_log_add(fd, &r, &err));
        }
        if (run == 0) assert_int_equal(write(fd, "{\"kind\":\"st", 11), 11);
        close(fd);
    }
    ok(um_file_read(&text, &n, um_path_join(&arena, dir, "trainer_log.jsonl"), 1 << 20, &arena,
                    &err));
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    assert_int_equal(lines, 4);
    assert_int_equal(text[n - 1], '\n');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_read_replaced_and_pruned, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(a_part_of_one_is_none, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(damage_is_named_and_passed_over, folder_setup,
                                        folder_teardown),
        cmocka_unit_test(records_are_read_back),
        cmocka_unit_test_setup_teardown(the_log_goes_on_where_the_run_does, folder_setup,
                                        folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
