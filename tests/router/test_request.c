/* Requests: both forms, every option, and every kind of mistake with its message. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "router/request/id_set.h"
#include "router/request/placeholder.h"
#include "tests/support/fixture.h"

#include <stdio.h>
#include <string.h>

static um_request parse(const char *json)
{
    um_request r;
    um_err err = {0};
    um_request_source from = {json, strlen(json), strlen(json), "/data", 7, .element = false};
    if (um_request_parse(&r, &from, &arena, &err) != UM_OK) fail_msg("%s: %s", json, err.msg);
    assert_int_equal(r.number, 7);
    return r;
}

static um_status parse_text(um_request *r, const char *json, size_t n, um_err *err)
{
    return um_request_parse(r, &(um_request_source){json, n, n, ".", 1, .element = true}, &arena,
                            err);
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
    assert_string_equal(r.id, "7"); /* its number */
    assert_int_equal(r.n_turns, 1);
    assert_true(r.turns[0].human);
    assert_string_equal(said(&r, 0), "What is it?");
    assert_int_equal(r.n_items, 0);
    assert_true(r.max_new_tokens < 0 && r.top_k < 0 && r.temperature < 0 && r.top_p < 0);
    assert_false(r.has_seed || r.has_ignore_eos);
}

/* Missing placeholders are put in front, each on its own line; a kind that the text places itself is left alone. */
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
        parse("{\"model\": \"../m\","
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

/* Videos: a list of images is the frames of one video; in other lists each item is a video. */
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

/* In a list of parts, text is plain text and each medium is placed where it is named. */
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
    assert_string_equal(r.id, "7");
    assert_false(r.has_seed || r.has_ignore_eos);
}

/* Numbers as other programs write them, and those that int64 cannot hold. */
static void test_numbers(void **state)
{
    (void)state;
    um_request r = parse("{\"prompt\": \"q\", \"max_new_tokens\": 3.0, \"top_k\": 1e2, \"seed\": "
                         "18446744073709551615, \"id\": 123456789012345678901234567890}");
    assert_true(r.max_new_tokens == 3 && r.top_k == 100 && r.has_seed && r.seed == UINT64_MAX);
    assert_string_equal(r.id, "123456789012345678901234567890");
    r = parse("{\"prompt\": \"q\", \"max_tokens\": 5, \"seed\": 9223372036854775808}");
    assert_true(r.max_new_tokens == 5 && r.seed == (uint64_t)1 << 63);
    r = parse("{\"prompt\": \"q\", \"max_completion_tokens\": 6, \"max_tokens\": null}");
    assert_true(r.max_new_tokens == 6);
    r = parse(
        "{\"prompt\": \"q\", \"stop\": [\"a\", \"\\n\"], \"system\": \"Be brief.\", \"stream\": "
        "true, \"n\": 1, \"user\": \"x\", \"presence_penalty\": 0.0, \"logprobs\": false}");
    assert_int_equal(r.n_stop, 2);
    assert_string_equal(r.stop[1], "\n");
    assert_string_equal(r.system, "Be brief.");
    r = parse("{\"prompt\": \"q\", \"stop\": \"###\"}");
    assert_int_equal(r.n_stop, 1);
    r = parse("{\"prompt\": \"q\", \"stop\": null, \"system\": \"\"}");
    assert_int_equal(r.n_stop, 0);
    assert_string_equal(r.system, "");
}

#define USER(text) "{\"role\": \"user\", \"content\": " text "}"
#define CHAT(messages) "{\"messages\": [" messages "]}"

static void test_messages(void **state)
{
    (void)state;
    um_request r = parse(CHAT("{\"role\": \"system\", \"content\": \"Be brief.\"}, " USER(
        "\"<image>?\"") ", {\"role\": \"assistant\", \"content\": \"a\"}, " USER("\"q\"")));
    assert_string_equal(r.system, "Be brief.");
    assert_int_equal(r.n_turns, 3);
    assert_string_equal(said(&r, 0), "<image>?"); /* a text: no medium was given */
    assert_int_equal(r.n_items, 0);
    assert_false(r.turns[1].human);
    assert_string_equal(said(&r, 2), "q");
    r = parse(CHAT(USER(
        "[{\"type\": \"text\", \"text\": \"What is \"}, {\"type\": \"image_url\", \"image_url\": "
        "{\"url\": \"file:///a%20b.png\", \"detail\": \"low\"}}, {\"type\": \"input_audio\", "
        "\"input_audio\": {\"data\": \"UklGRg==\", \"format\": \"wav\"}}, {\"type\": "
        "\"video_url\", "
        "\"video_url\": {\"url\": \"c.mp4\"}}, {\"sound\": \"s.wav\"}, \"?\"]")));
    static const um_modality order[] = {UM_IMAGE, UM_SPEECH, UM_VIDEO, UM_SOUND};
    assert_string_equal(said(&r, 0), "What is <image><audio><video><audio>?");
    assert_int_equal(r.n_items, 4);
    for (int i = 0; i < 4; i++) assert_int_equal(r.items[i].modality, order[i]);
    assert_string_equal(r.items[0].paths[0], "/a b.png");
    assert_int_equal(r.items[1].data[0].n, 4);
    assert_memory_equal(r.items[1].data[0].bytes, "RIFF", 4);
    assert_null(r.items[2].data[0].bytes);
    r = parse("{\"messages\": [" USER("\"<image>\\nq\"") "], \"image\": \"a.png\"}");
    assert_string_equal(said(&r, 0), "<image>\nq"); /* media beside the messages: placeholders */
    assert_int_equal(r.n_items, 1);
    r = parse(
        "{\"custom_id\": \"b-1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", "
        "\"body\": {\"model\": \"m\", \"max_tokens\": 4, \"messages\": [" USER("\"q\"") "]}}");
    assert_string_equal(r.id, "b-1");
    assert_true(r.max_new_tokens == 4);
}

/* Elements of data files as they are: extra keys, all turns answered, ids under other names. */
static void test_data_files(void **state)
{
    (void)state;
    um_request r = parse("{\"conversations\": [" HUMAN("hi") ", " GPT(
        "") "], \"question_id\": 12, "
            "\"text\": \"q\", \"gt\": \"yes\", \"height\": 3}");
    assert_string_equal(r.id, "12");
    assert_int_equal(r.n_ignored, 3);
    assert_string_equal(r.ignored[1], "gt");
    r = parse("{\"id\": \"000000033471\", \"image\": \"coco/000000033471.jpg\", \"conversations\": "
              "[" HUMAN("<image>\\nWhat?") ", " GPT("A bus.") ", " HUMAN("Colour?") ", " GPT(
                  "Red <image>.") "]}");
    assert_string_equal(r.id, "000000033471");
    assert_int_equal(r.n_turns, 4); /* the last question, with what came before it */
    assert_string_equal(said(&r, 1), "A bus.");
    assert_string_equal(said(&r, 2), "Colour?");
    assert_int_equal(r.turns[3].n, 0);
    r = parse("{\"sample\": {\"conversations\": [" HUMAN(
        "q") ", {\"from\": \"gpt\", \"value\": null}], "
             "\"dataset\": \"d\", \"voice\": \"\", \"image\": null, \"video\": [], \"sound\": "
             "[null]}}");
    assert_int_equal(r.n_items, 0);
    assert_string_equal(r.ignored[0], "dataset");
    r = parse("{\"conversations\": [" HUMAN(
        "<audio><audio>") "], \"voice\": [\"a.wav\", \"b.wav\"], "
                          "\"max_new_tokens\": 2, \"temperature\": 0}");
    assert_true(r.max_new_tokens == 2 && r.temperature == 0.0 && r.n_items == 2);
}

/* A medium as base64 and as a URL, and strings that are neither. */
static void test_sources(void **state)
{
    (void)state;
    char bare[300];
    memset(bare, 'A', sizeof bare);
    memcpy(bare, "iVBORw0KGgo", 11);
    bare[200] = '\0';
    um_request r = parse(um_arena_fmt(
        &arena,
        "{\"prompt\": \"q\", \"image\": [\"%s\", \"data:image/png;base64,AQID\", "
        "\"DATA:;base64,AQ-_\", \"file:///x%%2fy.png\", \"file:/z.png\", \"a:b.png\"]}",
        bare));
    assert_int_equal(r.n_items, 6);
    assert_int_equal(r.items[0].data[0].n, 150);
    assert_memory_equal(r.items[0].data[0].bytes, "\x89PNG\r\n\x1a\n", 8);
    assert_string_equal(r.items[0].paths[0], "image[0] (given as base64)");
    assert_int_equal(r.items[1].data[0].n, 3);
    assert_memory_equal(r.items[1].data[0].bytes, "\1\2\3", 3);
    assert_memory_equal(r.items[2].data[0].bytes, "\1\x0f\xbf", 3);
    assert_string_equal(r.items[3].paths[0], "/x/y.png");
    assert_string_equal(r.items[4].paths[0], "/z.png");
    assert_string_equal(r.items[5].paths[0], "/data/a:b.png");
    r = parse("{\"prompt\": \"q\", \"video\": [\"data:image/png;base64,AQID\", \"a.jpg\"]}");
    assert_true(r.n_items == 1 && r.items[0].frames); /* frames of one video */
    static const struct {
        const char *source, *says;
    } rows[] = {
        {"https://example.org/x.png",
         "image: https://example.org/x.png: nothing is fetched; download it first"},
        {"http://h/x.png", "nothing is fetched"},
        {"s3://bucket/x.png", "nothing is fetched"},
        {"HTTPS://h/x.png", "nothing is fetched"},
        {"file://host/x.png", "a file URL must name a file of this machine"},
        {"data:image/png;base64,", "base64 without content"},
        {"data:image/png;base64,AQI!", "image: not base64: character 4 of 4 is '!'"},
        {"data:image/png;base64,AQIDB", "image: base64 that is cut off"},
        {"data:image/png,x", "must say ;base64"},
        {"data:image/png;base64", "without a comma"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        um_err err = {0};
        const char *json =
            um_arena_fmt(&arena, "{\"prompt\": \"q\", \"image\": \"%s\"}", rows[i].source);
        if (parse_text(&r, json, strlen(json), &err) != UM_E_DATA ||
            strstr(err.msg, rows[i].says) == NULL)
            fail_msg("%s: %s", rows[i].source, err.msg);
    }
    um_err err = {0};
    char *path = um_arena_zero(&arena, 5001);
    memset(path, 'x', 5000);
    path[1000] = '.';
    const char *json =
        um_arena_fmt(&arena, "{\"id\": 4, \"prompt\": \"q\", \"image\": \"%s\"}", path);
    assert_int_equal(parse_text(&r, json, strlen(json), &err), UM_E_DATA);
    assert_non_null(strstr(
        err.msg, "5002 characters, a path has 4095 at most (and base64 no '.', character 1001)"));
    assert_string_equal(r.id, "4");
}

static void test_id_set(void **state)
{
    (void)state;
    um_id_set s = {0};
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < UM_ID_SET_MAX; i++)
            assert_int_equal(um_id_set_add(&s, um_arena_fmt(&arena, "id %d", i)), round);
    for (int i = 0; i < 1000; i++) /* each new one pushes out the oldest */
        assert_false(um_id_set_add(&s, um_arena_fmt(&arena, "new %d", i)));
    assert_true(um_id_set_add(&s, "id 1000"));
    assert_true(um_id_set_add(&s, "new 0"));
    assert_false(um_id_set_add(&s, "id 0"));
    assert_false(um_id_set_add(&s, ""));
    assert_true(um_id_set_add(&s, ""));
    um_id_set_free(&s);
}

/* The id of a request that fails, as far as it can be read. */
static void test_id_of_failed(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"{\"id\": \"a\", \"prompt\": \"x \\u0000\"}", "a"},
        {"{\"id\": \"a\", \"prompt\": 7}", "a"},
        {"{\"prompt\": \"x\", \"id\": 5, \"prompt\": \"y\"}", "5"},
        {"{\"custom_id\": \"c\", \"prompt\": \"\\ud800\"}", "c"},
        {"{\"id\": \"cut\", \"prompt\": \"x", "cut"},
        {"{\"id\": 1.5, \"prompt\": \"x\"}", "1"},
        {"nonsense", "1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        um_request r;
        um_err err = {0};
        assert_int_equal(parse_text(&r, rows[i][0], strlen(rows[i][0]), &err), UM_E_DATA);
        assert_string_equal(r.id, rows[i][1]);
    }
    um_request r;
    um_err err = {0};
    um_request_source from = {
        "{\"id\":\"b\",\"prompt\":\"", 21, (size_t)70 << 20, ".", 9, .element = false};
    assert_int_equal(um_request_parse(&r, &from, &arena, &err), UM_E_DATA);
    assert_string_equal(err.msg, "73400320 bytes, one request may have 67108864");
    um_text t = {0};
    um_request_error(&t, &r, "why \"");
    assert_string_equal(t.s, "{\"kind\":\"error\",\"id\":\"b\",\"line\":9,\"error\":\"why \\\"\"}");
    um_text_free(&t);
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
        {"{\"prompt\": \"a\\u0000b\"}", "the character U+0000"},
        {"{\"prompt\": \"\xff\"}", "the text is not UTF-8"},
        {"{}", "prompt: want a text"},
        {"{\"prompt\": 7}", "prompt: want a text"},
        {"{\"prompt\": [7]}", "prompt[0]: want a text"},
        {"{\"prompt\": [{}]}", "prompt[0]: want a text"},
        {"{\"prompt\": [\"a\", {\"image\": \"a.png\", \"text\": \"b\"}]}",
         "prompt[1]: want a text"},
        {"{\"prompt\": [{\"image\": [\"a.png\"]}]}", "prompt[0].image: want a path"},
        {"{\"prompt\": [{\"image\": 3}]}", "prompt[0].image: want a path"},
        {"{\"prompt\": [{\"video\": \"a.mp4\", \"audio\": \"x\"}]}",
         "audio: want \"speech\" or \"sound\""},
        {"{\"prompt\": [{\"video\": [\"a.png\"], \"audio\": \"sound\"}]}",
         "frames have no sound track"},
        {"{\"prompt\": [\"q\"], \"image\": \"a.png\"}",
         "0 <image> placeholders, but 1 image given"},
        {"{\"prompt\": \"q\", \"video_audio\": \"sound\"}", "video_audio: no video given"},
        {"{\"prompt\": \"q\", \"video\": [[\"a.png\"], []]}", "video[1]: want a path"},
        {"{\"prompt\": \"q\", \"video\": [[\"a.png\", 1]]}", "video[0][1]: want a path"},
        {"{\"prompt\": \"q\", \"sample\": {}}", "prompt and sample: give one of them"},
        {"{\"sample\": []}", "sample: want an object"},
        {"{\"sample\": {}}", "sample.conversations: want a list"},
        {SAMPLE(""), "sample.conversations: want a list"},
        {SAMPLE(GPT("a")), "no human turn"},
        {SAMPLE(HUMAN("a") ", " HUMAN("b")), "sample.conversations[1]: turns must alternate"},
        {SAMPLE(GPT("a") ", " GPT("b")), "sample.conversations[1]: turns must alternate"},
        {SAMPLE("{\"from\": \"user\", \"value\": \"q\"}"), "sample.conversations[0]: want"},
        {SAMPLE("{\"from\": \"human\", \"value\": 3}"), "sample.conversations[0]: want"},
        {SAMPLE("{\"value\": \"q\"}"), "sample.conversations[0]: want"},
        {SAMPLE("7"), "sample.conversations[0]: want"},
        {"{\"prompt\": \"q\", \"promt\": 1}", "promt: unknown key, did you mean prompt"},
        {"{\"prompt\": \"q\", \"max-new-token\": 1}", "did you mean max_new_tokens"},
        {"{\"prompt\": \"q\", \"zzzzzzzzzz\": 1}",
         "zzzzzzzzzz: unknown key, known are id, prompt, messages, sample"},
        {"{\"sample\": {\"conversation\": []}}",
         "sample.conversations: want a list of 1 to 4096 turns (conversation: unknown key, did you "
         "mean conversations)"},
        {"{\"prompt\": \"q\", \"image\": 3}", "image: want a path or a list of paths"},
        {"{\"prompt\": \"q\", \"image\": {}}", "image: want a path or a list of paths"},
        {"{\"prompt\": \"q\", \"image\": [\"a.png\", 3]}", "image[1]: want a path"},
        {"{\"prompt\": \"q\", \"image\": [\"a.png\", \"\"]}", "image[1]: want a path"},
        {"{\"prompt\": \"q\", \"id\": 1.5}", "id: want"},
        {"{\"prompt\": \"\\ud800\"}", "not JSON"},
        {"{\"prompt\": \"q\", \"smallest_gap\": 1}", "smallest_gap: unknown key"},
        {"{\"prompt\": \"q\", \"n\": 2}", "n: not supported, other than as 1"},
        {"{\"prompt\": \"q\", \"presence_penalty\": 0.5}", "not supported, other than as 0"},
        {"{\"prompt\": \"q\", \"stop\": \"\"}", "stop: want a text that is not empty"},
        {"{\"prompt\": \"q\", \"stop\": [1]}", "stop: want a text"},
        {"{\"prompt\": \"q\", \"system\": 3}", "system: want a text"},
        {"{\"messages\": \"q\"}", "messages: want a list of 1 to 4096 messages"},
        {CHAT(""), "messages: want a list"},
        {CHAT("7"), "messages[0]: role \"\""},
        {CHAT("{\"role\": \"tool\", \"content\": \"q\"}"), "messages[0]: role \"tool\", known are"},
        {CHAT("{\"role\": \"system\", \"content\": \"q\"}"), "messages: none is the user's"},
        {CHAT(USER("\"a\"") ", " USER("\"b\"")), "messages[1]: user and assistant must take turns"},
        {CHAT(USER("\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\"}"),
         "messages[1]: the last message must be the user's"},
        {CHAT(USER("\"a\"") ", {\"role\": \"system\", \"content\": \"b\"}"),
         "messages[1]: a system message must be the first"},
        {"{\"system\": \"x\", \"messages\": [{\"role\": \"system\", \"content\": \"b\"}, " USER(
             "\"a\"") "]}",
         "messages[0]: system is given twice"},
        {CHAT(USER("7")), "messages[0].content: want a text"},
        {CHAT(USER("[{\"type\": \"refusal\"}]")),
         "messages[0].content[0]: part of type \"refusal\""},
        {CHAT(USER("[{\"type\": \"image_url\", \"image_url\": {\"url\": \"https://h/x\"}}]")),
         "messages[0].content[0].image_url: https://h/x: nothing is fetched"},
        {CHAT(USER("[{\"type\": \"input_audio\", \"input_audio\": {\"data\": \"%%\"}}]")),
         "messages[0].content[0].input_audio.data: not base64: character 1 of 2 is '%'"},
        {CHAT(USER("[{\"type\": \"input_audio\", \"input_audio\": \"x\"}]")),
         "want the audio file as base64"},
        {CHAT(USER("[{\"type\": \"image_url\"}]")), "content[0].image_url: want a path"},
        {"{\"custom_id\": \"1\", \"body\": {\"prompt\": \"q\"}, \"top_p\": 1}",
         "top_p: unknown key beside body"},
        {"{\"conversations\": \"q\"}", "conversations: want a list"},
        {"{\"custom_id\": \"1\", \"body\": \"q\"}", "body: want an object"},
        {"{\"prompt\": \"q\", \"\": 1}", "\"\": unknown key"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": -1}", "max_new_tokens: -1, allowed 0..16777216"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": 16777217}", "max_new_tokens: 16777217, allowed"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": 1.5}",
         "max_new_tokens: 1.5, allowed an integer 0..16777216"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": 99999999999999999999}",
         "max_new_tokens: \"99999999999999999999\", allowed an integer"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": \"5\"}", "max_new_tokens: \"5\", allowed"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": NaN}", "not JSON"},
        {"{\"prompt\": \"q\", \"max_new_tokens\": 3, \"max_tokens\": 3}",
         "max_new_tokens and max_tokens: give one of them"},
        {"{\"prompt\": \"q\", \"temperature\": -0.1}", "temperature: -0.1, allowed 0..100"},
        {"{\"prompt\": \"q\", \"temperature\": 100.5}", "temperature: "},
        {"{\"prompt\": \"q\", \"temperature\": 1e999}",
         "temperature: \"1e999\", allowed a number 0..100"},
        {"{\"prompt\": \"q\", \"temperature\": \"hot\"}", "temperature: "},
        {"{\"prompt\": \"q\", \"top_k\": -1}", "top_k: "},
        {"{\"prompt\": \"q\", \"top_k\": 2147483648}", "top_k: "},
        {"{\"prompt\": \"q\", \"top_p\": 0}", "top_p: 0, allowed more than 0"},
        {"{\"prompt\": \"q\", \"top_p\": 1.01}", "top_p: 1.01, allowed 0..1"},
        {"{\"prompt\": \"q\", \"seed\": -1}",
         "seed: -1, allowed an integer 0..18446744073709551615"},
        {"{\"prompt\": \"q\", \"seed\": 18446744073709551616}",
         "seed: \"18446744073709551616\", allowed an integer 0..18446744073709551615"},
        {"{\"prompt\": \"q\", \"ignore_eos\": 1}", "ignore_eos: 1, allowed true and false"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        um_err err = {0};
        um_request r = {.n_turns = 77};
        um_status st = parse_text(&r, rows[i].json, strlen(rows[i].json), &err);
        if (st != UM_E_DATA || strstr(err.msg, rows[i].says) == NULL ||
            strncmp(err.msg, "request", 7) == 0 || strstr(err.msg, "JSON_") != NULL)
            fail_msg("%s: status %d, %s", rows[i].json, (int)st, err.msg);
        assert_string_equal(r.id, "1");
        assert_true(r.number == 1 && r.element && r.turns == NULL && r.n_turns == 0);
    }
}

/* Brackets without end, media without end, and an object of very many keys. */
static void test_huge(void **state)
{
    (void)state;
    enum { N = 200000 };
    um_err err = {0};
    um_request r;
    um_text text = {0};
    for (int i = 0; i < N; i++) um_text_add(&text, "[", 1);
    assert_int_equal(parse_text(&r, text.s, text.n, &err), UM_E_DATA);
    text.n = 0;
    um_text_fmt(&text, "{\"prompt\": \"q\", \"image\": [\"a\"");
    for (int i = 0; i < 5000; i++) um_text_fmt(&text, ", \"a\"");
    um_text_fmt(&text, "]}");
    assert_int_equal(parse_text(&r, text.s, text.n, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "image: 5001 items"));
    text.n = 0;
    um_text_fmt(&text, "{\"prompt\": \"q\"");
    for (int i = 0; i < N; i++) um_text_fmt(&text, ", \"smallest_%d\": 0", i);
    um_text_fmt(&text, "}");
    assert_int_equal(parse_text(&r, text.s, text.n, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "smallest_0: unknown key"));
    um_request_source recorded = {text.s, text.n, text.n, ".", 1, .recorded = true};
    assert_int_equal(um_request_parse(&r, &recorded, &arena, &err), UM_OK);
    text.n = 0;
    um_text_fmt(&text, "{\"conversations\": [" HUMAN("q") "]");
    for (int i = 0; i < N; i++) um_text_fmt(&text, ", \"k%d\": 0", i);
    um_text_fmt(&text, "}");
    assert_int_equal(parse_text(&r, text.s, text.n, &err), UM_OK);
    assert_int_equal(r.n_ignored, 32); /* as many as a warning can hold */
    um_text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_form), cmocka_unit_test(test_prompt_gets_placeholders),
        cmocka_unit_test(test_sample_form), cmocka_unit_test(test_turns),
        cmocka_unit_test(test_videos),      cmocka_unit_test(test_parts),
        cmocka_unit_test(test_options),     cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_messages),    cmocka_unit_test(test_data_files),
        cmocka_unit_test(test_sources),     cmocka_unit_test(test_id_of_failed),
        cmocka_unit_test(test_id_set),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_huge),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
