/* Requests in a whole cluster of threads: lengths and memory that are refused, shortened or waited for, the order in which answers come,
 * thousands of requests, many and large media, stop texts, seeds, and an output that nobody reads. */
#include "tests/cluster/cluster.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"
#include "tests/support/tiny_png.h"

#include "core/base/file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* Requests of the tests that want many: many times what routers hold at a time. Sanitizers make each ten times as slow. */
#ifdef UM_SANITIZED
enum { MANY = 600, WRITER_LINES = 1500 };
#else
enum { MANY = 3000, WRITER_LINES = 4000 };
#endif

#define GREEDY "\"temperature\":0,\"ignore_eos\":true"

typedef struct bench {
    cluster c;
    um_arena a;
    um_text lines;
    char *dir;
} bench;

static bench *bench_open(void)
{
    bench *b = um_zalloc(sizeof *b);
    um_arena_init(&b->a, "test", 1 << 16);
    b->dir = folder_make();
    cluster_init(&b->c, golden_path(&b->a, "models/s4"));
    b->c.cfg.experts = 2;
    return b;
}

static void bench_close(bench *b)
{
    cluster_free(&b->c);
    um_text_free(&b->lines);
    folder_remove(b->dir);
    um_free(b->dir);
    um_arena_free(&b->a);
    um_free(b);
}

static um_status try_run(bench *b)
{
    cluster_free(&b->c);
    b->c.all_lines = 0;
    folder_write(b->dir, "requests.jsonl", b->lines.s, b->lines.n);
    b->c.cfg.requests = um_path_join(&b->a, b->dir, "requests.jsonl");
    return cluster_run(&b->c);
}

static void run(bench *b)
{
    um_status st = try_run(b);
    for (int r = 0; r < b->c.ranks; r++)
        if (b->c.status[r] != UM_OK) printf("rank %d: %s\n", r, b->c.err[r].msg);
    assert_int_equal(st, UM_OK);
}

/* The line of request id, which must be there. */
static const char *line_of(const bench *b, const char *id)
{
    char key[64];
    snprintf(key, sizeof key, "\"id\":\"%s\"", id);
    const char *line = cluster_line(&b->c, key);
    if (line == NULL) printf("no line of request %s\n", id);
    assert_non_null(line);
    return line;
}

/* The number of lines that came before that of request id. */
static int place_of(const bench *b, const char *id)
{
    const char *line = line_of(b, id);
    for (int i = 0;; i++)
        if (b->c.lines[i] == line) return i;
}

static void says(const bench *b, const char *id, const char *text)
{
    const char *line = line_of(b, id);
    if (strstr(line, text) == NULL) printf("want %s in %s\n", text, line);
    assert_non_null(strstr(line, text));
}

/* A prompt of about n tokens: words of one letter. */
static const char *words(bench *b, int n)
{
    char *s = um_arena_zero(&b->a, (size_t)(2 * n) + 1);
    for (int i = 0; i < n; i++) memcpy(s + 2 * i, "a ", 2);
    return s;
}

static int64_t number_in(const char *line, const char *key)
{
    um_json *j = NULL;
    um_err err = {0};
    assert_int_equal(um_json_parse(&j, line, strlen(line), &err), UM_OK);
    int64_t v = um_json_int(um_json_get(j, key), -1);
    um_json_free(j);
    return v;
}

/* --- lengths --- */

static void no_new_tokens_give_an_empty_answer(void **state)
{
    (void)state;
    bench *b = bench_open();
    b->c.cfg.max_new_tokens = 0;
    um_text_fmt(&b->lines,
                "{\"id\":\"option\",\"prompt\":\"hi\"}\n"
                "{\"id\":\"image\",\"prompt\":\"hi\",\"image\":\"%s\"}\n"
                "{\"id\":\"request\",\"prompt\":\"hi\",\"max_new_tokens\":0," GREEDY "}\n"
                "{\"id\":\"sampled\",\"prompt\":\"hi\",\"max_new_tokens\":0,\"temperature\":1}\n"
                "{\"id\":\"one\",\"prompt\":\"hi\",\"max_new_tokens\":1," GREEDY "}\n",
                golden_path(&b->a, "media/small.png"));
    run(b);
    const char *empty[] = {"option", "image", "request", "sampled"};
    for (int i = 0; i < 4; i++) {
        says(b, empty[i], "\"answer\":\"\",\"ids\":[]");
        says(b, empty[i], "\"new_tokens\":0,\"finish\":\"length\"");
    }
    says(b, "one", "\"new_tokens\":1,");
    assert_int_equal(number_in(cluster_line(&b->c, "\"summary\""), "new_tokens"), 1);
    bench_close(b);
}

/* --context counts the rows of images, whatever the number of placeholders. */
static void context_counts_the_rows_of_media(void **state)
{
    (void)state;
    bench *b = bench_open();
    const char *image = golden_path(&b->a, "media/small.png");
    const char *line =
        "{\"id\":\"image\",\"prompt\":\"hi\",\"image\":\"%s\",\"max_new_tokens\":4," GREEDY
        "}\n{\"id\":\"text\",\"prompt\":\"hi\",\"max_new_tokens\":4," GREEDY "}\n";
    um_text_fmt(&b->lines, line, image);
    run(b);
    int rows = (int)number_in(line_of(b, "image"), "prompt_tokens");
    assert_true(rows > number_in(line_of(b, "text"), "prompt_tokens") + 4);
    b->c.cfg.context = rows + 4;
    run(b);
    says(b, "image", "\"kind\":\"result\"");
    b->c.cfg.context = rows + 3;
    run(b);
    says(b, "image",
         um_arena_fmt(&b->a,
                      "%d prompt rows (media counted) and 4 new tokens do not fit --context %d",
                      rows, rows + 3));
    says(b, "text", "\"kind\":\"result\"");
    bench_close(b);
}

/* A model directory like s4 with fewer positions. */
static void few_positions(bench *b, int positions)
{
    static const char *const files[] = {"generation_config.json", "model.safetensors",
                                        "tokenizer.model", "audio_tower", "vision_tower"};
    uint8_t *text = NULL;
    size_t n = 0;
    um_err err = {0};
    char here[PATH_MAX];
    assert_non_null(realpath(b->c.cfg.model, here));
    assert_int_equal(
        um_file_read(&text, &n, um_path_join(&b->a, here, "config.json"), 1 << 20, &b->a, &err),
        UM_OK);
    char *at = strstr((char *)text, "\"max_position_embeddings\": 4096");
    assert_non_null(at);
    *at = '\0';
    folder_text(b->dir, "model/config.json",
                um_arena_fmt(&b->a, "%s\"max_position_embeddings\": %d%s", (char *)text, positions,
                             at + strlen("\"max_position_embeddings\": 4096")));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        folder_link(b->dir, um_arena_fmt(&b->a, "model/%s", files[i]),
                    um_path_join(&b->a, here, files[i]));
    b->c.cfg.model = um_path_join(&b->a, b->dir, "model");
}

static void the_models_positions_are_an_end(void **state)
{
    (void)state;
    bench *b = bench_open();
    um_text_fmt(&b->lines, "{\"id\":\"x\",\"prompt\":\"%s\",\"max_new_tokens\":40," GREEDY "}\n",
                words(b, 60));
    run(b);
    int rows = (int)number_in(line_of(b, "x"), "prompt_tokens");
    few_positions(b, rows + 9);
    run(b); /* the last token needs no position */
    says(b, "x", "\"new_tokens\":10,\"finish\":\"length\"");
    bench_close(b);
    b = bench_open();
    few_positions(b, rows);
    um_text_fmt(&b->lines,
                "{\"id\":\"fits\",\"prompt\":\"%s\",\"max_new_tokens\":40," GREEDY "}\n"
                "{\"id\":\"long\",\"prompt\":\"%s\",\"max_new_tokens\":1," GREEDY "}\n"
                "{\"id\":\"media\",\"prompt\":\"%s\",\"max_new_tokens\":1,\"image\":\"%s\"}\n"
                "{\"id\":\"short\",\"prompt\":\"hi\",\"max_new_tokens\":1," GREEDY "}\n",
                words(b, 60), words(b, 61), words(b, 55), golden_path(&b->a, "media/small.png"));
    run(b);
    says(b, "fits", "\"new_tokens\":1,\"finish\":\"length\"");
    says(b, "long", um_arena_fmt(&b->a, "the model has %d positions", rows));
    says(b, "media", "rows (media counted), the model has");
    says(b, "short", "\"kind\":\"result\"");
    bench_close(b);
}

/* Megabytes of text are refused by their length, before they are processed. */
static void a_text_of_megabytes_is_refused_at_once(void **state)
{
    (void)state;
    bench *b = bench_open();
    um_text_fmt(&b->lines, "{\"id\":\"long\",\"prompt\":\"%s\"}\n", words(b, 1500000));
    um_text_fmt(&b->lines, "{\"id\":\"good\",\"prompt\":\"hi\",\"max_new_tokens\":2," GREEDY "}\n");
    run(b);
    says(b, "long", "or more (3000000 bytes of text, at most ");
    says(b, "good", "\"new_tokens\":2");
    bench_close(b);
}

/* --- the end of an answer --- */

/* What the model says without them, cut at a stop text that it holds; the tokens end with the one that completed the text. */
static void stop_texts_end_an_answer(void **state)
{
    (void)state;
    bench *b = bench_open();
    const char *ask = "\"prompt\":\"Tell me\",\"max_new_tokens\":24," GREEDY;
    um_text_fmt(&b->lines,
                "{\"id\":\"all\",%s}\n{\"id\":\"text\",%s,\"stop\":\"any pic\"}\n"
                "{\"id\":\"list\",%s,\"stop\":[\"not there\",\"pic\",\"ture\"]}\n"
                "{\"id\":\"absent\",%s,\"stop\":[\"not there\"]}\n",
                ask, ask, ask, ask);
    run(b);
    const char *all = line_of(b, "all"), *answer = strstr(all, "\"answer\":"),
               *at = strstr(all, "any pic");
    assert_non_null(at); /* or choose another text of the answer */
    int n = (int)(at - answer);
    says(b, "all", "\"new_tokens\":24,\"finish\":\"length\"");
    says(b, "absent", "\"new_tokens\":24,\"finish\":\"length\"");
    says(b, "text", um_arena_fmt(&b->a, "%.*s\",\"ids\"", n, answer));
    says(b, "text", "\"finish\":\"stop\"");
    assert_true(number_in(line_of(b, "text"), "new_tokens") < 24);
    says(b, "list", um_arena_fmt(&b->a, "%.*sany\",\"ids\"", n, answer));
    says(b, "list", "\"finish\":\"stop\"");
    bench_close(b);
}

/* --- memory --- */

static void requests_wait_for_memory_of_others(void **state)
{
    (void)state;
    bench *b = bench_open();
    for (int i = 0; i < 6; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"r%d\",\"prompt\":\"%s\",\"max_new_tokens\":%d," GREEDY "}\n", i,
                    words(b, 100), 5 + i);
    um_text_fmt(&b->lines,
                "{\"id\":\"huge\",\"prompt\":\"hi\",\"max_new_tokens\":3900," GREEDY "}\n");
    run(b);
    char *want[6];
    for (int i = 0; i < 6; i++)
        want[i] = um_arena_str(&b->a, strstr(line_of(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\""));
    b->c.cfg.request_memory = 700 << 10; /* for one or two of them at a time */
    run(b);
    for (int i = 0; i < 6; i++) {
        const char *ids = strstr(line_of(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\"");
        assert_non_null(ids);
        assert_int_equal(strncmp(ids, want[i], strcspn(want[i], "]")), 0);
    }
    says(b, "huge", "are allowed by --request-memory");
    says(b, "huge", "GiB for keys and values");
    b->c.cfg.request_memory = 1;
    run(b);
    assert_int_equal(number_in(cluster_line(&b->c, "\"summary\""), "errors"), 7);
    bench_close(b);
}

/* Runs the lines with other settings, and wants the same ids of r0..r(n-1) as `want`, or sets them. */
static void ids_are(bench *b, int n, char **want, bool set)
{
    for (int i = 0; i < n; i++) {
        const char *ids = strstr(line_of(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\"");
        assert_non_null(ids);
        size_t length = strcspn(ids, "]");
        if (set) want[i] = um_arena_strn(&b->a, ids, length);
        if (strncmp(ids, want[i], length) != 0) fail_msg("r%d: %s, want %s", i, ids, want[i]);
    }
}

/* When pages run out the youngest sequences are put back and read again: nothing is refused, and every answer is the same. */
static void the_youngest_are_put_back_when_pages_run_out(void **state)
{
    (void)state;
    enum { N = 8 };
    char *want[N];
    bench *b = bench_open();
    b->c.cfg.prefix_cache = 0;
    for (int i = 0; i < N; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"r%d\",\"prompt\":\"%s\",\"max_new_tokens\":%d,\"seed\":%d,"
                    "\"temperature\":0.8,\"ignore_eos\":true}\n",
                    i, words(b, 10 + 7 * i), 40 + 3 * i, i);
    run(b);
    ids_are(b, N, want, true);
    assert_int_equal(number_in(cluster_line(&b->c, "\"summary\""), "put_back"), 0);
    for (int flights = 1; flights <= 3; flights++)
        for (int kib = 384; kib <= 640; kib += 64) {
            b->c.cfg.micro_batches = flights;
            b->c.cfg.request_memory = kib << 10;
            run(b);
            const char *summary = cluster_line(&b->c, "\"summary\"");
            assert_int_equal(number_in(summary, "errors"), 0);
            if (kib <= 448) assert_true(number_in(summary, "put_back") > 0);
            ids_are(b, N, want, false);
        }
    bench_close(b);
}

/* --- prefixes --- */

/* Many requests that share a long prefix: what they share is read once, images in it included; the answers are the same. */
static void a_shared_prefix_is_read_once(void **state)
{
    (void)state;
    enum { N = 40 };
    char *want[N];
    bench *b = bench_open();
    const char *image = golden_path(&b->a, "media/small.png");
    for (int i = 0; i < N; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"r%d\",\"prompt\":\"<image> %sand %d\",\"image\":\"%s\","
                    "\"max_new_tokens\":4," GREEDY "}\n",
                    i, words(b, 300), i * 7919, image);
    b->c.cfg.prefix_cache = 0;
    run(b);
    ids_are(b, N, want, true);
    int64_t all = number_in(cluster_line(&b->c, "\"summary\""), "prompt_tokens");
    assert_int_equal(number_in(cluster_line(&b->c, "\"summary\""), "reused_tokens"), 0);
    for (int flights = 1; flights <= 2; flights++) {
        b->c.cfg.micro_batches = flights;
        b->c.cfg.prefix_cache = 64 << 20;
        b->c.cfg.max_batch = flights == 1 ? 32 : 8;
        run(b);
        ids_are(b, N, want, false);
        const char *summary = cluster_line(&b->c, "\"summary\"");
        int64_t reused = number_in(summary, "reused_tokens");
        assert_int_equal(number_in(summary, "prompt_tokens"), all);
        assert_true(all - reused < 300 + N * 48 + 64); /* once, and the end of each */
    }
    /* the same text behind another image has nothing in common with it */
    um_text_fmt(&b->lines,
                "{\"id\":\"other\",\"prompt\":\"<image> %sand 0\",\"image\":\"%s\","
                "\"max_new_tokens\":4," GREEDY "}\n",
                words(b, 300), golden_path(&b->a, "media/tall.png"));
    run(b);
    ids_are(b, N, want, false);
    bench_close(b);
}

/* --- micro-batches --- */

/* Any number of micro-batches in flight gives the same answers, with chunks of one prompt in several of them. */
static void micro_batches_in_flight_give_the_same_answers(void **state)
{
    (void)state;
    enum { N = 12 };
    char *want[N];
    bench *b = bench_open();
    for (int i = 0; i < N; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"r%d\",\"prompt\":\"%s\",\"max_new_tokens\":%d," GREEDY "}\n", i,
                    words(b, i % 3 == 0 ? 200 + i : 5 + i), 6 + i);
    run(b);
    ids_are(b, N, want, true);
    for (int flights = 2; flights <= 5; flights++) {
        b->c.cfg.micro_batches = flights;
        b->c.cfg.max_batch = 1 + flights % 3;
        b->c.cfg.prefill_chunk = 7 * flights;
        b->c.cfg.experts = 1 + flights % 4;
        b->c.cfg.prefix_cache = flights % 2 == 0 ? 0 : 1 << 20;
        run(b);
        ids_are(b, N, want, false);
    }
    bench_close(b);
}

/* --- order --- */

/* A short question queued behind a long document is answered long before the document; the document does not wait for all questions. */
static void short_prompts_do_not_wait_and_long_ones_go_on(void **state)
{
    (void)state;
    bench *b = bench_open();
    b->c.cfg.prefill_chunk = 32;
    b->c.cfg.max_batch = 6;
    b->c.cfg.prefix_cache = 0; /* the short ones begin alike */
    um_text_fmt(&b->lines, "{\"id\":\"long\",\"prompt\":\"%s\",\"max_new_tokens\":1," GREEDY "}\n",
                words(b, 1500));
    um_text_fmt(&b->lines, "{\"id\":\"hi\",\"prompt\":\"hi\",\"max_new_tokens\":3," GREEDY "}\n");
    run(b);
    assert_true(place_of(b, "hi") < place_of(b, "long"));
    for (int i = 0; i < 200; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"s%d\",\"prompt\":\"hello %d\",\"max_new_tokens\":1," GREEDY "}\n", i,
                    i);
    run(b);
    assert_true(place_of(b, "hi") < 10);
    /* alone: about 50 steps; with a quarter of the rows about 200; the short ones need about 400 */
    assert_true(place_of(b, "long") > 20 && place_of(b, "long") < 170);
    bench_close(b);
}

/* More requests than the routers hold at a time, over one and over two routers; each is answered once. */
static void thousands_of_requests_are_answered(void **state)
{
    (void)state;
    bench *b = bench_open();
    for (int i = 0; i < MANY; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"%d\",\"prompt\":\"%s\",\"max_new_tokens\":%d," GREEDY "}\n", i,
                    i % 7 == 3 ? "<image>" : "x", i % 3);
    b->c.cfg.max_batch = 4;
    b->c.cfg.encoders = "0";
    run(b);
    assert_int_equal(b->c.all_lines, MANY + 1);
    b->c.cfg.routers = 2;
    run(b);
    assert_int_equal(b->c.all_lines, MANY + 1);
    bench_close(b);
}

/* --- media --- */

/* An image of one colour, of its own. */
static const char *image_make(bench *b, int i)
{
    tiny_png png;
    uint8_t row[3 * 8];
    const char *name = um_arena_fmt(&b->a, "%d.png", i);
    for (int k = 0; k < 24; k++) row[k] = (uint8_t)(i * 37 + k % 3 * i);
    tiny_png_begin(&png, 8, 1, 8, 2, false);
    tiny_png_rows(&png, row, sizeof row, sizeof row);
    tiny_png_end(&png);
    folder_write(b->dir, name, png.bytes, png.n);
    return name; /* the requests file is beside it */
}

/* More media than a rank's window holds, in one request and in many, some of them equal, one broken, one missing. */
static void many_media_go_through_a_small_window(void **state)
{
    (void)state;
    bench *b = bench_open();
    folder_text(b->dir, "broken.png", "no image");
    um_text_fmt(&b->lines,
                "{\"id\":\"all\",\"prompt\":\"hi\",\"max_new_tokens\":2," GREEDY ",\"image\":[");
    for (int i = 0; i < 60; i++)
        um_text_fmt(&b->lines, "%s\"%s\"", i > 0 ? "," : "", image_make(b, i % 50));
    um_text_fmt(&b->lines, "]}\n");
    for (int i = 0; i < 40; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"i%d\",\"prompt\":\"hi\",\"max_new_tokens\":2," GREEDY
                    ",\"image\":[\"%s\",\"%s\"]}\n",
                    i, image_make(b, 100 + i),
                    i == 7    ? "broken.png"
                    : i == 20 ? "missing.png"
                              : image_make(b, 100 + (i + 1) % 40));
    b->c.cfg.max_batch = 9;
    b->c.cfg.encoders = "image=2";
    run(b);
    const char *summary = cluster_line(&b->c, "\"summary\"");
    assert_int_equal(number_in(summary, "errors"), 2);
    assert_int_equal(number_in(summary, "media_encoded"), 50 + 40);
    says(b, "all", "\"new_tokens\":2");
    says(b, "i7", "broken.png");
    says(b, "i20", "missing.png: No such file");
    for (int i = 0; i < 40; i++)
        if (i != 7 && i != 20) says(b, um_arena_fmt(&b->a, "i%d", i), "\"new_tokens\":2");
    bench_close(b);
}

/* Videos larger than the window are sent to the encoder one at a time; a video that is too large is not read. */
static void large_media_are_read_in_pieces(void **state)
{
    (void)state;
    bench *b = bench_open();
    for (int i = 0; i < 4; i++) {
        const char *name = um_arena_fmt(&b->a, "%d.mp4", i),
                   *path = um_path_join(&b->a, b->dir, name);
        folder_text(b->dir, name, name);
        assert_int_equal(truncate(path, i < 3 ? 34 << 20 : 64 << 20), 0);
        um_text_fmt(&b->lines, "{\"id\":\"v%d\",\"prompt\":\"hi\",\"video\":\"%s\"}\n", i, name);
    }
    um_text_fmt(&b->lines, "{\"id\":\"hi\",\"prompt\":\"hi\",\"max_new_tokens\":3," GREEDY "}\n");
    b->c.cfg.media_max_bytes = 40 << 20;
    run(b);
    says(b, "hi", "\"new_tokens\":3");
    for (int i = 0; i < 3; i++)
        says(b, um_arena_fmt(&b->a, "v%d", i), um_arena_fmt(&b->a, "%d.mp4: no sound or video", i));
    says(b, "v3", "3.mp4: larger than --media-max-bytes, which is 41943040");
    bench_close(b);
}

/* --- seeds and output --- */

/* Requests without a seed draw different tokens; the same seed draws the same tokens wherever the request is in the file. */
static void seeds(void **state)
{
    (void)state;
    bench *b = bench_open();
    const char *own[] = {"", "", ",\"seed\":7", ",\"seed\":4294967303", ",\"seed\":7", ""};
    char *ids[6];
    for (int noisy = 0; noisy < 2; noisy++) {
        b->c.cfg.model = golden_path(&b->a, noisy ? "models/s8" : "models/s4");
        b->c.cfg.gate_noise = noisy;
        b->lines.n = 0;
        for (int i = 0; i < 6; i++)
            um_text_fmt(&b->lines,
                        "{\"id\":\"r%d\",\"prompt\":\"hi\",\"max_new_tokens\":40,\"temperature\":%"
                        "s,\"ignore_eos\":true%s}\n",
                        i, noisy ? "0" : "2", own[i]);
        run(b);
        for (int i = 0; i < 6; i++) {
            ids[i] =
                um_arena_str(&b->a, strstr(line_of(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\""));
            *strchr(ids[i], ']') = '\0';
        }
        assert_string_equal(ids[2], ids[4]);
        assert_string_not_equal(ids[0], ids[1]);
        assert_string_not_equal(ids[0], ids[5]);
        assert_string_not_equal(ids[0], ids[2]);
        assert_string_not_equal(ids[2], ids[3]); /* their lower 32 bits are equal */
    }
    bench_close(b);
}

/* Takes *left lines. */
static um_status refuse_after(void *left, const char *line, um_err *err)
{
    (void)line;
    if ((*(int *)left)-- > 0) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "nobody reads the answers");
}

static void a_closed_output_ends_the_job(void **state)
{
    (void)state;
    bench *b = bench_open();
    for (int i = 0; i < 500; i++)
        um_text_fmt(&b->lines, "{\"prompt\":\"x\",\"max_new_tokens\":5," GREEDY "}\n");
    b->c.cfg.routers = 2;
    b->c.cfg.max_batch = 4;
    int left = 3;
    b->c.tap = refuse_after;
    b->c.tap_ctx = &left;
    assert_int_equal(try_run(b), UM_E_IO);
    assert_int_equal(b->c.all_lines, 4);
    assert_string_equal(b->c.err[0].msg, "nobody reads the answers");
    bench_close(b);
}

/* A thread that writes requests as long as they are read, and how many it had written when the first answer came. */
typedef struct writer {
    int fd;
    _Atomic int written;
    int at_first_answer;
} writer;

enum { WRITER_BYTES = 4096 };

static void *write_requests(void *ctx)
{
    writer *w = ctx;
    char line[WRITER_BYTES];
    for (int i = 0; i < WRITER_LINES; i++) {
        int n = snprintf(line, sizeof line, "{\"prompt\":\"x\",\"max_new_tokens\":1," GREEDY "}");
        memset(line + n, ' ', sizeof line - (size_t)n);
        line[sizeof line - 1] = '\n';
        for (size_t at = 0; at < sizeof line;) {
            ssize_t got = write(w->fd, line + at, sizeof line - at);
            if (got <= 0) return NULL;
            at += (size_t)got;
        }
        w->written++;
    }
    close(w->fd);
    return NULL;
}

static um_status note_first(void *ctx, const char *line, um_err *err)
{
    writer *w = ctx;
    (void)line;
    (void)err;
    if (w->at_first_answer == 0) {
        usleep(50000); /* time in which the writer could go on if nothing held it up */
        w->at_first_answer = w->written;
    }
    return UM_OK;
}

/* A full queue blocks the writer of requests: before the first answer only the window, one read and the pipe (1 MiB, 256 lines) can have
 * filled. */
static void a_full_queue_holds_up_the_writer(void **state)
{
    (void)state;
    bench *b = bench_open();
    int fd[2];
    pthread_t thread;
    assert_int_equal(pipe(fd), 0);
    writer w = {.fd = fd[1]};
    pthread_create(&thread, NULL, write_requests, &w);
    b->c.cfg.requests = um_arena_fmt(&b->a, "/proc/self/fd/%d", fd[0]);
    b->c.cfg.encoders = "0";
    b->c.cfg.max_batch = 4;
    b->c.tap = note_first;
    b->c.tap_ctx = &w;
    assert_int_equal(cluster_run(&b->c), UM_OK);
    pthread_join(thread, NULL);
    close(fd[0]);
    assert_int_equal(b->c.all_lines, WRITER_LINES + 1);
    assert_true(w.at_first_answer > 0 && w.at_first_answer < 600);
    bench_close(b);
}

/* --- cancelling --- */

/* Router 0's lines, and the pipe through which it is told more. */
typedef struct talk {
    int fd;
    int tokens, ends; /* lines about tokens; requests that ended */
    bool sent;
    char shown[4][2048]; /* the texts of the tokens of request i */
} talk;

static void say(talk *t, const char *line)
{
    assert_int_equal(write(t->fd, line, strlen(line)), (ssize_t)strlen(line));
}

/* As soon as each of the four speaks: two are cancelled, one that waits is too, then the input ends. */
static um_status talk_tap(void *ctx, const char *line, um_err *err)
{
    talk *t = ctx;
    um_json *j = NULL;
    (void)err;
    if (um_json_parse(&j, line, strlen(line), err) != UM_OK) return UM_E_DATA;
    int id = (int)strtol(um_json_str(um_json_get(j, "id"), "9"), NULL, 10);
    const um_json *token = um_json_get(j, "token");
    if (token != NULL && id < 4) {
        size_t n = strlen(t->shown[id]);
        snprintf(t->shown[id] + n, sizeof t->shown[id] - n, "%s",
                 um_json_str(um_json_get(token, "text"), ""));
        t->tokens++;
    }
    um_json_free(j);
    bool all = true;
    for (int i = 0; i < 4; i++) all = all && t->shown[i][0] != '\0';
    if (all && !t->sent) {
        t->sent = true;
        say(t, "{\"id\":\"late\",\"prompt\":\"x\",\"max_new_tokens\":3}\n"
               "{\"cancel\":\"0\"}\n{\"cancel\":1}\n{\"cancel\":\"nobody\"}\n{\"cancel\":[1]}\n"
               "{ \"cancel\" : \"2\" }\n{\"cancel\":\"3\"}\n{\"cancel\":\"late\"}\n");
        close(t->fd);
    }
    return UM_OK;
}

/* Lines that cancel, among the requests and while they run, over one router and over two. They would run for 4,000 tokens. */
static void lines_cancel_requests(void **state)
{
    (void)state;
    for (int routers = 1; routers <= 2; routers++) {
        bench *b = bench_open();
        talk t = {0};
        int fd[2];
        assert_int_equal(pipe(fd), 0);
        t.fd = fd[1];
        for (int i = 0; i < 4; i++)
            say(&t,
                um_arena_fmt(&b->a,
                             "{\"id\":\"%d\",\"prompt\":\"say %d\",\"max_new_tokens\":4000," GREEDY
                             "}\n",
                             i, i));
        b->c.cfg.requests = um_arena_fmt(&b->a, "/proc/self/fd/%d", fd[0]);
        b->c.cfg.routers = routers;
        b->c.cfg.stream = true;
        b->c.tap = talk_tap;
        b->c.tap_ctx = &t;
        assert_int_equal(cluster_run(&b->c), UM_OK);
        close(fd[0]);
        const char *summary = cluster_line(&b->c, "\"summary\"");
        if (summary != NULL) assert_int_equal(number_in(summary, "requests"), 5);
        assert_true(t.sent && t.tokens < 4 * 3900);
        bench_close(b);
    }
}

/* A line that cancels reaches requests that are read ahead of the routers' windows too: all but those that run are never begun. */
static void requests_ahead_are_cancelled(void **state)
{
    (void)state;
    bench *b = bench_open();
    b->c.cfg.max_batch = 1;
    b->c.cfg.in_order = true;
    for (int i = 0; i < 60; i++)
        um_text_fmt(&b->lines, "{\"id\":\"%s\",\"prompt\":\"x\",\"max_new_tokens\":2," GREEDY "}\n",
                    i == 20   ? "kept"
                    : i == 59 ? "last"
                              : "many");
    um_text_fmt(&b->lines, "{\"cancel\":\"many\"}\n");
    run(b);
    int cancelled = 0;
    for (int i = 0; i < b->c.n_lines; i++)
        cancelled += strstr(b->c.lines[i], "\"finish\":\"cancelled\"") != NULL;
    assert_int_equal(b->c.all_lines, 61);
    assert_true(cancelled >= 50);
    says(b, "kept", "\"new_tokens\":2,\"finish\":\"length\"");
    says(b, "last", "\"new_tokens\":2,\"finish\":\"length\"");
    assert_int_equal(place_of(b, "kept"), 20);
    assert_int_equal(place_of(b, "last"), 59);
    bench_close(b);
}

/* Each token a line before its result; their texts together are the answer, with a log-probability where it was asked for. */
static void tokens_are_lines(void **state)
{
    (void)state;
    bench *b = bench_open();
    um_text_fmt(&b->lines,
                "{\"id\":\"x\",\"prompt\":\"hi\",\"max_new_tokens\":12,\"logprobs\":true," GREEDY
                "}\n"
                "{\"id\":\"y\",\"prompt\":\"ho\",\"max_new_tokens\":12," GREEDY "}\n");
    run(b);
    char *plain = um_arena_str(&b->a, line_of(b, "y"));
    says(b, "x", "\"logprobs\":[-");
    assert_null(cluster_line(&b->c, "\"token\""));
    b->c.cfg.stream = true;
    b->c.cfg.routers = 2;
    run(b);
    um_text text = {0};
    int index = 0;
    bool ended = false;
    for (int i = 0; i < b->c.n_lines; i++) {
        um_json *j = NULL;
        um_err err = {0};
        assert_int_equal(um_json_parse(&j, b->c.lines[i], strlen(b->c.lines[i]), &err), UM_OK);
        const um_json *token = um_json_get(j, "token");
        if (strcmp(um_json_str(um_json_get(j, "id"), ""), "x") == 0) {
            assert_false(ended);
            ended = token == NULL;
            if (ended) {
                assert_string_equal(um_json_str(um_json_get(j, "answer"), "?"), text.s);
                assert_int_equal(um_json_size(um_json_get(j, "logprobs")), 12);
            } else {
                const char *s = um_json_str(um_json_get(token, "text"), "?");
                um_text_add(&text, s, strlen(s));
                assert_int_equal(um_json_int(um_json_get(token, "index"), -1), index++);
                assert_int_equal(um_json_size(um_json_get(token, "ids")), 1);
                assert_true(um_json_num(um_json_get(token, "logprob"), 1) <= 0);
            }
        }
        um_json_free(j);
    }
    assert_true(ended);
    assert_int_equal(index, 12);
    for (int i = 0; i < b->c.n_lines; i++) /* the same result, streamed or not, but for its times */
        if (strstr(b->c.lines[i], "\"kind\":\"result\",\"id\":\"y\"") != NULL)
            assert_int_equal(
                strncmp(b->c.lines[i], plain, (size_t)(strstr(plain, "\"prefill_seconds") - plain)),
                0);
    um_text_free(&text);
    bench_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_new_tokens_give_an_empty_answer),
        cmocka_unit_test(context_counts_the_rows_of_media),
        cmocka_unit_test(the_models_positions_are_an_end),
        cmocka_unit_test(a_text_of_megabytes_is_refused_at_once),
        cmocka_unit_test(stop_texts_end_an_answer),
        cmocka_unit_test(requests_wait_for_memory_of_others),
        cmocka_unit_test(the_youngest_are_put_back_when_pages_run_out),
        cmocka_unit_test(a_shared_prefix_is_read_once),
        cmocka_unit_test(micro_batches_in_flight_give_the_same_answers),
        cmocka_unit_test(short_prompts_do_not_wait_and_long_ones_go_on),
        cmocka_unit_test(thousands_of_requests_are_answered),
        cmocka_unit_test(many_media_go_through_a_small_window),
        cmocka_unit_test(large_media_are_read_in_pieces),
        cmocka_unit_test(seeds),
        cmocka_unit_test(a_closed_output_ends_the_job),
        cmocka_unit_test(a_full_queue_holds_up_the_writer),
        cmocka_unit_test(lines_cancel_requests),
        cmocka_unit_test(requests_ahead_are_cancelled),
        cmocka_unit_test(tokens_are_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
