/* From a request to token ids: the template byte for byte, every golden case, and counts of placeholders. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "router/request/placeholder.h"
#include "router/request/prompt.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <string.h>

#define SYSTEM                                                                                     \
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives " \
    "helpful, detailed, and polite answers to the user's questions. "

static um_tokenizer *tok; /* of s4 */

static int setup(void **state)
{
    um_err err = {0};
    arena_setup(state);
    return um_tokenizer_open(&tok, golden_path(&arena, "models/s4"), &err) == UM_OK ? 0 : -1;
}

static int teardown(void **state)
{
    um_tokenizer_close(tok);
    return arena_teardown(state);
}

/* A conversation of n turns, human first. */
static char *text_of(const char *const *values, int n)
{
    um_turn turns[8];
    um_content_part parts[8];
    for (int i = 0; i < n; i++) {
        parts[i] = (um_content_part){.text = values[i]};
        turns[i] = (um_turn){i % 2 == 0, &parts[i], values[i][0] != '\0'};
    }
    um_request r = {.turns = turns, .n_turns = n};
    return um_prompt_text(&r, &arena);
}

static void test_template(void **state)
{
    (void)state;
    const char *const one[] = {"hi", ""};
    const char *const three[] = {"q1\n", "a1", " q2", "a2", "q3", ""};
    const char *const hole[] = {"q1", "", "q2", ""};
    assert_string_equal(text_of(one, 2), SYSTEM "USER: hi ASSISTANT:");
    assert_string_equal(text_of(one, 1), SYSTEM "USER: hi ASSISTANT:");
    assert_string_equal(
        text_of(three, 6),
        SYSTEM "USER: q1\n ASSISTANT: a1</s>USER:  q2 ASSISTANT: a2</s>USER: q3 ASSISTANT:");
    assert_string_equal(
        text_of(three, 5),
        SYSTEM "USER: q1\n ASSISTANT: a1</s>USER:  q2 ASSISTANT: a2</s>USER: q3 ASSISTANT:");
    assert_string_equal(text_of(hole, 4), SYSTEM "USER: q1 ASSISTANT:USER: q2 ASSISTANT:");
}

/* A system text replaces that of the template. */
static void test_system(void **state)
{
    (void)state;
    um_content_part part = {.text = "hi"};
    um_request r = {.system = "Be brief.", .turns = &(um_turn){true, &part, 1}, .n_turns = 1};
    assert_string_equal(um_prompt_text(&r, &arena), "Be brief. USER: hi ASSISTANT:");
    r.system = "";
    assert_string_equal(um_prompt_text(&r, &arena), "USER: hi ASSISTANT:");
}

/* Checks the ids of one golden case and that its media are accepted. Returns whether there is such a case. */
static bool case_matches(const um_tokenizer *t, const char *model, const char *name)
{
    char *path = golden_path(&arena, "cases/%s/%s/request.json", model, name);
    uint8_t *json = NULL;
    size_t size = 0;
    um_request r;
    um_err err = {0};
    um_model m = {.vocab = 400, .vision.present = true, .speech.present = true};
    int n = 0, n_want = 0;
    int32_t *ids = NULL;
    if (!um_file_exists(path)) return false;
    assert_int_equal(um_file_read(&json, &size, path, 1 << 20, &arena, &err), UM_OK);
    um_request_source from = {(char *)json, size, size, "golden", 1, .recorded = true};
    if (um_request_parse(&r, &from, &arena, &err) != UM_OK) fail_msg("%s: %s", path, err.msg);
    assert_int_equal(um_prompt_ids(t, &r, &ids, &n, &arena, &err), UM_OK);
    int32_t *want = golden_ids(golden_path(&arena, "cases/%s/%s/expected.safetensors", model, name),
                               "input_ids", &n_want, &arena);
    ids_equal(path, ids, n, want, n_want);
    assert_int_equal(um_prompt_check(&r, ids, n, &m, &err), UM_OK);
    return true;
}

static void test_golden_cases(void **state)
{
    (void)state;
    static const char *const models[] = {"s4", "s4i", "s8", "s8fm"};
    static const char *const cases[] = {"text", "image", "turns", "audio", "video", "mixed"};
    int seen = 0;
    for (size_t m = 0; m < 4; m++) {
        um_tokenizer *t = NULL;
        um_err err = {0};
        if (um_tokenizer_open(&t, golden_path(&arena, "models/%s", models[m]), &err) != UM_OK)
            fail_msg("%s", err.msg);
        for (size_t c = 0; c < 6; c++) seen += case_matches(t, models[m], cases[c]);
        um_tokenizer_close(t);
    }
    assert_int_equal(seen, 20);
}

static void test_kinds(void **state)
{
    (void)state;
    assert_int_equal(um_prompt_id(UM_IMAGE), -200);
    assert_int_equal(um_prompt_id(UM_SPEECH), -300);
    assert_int_equal(um_prompt_id(UM_SOUND), -300);
    assert_int_equal(um_prompt_id(UM_VIDEO), -400);
    assert_string_equal(um_media_placeholder(UM_VIDEO), "<video>");
    assert_string_equal(um_media_placeholder(UM_SOUND), "<audio>");
}

static um_status check(const char *json, const um_model *m, um_err *err)
{
    um_request r;
    int32_t *ids = NULL;
    int n = 0;
    UM_TRY(um_request_parse(
        &r, &(um_request_source){json, strlen(json), strlen(json), "media", 1, .element = false},
        &arena, err));
    assert_int_equal(um_prompt_ids(tok, &r, &ids, &n, &arena, err), UM_OK);
    return um_prompt_check(&r, ids, n, m, err);
}

/* Placeholders count wherever they are, in answers too, and whether or not the request has media. */
static void test_counts(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says; /* NULL: accepted */
    } rows[] = {
        {"{\"prompt\": \"hi\"}", NULL},
        {"{\"prompt\": \"hi\", \"image\": \"a.png\"}", NULL},
        {"{\"prompt\": \"hi\", \"image\": [\"a.png\", \"b.png\"]}", NULL},
        {"{\"prompt\": \"a <image> b <image>\", \"image\": [\"a.png\", \"b.png\"]}", NULL},
        {"{\"prompt\": \"<image>\"}", "1 <image> placeholder, but 0 images given"},
        {"{\"prompt\": \"<image><image>\", \"image\": \"a.png\"}",
         "2 <image> placeholders, but 1 image given"},
        {"{\"prompt\": \"<image>\", \"image\": [\"a.png\", \"b.png\"]}",
         "1 <image> placeholder, but 2 images given"},
        {"{\"prompt\": \"<audio>\"}", "1 <audio> placeholder, but 0 audio files given"},
        {"{\"prompt\": \"<video>\"}", "1 <video> placeholder, but 0 videos given"},
        {"{\"prompt\": \"hi\", \"voice\": [\"a.wav\"]}", NULL},
        {"{\"prompt\": \"hi\", \"sound\": [\"a.wav\"]}",
         "media/a.wav: the model has no sound tower"},
        {"{\"prompt\": \"hi\", \"video\": [\"0.png\", \"1.png\"]}", NULL},
        {"{\"prompt\": \"<audio> <audio>\", \"voice\": \"a.wav\"}",
         "2 <audio> placeholders, but 1 audio file given"},
        {"{\"prompt\": \"<audio>\", \"voice\": [\"a.wav\", \"b.wav\"]}",
         "1 <audio> placeholder, but 2 audio files given"},
        {"{\"prompt\": \"<speech>\", \"sound\": \"a.wav\"}",
         "1 <speech> placeholder, but 0 speech files given"},
        {"{\"prompt\": \"<video>\", \"video\": [\"a.mp4\", \"b.mp4\"]}",
         "1 <video> placeholder, but 2 videos given"},
        {"{\"prompt\": [\"what is <image>, <audio> or <video>?\"]}", NULL},
        {"{\"prompt\": [\"<image> is this: \", {\"image\": \"a.png\"}]}", NULL},
        {"{\"sample\": {\"conversations\": [{\"from\": \"human\", \"value\": \"hi\"}], \"image\": "
         "\"a.png\"}}",
         "0 <image> placeholders, but 1 image given"},
        {"{\"sample\": {\"conversations\": [{\"from\": \"human\", \"value\": \"hi\"}, {\"from\": "
         "\"gpt\", \"value\": "
         "\"<image>\"}, {\"from\": \"human\", \"value\": \"<image>\"}], \"image\": \"a.png\"}}",
         "2 <image> placeholders, but 1 image given"},
    };
    um_model m = {.vocab = 400, .vision.present = true, .speech.present = true};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        um_err err = {0};
        um_status st = check(rows[i].json, &m, &err);
        if (st != (rows[i].says == NULL ? UM_OK : UM_E_DATA) ||
            (rows[i].says != NULL && strstr(err.msg, rows[i].says) == NULL))
            fail_msg("%s: status %d, %s", rows[i].json, (int)st, err.msg);
    }
}

static void test_model_cannot(void **state)
{
    (void)state;
    um_err err = {0};
    um_model blind = {.vocab = 400}, small = {.vocab = 300};
    assert_int_equal(check("{\"prompt\": \"hi\", \"image\": \"a.png\"}", &blind, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "media/a.png: the model has no vision tower"));
    assert_int_equal(check("{\"prompt\": \"hi\"}", &small, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "vocabulary ends at 299"));
}

/* Half a million placeholders: the work must grow with the text, not with its square. */
static void test_many_placeholders(void **state)
{
    (void)state;
    enum { N = 500000 };
    um_arena big;
    um_err err = {0};
    int32_t *ids = NULL;
    int n = 0;
    um_arena_init(&big, "big", 1 << 20);
    char *json = um_arena_alloc(&big, 7 * N + 32);
    size_t at = (size_t)snprintf(json, 32, "{\"prompt\": \"");
    for (int i = 0; i < N; i++, at += 7) memcpy(json + at, i % 2 == 0 ? "<image>" : "<video>", 7);
    memcpy(json + at, "\"}", 3);
    um_request r;
    um_request_source from = {json, at + 2, at + 2, ".", 1, .element = false};
    assert_int_equal(um_request_parse(&r, &from, &big, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "250000 <image> placeholders, but 0 images given"));
    um_content_part *parts = um_arena_zero(&big, N * sizeof *parts);
    um_item items[2] = {{.modality = UM_IMAGE}, {.modality = UM_VIDEO}};
    for (int i = 0; i < N; i++) parts[i].item = i % 2;
    r = (um_request){
        .turns = &(um_turn){true, parts, N}, .n_turns = 1, .items = items, .n_items = 2};
    assert_int_equal(um_prompt_ids(tok, &r, &ids, &n, &big, &err), UM_OK);
    assert_int_equal(ids[0], 1);
    int first = 0;
    while (ids[first] >= 0) first++;
    for (int i = 0; i < N; i++)
        assert_int_equal(ids[first + i], i % 2 == 0 ? UM_ID_IMAGE : UM_ID_VIDEO);
    um_arena_free(&big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template),
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_golden_cases),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_model_cannot),
        cmocka_unit_test(test_many_placeholders),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
