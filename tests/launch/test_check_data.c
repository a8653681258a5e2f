/* unimoe train --check-data with the real decoder: good media pass, broken and missing ones are named, and the exit status tells. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "launch/train/check_data.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"

#include <stdio.h>

/* Checks dir/name, whose media lie in the golden folder, with --media-max-bytes (0: its default), and returns what it wrote. */
static um_status check(const char *name, int64_t max_bytes, const char **wrote, um_err *err)
{
    um_config cfg;
    um_config_default(&cfg);
    cfg.model = golden_path(&arena, "models/s4");
    cfg.media_folder = dir;
    cfg.decoder = UM_DECODER;
    cfg.quiet = true;
    if (max_bytes > 0) cfg.media_max_bytes = max_bytes;
    const char *path = um_arena_fmt(&arena, "%s/out.txt", dir);
    FILE *to = fopen(path, "w");
    assert_non_null(to);
    um_data_file file = {um_arena_fmt(&arena, "%s/%s", dir, name), 1};
    um_status st = um_check_data(&cfg, &file, 1, to, err);
    fclose(to);
    uint8_t *text = NULL;
    size_t n = 0;
    um_err why = {0};
    assert_int_equal(um_file_read(&text, &n, path, 1 << 20, &arena, &why), UM_OK);
    *wrote = (const char *)text;
    return st;
}

#define TALK "{'conversations':[{'from':'human','value':'"
#define SAYS "'},{'from':'gpt','value':'"
#define DONE "'}]"

static int setup(void **state)
{
    static const char *const names[] = {"tall.png", "photo.jpg", "long.flac", "small.png"};
    folder_setup(state);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        folder_link(dir, names[i], golden_path(&arena, "media/%s", names[i]));
    folder_text(dir, "noise.png", "this is no image");
    return 0;
}

static void test_good(void **state)
{
    (void)state;
    folder_json(dir, "good.jsonl",
                TALK "<image> a" SAYS "b" DONE ",'image':'tall.png'}\n" TALK "<image> c" SAYS
                     "d" DONE ",'image':'photo.jpg'}\n" TALK "<audio> e" SAYS "f" DONE
                     ",'voice':['long.flac']}\n" TALK "<video> g" SAYS "h" DONE
                     ",'video':['tall.png','small.png']}\n" TALK "i" SAYS "j" DONE "}\n");
    const char *wrote = NULL;
    um_err err = {0};
    if (check("good.jsonl", 0, &wrote, &err) != UM_OK) fail_msg("%s\n%s", err.msg, wrote);
    says(wrote, "5 of 5 samples can be used: ");
    says(wrote, "; 4 media");
    says(wrote, "2  image\n");
    says(wrote, "1  video\n");
    says(wrote, "1  text\n");
}

static void test_bad(void **state)
{
    (void)state;
    folder_json(dir, "bad.jsonl",
                TALK "<image> a" SAYS "b" DONE ",'image':'tall.png','id':'one'}\n" TALK
                     "<image> a" SAYS "b" DONE ",'image':'noise.png','id':'two'}\n" TALK
                     "<image> a" SAYS "b" DONE ",'image':'none.png'}\n" TALK "<audio> a" SAYS
                     "b" DONE ",'voice':'tall.png'}\n" TALK "an <unk>" SAYS "b" DONE "}\n");
    const char *wrote = NULL;
    um_err err = {0};
    assert_int_equal(check("bad.jsonl", 0, &wrote, &err), UM_E_DATA);
    has(&err, "3 of 5 samples cannot be used");
    says(wrote, "bad.jsonl:2 (id two): ");
    says(wrote, "noise.png");
    says(wrote, "bad.jsonl:3: ");
    says(wrote, "none.png");
    says(wrote, "bad.jsonl:4: ");
    says(wrote, "bad.jsonl:5: used, but: ");
    says(wrote, "2 of 5 samples can be used");
    says(wrote, "3  left out: media\n");
    says(wrote, "1  used, but: masked by the original\n");
}

/* The frames of a video count together, as they do when it is trained on. */
static void test_too_large(void **state)
{
    (void)state;
    folder_json(dir, "frames.jsonl",
                TALK "<image> a" SAYS "b" DONE ",'image':'tall.png'}\n" TALK "<video> c" SAYS
                     "d" DONE ",'video':['tall.png','tall.png']}\n");
    const char *wrote = NULL;
    um_err err = {0};
    um_file tall = {0};
    assert_int_equal(um_file_map(&tall, golden_path(&arena, "media/tall.png"), &err), UM_OK);
    const int64_t one = (int64_t)tall.size;
    um_file_unmap(&tall);
    assert_int_equal(check("frames.jsonl", 2 * one, &wrote, &err), UM_OK);
    assert_int_equal(check("frames.jsonl", 2 * one - 1, &wrote, &err), UM_E_DATA);
    has(&err, "1 of 2 samples cannot be used");
    says(wrote, "frames.jsonl:2: ");
}

/* What no file is to blame for ends the check. */
static void test_no_model(void **state)
{
    (void)state;
    um_config cfg = {.model = dir, .vision_tower = "", .speech_tower = "", .sound_tower = ""};
    um_err err = {0};
    assert_int_equal(um_check_data(&cfg, &(um_data_file){"x", 1}, 1, stdout, &err), UM_E_MODEL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_no_model),
    };
    return cmocka_run_group_tests(tests, setup, folder_teardown);
}
