/* How likely a given answer is: against the golden logits of the reference, with the same bits however the work is divided, and with a
 * prefix that many answers to one question share. */
#include "tests/cluster/requests_bench.h"
#include "tests/support/test_support.h"

#include "core/base/json.h"
#include "core/nn/safetensors.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { SCORES_MAX = 64 };

/* What a result line says of a scored answer. */
typedef struct scored_line {
    double score;
    int n;
    int ids[SCORES_MAX];
    double logprob[SCORES_MAX];
} scored_line;

static scored_line scored(bench *b, const char *id)
{
    scored_line s = {0};
    um_json *j = NULL;
    um_err err = {0};
    const char *line = bench_line(b, id);
    assert_int_equal(um_json_parse(&j, line, strlen(line), &err), UM_OK);
    const um_json *ids = um_json_get(j, "ids"), *logprobs = um_json_get(j, "logprobs");
    assert_string_equal(um_json_str(um_json_get(j, "kind"), "?"), "result");
    assert_int_equal(um_json_int(um_json_get(j, "new_tokens"), -1), 0);
    s.score = um_json_num(um_json_get(j, "score"), NAN);
    s.n = (int)um_json_size(ids);
    assert_in_range(s.n, 1, SCORES_MAX);
    assert_int_equal(um_json_size(logprobs), s.n);
    double sum = 0;
    for (int i = 0; i < s.n; i++) {
        s.ids[i] = (int)um_json_int(um_json_at(ids, (size_t)i), -1);
        s.logprob[i] = um_json_num(um_json_at(logprobs, (size_t)i), NAN);
        assert_true(s.logprob[i] <= 0);
        sum += s.logprob[i];
    }
    assert_true(fabs(sum - s.score) < 1e-5 * (1 + fabs(sum)));
    um_json_free(j);
    return s;
}

/* --- golden --- */

static float f32_at(const um_tensor *t, size_t i)
{
    float f;
    memcpy(&f, t->data + i * sizeof f, sizeof f);
    return f;
}

/* log softmax of a row of logits [V] at id. */
static double golden_logprob(const um_tensor *logits, int64_t row, int id)
{
    size_t V = (size_t)logits->shape[1], at = (size_t)row * V;
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < V; i++) top = fmax(top, (double)f32_at(logits, at + i));
    for (size_t i = 0; i < V; i++) sum += exp((double)f32_at(logits, at + i) - top);
    return (double)f32_at(logits, at + (size_t)id) - top - log(sum);
}

/* The case "turns" has the answer "the blue" in its prompt, among the rows whose logits are kept: the last ones. */
static void likelihood_is_that_of_golden_logits(void **state)
{
    static const char *const models[] = {"s4", "s8", "a4"};
    (void)state;
    for (int m = 0; m < 3; m++) {
        bench *b = bench_open();
        um_err err = {0};
        um_tensors *golden = NULL;
        b->c.cfg.model = golden_path(&b->a, "models/%s", models[m]);
        um_text_fmt(&b->lines,
                    "{\"id\":\"x\",\"score\":\"the blue\",\"conversations\":["
                    "{\"from\":\"human\",\"value\":\"<image>\\nDescribe the picture.\"},"
                    "{\"from\":\"gpt\",\"value\":\"a red circle\"},"
                    "{\"from\":\"human\",\"value\":\"Which one is left?\"}],\"image\":\"%s\"}\n",
                    golden_path(&b->a, "media/wide.png"));
        bench_run(b);
        scored_line s = scored(b, "x");
        const char *path = golden_path(&b->a, "cases/%s/turns/expected.safetensors", models[m]);
        assert_int_equal(um_tensors_open(&golden, path, &err), UM_OK);
        const um_tensor *ids = um_tensors_find(golden, "input_ids"),
                        *logits = um_tensors_find(golden, "logits_tail");
        int n = (int)ids->shape[0], tail = (int)logits->shape[0], at = n - 1;
        int32_t all[256];
        assert_true(n <= 256);
        memcpy(all, ids->data, (size_t)n * sizeof *all);
        while (all[at] != 2) at--; /* the </s> behind the answer */
        at -= s.n - 1;
        assert_int_equal(s.n, 6);
        for (int i = 0; i < s.n; i++) {
            assert_int_equal(s.ids[i], all[at + i]);
            double want = golden_logprob(logits, at + i - 1 - (n - tail), s.ids[i]);
            if (fabs(want - s.logprob[i]) > 1e-3)
                fail_msg("%s, token %d: %g, want %g", models[m], i, s.logprob[i], want);
        }
        um_tensors_close(golden);
        bench_close(b);
    }
}

/* --- bits --- */

/* Answers to two questions, long and short, some of which begin alike. */
static const char *const answers[] = {
    "red",
    "red circle",
    "a red circle",
    "",
    " red ",
    "\\u00e9\\u4e2d \\ud83d\\ude00",
    "<image>",
    "</s>",
    "the one that stands on the left of the other one, which is bigger than it"};
enum { ANSWERS = sizeof answers / sizeof *answers };

static void ask(bench *b)
{
    b->lines.n = 0;
    for (int i = 0; i < 2 * ANSWERS; i++)
        um_text_fmt(&b->lines,
                    "{\"id\":\"a%d\",\"prompt\":\"What %s?\",\"image\":\"%s\",\"score\":\"%s\"}\n",
                    i, i < ANSWERS ? "is there" : "do you see",
                    golden_path(&b->a, "media/small.png"), answers[i % ANSWERS]);
    um_text_fmt(&b->lines,
                "{\"id\":\"g\",\"prompt\":\"What is there?\",\"max_new_tokens\":6," GREEDY "}\n");
}

/* What the results say but for their times, in the order of the requests. */
static const char *what_was_said(bench *b)
{
    const char *all = "";
    for (int i = 0; i < 2 * ANSWERS; i++) {
        const char *line = bench_line(b, um_arena_fmt(&b->a, "a%d", i));
        const char *from = strstr(line, "\"answer\""), *to = strstr(line, ",\"prefill_seconds\"");
        const char *rest = strstr(line, "\"logprobs\"");
        assert_true(from != NULL && to != NULL && rest != NULL);
        all = um_arena_fmt(&b->a, "%s%.*s %s\n", all, (int)(to - from), from, rest);
    }
    return um_arena_fmt(&b->a, "%s", all);
}

static void the_same_bits_however_divided(void **state)
{
    static const struct {
        int experts, routers, chunk, batch, flights;
        int64_t prefix, memory;
    } ways[] = {{1, 1, 256, 32, 1, 0, 0},       {2, 1, 7, 3, 1, 1 << 28, 0},
                {3, 2, 64, 8, 2, 1 << 28, 0},   {4, 1, 16, 4, 2, 0, 0},
                {2, 1, 256, 32, 1, 1 << 28, 0}, {2, 1, 5, 8, 2, 1 << 20, 400 << 10}};
    const char *first = NULL;
    um_arena kept;
    (void)state;
    um_arena_init(&kept, "test", 4096);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        bench *b = bench_open();
        ask(b);
        b->c.cfg.experts = ways[i].experts;
        b->c.cfg.routers = ways[i].routers;
        b->c.cfg.prefill_chunk = ways[i].chunk;
        b->c.cfg.max_batch = ways[i].batch;
        b->c.cfg.micro_batches = ways[i].flights;
        b->c.cfg.prefix_cache = ways[i].prefix;
        b->c.cfg.request_memory = ways[i].memory;
        bench_run(b);
        const char *said = what_was_said(b);
        if (first == NULL) first = um_arena_str(&kept, said);
        if (strcmp(first, said) != 0) fail_msg("way %zu differs", i);
        int64_t reused = bench_number(cluster_line(&b->c, "\"summary\""), "reused_tokens");
        if (ways[i].prefix == 0) assert_int_equal(reused, 0);
        if (i == 4) assert_true(reused > (ANSWERS - 1) * 16); /* each question is read once */
        bench_close(b);
    }
    um_arena_free(&kept);
}

/* Pages run out while answers are being read, for an older request goes on and on: what is read again is as likely as before. */
static void the_same_bits_when_put_back(void **state)
{
    enum { PAGE_BYTES = 24576 }; /* of this model */
    int64_t put_back = 0;
    (void)state;
    bench *b = bench_open();
    um_text_fmt(&b->lines, "{\"id\":\"g\",\"prompt\":\"hi\",\"max_new_tokens\":120," GREEDY "}\n");
    for (int i = 0; i < 2 * ANSWERS; i++)
        um_text_fmt(&b->lines, "{\"id\":\"a%d\",\"prompt\":\"%s\",\"score\":\"%s\"}\n", i,
                    bench_words(b, 20 + i), answers[i % ANSWERS]);
    b->c.cfg.prefix_cache = 0;
    b->c.cfg.prefill_chunk = 3;
    b->c.cfg.max_batch = 8;
    bench_run(b);
    const char *want = what_was_said(b);
    for (int pages = 13; pages < 21; pages++) {
        b->c.cfg.request_memory = pages * PAGE_BYTES;
        bench_run(b);
        if (strcmp(what_was_said(b), want) != 0) fail_msg("%d pages: differs", pages);
        put_back += bench_number(cluster_line(&b->c, "\"summary\""), "put_back");
    }
    assert_true(put_back > 0);
    bench_close(b);
}

static void what_is_scored_is_the_whole_answer(void **state)
{
    (void)state;
    bench *b = bench_open();
    ask(b);
    b->c.cfg.stream = true;
    bench_run(b);
    scored_line red = scored(b, "a0"), circle = scored(b, "a1"), empty = scored(b, "a3");
    assert_int_equal(red.ids[red.n - 1],
                     2); /* its </s> counts: "red" is no beginning of "red circle" */
    assert_int_equal(circle.ids[circle.n - 1], 2);
    assert_true(circle.n > red.n);
    for (int i = 0; i + 1 < red.n; i++) {
        assert_int_equal(red.ids[i], circle.ids[i]);
        assert_true(red.logprob[i] == circle.logprob[i]);
    }
    assert_int_equal(empty.ids[empty.n - 1], 2);
    bench_says(b, "a1", "\"answer\":\"red circle\"");
    for (int i = 0; i < b->c.n_lines; i++)
        assert_true(strstr(b->c.lines[i], "\"kind\":\"token\",\"id\":\"a") == NULL);
    const char *generated = cluster_line(&b->c, "\"kind\":\"result\",\"id\":\"g\"");
    assert_non_null(strstr(generated, "\"new_tokens\":6"));
    assert_null(strstr(generated, "\"score\""));
    bench_close(b);
}

static void what_cannot_be_scored(void **state)
{
    (void)state;
    bench *b = bench_open();
    um_text_fmt(
        &b->lines,
        "{\"id\":\"number\",\"prompt\":\"hi\",\"score\":3}\n"
        "{\"id\":\"null\",\"prompt\":\"hi\",\"score\":null,\"max_new_tokens\":1}\n"
        "{\"id\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"score\":\"ho\"}\n"
        "{\"id\":\"long\",\"prompt\":\"hi\",\"score\":\"%s\"}\n",
        bench_words(b, 400));
    b->c.cfg.context = 300;
    bench_run(b);
    bench_says(b, "number", "score: want a text");
    bench_says(b, "null", "\"new_tokens\":1");
    bench_says(b, "chat", "\"score\":-");
    bench_says(b, "long", "do not fit --context 300");
    bench_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(likelihood_is_that_of_golden_logits),
        cmocka_unit_test(the_same_bits_however_divided),
        cmocka_unit_test(the_same_bits_when_put_back),
        cmocka_unit_test(what_is_scored_is_the_whole_answer),
        cmocka_unit_test(what_cannot_be_scored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
