/* Requests in a whole cluster of threads: lengths and memory that are refused, shortened or waited for, the order in which answers come,
 * thousands of requests, many and large media, stop texts, seeds, and an output that nobody reads. */
#include "tests/cluster/requests_bench.h"
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
    bench_run(b);
    const char *empty[] = {"option", "image", "request", "sampled"};
    for (int i = 0; i < 4; i++) {
        bench_says(b, empty[i], "\"answer\":\"\",\"ids\":[]");
        bench_says(b, empty[i], "\"new_tokens\":0,\"finish\":\"length\"");
    }
    bench_says(b, "one", "\"new_tokens\":1,");
    assert_int_equal(bench_number(cluster_line(&b->c, "\"summary\""), "new_tokens"), 1);
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
    bench_run(b);
    int rows = (int)bench_number(bench_line(b, "image"), "prompt_tokens");
    assert_true(rows > bench_number(bench_line(b, "text"), "prompt_tokens") + 4);
    b->c.cfg.context = rows + 4;
    bench_run(b);
    bench_says(b, "image", "\"kind\":\"result\"");
    b->c.cfg.context = rows + 3;
    bench_run(b);
    bench_says(b, "image",
               um_arena_fmt(
                   &b->a, "%d prompt rows (media counted) and 4 new tokens do not fit --context %d",
                   rows, rows + 3));
    bench_says(b, "text", "\"kind\":\"result\"");
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
                bench_words(b, 60));
    bench_run(b);
    int rows = (int)bench_number(bench_line(b, "x"), "prompt_tokens");
    few_positions(b, rows + 9);
    bench_run(b); /* the last token needs no position */
    bench_says(b, "x", "\"new_tokens\":10,\"finish\":\"length\"");
    bench_close(b);
    b = bench_open();
    few_positions(b, rows);
    um_text_fmt(&b->lines,
                "{\"id\":\"fits\",\"prompt\":\"%s\",\"max_new_tokens\":40," GREEDY "}\n"
                "{\"id\":\"long\",\"prompt\":\"%s\",\"max_new_tokens\":1," GREEDY "}\n"
                "{\"id\":\"media\",\"prompt\":\"%s\",\"max_new_tokens\":1,\"image\":\"%s\"}\n"
                "{\"id\":\"short\",\"prompt\":\"hi\",\"max_new_tokens\":1," GREEDY "}\n",
                bench_words(b, 60), bench_words(b, 61), bench_words(b, 55),
                golden_path(&b->a, "media/small.png"));
    bench_run(b);
    bench_says(b, "fits", "\"new_tokens\":1,\"finish\":\"length\"");
    bench_says(b, "long", um_arena_fmt(&b->a, "the model has %d positions", rows));
    bench_says(b, "media", "rows (media counted), the model has");
    bench_says(b, "short", "\"kind\":\"result\"");
    bench_close(b);
}

/* Megabytes of text are refused by their length, before they are processed. */
static void a_text_of_megabytes_is_refused_at_once(void **state)
{
    (void)state;
    bench *b = bench_open();
    um_text_fmt(&b->lines, "{\"id\":\"long\",\"prompt\":\"%s\"}\n", bench_words(b, 1500000));
    um_text_fmt(&b->lines, "{\"id\":\"good\",\"prompt\":\"hi\",\"max_new_tokens\":2," GREEDY "}\n");
    bench_run(b);
    bench_says(b, "long", "or more (3000000 bytes of text, at most ");
    bench_says(b, "good", "\"new_tokens\":2");
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
    bench_run(b);
    const char *all = bench_line(b, "all"), *answer = strstr(all, "\"answer\":"),
               *at = strstr(all, "any pic");
    assert_non_null(at); /* or choose another text of the answer */
    int n = (int)(at - answer);
    bench_says(b, "all", "\"new_tokens\":24,\"finish\":\"length\"");
    bench_says(b, "absent", "\"new_tokens\":24,\"finish\":\"length\"");
    bench_says(b, "text", um_arena_fmt(&b->a, "%.*s\",\"ids\"", n, answer));
    bench_says(b, "text", "\"finish\":\"stop\"");
    assert_true(bench_number(bench_line(b, "text"), "new_tokens") < 24);
    bench_says(b, "list", um_arena_fmt(&b->a, "%.*sany\",\"ids\"", n, answer));
    bench_says(b, "list", "\"finish\":\"stop\"");
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
                    bench_words(b, 100), 5 + i);
    um_text_fmt(&b->lines,
                "{\"id\":\"huge\",\"prompt\":\"hi\",\"max_new_tokens\":3900," GREEDY "}\n");
    bench_run(b);
    char *want[6];
    for (int i = 0; i < 6; i++)
        want[i] =
            um_arena_str(&b->a, strstr(bench_line(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\""));
    b->c.cfg.request_memory = 700 << 10; /* for one or two of them at a time */
    bench_run(b);
    for (int i = 0; i < 6; i++) {
        const char *ids = strstr(bench_line(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\"");
        assert_non_null(ids);
        assert_int_equal(strncmp(ids, want[i], strcspn(want[i], "]")), 0);
    }
    bench_says(b, "huge", "are allowed by --request-memory");
    bench_says(b, "huge", "GiB for keys and values");
    b->c.cfg.request_memory = 1;
    bench_run(b);
    assert_int_equal(bench_number(cluster_line(&b->c, "\"summary\""), "errors"), 7);
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
                bench_words(b, 1500));
    um_text_fmt(&b->lines, "{\"id\":\"hi\",\"prompt\":\"hi\",\"max_new_tokens\":3," GREEDY "}\n");
    bench_run(b);
    assert_true(bench_place(b, "hi") < bench_place(b, "long"));
    for (int i = 0; i < 200; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"s%d\",\"prompt\":\"hello %d\",\"max_new_tokens\":1," GREEDY "}\n", i,
                    i);
    bench_run(b);
    assert_true(bench_place(b, "hi") < 10);
    /* alone: about 50 steps; with a quarter of the rows about 200; the short ones need about 400 */
    assert_true(bench_place(b, "long") > 20 && bench_place(b, "long") < 170);
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
    bench_run(b);
    assert_int_equal(b->c.all_lines, MANY + 1);
    b->c.cfg.routers = 2;
    bench_run(b);
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
    bench_run(b);
    const char *summary = cluster_line(&b->c, "\"summary\"");
    assert_int_equal(bench_number(summary, "errors"), 2);
    assert_int_equal(bench_number(summary, "media_encoded"), 50 + 40);
    bench_says(b, "all", "\"new_tokens\":2");
    bench_says(b, "i7", "broken.png");
    bench_says(b, "i20", "missing.png: No such file");
    for (int i = 0; i < 40; i++)
        if (i != 7 && i != 20) bench_says(b, um_arena_fmt(&b->a, "i%d", i), "\"new_tokens\":2");
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
    bench_run(b);
    bench_says(b, "hi", "\"new_tokens\":3");
    for (int i = 0; i < 3; i++)
        bench_says(b, um_arena_fmt(&b->a, "v%d", i),
                   um_arena_fmt(&b->a, "%d.mp4: no sound or video", i));
    bench_says(b, "v3", "3.mp4: larger than --media-max-bytes, which is 41943040");
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
        bench_run(b);
        for (int i = 0; i < 6; i++) {
            ids[i] = um_arena_str(&b->a,
                                  strstr(bench_line(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\""));
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
    assert_int_equal(bench_try_run(b), UM_E_IO);
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
        if (summary != NULL) assert_int_equal(bench_number(summary, "requests"), 5);
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
    bench_run(b);
    int cancelled = 0;
    for (int i = 0; i < b->c.n_lines; i++)
        cancelled += strstr(b->c.lines[i], "\"finish\":\"cancelled\"") != NULL;
    assert_int_equal(b->c.all_lines, 61);
    assert_true(cancelled >= 50);
    bench_says(b, "kept", "\"new_tokens\":2,\"finish\":\"length\"");
    bench_says(b, "last", "\"new_tokens\":2,\"finish\":\"length\"");
    assert_int_equal(bench_place(b, "kept"), 20);
    assert_int_equal(bench_place(b, "last"), 59);
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
    bench_run(b);
    char *plain = um_arena_str(&b->a, bench_line(b, "y"));
    bench_says(b, "x", "\"logprobs\":[-");
    assert_null(cluster_line(&b->c, "\"token\""));
    b->c.cfg.stream = true;
    b->c.cfg.routers = 2;
    bench_run(b);
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
