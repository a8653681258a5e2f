/* The check of training data: every bad sample is named with its place and reason, and the search never stops at the first. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/text.h"
#include "router/data/check.h"
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
    folder_text(dir, "good.png", "x");
    folder_text(dir, "bad.png", "y");
    folder_text(dir, "empty.png", "");
    folder_text(dir, "a.wav", "z");
    return 0;
}

static int teardown(void **state)
{
    um_tokenizer_close(tok);
    return folder_teardown(state);
}

typedef struct found {
    um_text text; /* a line a fault: "place kind: reason" */
    int decoded, stop_at;
    um_status decode_fails;
} found;

static void note(void *ctx, const um_data_fault *f)
{
    found *o = ctx;
    const char *name = strrchr(f->where, '/');
    um_text_fmt(&o->text, "%s %s: %s\n", name != NULL ? name + 1 : f->where,
                um_data_fault_name(f->kind), f->reason);
}

static um_status decode(void *ctx, const um_item *item, um_err *err)
{
    found *o = ctx;
    o->decoded++;
    if (o->decode_fails != UM_OK) return UM_FAIL(err, o->decode_fails, "no decoder");
    if (strstr(item->paths[0], "bad.png") != NULL)
        return UM_FAIL(err, UM_E_DATA, "%s: no image", item->paths[0]);
    return UM_OK;
}

static bool stop(void *ctx)
{
    found *o = ctx;
    return o->stop_at > 0 && --o->stop_at == 0;
}

static um_status check(um_data_report *r, found *o, const char *const *names, int n, int max,
                       um_err *err)
{
    um_data_file files[4];
    um_dataset_how how = {.maker = {&model, tok, max}};
    um_data_checker checker = {note, decode, stop, o};
    um_text_add(&o->text, "", 0);
    for (int i = 0; i < n; i++)
        files[i] = (um_data_file){um_arena_fmt(&arena, "%s/%s", dir, names[i]), 1};
    return um_dataset_check(r, files, n, &how, &checker, err);
}

/* TALK question SAYS answer ASKS question ... DONE, then what else the sample holds. */
#define TALK "{'conversations':[{'from':'human','value':'"
#define SAYS "'},{'from':'gpt','value':'"
#define ASKS "'},{'from':'human','value':'"
#define DONE "'}]"

/* One of each fault, and what is said of it; NULL: nothing. */
static const struct {
    const char *sample, *says;
} rows[] = {
    {TALK "<image> a" SAYS "b" DONE ",'image':'good.png'}", NULL},
    {"{'conversations': 7}", "bad JSON: conversations: want a list of 1 to"},
    {TALK "<image> a" SAYS "b" DONE "}", "placeholders: 1 <image> placeholder, but 0 images given"},
    {TALK "a" DONE "}", "no answer: no question has an answer"},
    {TALK "<image> a" SAYS "b" DONE ",'image':'missing.png'}", "media: "},
    {TALK "<image> a" SAYS "b" DONE ",'image':'bad.png'}", "media: "},
    {TALK "<image> a" SAYS "b" DONE ",'image':'empty.png'}", "media: "},
    {TALK "<image> <image> a" SAYS "b" DONE ",'image':['bad.png','missing.png']}", "media: "},
    {TALK "a" SAYS "b" ASKS "c" DONE "}", "last question unanswered: "},
    {TALK "an <unk>" SAYS "b" DONE "}", "masked by the original: "},
    {TALK "a" SAYS "b" DONE "}", NULL},
    {TALK "<image><audio> a" SAYS "b" DONE ",'image':'good.png','voice':'a.wav'}", NULL},
    {"{'conversations':", "bad JSON: "}, /* the file ends here */
};
enum { ROWS = sizeof rows / sizeof *rows };

/* The lines of out begin with those wanted: of the file that is missing, of each row, and twice of the one with two bad media. */
static void lines_match(const char *out)
{
    char want[200] = "none.json file: ";
    for (int i = -1; i < ROWS; i++) {
        if (i >= 0 && rows[i].says == NULL) continue;
        if (i >= 0) snprintf(want, sizeof want, "all.json[%d] %s", i, rows[i].says);
        for (int k = i == 7 ? 2 : 1; k > 0; k--) {
            if (strncmp(out, want, strlen(want)) != 0) fail_msg("%s, want %s", out, want);
            out = strchr(out, '\n') + 1;
        }
    }
    assert_string_equal(out, "");
}

static void test_all(void **state)
{
    (void)state;
    um_text file = {0};
    for (int i = 0; i < ROWS; i++) um_text_fmt(&file, "%s%s", i == 0 ? "[" : ",\n", rows[i].sample);
    folder_json(dir, "all.json", file.s);
    um_text_free(&file);
    static const char *const names[] = {"none.json", "all.json"};
    um_data_report r = {0};
    found o = {0};
    um_err err = {0};
    assert_int_equal(check(&r, &o, names, 2, 2048, &err), UM_OK);
    lines_match(o.text.s);
    says(o.text.s, "missing.png");
    says(o.text.s, "bad.png: no image");
    says(o.text.s, "empty.png: is empty");
    assert_int_equal(r.samples, ROWS);
    assert_int_equal(r.usable, 5);
    assert_int_equal(r.files_bad, 1);
    assert_int_equal(r.faults[UM_FAULT_JSON], 2);
    assert_int_equal(r.faults[UM_FAULT_MEDIA], 4);
    assert_int_equal(r.kinds[0], 3);
    assert_int_equal(r.kinds[UM_KIND_IMAGE], 1);
    assert_int_equal(r.kinds[UM_KIND_IMAGE | UM_KIND_AUDIO], 1);
    assert_int_equal(o.decoded, 3); /* each medium once: good.png, bad.png, a.wav */
    assert_int_equal(r.media, 5);
    assert_true(r.longest > 80 && r.ids > r.targets && r.targets >= 10);
    um_text_free(&o.text);
}

static void test_lengths(void **state)
{
    (void)state;
    folder_json(dir, "long.jsonl",
                TALK "a" SAYS "b" ASKS "c c c c c c c c c c" SAYS "b" DONE "}\n" TALK
                     "a a a a a a a a a a a a a a a a a a a a a a a a a a" SAYS "b" DONE "}\n");
    static const char *const names[] = {"long.jsonl"};
    um_data_report r = {0};
    found o = {0};
    um_err err = {0};
    assert_int_equal(check(&r, &o, names, 1, 95, &err), UM_OK);
    says(o.text.s, "long.jsonl:1 rounds left out: longer than 95 ids: the last 1 of 2 rounds");
    says(o.text.s, "long.jsonl:2 too long: ");
    assert_int_equal(r.usable, 1);
    um_text_free(&o.text);
}

/* What ends the check: being stopped, and a decoder that cannot be started. */
static void test_ends(void **state)
{
    (void)state;
    static const char *const names[] = {"all.json"};
    um_data_report r = {0};
    found o = {.stop_at = 4}, broken = {.decode_fails = UM_E_IO};
    um_err err = {0};
    assert_int_equal(check(&r, &o, names, 1, 2048, &err), UM_E_STOPPED);
    says(o.text.s, "all.json[2]");
    assert_null(strstr(o.text.s, "all.json[3]"));
    assert_int_equal(check(&r, &broken, names, 1, 2048, &err), UM_E_IO);
    has(&err, "no decoder");
    um_text_free(&o.text);
    um_text_free(&broken.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_ends),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
