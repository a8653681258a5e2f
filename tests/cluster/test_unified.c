/* One model with all towers, as threads: an image, a video, two speech files and a sound in one request; the same bits however the
 * encoder ranks are divided; a bad file costs its own request. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "core/nn/safetensors.h"
#include "core/tensor/ops.h"
#include "launch/model_dir/init.h"
#include "tests/cluster/cluster.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/golden.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define GOLDEN UM_TEST_DATA "/golden/media/"
#define MEDIA UM_TEST_DATA "/media/"

static const char *at(const char *name) { return um_arena_fmt(&arena, "%s/%s", dir, name); }

/* Texts and media alternate over two turns; <audio> stands for speech until all speech is used. */
static const char everything[] =
    "{\"sample\": {\"conversations\": [{\"from\": \"human\", \"value\": \"Look: <image> Listen: "
    "<speech> and "
    "<audio>\\n\"}, {\"from\": \"gpt\", \"value\": \"I do.\"}, {\"from\": \"human\", \"value\": "
    "\"<video> with <sound> at "
    "last?\"}, {\"from\": \"gpt\", \"value\": \"\"}],"
    " \"image\": \"" GOLDEN "rgba.png\", \"video\": \"" MEDIA "count.mp4\","
    " \"speech\": [\"" GOLDEN "speech.wav\", \"" MEDIA "tones.mp3\"], \"sound\": \"" GOLDEN
    "siren.wav\"},"
    " \"max_new_tokens\": 4, \"temperature\": 0, \"ignore_eos\": true}";

static int setup(void **state)
{
    folder_setup(state);
    um_config cfg;
    um_err err = {0};
    FILE *said = tmpfile();
    um_config_default(&cfg);
    cfg.preset = "small";
    cfg.out = at("model");
    cfg.seed = 3;
    if (um_init_run(&cfg, said, &err) != UM_OK) fail_msg("%s", err.msg);
    fclose(said);
    folder_text(dir, "request.json", everything);
    return 0;
}

typedef struct variation {
    const char *encoders;
    int routers, experts, chunk, threads;
    const char *isa, *codec;
} variation;

static void trace_into(const char *out, const char *request, const variation *v)
{
    cluster c;
    cluster_init(&c, at("model"));
    c.cfg.request = at(request);
    c.cfg.out = out;
    c.cfg.encoders = v->encoders;
    c.cfg.experts = v->experts != 0 ? v->experts : 2;
    if (v->routers) c.cfg.routers = v->routers;
    if (v->chunk) c.cfg.prefill_chunk = v->chunk;
    if (v->threads) c.cfg.threads = v->threads;
    if (v->isa) c.cfg.isa = v->isa;
    if (v->codec) c.cfg.codec = v->codec;
    um_status st = cluster_run(&c);
    for (int r = 0; r < c.ranks; r++)
        if (c.status[r] != UM_OK) print_message("rank %d: %s\n", r, c.err[r].msg);
    const char *bad = cluster_line(&c, "\"kind\":\"error\"");
    if (bad != NULL) print_message("%s\n", bad);
    assert_int_equal(st, UM_OK);
    assert_null(bad);
    cluster_free(&c);
}

static bool isa_here(const char *name)
{
    um_dev dev;
    um_err err = {0};
    return name == NULL || um_dev_open_cpu(&dev, (um_isa)um_isa_from_name(name), 1, &err) == UM_OK;
}

static void shape_is(const um_tensors *t, const char *name, int64_t items, int64_t rows)
{
    const um_tensor *x = um_tensors_find(t, name);
    if (x == NULL) fail_msg("%s is not in the trace", name);
    assert_int_equal(x->rank, 3);
    assert_int_equal(x->shape[0], items);
    assert_int_equal(x->shape[1], rows);
    assert_int_equal(x->shape[2], 256);
}

static void the_same_bits_however_the_encoders_are_divided(void **state)
{
    (void)state;
    static const variation list[] = {
        {.encoders = "3"},
        {.encoders = "image=1,video=1,speech=2,sound=1"},
        {.encoders = "speech+sound=1,image=1", .experts = 4, .codec = "zstd"},
        {.encoders = "2", .routers = 2, .chunk = 13, .threads = 2},
        {.encoders = "1", .isa = "generic"},
        {.encoders = "sound=1,speech=1,video=1", .isa = "avx2"},
        {.encoders = "1", .isa = "avx512"},
    };
    um_err err = {0};
    um_tensors *t = NULL;
    const char *base = at("base.safetensors"), *other = at("other.safetensors");
    trace_into(base, "request.json", &(variation){.encoders = "1", .experts = 1});
    assert_int_equal(um_tensors_open(&t, base, &err), UM_OK);
    shape_is(t, "image_features", 1, 64);
    shape_is(t, "video_features", 1, 64);
    shape_is(t, "speech_features", 2, 50);
    shape_is(t, "sound_features", 1, 50);
    um_tensors_close(t);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        if (!isa_here(list[i].isa)) continue;
        trace_into(other, "request.json", &list[i]);
        if (!golden_same_bits(base, other))
            fail_msg("other bits with --encoders %s", list[i].encoders);
    }
}

/* The mean of a video's frames does not depend on how they arrived; the sound track is used as a medium only when requested. */
static void videos_bring_their_sound(void **state)
{
    (void)state;
    um_err err = {0};
    um_tensors *t = NULL;
    folder_text(dir, "video.json",
                "{\"prompt\": [{\"video\": \"" MEDIA
                "av.mp4\", \"audio\": \"speech\"}, \"?\", {\"video\": \"" MEDIA
                "av.mp4\", \"audio\": \"sound\"}], \"max_new_tokens\": 2, \"temperature\": 0}");
    trace_into(at("video.safetensors"), "video.json", &(variation){.encoders = "1"});
    assert_int_equal(um_tensors_open(&t, at("video.safetensors"), &err), UM_OK);
    shape_is(t, "video_features", 2, 64);
    shape_is(t, "speech_features", 1, 50);
    shape_is(t, "sound_features", 1, 50);
    um_tensors_close(t);
}

/* Each line and what the answer to it must say; NULL: a result. */
static const struct {
    const char *request, *says;
} lines[] = {
    {"\"image\": \"" GOLDEN "small.png\"", NULL},
    {"\"image\": \"" GOLDEN "speech.wav\"", "speech.wav"},
    {"\"speech\": \"" GOLDEN "small.png\"", "small.png"},
    {"\"sound\": \"" MEDIA "count.mp4\"", "count.mp4"}, /* has no sound track */
    {"\"video\": \"" MEDIA "cover.m4a\"", "cover.m4a"}, /* a cover image is not a video */
    {"\"image\": \"" MEDIA "animated.webp\"", NULL},    /* its first frame */
    {"\"image\": \"empty.bin\"", "empty.bin"},
    {"\"speech\": \"empty.bin\"", "empty.bin"},
    {"\"video\": \"noise.bin\"", "noise.bin"},
    {"\"sound\": \"nowhere.wav\"", "nowhere.wav"},
    {"\"image\": \"pipe\"", "pipe: not a regular file"}, /* a pipe that nobody ever writes into */
    {"\"image\": \"/dev/zero\"", "/dev/zero: not a regular file"},
    {"\"image\": \"/dev/zero\", \"colour\": 1", "colour: unknown key"}, /* under its own id */
    {"\"video\": \"" MEDIA "count.mp4\", \"video_audio\": \"sound\"", "count.mp4"},
    {"\"sound\": \"" MEDIA "tones.ogg\"", NULL},
};
enum { LINES = sizeof lines / sizeof lines[0] };

static void a_bad_file_costs_its_own_request(void **state)
{
    (void)state;
    cluster c;
    um_text text = {0};
    char noise[3000];
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)(i * i * 31 + i / 7);
    folder_write(dir, "noise.bin", noise, sizeof noise);
    folder_text(dir, "empty.bin", "");
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    for (int i = 0; i < LINES; i++) {
        const char *r = lines[i].request;
        um_text_fmt(
            &text,
            "{\"id\": \"r%d\", \"prompt\": \"q\", \"max_new_tokens\": 2, \"temperature\": 0, ", i);
        /* paths are relative to the folder of the file */
        um_text_fmt(&text, "%s}\n", r);
    }
    folder_write(dir, "lines.jsonl", text.s, text.n);
    um_text_free(&text);
    cluster_init(&c, at("model"));
    c.cfg.requests = at("lines.jsonl");
    c.cfg.encoders = "image=1,speech+sound=1";
    c.cfg.experts = 1;
    assert_int_equal(cluster_run(&c), UM_OK);
    for (int i = 0; i < LINES; i++) {
        const char *line = cluster_line(&c, um_arena_fmt(&arena, "\"id\":\"r%d\"", i));
        assert_non_null(line);
        bool error = strstr(line, "\"kind\":\"error\"") != NULL;
        if (error != (lines[i].says != NULL) || (error && strstr(line, lines[i].says) == NULL))
            fail_msg("%s\n%s", lines[i].request, line);
    }
    cluster_free(&c);
}

/* A modality that no rank reads is named in the error, and the other requests are answered. */
static void a_modality_that_no_rank_reads(void **state)
{
    (void)state;
    cluster c;
    folder_text(dir, "some.jsonl",
                "{\"id\": \"a\", \"prompt\": \"q\", \"sound\": \"" GOLDEN
                "siren.wav\", \"max_new_tokens\": 2}\n"
                "{\"id\": \"b\", \"prompt\": \"q\", \"speech\": \"" GOLDEN
                "speech.wav\", \"max_new_tokens\": 2}\n");
    cluster_init(&c, at("model"));
    c.cfg.requests = at("some.jsonl");
    c.cfg.encoders = "image=1,speech=1";
    c.cfg.experts = 1;
    assert_int_equal(cluster_run(&c), UM_OK);
    const char *a = cluster_line(&c, "\"id\":\"a\""), *b = cluster_line(&c, "\"id\":\"b\"");
    assert_non_null(strstr(a, "no encoder rank reads sound: start one with --encoders sound=1"));
    assert_non_null(strstr(b, "\"kind\":\"result\""));
    cluster_free(&c);
}

/* An hour of speech makes more rows than a frame may hold with a small --credit: that request fails, and the next is answered. */
static void more_rows_than_a_frame_holds(void **state)
{
    (void)state;
    cluster c;
    folder_text(dir, "long.jsonl",
                "{\"id\": \"a\", \"prompt\": \"q\", \"speech\": \"" MEDIA
                "silence.flac\", \"max_new_tokens\": 2}\n"
                "{\"id\": \"b\", \"prompt\": \"q\", \"speech\": \"" GOLDEN
                "speech.wav\", \"max_new_tokens\": 2}\n");
    cluster_init(&c, at("model"));
    c.cfg.requests = at("long.jsonl");
    c.cfg.encoders = "speech=1";
    c.cfg.experts = 1;
    c.cfg.credit = 65536;
    assert_int_equal(cluster_run(&c), UM_OK);
    const char *a = cluster_line(&c, "\"id\":\"a\""), *b = cluster_line(&c, "\"id\":\"b\"");
    assert_non_null(strstr(a, "silence.flac: makes 6000 rows, one frame holds 1 to 64"));
    assert_non_null(strstr(b, "\"kind\":\"result\""));
    cluster_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bits_however_the_encoders_are_divided),
        cmocka_unit_test(videos_bring_their_sound),
        cmocka_unit_test(a_bad_file_costs_its_own_request),
        cmocka_unit_test(a_modality_that_no_rank_reads),
        cmocka_unit_test(more_rows_than_a_frame_holds),
    };
    return cmocka_run_group_tests(tests, setup, folder_teardown);
}
