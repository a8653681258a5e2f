/* Requests: both forms, every option, and every way to get one wrong with what is then said. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "router/request/request.h"

#include <stdio.h>
#include <string.h>

static um_arena arena;

static int setup(void **state)
{
    (void)state;
    um_arena_init(&arena, "test", 1 << 16);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    um_arena_free(&arena);
    return 0;
}

static um_request parse(const char *json)
{
    um_request r;
    um_err err = {0};
    if (um_request_parse(&r, json, strlen(json), "/data", &arena, &err) != UM_OK)
        fail_msg("%s: %s", json, err.msg);
    return r;
}

#define HUMAN(text) "{\"from\": \"human\", \"value\": \"" text "\"}"
#define GPT(text) "{\"from\": \"gpt\", \"value\": \"" text "\"}"
#define SAMPLE(turns) "{\"sample\": {\"conversations\": [" turns "]}}"

/* A turn as it would be written: its media as placeholders. */
static const char *said(const um_request *r, int turn)
{
    const char *s = "";
    for (int i = 0; i < r->turns[turn].n; i++) {
        const um_content_part *p = &r->turns[turn].parts[i];
        const char *mark = p->text == NULL ? um_media_placeholder(r->items[p->item].modality) : "";
        s = um_arena_fmt(&arena, "%s%s", s, p->text != NULL ? p->text : mark);
    }
    return s;
}

static void test_prompt_form(void **state)
{
    (void)state;
    um_request r = parse("{\"prompt\": \"What is it?\"}");
    assert_null(r.id);
    assert_int_equal(r.n_turns, 1);
    assert_true(r.turns[0].human);
    assert_string_equal(said(&r, 0), "What is it?");
    assert_int_equal(r.n_items, 0);
    assert_true(r.max_new_tokens < 0 && r.top_k < 0 && r.temperature < 0 && r.top_p < 0);
    assert_false(r.has_seed || r.has_ignore_eos);
}

/* Missing placeholders come in front, a line each; a kind that the text places itself is left alone. */
static void test_prompt_gets_placeholders(void **state)
{
    (void)state;
    um_request r =
        parse("{\"prompt\": \"q\", \"image\": [\"a.png\", \"/b.png\"], \"voice\": [\"v.wav\"]}");
    assert_string_equal(said(&r, 0), "<image>\n<image>\n<audio>\nq");
    assert_int_equal(r.n_items, 3);
    assert_string_equal(r.items[0].paths[0], "/data/a.png");
    assert_string_equal(r.items[1].paths[0], "/b.png");
    assert_int_equal(r.items[2].modality, UM_SPEECH);
    r = parse("{\"prompt\": \"q <image>\", \"image\": \"a.png\", \"voice\": [\"v.wav\"]}");
    assert_string_equal(said(&r, 0), "<audio>\nq <image>");
    r = parse("{\"prompt\": \"q\", \"video\": [\"0.png\", \"1.png\", \"2.png\"]}");
    assert_string_equal(said(&r, 0), "<video>\nq"); /* frames of one video */
    assert_int_equal(r.items[0].n, 3);
    r = parse(
        "{\"prompt\": \"q\", \"sound\": \"s.wav\", \"voice\": \"v.wav\", \"image\": \"a.png\", "
        "\"video\": \"c.mp4\", \"video_audio\": \"sound\"}");
    assert_string_equal(said(&r, 0), "<image>\n<audio>\n<audio>\n<audio>\n<video>\nq");
    static const um_modality order[] = {UM_IMAGE, UM_SPEECH, UM_SOUND, UM_SOUND, UM_VIDEO};
    assert_int_equal(r.n_items, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(r.items[i].modality, order[i]);
        assert_int_equal(r.items[i].track, i == 3);
    }
    assert_string_equal(r.items[3].paths[0], "/data/c.mp4");
    r = parse("{\"prompt\": \"q\", \"image\": []}");
    assert_string_equal(said(&r, 0), "q");
}

static void test_sample_form(void **state)
{
    (void)state;
    um_request r =
        parse("{\"model\": \"../m\", \"answer\": \"x\", \"smallest_router_gap\": 0.1, "
              "\"smallest_greedy_gap\": 1,"
              " \"sample\": {\"id\": 5, \"tokens\": 9, \"multi_info\": {\"image_num\": 1}, "
              "\"conversations\": [" HUMAN("<image>\\nq<audio><speech>") ", " GPT("a") ", " HUMAN(
                  "why?<audio><video>") ", " GPT("") "], \"image\": \"p/a.png\","
                                                     " \"sound\": [\"s.wav\"], \"voice\": "
                                                     "[\"v.wav\", \"w.wav\"], \"video\": "
                                                     "[\"0.png\", \"1.png\"]}}");
    static const char *const text[] = {"<image>\nq<audio><audio>", "a", "why?<audio><video>", ""};
    assert_int_equal(r.n_turns, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r.turns[i].human, i % 2 == 0);
        assert_string_equal(said(&r, i), text[i]);
    }
    static const char *const path[] = {"/data/p/a.png", "/data/v.wav", "/data/w.wav", "/data/s.wav",
                                       "/data/0.png"};
    assert_int_equal(r.n_items, 5);
    for (int i = 0; i < 5; i++) assert_string_equal(r.items[i].paths[0], path[i]);
    assert_int_equal(r.items[3].modality, UM_SOUND); /* <audio>: speech first, then sound */
    assert_int_equal(r.items[4].n, 2);
}

static void test_turns(void **state)
{
    (void)state;
    um_request r = parse(SAMPLE(GPT("hello") ", " HUMAN("q")));
    assert_int_equal(r.n_turns, 1); /* the leading answer is dropped */
    assert_string_equal(said(&r, 0), "q");
    r = parse(SAMPLE(HUMAN("q") ", " GPT("")));
    assert_int_equal(r.n_turns, 2);
    r = parse(SAMPLE(HUMAN("q") ", " GPT("") ", " HUMAN("again")));
    assert_int_equal(r.n_turns, 3);
    r = parse("{\"prompt\": \"\\u00e9\\ud83d\\ude00\\n\"}");
    assert_string_equal(said(&r, 0), "\xc3\xa9\xf0\x9f\x98\x80\n");
}

/* Videos: a list of images is the frames of one; other lists hold a video an item. */
static void test_videos(void **state)
{
    (void)state;
    um_request r = parse("{\"prompt\": \"q\", \"video\": [\"a.mp4\", \"b.webm\"]}");
    assert_int_equal(r.n_items, 2);
    assert_int_equal(r.items[1].n, 1);
    r = parse("{\"prompt\": \"q\", \"video\": [[\"a.PNG\", \"b.png\"], \"c.mp4\"]}");
    assert_int_equal(r.n_items, 2);
    assert_int_equal(r.items[0].n, 2);
    r = parse("{\"prompt\": \"q\", \"video\": \"c.mp4\"}");
    assert_int_equal(r.n_items, 1);
}

/* In a list of parts texts are texts, and media stand where they are named. */
static void test_parts(void **state)
{
    (void)state;
    um_request r = parse(
        "{\"prompt\": [\"<image> a \", {\"sound\": \"s.ogg\"}, {\"text\": \"b\"}, {\"video\": "
        "\"c.mp4\", \"audio\": \"speech\"}, {\"voice\": \"v.mp3\"}, {\"video\": "
        "[\"0.png\", \"1.png\"]}]}");
    static const um_modality order[] = {UM_SOUND, UM_SPEECH, UM_VIDEO, UM_SPEECH, UM_VIDEO};
    assert_string_equal(said(&r, 0), "<image> a <audio>b<audio>\n<video><audio><video>");
    assert_int_equal(r.n_items, 5);
    for (int i = 0; i < 5; i++) assert_int_equal(r.items[i].modality, order[i]);
    assert_true(r.items[1].track && !r.items[3].track);
    r = parse("{\"sample\": {\"conversations\": [{\"from\": \"human\", \"value\": [{\"image\": "
              "\"a.png\"}, "
              "\"q\"]}, " GPT("<image>") ", " HUMAN("r") "], \"image\": \"b.png\"}}");
    assert_int_equal(r.n_items, 2);
    assert_string_equal(said(&r, 0), "<image>q");
    assert_string_equal(r.items[1].paths[0], "/data/b.png");
}

static void test_options(void **state)
{
    (void)state;
    um_request r = parse("{\"prompt\": \"q\", \"id\": \"a b\", \"max_new_tokens\": 1000000, "
                         "\"temperature\": 0.25, \"top_k\": 0,"
                         " \"top_p\": 1, \"seed\": 9223372036854775807, \"ignore_eos\": true}");
    assert_string_equal(r.id, "a b");
    assert_int_equal(r.max_new_tokens, 1000000);
    assert_true(r.temperature == 0.25 && r.top_p == 1.0);
    assert_int_equal(r.top_k, 0);
    assert_true(r.has_seed && r.seed == INT64_MAX);
    assert_true(r.has_ignore_eos && r.ignore_eos);
    r = parse("{\"prompt\": \"q\", \"id\": 17, \"temperature\": 0, \"seed\": 0, \"ignore_eos\": "
              "false, \"top_k\": null}");
    assert_string_equal(r.id, "17");
    assert_true(r.temperature == 0.0 && r.top_k < 0);
    assert_true(r.has_seed && r.seed == 0);
    assert_true(r.has_ignore_eos && !r.ignore_eos);
    r = parse(
        "{\"prompt\": \"q\", \"id\": null, \"seed\": null, \"ignore_eos\": null, \"image\": null}");
    assert_null(r.id);
    assert_false(r.has_seed || r.has_ignore_eos);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } rows[] = {
        {"", "not JSON"},
        {"{\"prompt\": \"q\"", "not JSON"},
        {"[]", "want a JSON object"},
        {"\"q\"", "want a JSON object"},
        {"{\"prompt\": \"q\", \"prompt\": \"r\"}", "duplicate"},
        {"{\"prompt\": \"a\\u0000b\"}", "not JSON"},
        {"{\"prompt\": \"\xff\"}", "not JSON"},
        {"{}", "prompt: want a text"},
        {"{\"prompt\": 7}", "prompt: want a text"},
        {"{\"prompt\": [7]}", "prompt[0]: want a text"},
        {"{\"prompt\": [{}]}", "prompt[0]: want a text"},
        {"{\"prompt\": [\"a\", {\"image\": \"a.png\", \"text\": \"b\"}]}",
         "prompt[1]: want a text"},
        {"{\"prompt\": [{\"image\": [\"a.png\"]}]}", "prompt[0].image: want a path"},
        {"{\"prompt\": [{\"image\": 3}]}", "prompt[0]: image: want a path"},
        {"{\"prompt\": [{\"video\": \"a.mp4\", \"audio\": \"x\"}]}",
         "audio: want \"speech\" or \"sound\""},
        {"{\"prompt\": [{\"video\": [\"a.png\"], \"audio\": \"sound\"}]}",
         "frames have no sound track"},
        {"{\"prompt\": [\"q\"], \"image\": \"a.png\"}",
         "0 <image> placeholders, but 1 image given"},
        {"{\"prompt\": \"q\", \"video_audio\": \"sound\"}", "video_audio: no video given"},
        {"{\"prompt\": \"q\", \"video\": [[]]}", "video: want a path"},
        {"{\"prompt\": \"q\", \"video\": [[\"a.png\", 1]]}", "video[1]: want a path"},
        {"{\"prompt\": \"q\", \"sample\": {}}", "prompt and sample"},
        {"{\"sample\": []}", "sample: want an object"},
        {"{\"sample\": {}}", "sample.conversations: want a list"},
        {SAMPLE(""), "sample.conversations: want a list"},
        {SAMPLE(GPT("a")), "no human turn"},
        {SAMPLE(HUMAN("a") ", " HUMAN("b")), "sample.conversations[1]: turns must alternate"},
        {SAMPLE(GPT("a") ", " GPT("b")), "sample.conversations[1]: turns must alternate"},
        {SAMPLE(HUMAN("q") ", " GPT("done")), "sample.conversations[1]: is answered already"},
        {SAMPLE("{\"from\": \"user\", \"value\": \"q\"}"), "sample.conversations[0]: want"},
        {SAMPLE("{\"from\": \"human\", \"value\": 3}"), "sample.conversations[0]: want"},
        {SAMPLE("{\"value\": \"q\"}"), "sample.conversations[0]: want"},
        {SAMPLE("7"), "sample.conversations[0]: want"},
        {"{\"prompt\": \"q\", \"promt\": 1}", "promt: unknown key, did you mean prompt"},
        {"{\"prompt\": \"q\", \"max-new-token\": 1}", "did you mean max_new_tokens"},
        {"{\"prompt\": \"q\", \"zzzzzzzzzz\": 1}", "zzzzzzzzzz: unknown key"},
        {"{\"sample\": {\"conversation\": []}}",
         "sample.conversation: unknown key, did you mean conversations"},
        {"{\"prompt\": \"q\", \"image\": 3}", "image: want a path or a list of paths"},
        {"{\"prompt\": \"q\", \"image\": {}}", "image: want a path or a list of paths"},
        {"{\"prompt\": \"q\", \"image\": [\"a.png\", 3]}", "image[1]: want a path"},
        {"{\"prompt\": \"q\", \"image\": \"\"}", "image[0]: want a path"},
        {"{\"prompt\": \"q\", \"id\": 1.5}", "id: want"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": -1}",
         "max_new_tokens: want a whole number from 0 to 16777216"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": 16777217}", "max_new_tokens: want"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": 1.0}", "max_new_tokens: want"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": \"5\"}", "max_new_tokens: want"},
        {"{\"prompt\": \"q\", \"temperature\": -0.1}", "temperature: want a number from 0 to 100"},
        {"{\"prompt\": \"q\", \"temperature\": 100.5}", "temperature: want"},
        {"{\"prompt\": \"q\", \"temperature\": 1e999}", "not JSON"},
        {"{\"prompt\": \"q\", \"temperature\": \"hot\"}", "temperature: want"},
        {"{\"prompt\": \"q\", \"top_k\": -1}", "top_k: want"},
        {"{\"prompt\": \"q\", \"top_k\": 2147483648}", "top_k: want"},
        {"{\"prompt\": \"q\", \"top_p\": 0}", "top_p: want a number above 0"},
        {"{\"prompt\": \"q\", \"top_p\": 1.01}", "top_p: want"},
        {"{\"prompt\": \"q\", \"seed\": -1}", "seed: want"},
        {"{\"prompt\": \"q\", \"seed\": 9223372036854775808}", "not JSON"},
        {"{\"prompt\": \"q\", \"ignore_eos\": 1}", "ignore_eos: want true or false"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        um_err err = {0};
        um_request r = {.n_turns = 77};
        um_status st = um_request_parse(&r, rows[i].json, strlen(rows[i].json), ".", &arena, &err);
        if (st != UM_E_DATA || strstr(err.msg, rows[i].says) == NULL ||
            strncmp(err.msg, "request: ", 9) != 0)
            fail_msg("%s: status %d, %s", rows[i].json, (int)st, err.msg);
        assert_int_equal(r.n_turns, 77); /* set on success only */
    }
}

/* Brackets without end, media without end, and an object of very many keys that are all allowed. */
static void test_huge(void **state)
{
    (void)state;
    enum { N = 200000 };
    um_err err = {0};
    um_request r;
    um_text text = {0};
    for (int i = 0; i < N; i++) um_text_add(&text, "[", 1);
    assert_int_equal(um_request_parse(&r, text.s, text.n, ".", &arena, &err), UM_E_DATA);
    text.n = 0;
    um_text_fmt(&text, "{\"prompt\": \"q\", \"image\": [\"a\"");
    for (int i = 0; i < 5000; i++) um_text_fmt(&text, ", \"a\"");
    um_text_fmt(&text, "]}");
    assert_int_equal(um_request_parse(&r, text.s, text.n, ".", &arena, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "image: 5001 items"));
    text.n = 0;
    um_text_fmt(&text, "{\"prompt\": \"q\"");
    for (int i = 0; i < N; i++) um_text_fmt(&text, ", \"smallest_%d\": 0", i);
    um_text_fmt(&text, "}");
    assert_int_equal(um_request_parse(&r, text.s, text.n, ".", &arena, &err), UM_OK);
    um_text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_form), cmocka_unit_test(test_prompt_gets_placeholders),
        cmocka_unit_test(test_sample_form), cmocka_unit_test(test_turns),
        cmocka_unit_test(test_videos),      cmocka_unit_test(test_parts),
        cmocka_unit_test(test_options),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_huge),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
