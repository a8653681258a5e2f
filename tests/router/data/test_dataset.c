/* Files of samples: what is found in them, what is left out and why, reading a sample again, and how much memory the index takes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/text.h"
#include "router/data/dataset.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <string.h>

static um_model model;
static um_tokenizer *tok;

static int setup(void **state)
{
    um_err err = {0};
    folder_setup(state);
    char *path = golden_path(&arena, "models/s4");
    if (um_model_read(&model, path, NULL, &arena, &err) != UM_OK ||
        um_tokenizer_open(&tok, path, &err) != UM_OK)
        fail_msg("%s", err.msg);
    return 0;
}

static int teardown(void **state)
{
    um_tokenizer_close(tok);
    return folder_teardown(state);
}

static const char *path_of(const char *name) { return um_arena_fmt(&arena, "%s/%s", dir, name); }

static um_dataset_how how_of(void) { return (um_dataset_how){.maker = {&model, tok, 2048}}; }

static um_status open_files(um_dataset **ds, const char *const *names, int n, um_err *err)
{
    um_data_file files[8];
    um_dataset_how how = how_of();
    for (int i = 0; i < n; i++) files[i] = (um_data_file){path_of(names[i]), 1};
    return um_dataset_open(ds, files, n, &how, err);
}

static um_dataset *must_open(const char *name)
{
    um_dataset *ds = NULL;
    um_err err = {0};
    if (open_files(&ds, &name, 1, &err) != UM_OK) fail_msg("%s", err.msg);
    return ds;
}

/* A sample about nothing, with an answer of its own. */
#define SAMPLE(answer)                                                                             \
    "{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":"        \
    "\"" answer "\"}]}"
#define WITH_IMAGE                                                                                 \
    "{\"conversations\":[{\"from\":\"human\",\"value\":\"<image>\\nq\"},{\"from\":\"gpt\","        \
    "\"value\":\"a\"}],\"image\":\"a.png\",\"tokens\":40}"
#define BROKEN "{\"conversations\":[{\"from\":\"human\",\"value\":\"<image>\"}]}"

static void place_is(const um_dataset *ds, size_t i, const char *want)
{
    um_data_sample s;
    um_err err = {0};
    if (um_dataset_sample(ds, i, &s, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    if (strcmp(strrchr(s.where, '/') + 1, want) != 0) fail_msg("%s, want %s", s.where, want);
    assert_true(s.n > 0 && s.targets > 0);
}

static void test_array_and_lines(void **state)
{
    (void)state;
    folder_text(dir, "a.json",
                "\xEF\xBB\xBF[\n  " SAMPLE("one") ",\n  " WITH_IMAGE " ,\n" SAMPLE("two") "\n]\n");
    folder_text(dir, "b.jsonl", SAMPLE("three") "\r\n\n" WITH_IMAGE);
    static const char *const names[] = {"a.json", "b.jsonl"};
    um_dataset *ds = NULL;
    um_err err = {0};
    assert_int_equal(open_files(&ds, names, 2, &err), UM_OK);
    assert_int_equal(um_dataset_size(ds), 5);
    assert_int_equal(um_dataset_left_out(ds), 0);
    place_is(ds, 0, "a.json[0]");
    place_is(ds, 1, "a.json[1]");
    place_is(ds, 2, "a.json[2]");
    place_is(ds, 3, "b.jsonl:1");
    place_is(ds, 4, "b.jsonl:3");
    const um_data_entry *e = um_dataset_entry(ds, 4);
    assert_int_equal(e->kinds, UM_KIND_IMAGE);
    assert_int_equal(e->length, 40 + 16);
    assert_int_equal(e->file, 1);
    assert_int_equal(um_dataset_entry(ds, 0)->kinds, 0);
    um_data_sample s;
    assert_int_equal(um_dataset_sample(ds, 4, &s, &arena, &err), UM_OK);
    assert_string_equal(s.items[0].paths[0], path_of("a.png")); /* beside the file */
    assert_int_equal(s.length, s.n - 1 + 16);
    um_dataset_close(ds);
}

static void test_media_folder(void **state)
{
    (void)state;
    folder_text(dir, "m.jsonl", WITH_IMAGE "\n");
    um_dataset_how how = how_of();
    um_dataset *ds = NULL;
    um_data_sample s;
    um_err err = {0};
    how.media_folder = "elsewhere";
    assert_int_equal(um_dataset_open(&ds, &(um_data_file){path_of("m.jsonl"), 1}, 1, &how, &err),
                     UM_OK);
    assert_int_equal(um_dataset_sample(ds, 0, &s, &arena, &err), UM_OK);
    assert_string_equal(s.items[0].paths[0], "elsewhere/a.png");
    um_dataset_close(ds);
}

/* Bad samples are left out and counted, and the first few named. */
static void test_left_out(void **state)
{
    (void)state;
    um_text t = {0};
    um_text_fmt(&t, "[" SAMPLE("a") "," BROKEN ",7," SAMPLE("b"));
    for (int i = 0; i < 20; i++) um_text_fmt(&t, ",{}");
    um_text_fmt(&t, "," SAMPLE("c") ",{\"conversations\":[{\"from\":");
    folder_text(dir, "bad.json", t.s);
    um_text_free(&t);
    um_dataset *ds = must_open("bad.json");
    assert_int_equal(um_dataset_size(ds), 3);
    assert_int_equal(um_dataset_left_out(ds), 23);
    says(um_dataset_fault(ds, 0), "bad.json[1]: ");
    says(um_dataset_fault(ds, 1), "bad.json[2]: want a JSON object");
    says(um_dataset_fault(ds, UM_DATA_FAULTS_KEPT - 1), "bad.json[9]: ");
    assert_null(um_dataset_fault(ds, UM_DATA_FAULTS_KEPT));
    place_is(ds, 2, "bad.json[24]");
    um_dataset_close(ds);
}

static void refused(const char *name, const char *word)
{
    um_dataset *ds = NULL;
    um_err err = {0};
    assert_int_equal(open_files(&ds, &name, 1, &err), UM_E_DATA);
    assert_null(ds);
    has(&err, name);
    has(&err, word);
}

static void test_refused(void **state)
{
    (void)state;
    refused("missing.json", "o such file");
    folder_text(dir, "empty.json", "");
    refused("empty.json", "has no samples");
    folder_text(dir, "none.json", "[ ]");
    refused("none.json", "has no samples");
    folder_text(dir, "all.json", "[" BROKEN ",{}]");
    refused("all.json", "not one of its 2 samples can be used; the first: ");
    um_dataset *ds = NULL;
    um_err err = {0};
    um_dataset_how how = how_of();
    um_data_file heavy = {path_of("m.jsonl"), 0};
    assert_int_equal(um_dataset_open(&ds, &heavy, 1, &how, &err), UM_E_USAGE);
    has(&err, "weight 0, allowed 0.001..1000");
    assert_int_equal(um_dataset_open(&ds, &heavy, 0, &how, &err), UM_E_USAGE);
}

/* A file that changes under the run is named. One that is replaced is read on as it was. */
static void test_changed(void **state)
{
    (void)state;
    um_data_sample s;
    um_err err = {0};
    folder_text(dir, "c.jsonl", SAMPLE("before") "\n");
    um_dataset *ds = must_open("c.jsonl");
    assert_int_equal(rename(path_of("c.jsonl"), path_of("c.old")), 0);
    folder_text(dir, "c.jsonl", "nothing\n");
    assert_int_equal(um_dataset_sample(ds, 0, &s, &arena, &err), UM_OK);
    FILE *f = fopen(path_of("c.old"), "ab");
    assert_true(fputs("more", f) >= 0 && fclose(f) == 0);
    assert_int_equal(um_dataset_sample(ds, 0, &s, &arena, &err), UM_E_DATA);
    has(&err, "c.jsonl: has changed");
    um_dataset_close(ds);
}

/* The digest is of content and weights, not of names. */
static void test_digest(void **state)
{
    (void)state;
    char first[65];
    folder_text(dir, "d1.jsonl", SAMPLE("a") "\n");
    folder_text(dir, "d2.jsonl", SAMPLE("a") "\n");
    folder_text(dir, "d3.jsonl", SAMPLE("b") "\n");
    um_dataset *ds = must_open("d1.jsonl");
    snprintf(first, sizeof first, "%s", um_dataset_digest(ds));
    assert_int_equal(strlen(first), 64);
    um_dataset_close(ds);
    ds = must_open("d2.jsonl");
    assert_string_equal(um_dataset_digest(ds), first);
    um_dataset_close(ds);
    ds = must_open("d3.jsonl");
    assert_string_not_equal(um_dataset_digest(ds), first);
    um_dataset_close(ds);
    um_dataset_how how = how_of();
    um_err err = {0};
    assert_int_equal(um_dataset_open(&ds, &(um_data_file){path_of("d1.jsonl"), 2}, 1, &how, &err),
                     UM_OK);
    assert_string_not_equal(um_dataset_digest(ds), first);
    um_dataset_close(ds);
}

static void count_bytes(void *ctx, int64_t bytes) { *(int64_t *)ctx += bytes; }

/* Many samples with long texts: nothing of the texts stays. */
static void test_many(void **state)
{
    (void)state;
    enum { N = 5000, WORDS = 400 };
    um_text t = {0};
    for (int i = 0; i < N; i++) {
        um_text_fmt(&t, "{\"conversations\":[{\"from\":\"human\",\"value\":\"");
        for (int k = 0; k < WORDS; k++) um_text_fmt(&t, "word ");
        um_text_fmt(&t, "\"},{\"from\":\"gpt\",\"value\":\"%d\"}]}\n", i);
    }
    folder_write(dir, "many.jsonl", t.s, t.n);
    int64_t size = (int64_t)t.n, seen = 0;
    um_text_free(&t);
    um_dataset_how how = how_of();
    how.progress = count_bytes;
    how.ctx = &seen;
    um_dataset *ds = NULL;
    um_err err = {0};
    assert_int_equal(um_dataset_open(&ds, &(um_data_file){path_of("many.jsonl"), 1}, 1, &how, &err),
                     UM_OK);
    assert_int_equal(seen, size);
    assert_int_equal(um_dataset_size(ds), N);
    assert_true(sizeof(um_data_entry) <= 24);
    um_mark mark = um_arena_mark(&arena);
    for (size_t i = 0; i < N; i += 617) {
        um_data_sample s;
        assert_int_equal(um_dataset_sample(ds, i, &s, &arena, &err), UM_OK);
        says(s.where, um_arena_fmt(&arena, "many.jsonl:%zu", i + 1));
        um_arena_reset(&arena, mark);
    }
    um_dataset_close(ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_array_and_lines),
        cmocka_unit_test(test_media_folder),
        cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
