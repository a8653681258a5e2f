/* The rank's side of the decoder when the process dies, hangs or lies: one error for one file, nothing left behind, and the next
 * file is served. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/clock.h"
#include "encoder_worker/decode/decode_wire.h"
#include "encoder_worker/decode/decoder.h"
#include "tests/support/fixture.h"
#include "tests/support/media_files.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static const um_media_limits patient = {
    .pixels = 1 << 20, .seconds = 60, .frames = 16, .wait_ms = 60000};
static const um_media_limits hasty = {
    .pixels = 1 << 20, .seconds = 60, .frames = 16, .wait_ms = 3000};

static um_decoder *open_decoder(const char *program, const um_media_limits *limits)
{
    um_err err = {0};
    um_decoder *d = NULL;
    if (um_decoder_open(&d, program, limits, &err) != UM_OK) fail_msg("%s", err.msg);
    return d;
}

static void serves(um_decoder *d)
{
    media_blob b = media_load(&arena, "golden/media/small.png");
    um_err err = {0};
    um_image p = {0};
    if (um_decode_image(d, &p, "small.png", b.data, b.n, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_true(p.w == 23 && p.h == 41);
}

static int the_child(void)
{
    int pid = 0;
    assert_int_equal(media_children(&pid), 1);
    return pid;
}

static void gone(void) { assert_int_equal(media_children(NULL), 0); }

static void test_no_program(void **state)
{
    (void)state;
    um_err err = {0};
    um_decoder *d = NULL;
    assert_int_equal(um_decoder_open(&d, "/nowhere/unimoe-decoder", &patient, &err), UM_E_USAGE);
    has(&err, "/nowhere/unimoe-decoder: no such program");
    assert_null(d);
    d = open_decoder("", &patient); /* found beside the folder of this test */
    serves(d);
    um_decoder_close(d);
    um_decoder_close(NULL);
    gone();
}

/* A program that is not a decoder: the message says that the file is not at fault. */
static void test_other_program(void **state)
{
    (void)state;
    um_err err = {0};
    um_image p;
    um_decoder *d = open_decoder("/bin/true", &patient);
    assert_int_equal(um_decode_image(d, &p, "it", (const uint8_t *)"x", 1, &arena, &err), UM_E_IO);
    has(&err, "it: start of /bin/true: the decoder ended (exit code 0)");
    gone();
    um_decoder_close(d);
}

/* One process serves many files, good and bad. */
static void test_one_process(void **state)
{
    (void)state;
    um_decoder *d = open_decoder(UM_DECODER, &patient);
    um_err err = {0};
    um_image p;
    serves(d);
    int first = the_child();
    for (int i = 0; i < 5; i++) {
        assert_int_equal(um_decode_image(d, &p, "it", (const uint8_t *)"x", 1, &arena, &err),
                         UM_E_DATA);
        has(&err, "it: text: not an image");
        serves(d);
    }
    assert_int_equal(the_child(), first);
    um_decoder_close(d);
    gone();
}

static void test_killed_between(void **state)
{
    (void)state;
    um_decoder *d = open_decoder(UM_DECODER, &patient);
    for (int i = 0; i < 3; i++) {
        serves(d);
        int pid = the_child();
        siginfo_t how;
        kill(pid, SIGKILL);
        waitid(P_PID, (id_t)pid, &how, WEXITED | WNOWAIT); /* until it is dead; does not reap it */
    }
    serves(d);
    um_decoder_close(d);
    gone();
}

/* Sends a signal to the decoder after it has worked for a moment. */
typedef struct sender {
    int sig;
    bool sent;
} sender;

static void *send_signal(void *ctx)
{
    sender *s = ctx;
    int pid = 0;
    um_sleep_us(100000);
    s->sent = media_children(&pid) == 1 && kill(pid, s->sig) == 0;
    return NULL;
}

/* Long enough to be interrupted: an hour of silence. */
static um_status long_work(um_decoder *d, um_err *err)
{
    um_wave w;
    media_blob b = media_load(&arena, "media/silence.flac");
    return um_decode_wave(d, &w, "silence", b.data, b.n, &arena, err);
}

static void interrupted(int sig, int64_t wait_ms, const char *word)
{
    sender s = {.sig = sig};
    pthread_t thread;
    um_err err = {0};
    um_decoder *d = NULL;
    const um_media_limits limits = {
        .pixels = 1 << 20, .seconds = 7200, .frames = 16, .wait_ms = wait_ms};
    assert_int_equal(um_decoder_open(&d, UM_DECODER, &limits, &err), UM_OK);
    serves(d); /* starts the process, so that the signal arrives while it works */
    assert_int_equal(pthread_create(&thread, NULL, send_signal, &s), 0);
    um_status st = long_work(d, &err);
    pthread_join(thread, NULL);
    assert_int_equal(st, UM_E_DATA);
    has(&err, word);
    gone();
    assert_true(s.sent);
    serves(d);
    um_decoder_close(d);
    gone();
}

static void test_killed_during(void **state)
{
    (void)state;
    interrupted(SIGKILL, 60000, "silence: the decoder was killed (SIGKILL)");
    interrupted(SIGILL, 60000, "silence: the decoder crashed (SIGILL)");
    interrupted(SIGXCPU, 60000, "silence: the decoder used up its processor time (SIGXCPU)");
}

static void test_stuck(void **state)
{
    (void)state;
    interrupted(SIGSTOP, 5000, "silence: the decoder took longer than 5000 ms");
}

static void lie(char how, const char *word)
{
    /* the others must not fail because the machine is slow */
    bool silent = how == 'l' || how == 'o';
    um_decoder *d = open_decoder(UM_LYING_DECODER, silent ? &hasty : &patient);
    um_err err = {0};
    um_image p = {.w = -7};
    size_t used = arena.used;
    um_status st = um_decode_image(d, &p, "it", (const uint8_t *)&how, 1, &arena, &err);
    if (st != UM_E_DATA) fail_msg("%c: status %d", how, (int)st);
    assert_int_equal(p.w, -7);
    assert_int_equal(arena.used, used);
    has(&err, "it: ");
    has(&err, word);
    /* the next file is decoded, by a new process if the old one cannot be trusted */
    err = (um_err){0};
    if (um_decode_image(d, &p, "it", (const uint8_t *)"a", 1, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_memory_equal(p.rgb, "rgb", 3);
    um_decoder_close(d);
    gone();
}

static void test_lies(void **state)
{
    (void)state;
    lie('b', "bad block: bad magic");
    lie('c', "answered request");
    lie('d', "a frame that was not asked for");
    lie('e', "a field does not fit");
    lie('f', "a frame that was not asked for");
    lie('g', "samples that were not asked for");
    lie('h', "samples that were not asked for");
    lie('i', "the decoder ended (exit code 7)");
    lie('j', "the decoder crashed (SIGABRT)");
    lie('k', "the decoder closed its end");
    lie('l', "the decoder took longer than 3000 ms");
    lie('m', "red ?[31m and?new line ?");
    lie('n', "the decoder sent nothing");
    lie('o', "the decoder took longer than 3000 ms");
    lie('p', "broken in the middle");
    lie('q', "the decoder crashed (SIGSYS)");
    lie('s', "a field does not fit");
}

static void test_last_answer(void **state)
{
    (void)state;
    um_decoder *d = open_decoder(UM_LYING_DECODER, &patient);
    for (int i = 0; i < 4; i++) {
        um_err err = {0};
        um_image p;
        if (um_decode_image(d, &p, "it", (const uint8_t *)"r", 1, &arena, &err) != UM_OK)
            fail_msg("%s", err.msg);
        gone();
    }
    um_decoder_close(d);
}

static void test_too_many_samples(void **state)
{
    (void)state;
    um_decoder *d = open_decoder(UM_LYING_DECODER, &patient);
    um_err err = {0};
    um_wave w;
    assert_int_equal(um_decode_wave(d, &w, "it", (const uint8_t *)"h", 1, &arena, &err), UM_E_DATA);
    has(&err, "samples that were not asked for");
    assert_int_equal(um_decode_wave(d, &w, "it", (const uint8_t *)"a", 1, &arena, &err), UM_E_DATA);
    has(&err, "a frame that was not asked for");
    assert_int_equal(um_decode_wave(d, &w, "it", (const uint8_t *)"g", 1, &arena, &err), UM_OK);
    assert_int_equal(w.n, 1);
    um_decoder_close(d);
}

/* Good, bad and deadly files: the numbers of open files and children are the same afterwards as before. */
static void test_nothing_is_left(void **state)
{
    (void)state;
    um_decoder *d = open_decoder(UM_LYING_DECODER, &patient),
               *real = open_decoder(UM_DECODER, &patient);
    static const char ways[] = "abijqmrcf";
    int files = media_open_files();
    for (int i = 0; i < 50; i++) {
        um_err err = {0};
        um_image p;
        const uint8_t *how = (const uint8_t *)&ways[i % 9];
        um_decode_image(d, &p, "it", how, 1, &arena, &err);
        um_decode_image(real, &p, "it", how, 1, &arena, &err);
        assert_true(media_children(NULL) <= 2);
        assert_true(media_open_files() <= files + 2);
    }
    um_decoder_close(d);
    um_decoder_close(real);
    gone();
    assert_int_equal(media_open_files(), files);
}

/* A process without a SIGPIPE handler must survive a decoder that dies while it is being sent a large file. */
static void test_no_sigpipe(void **state)
{
    (void)state;
    um_decoder *d = open_decoder("/bin/true", &patient);
    um_err err = {0};
    um_image p;
    assert_int_equal(signal(SIGPIPE, SIG_DFL) == SIG_ERR, 0);
    for (int i = 0; i < 10; i++) {
        uint8_t *big = um_arena_zero(&arena, 1 << 20);
        assert_int_equal(um_decode_image(d, &p, "it", big, 1 << 20, &arena, &err), UM_E_IO);
    }
    um_decoder_close(d);
    d = open_decoder(UM_LYING_DECODER, &patient); /* it ends at a file of more than 256 bytes */
    assert_int_equal(
        um_decode_image(d, &p, "it", um_arena_zero(&arena, 1 << 20), 1 << 20, &arena, &err),
        UM_E_DATA);
    has(&err, "the decoder ended (exit code 9)");
    um_decoder_close(d);
}

static void test_large_file(void **state)
{
    (void)state;
    um_decoder *d = open_decoder(UM_DECODER, &patient);
    um_err err = {0};
    um_image p;
    size_t n = (size_t)24 << 20;
    uint8_t *big = um_arena_zero(&arena, n);
    assert_int_equal(um_decode_image(d, &p, "it", big, n, &arena, &err), UM_E_DATA);
    has(&err, "first bytes 00 00");
    assert_int_equal(um_decode_image(d, &p, "it", big, UM_MEDIA_FILE_MAX + 1, &arena, &err),
                     UM_E_DATA);
    has(&err, "it: 536870913 bytes, limit 536870912");
    um_decoder_close(d);
}

static void *thread(void *ctx)
{
    um_arena mine;
    um_err err = {0};
    um_decoder *d = NULL;
    um_image p;
    um_wave w;
    um_arena_init(&mine, "thread", 1 << 16);
    media_blob image = media_load(&mine, "golden/media/rgba.png"),
               sound = media_load(&mine, "media/tones.mp3");
    um_status st = um_decoder_open(&d, UM_DECODER, &patient, &err);
    for (int i = 0; i < 10 && st == UM_OK; i++) {
        st = um_decode_image(d, &p, "rgba.png", image.data, image.n, &mine, &err);
        if (st == UM_OK) st = um_decode_wave(d, &w, "tones.mp3", sound.data, sound.n, &mine, &err);
        if (st == UM_OK && (p.w != 120 || w.n != 4001)) st = UM_E_CORRUPT;
        if (i % 4 == 3) { /* a fresh process now and then */
            um_decoder_close(d);
            d = NULL;
            if (st == UM_OK) st = um_decoder_open(&d, UM_DECODER, &patient, &err);
        }
    }
    um_decoder_close(d);
    um_arena_free(&mine);
    *(um_status *)ctx = st;
    return NULL;
}

static void test_two_threads(void **state)
{
    (void)state;
    pthread_t t[2];
    um_status st[2] = {UM_E_IO, UM_E_IO};
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, thread, &st[i]), 0);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    assert_int_equal(st[0], UM_OK);
    assert_int_equal(st[1], UM_OK);
    gone();
}

/* ---- the wire ---- */

static void test_wire(void **state)
{
    (void)state;
    uint8_t ask[UM_REQUEST_BYTES], told[UM_RESPONSE_BYTES];
    um_decode_request a = {.kind = UM_REQUEST_VIDEO, .number = 3, .want = 8, .bytes = 5}, b = {0};
    um_decode_response t = {.kind = UM_RESPONSE_FRAME, .number = 3, .w = 2, .h = 5, .bytes = 30},
                       u = {0};
    um_err err = {0};
    um_decode_request_put(ask, &a);
    um_decode_response_put(told, &t);
    assert_int_equal(um_decode_request_get(&b, ask, &err), UM_OK);
    assert_true(b.kind == a.kind && b.number == 3 && b.want == 8 && b.bytes == 5);
    assert_int_equal(um_decode_response_get(&u, told, &err), UM_OK);
    assert_true(u.kind == t.kind && u.number == 3 && u.w == 2 && u.h == 5 && u.bytes == 30);
    for (size_t i = 0; i < UM_REQUEST_BYTES;
         i++) { /* the number, the wish and the length may have other values */
        ask[i] ^= 0x80;
        if (i < 8 || i >= 24) assert_int_equal(um_decode_request_get(&b, ask, &err), UM_E_CORRUPT);
        ask[i] ^= 0x80;
    }
    for (size_t i = 0; i < UM_RESPONSE_BYTES; i++) {
        told[i] ^= 0x80;
        if (i < 8 || i >= 12)
            assert_int_equal(um_decode_response_get(&u, told, &err), UM_E_CORRUPT);
        told[i] ^= 0x80;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_program),
        cmocka_unit_test(test_other_program),
        cmocka_unit_test(test_one_process),
        cmocka_unit_test(test_killed_between),
        cmocka_unit_test(test_killed_during),
        cmocka_unit_test(test_stuck),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_last_answer),
        cmocka_unit_test(test_too_many_samples),
        cmocka_unit_test(test_nothing_is_left),
        cmocka_unit_test(test_no_sigpipe),
        cmocka_unit_test(test_large_file),
        cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_wire),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
