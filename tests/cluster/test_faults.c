/* Faults on the wire, in a cluster of threads: every damaged or repeated message ends the job with a message that names a rank, or does
 * no harm; a rank that falls silent, or is late by longer than the deadline, is told apart; one that lives but never answers is named with
 * what it owes; nothing hangs, nothing leaks (the sanitizers look). Faults of one request never end the job. */
#include "tests/cluster/cluster.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "proto/frame.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define DATA UM_TEST_DATA "/golden/"

typedef enum fault_kind {
    FLIP,
    TRUNCATE,
    VERSION,
    LOSE,
    TWICE,
    MUTE,
    DELAY, /* before it sends, the sender computes for longer than the deadline */
    FAULT_KINDS
} fault_kind;

typedef struct fault {
    fault_kind kind;
    um_kind frame; /* only frames of this kind; 0 = all */
    int nth;       /* which of them */
    int mute_from; /* MUTE: after the nth frame nothing that this rank sends arrives */
    _Atomic int seen, done;
    uint32_t random;
} fault;

static int inject(void *ctx, int from, int to, um_msg *msg)
{
    (void)to;
    fault *f = ctx;
    if (msg == NULL) return f->kind == MUTE && f->done && from == f->mute_from ? 0 : 1; /* a beat */
    um_kind kind = msg->size >= UM_FRAME_HEADER ? (um_kind)msg->data[6] : UM_KINDS;
    if (f->kind == MUTE && f->done && from == f->mute_from) return 0;
    if ((f->frame != 0 && kind != f->frame) || atomic_fetch_add(&f->seen, 1) != f->nth) return 1;
    f->done = 1;
    switch (f->kind) {
    case FLIP:
        msg->data[f->random % msg->size] ^= (uint8_t)(1u << (f->random >> 20) % 8);
        return 1;
    case TRUNCATE:
        msg->size = f->random % msg->size;
        return 1;
    case VERSION:
        um_put_u16(msg->data + 4, 9);
        return 1;
    case LOSE:
        return 0;
    case TWICE:
        return 2;
    case DELAY:
        um_sleep_us(700000);
        return 1;
    default:
        return from == f->mute_from ? 0 : 1;
    }
}

/* The tokens of the first answer. Each later run that ends well must give the same. */
static char ids[256];

static void remember_ids(const cluster *c)
{
    const char *line = cluster_line(c, "\"ids\":");
    assert_non_null(line);
    const char *from = strstr(line, "\"ids\":"), *to = strchr(from, ']');
    char now[sizeof ids];
    assert_non_null(to);
    snprintf(now, sizeof now, "%.*s", (int)(to - from), from);
    if (ids[0] == '\0') snprintf(ids, sizeof ids, "%s", now);
    assert_string_equal(now, ids);
}

/* Runs a small request with two expert ranks and an encoder; text receives all error messages. */
static um_status run_stalling(fault *f, int64_t deadline_ms, int64_t stall_ms, char *text,
                              size_t text_bytes, int *lines)
{
    cluster c;
    cluster_init(&c, DATA "models/s4");
    const char *requests = "faults.jsonl";
    um_text t = {0};
    um_err err = {0};
    um_text_fmt(&t,
                "{\"prompt\":\"<image>\\nHi\",\"image\":\"%smedia/"
                "small.png\",\"max_new_tokens\":2,\"temperature\":0}\n",
                DATA);
    assert_int_equal(um_file_write(requests, t.s, t.n, &err), UM_OK);
    um_text_free(&t);
    c.cfg.requests = requests;
    c.cfg.experts = 2;
    c.cfg.deadline_ms = deadline_ms;
    c.cfg.stall_ms = stall_ms;
    c.fault = f == NULL ? NULL : inject;
    c.fault_ctx = f;
    um_status st = cluster_run(&c);
    text[0] = '\0';
    for (int r = 0; r < c.ranks; r++)
        if (c.status[r] != UM_OK && !c.follows[r])
            snprintf(text + strlen(text), text_bytes - strlen(text), "%s\n", c.err[r].msg);
    *lines = c.n_lines;
    if (st == UM_OK) remember_ids(&c);
    cluster_free(&c);
    unlink(requests);
    return st;
}

static um_status run_with(fault *f, int64_t deadline_ms, char *text, size_t text_bytes, int *lines)
{
    return run_stalling(f, deadline_ms, 600000, text, text_bytes, lines);
}

/* Damages each message of a run in turn, in one way. The run ends by itself; if it fails, the message names a rank. */
static void damage_each_message(fault_kind kind, int stride)
{
    char text[8192];
    int lines = 0;
    for (int nth = 0;; nth += stride) {
        fault f = {.kind = kind, .nth = nth, .random = (uint32_t)nth * 2654435761u};
        um_status st = run_with(&f, 3000, text, sizeof text, &lines);
        if (!f.done) break;
        if (st == UM_OK) {
            assert_true(kind == TWICE); /* harmless, and the answer is the same (remember_ids) */
            continue;
        }
        bool named = strstr(text, "router/0") != NULL || strstr(text, "expert/") != NULL ||
                     strstr(text, "encoder/0") != NULL || strstr(text, "rank ") != NULL;
        if (!named) printf("message %d: %s\n", nth, text);
        assert_true(named);
    }
}

static void a_flipped_bit_anywhere_is_caught(void **state)
{
    (void)state;
    damage_each_message(FLIP, 1);
}

static void a_truncated_message_is_caught(void **state)
{
    (void)state;
    damage_each_message(TRUNCATE, 1);
}

static void a_repeated_message_is_refused_or_harmless(void **state)
{
    (void)state;
    damage_each_message(TWICE, 1);
}

static void fails_with(fault f, const char *words)
{
    char text[8192];
    int lines = 0;
    um_status st = run_with(&f, 1000, text, sizeof text, &lines);
    if (st == UM_OK || strstr(text, words) == NULL)
        printf("status %d, want \"%s\" in: %s\n", (int)st, words, text);
    assert_int_not_equal(st, UM_OK);
    assert_non_null(strstr(text, words));
    /* one rank reports it, the others follow */
    assert_int_equal(strchr(text, '\n') - text, (ptrdiff_t)strlen(text) - 1);
}

static void each_fault_of_a_frame_has_its_words(void **state)
{
    (void)state;
    fails_with((fault){.kind = VERSION, .frame = UM_KIND_DISPATCH, .nth = 3}, "version 9");
    fails_with((fault){.kind = VERSION, .frame = UM_KIND_HELLO}, "version 9");
}

/* A dispatch frame that comes twice is answered twice, and the second answer is dropped; so is a repeated answer. */
static void a_repeated_frame_of_the_exchange_does_no_harm(void **state)
{
    (void)state;
    const um_kind kinds[] = {UM_KIND_DISPATCH, UM_KIND_COMBINE};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int struck = 0; /* frames of the kind that the job has: each is repeated once */
        for (bool more = true; more; struck += more) {
            char text[8192];
            int lines = 0;
            fault f = {.kind = TWICE, .frame = kinds[i], .nth = struck};
            um_status st = run_with(&f, 20000, text, sizeof text, &lines); /* and the same ids */
            if (st != UM_OK) print_message("%s %d: %s\n", um_kind_name(kinds[i]), struck, text);
            assert_int_equal(st, UM_OK);
            more = f.done == 1;
        }
        print_message("%s: %d frames\n", um_kind_name(kinds[i]), struck);
        assert_true(struck >= 8);
    }
}

static void a_silent_rank_is_named_within_the_deadline(void **state)
{
    (void)state;
    fails_with((fault){.kind = MUTE, .frame = UM_KIND_DISPATCH, .nth = 2, .mute_from = 2},
               "expert/1");
    fails_with((fault){.kind = MUTE, .frame = UM_KIND_ENCODE, .mute_from = 3}, "encoder/0");
    fails_with((fault){.kind = MUTE, .frame = UM_KIND_ENCODE, .mute_from = 0}, "router/0");
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_SHUTDOWN}, "router/0");
}

/* A rank that swallows a frame lives on and never answers: it is named with what it owes, whether it was the question or the answer
 * that was lost. */
static void a_rank_that_swallows_a_frame_is_named(void **state)
{
    (void)state;
    const struct {
        fault f;
        const char *words[3];
    } cases[] = {
        {{.kind = LOSE, .frame = UM_KIND_DISPATCH, .nth = 5},
         {"expert/1 (rank 2, host ", "has owed the combine frame of step 1, layer 2, micro-batch 0",
          "though it is alive"}},
        {{.kind = LOSE, .frame = UM_KIND_COMBINE, .nth = 1},
         {"expert/", "has owed the combine frame of step 1, layer 0", "(--stall-ms 400)"}},
        {{.kind = LOSE, .frame = UM_KIND_ENCODE},
         {"encoder/0 (rank 3, host ", "has owed the encoded frame of 1 media for ", "alive"}},
        {{.kind = LOSE, .frame = UM_KIND_ENCODED}, {"encoder/0 (rank 3", "has owed", "alive"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[8192];
        int lines = 0;
        fault f = cases[i].f;
        um_status st = run_stalling(&f, 20000, 400, text, sizeof text, &lines);
        assert_int_equal(st, UM_E_PEER);
        for (int w = 0; w < 3; w++)
            if (strstr(text, cases[i].words[w]) == NULL)
                fail_msg("case %zu: \"%s\" is not in: %s", i, cases[i].words[w], text);
        /* one rank reports it, the others follow */
        assert_int_equal(strchr(text, '\n') - text, (ptrdiff_t)strlen(text) - 1);
    }
}

/* An answer that takes long, but less than --stall-ms, is no stall; nor is one that takes for ever with --stall-ms 0. */
static void slow_answers_are_waited_for(void **state)
{
    (void)state;
    const um_kind slow[] = {UM_KIND_ENCODED, UM_KIND_COMBINE};
    for (size_t i = 0; i < 4; i++) {
        char text[8192];
        int lines = 0;
        fault f = {.kind = DELAY, .frame = slow[i % 2]};
        um_status st = run_stalling(&f, 20000, i < 2 ? 20000 : 0, text, sizeof text, &lines);
        if (st != UM_OK) print_message("%s late: %s\n", um_kind_name(slow[i % 2]), text);
        assert_int_equal(st, UM_OK);
        assert_int_equal(f.done, 1);
    }
}

/* Long work is not silence: every message is 700 ms late, with a deadline of 200 ms, and the answer is the same. */
static void a_rank_that_works_long_is_not_silent(void **state)
{
    (void)state;
    const um_kind slow[] = {UM_KIND_HELLO,   UM_KIND_CONFIG,  UM_KIND_READY,
                            UM_KIND_ENCODE,  UM_KIND_ENCODED, UM_KIND_DISPATCH,
                            UM_KIND_COMBINE, UM_KIND_STATS,   UM_KIND_SHUTDOWN};
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++) {
        char text[8192];
        int lines = 0;
        fault f = {.kind = DELAY, .frame = slow[i]};
        um_status st = run_with(&f, 200, text, sizeof text, &lines);
        if (st != UM_OK) printf("%s late: %s\n", um_kind_name(slow[i]), text);
        assert_int_equal(st, UM_OK);
        assert_int_equal(f.done, 1);
    }
}

/* A rank that never starts is named by its role before anything else happens. */
static void a_rank_that_never_joins_is_named(void **state)
{
    (void)state;
    cluster c;
    cluster_init(&c, DATA "models/s4");
    c.cfg.requests = "/dev/null";
    c.cfg.experts = 2;
    c.cfg.deadline_ms = 1000;
    c.freeze_rank = 2;
    assert_int_equal(cluster_run(&c), UM_E_PEER);
    assert_non_null(strstr(c.err[0].msg, "expert/1 (rank 2"));
    assert_non_null(strstr(c.err[0].msg, "is silent"));
    assert_false(c.follows[0]);
    cluster_free(&c);
}

/* Invalid requests get one error line each; the valid one among them is answered. */
static void faults_of_a_request_stay_with_it(void **state)
{
    (void)state;
    const struct {
        const char *json, *words;
    } bad[] = {
        {"{\"prompt\":\"<image> <image> two\",\"image\":\"" DATA "media/small.png\"}",
         "2 <image> placeholders, but 1 image given"},
        {"{\"sample\":{\"conversations\":[{\"from\":\"human\",\"value\":\"none\"}],\"image\":"
         "\"" DATA "media/small.png\"}}",
         "0 <image> placeholders, but 1 image given"},
        {"{\"prompt\":\"x\",\"image\":\"" DATA "media/no-such.png\"}", "no-such.png"},
        {"{\"prompt\":\"x\",\"image\":\"" DATA "models/s4/config.json\"}", "config.json"},
        {"{\"prompt\":\"x\",\"tempreture\":1}", "did you mean temperature"},
        {"{\"prompt\":\"x\",\"voice\":\"" DATA "media/small.png\"}", "small.png"},
        {"not json", "request"},
    };
    cluster c;
    cluster_init(&c, DATA "models/s4");
    um_text t = {0};
    um_err err = {0};
    size_t n = sizeof bad / sizeof *bad;
    for (size_t i = 0; i < n; i++) um_text_fmt(&t, "%s\n", bad[i].json);
    um_text_fmt(&t, "{\"id\":\"good\",\"prompt\":\"hi\",\"max_new_tokens\":3,\"temperature\":0,"
                    "\"ignore_eos\":true}\n");
    assert_int_equal(um_file_write("faults.jsonl", t.s, t.n, &err), UM_OK);
    um_text_free(&t);
    c.cfg.requests = "faults.jsonl";
    c.cfg.experts = 2;
    assert_int_equal(cluster_run(&c), UM_OK);
    for (size_t i = 0; i < n; i++) {
        if (cluster_line(&c, bad[i].words) == NULL) printf("no line says \"%s\"\n", bad[i].words);
        assert_non_null(cluster_line(&c, bad[i].words));
    }
    const char *good = cluster_line(&c, "\"id\":\"good\"");
    assert_non_null(good);
    assert_non_null(strstr(good, "\"new_tokens\":3"));
    assert_non_null(cluster_line(&c, "\"errors\":7"));
    cluster_free(&c);
    unlink("faults.jsonl");
}

/* The first image is broken; the others are still at the encoder when the last request is answered and the job ends. */
static void pictures_of_a_failed_request_may_come_late(void **state)
{
    (void)state;
    cluster c;
    um_err err = {0};
    const char *text =
        "{\"prompt\":\"x\",\"image\":[\"" DATA "models/s4/config.json\",\"" DATA
        "media/photo.jpg\",\"" DATA "media/wide.png\",\"" DATA "media/tall.png\"]}\n";
    cluster_init(&c, DATA "models/s4");
    assert_int_equal(um_file_write("late.jsonl", text, strlen(text), &err), UM_OK);
    c.cfg.requests = "late.jsonl";
    c.cfg.experts = 1;
    um_status st = cluster_run(&c);
    if (st != UM_OK) printf("%s\n", c.err[0].msg);
    assert_int_equal(st, UM_OK);
    assert_non_null(cluster_line(&c, "config.json"));
    assert_non_null(cluster_line(&c, "\"errors\":1"));
    cluster_free(&c);
    unlink("late.jsonl");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_anywhere_is_caught),
        cmocka_unit_test(a_truncated_message_is_caught),
        cmocka_unit_test(a_repeated_message_is_refused_or_harmless),
        cmocka_unit_test(each_fault_of_a_frame_has_its_words),
        cmocka_unit_test(a_repeated_frame_of_the_exchange_does_no_harm),
        cmocka_unit_test(a_silent_rank_is_named_within_the_deadline),
        cmocka_unit_test(a_rank_that_swallows_a_frame_is_named),
        cmocka_unit_test(slow_answers_are_waited_for),
        cmocka_unit_test(a_rank_that_works_long_is_not_silent),
        cmocka_unit_test(a_rank_that_never_joins_is_named),
        cmocka_unit_test(faults_of_a_request_stay_with_it),
        cmocka_unit_test(pictures_of_a_failed_request_may_come_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
