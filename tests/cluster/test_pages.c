/* Pages of keys and values, prefixes and micro-batches in flight, in a whole cluster of threads: whatever is shared, put back or under way,
 * the answers are the same. */
#include "tests/cluster/requests_bench.h"
#include "tests/support/test_support.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

/* Runs the lines with other settings, and wants the same ids of r0..r(n-1) as `want`, or sets them. */
static void ids_are(bench *b, int n, char **want, bool set)
{
    for (int i = 0; i < n; i++) {
        const char *ids = strstr(bench_line(b, um_arena_fmt(&b->a, "r%d", i)), "\"ids\"");
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
                    i, bench_words(b, 10 + 7 * i), 40 + 3 * i, i);
    bench_run(b);
    ids_are(b, N, want, true);
    assert_int_equal(bench_number(cluster_line(&b->c, "\"summary\""), "put_back"), 0);
    for (int flights = 1; flights <= 3; flights++)
        for (int kib = 384; kib <= 640; kib += 64) {
            b->c.cfg.micro_batches = flights;
            b->c.cfg.request_memory = kib << 10;
            bench_run(b);
            const char *summary = cluster_line(&b->c, "\"summary\"");
            assert_int_equal(bench_number(summary, "errors"), 0);
            if (kib <= 448) assert_true(bench_number(summary, "put_back") > 0);
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
                    i, bench_words(b, 300), i * 7919, image);
    b->c.cfg.prefix_cache = 0;
    bench_run(b);
    ids_are(b, N, want, true);
    int64_t all = bench_number(cluster_line(&b->c, "\"summary\""), "prompt_tokens");
    assert_int_equal(bench_number(cluster_line(&b->c, "\"summary\""), "reused_tokens"), 0);
    for (int flights = 1; flights <= 2; flights++) {
        b->c.cfg.micro_batches = flights;
        b->c.cfg.prefix_cache = 64 << 20;
        b->c.cfg.max_batch = flights == 1 ? 32 : 8;
        bench_run(b);
        ids_are(b, N, want, false);
        const char *summary = cluster_line(&b->c, "\"summary\"");
        int64_t reused = bench_number(summary, "reused_tokens");
        assert_int_equal(bench_number(summary, "prompt_tokens"), all);
        assert_true(all - reused < 300 + N * 48 + 64); /* once, and the end of each */
    }
    /* the same text behind another image has nothing in common with it */
    um_text_fmt(&b->lines,
                "{\"id\":\"other\",\"prompt\":\"<image> %sand 0\",\"image\":\"%s\","
                "\"max_new_tokens\":4," GREEDY "}\n",
                bench_words(b, 300), golden_path(&b->a, "media/tall.png"));
    bench_run(b);
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
                    bench_words(b, i % 3 == 0 ? 200 + i : 5 + i), 6 + i);
    bench_run(b);
    ids_are(b, N, want, true);
    for (int flights = 2; flights <= 5; flights++) {
        b->c.cfg.micro_batches = flights;
        b->c.cfg.max_batch = 1 + flights % 3;
        b->c.cfg.prefill_chunk = 7 * flights;
        b->c.cfg.experts = 1 + flights % 4;
        b->c.cfg.prefix_cache = flights % 2 == 0 ? 0 : 1 << 20;
        bench_run(b);
        ids_are(b, N, want, false);
    }
    bench_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_youngest_are_put_back_when_pages_run_out),
        cmocka_unit_test(a_shared_prefix_is_read_once),
        cmocka_unit_test(micro_batches_in_flight_give_the_same_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
