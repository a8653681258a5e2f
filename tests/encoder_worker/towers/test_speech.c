/* The speech tower and its connector: the golden speech features of every model, windows, the same bits on every way of computing,
 * and towers that do not fit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "encoder_worker/towers/speech_parts.h"
#include "tests/support/tiny_wav.h"
#include "tests/support/made_params.h"
#include "tests/support/test_support.h"
#include "tests/support/tower_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Whether the device's memory is one that nothing but ops may touch. */
static bool guarded;

/* One model with its tower loaded. */
typedef struct bench {
    um_arena arena, device;
    um_dev dev;
    um_checkpoint ck;
    um_params params;
    um_speech *speech;
} bench;

static void open_model(bench *b, const char *model, um_isa isa, int threads)
{
    *b = (bench){0};
    tower_open(&b->arena, &b->device, &b->dev, &b->ck, model, isa, threads, guarded);
}

static void load_tower(bench *b, const char *weights)
{
    um_err err = {0};
    b->params = params_of(&b->ck, UM_ALL_PARTS, weights, &b->dev, &b->arena, &b->device);
    if (um_speech_load(&b->speech, &b->params, &err) != UM_OK) fail_msg("%s", err.msg);
}

/* The rows, brought to the host; nothing else stays in the arenas. keep: every layer has activations of its own. */
static const float *encode_with(bench *b, um_wave w, bool exact, int64_t *rows, bool keep)
{
    um_err err = {0};
    *rows = um_speech_rows(&b->ck.model.speech, w.n, exact);
    const size_t n = (size_t)*rows * (size_t)b->ck.model.dim;
    float *out = um_arena_f32(&b->arena, 1, n);
    um_mark host = um_arena_mark(&b->arena), device = um_arena_mark(&b->device);
    float *on_device = um_arena_f32(&b->device, 1, n);
    um_speech_acts *a = um_speech_acts_bind(&b->arena, &b->device, &b->ck.model.speech,
                                            b->ck.model.dim, UM_AT_INPUT, keep);
    size_t used = b->arena.used, device_used = b->device.used;
    um_status st =
        um_speech_encode(on_device, b->speech, a, w.samples, w.n, exact, &b->dev, &b->arena, &err);
    b->dev.ops->get(&b->dev, out, on_device, n * sizeof *out);
    if (st == UM_OK) st = um_dev_sync(&b->dev, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_true(b->arena.used == used && b->device.used == device_used);
    um_arena_reset(&b->device, device);
    um_arena_reset(&b->arena, host);
    return out;
}

static const float *encode(bench *b, um_wave w, bool exact, int64_t *rows)
{
    return encode_with(b, w, exact, rows, false);
}

static void close_model(bench *b) { tower_close(&b->arena, &b->device, &b->dev, &b->ck, guarded); }

/* speech_features of a case, [windows, 50, D]. */
static const float *expected(bench *b, const char *model, const char *name, int64_t windows)
{
    um_tensors *set = NULL;
    const um_tensor *t = NULL;
    um_err err = {0};
    int64_t shape[3] = {windows, 50, b->ck.model.dim};
    const char *path = um_arena_fmt(&b->arena, "%s/golden/cases/%s/%s/expected.safetensors",
                                    UM_TEST_DATA, model, name);
    um_status st = um_tensors_open(&set, path, &err);
    if (st == UM_OK) st = um_tensors_want(set, &t, "speech_features", 3, shape, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    float *want = um_arena_f32(&b->arena, (size_t)windows * 50, (size_t)b->ck.model.dim);
    um_tensor_to_f32(want, t);
    um_tensors_close(set);
    return want;
}

/* Two files of one window each: the case has the windows of all files in order. */
static void test_golden(void **state)
{
    (void)state;
    static const char *const models[] = {"s4", "s8", "s8fm"};
    static const char *const files[] = {"speech.wav", "siren.wav"};
    for (int i = 0; i < 3; i++) {
        bench b;
        open_model(&b, models[i], UM_ISA_AUTO, 2);
        load_tower(&b, "auto");
        size_t n = 50 * (size_t)b.ck.model.dim;
        const float *want = expected(&b, models[i], "mixed", 2);
        for (int f = 0; f < 2; f++, want += n) {
            int64_t rows;
            const float *got = encode(&b, tiny_wav(files[f], &b.arena), false, &rows);
            assert_int_equal(rows, 50);
            float off = distance(got, want, n);
            if (!(off < 1e-4f))
                fail_msg("%s %s: speech_features differ by %g of the largest", models[i], files[f],
                         (double)off);
        }
        close_model(&b);
    }
}

/* Spec 2.3, 12 #7, 13: a window takes 480001 samples and leaves the last of them out, or takes 480000. */
static void test_window_counts(void **state)
{
    (void)state;
    static const struct {
        int64_t n, rule, exact;
    } cases[] = {
        {0, 0, 0},      {1, 1, 1},
        {480000, 1, 1}, {480001, 1, 2},
        {480002, 2, 2}, {496000, 2, 2},
        {960002, 2, 3}, {960003, 3, 3},
        {960000, 2, 2}, {INT64_C(480001) * 1000, 1000, 1001},
    };
    um_speech_model m = {.rate = 16000, .window_seconds = 30, .queries = 50};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(um_speech_rows(&m, cases[i].n, false), 50 * cases[i].rule);
        assert_int_equal(um_speech_rows(&m, cases[i].n, true), 50 * cases[i].exact);
    }
}

static um_wave noise(bench *b, int64_t n)
{
    um_wave w = {um_arena_f32(&b->arena, 1, (size_t)n), n};
    for (int64_t i = 0; i < n; i++) w.samples[i] = sinf(0.05f * (float)(i % 6283)) * 0.3f;
    return w;
}

/* Windows are encoded one by one, each from where the rule says. */
static void test_windows(void **state)
{
    (void)state;
    bench b;
    int64_t rows;
    open_model(&b, "s4", UM_ISA_AUTO, 2);
    load_tower(&b, "auto");
    size_t bytes = 50 * (size_t)b.ck.model.dim * sizeof(float), n = bytes / sizeof(float);
    um_wave w = noise(&b, 480000 + 8000);
    for (int exact = 0; exact <= 1; exact++) {
        const float *got = encode(&b, w, exact, &rows);
        assert_int_equal(rows, 100); /* 31 s would be the same: two windows */
        um_wave one = {w.samples, 480000}, two = {w.samples + 480001 - exact, 8000 - 1 + exact};
        assert_memory_equal(got, encode(&b, one, exact, &rows), bytes);
        assert_memory_equal(got + n, encode(&b, two, exact, &rows), bytes);
    }
    um_wave lost = {w.samples, 480001};
    const float *got = encode(&b, lost, false, &rows);
    assert_int_equal(rows, 50);
    lost.n = 480000;
    assert_memory_equal(got, encode(&b, lost, false, &rows), bytes);
    encode(&b, (um_wave){w.samples, 0}, false, &rows);
    assert_int_equal(rows, 0);
    close_model(&b);
}

/* Spec 13: 30 s -> mel [80,3000] -> encoder rows [1500, D of the tower] -> [50, D]. */
static void test_shapes(void **state)
{
    (void)state;
    bench b;
    open_model(&b, "s4", UM_ISA_AUTO, 1);
    load_tower(&b, "auto");
    const um_speech *s = b.speech;
    assert_true(s->mel.frames == 3000 && s->mel.bins == 80);
    assert_true(s->model->positions == 1500 && s->conv1.w.K == 240 && s->conv2.w.K == 96);
    assert_true(s->projector[0].w.N == 64 && s->dim_out == 64);
    assert_int_equal(um_speech_rows(s->model, 480000, false), 50);
    assert_int_equal(um_speech_rows(s->model, 31 * 16000, false), 100);
    close_model(&b);
}

static void test_same_bits(void **state)
{
    (void)state;
    static const um_isa isas[] = {UM_ISA_GENERIC, UM_ISA_AVX2, UM_ISA_AVX512};
    bench first;
    int64_t rows;
    open_model(&first, "s4i", UM_ISA_GENERIC, 1);
    load_tower(&first, "auto");
    const float *want = encode(&first, tiny_wav("siren.wav", &first.arena), false, &rows);
    size_t bytes = (size_t)rows * (size_t)first.ck.model.dim * sizeof *want;
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        for (int threads = 1; threads <= 2; threads++) {
            um_dev probe;
            bench b;
            if (um_dev_open_cpu(&probe, isas[i], 1, NULL) != UM_OK)
                continue; /* this machine has it not */
            open_model(&b, "s4i", isas[i], threads);
            load_tower(&b, "auto");
            const float *got = encode(&b, tiny_wav("siren.wav", &b.arena), false, &rows);
            if (memcmp(got, want, bytes) != 0)
                fail_msg("%s, %d threads: other bits", um_isa_name(isas[i]), threads);
            close_model(&b);
        }
    }
    close_model(&first);
}

static void test_bf16_weights(void **state)
{
    (void)state;
    bench b;
    int64_t rows;
    open_model(&b, "s8", UM_ISA_AUTO, 2);
    um_wave w = tiny_wav("speech.wav", &b.arena);
    load_tower(&b, "f32");
    const float *exact = encode(&b, w, false, &rows);
    load_tower(&b, "bf16");
    assert_true(b.speech->encoder[0].mlp.fc1.w.dtype == UM_BF16 &&
                b.speech->encoder[0].self.q.w.dtype == UM_BF16 &&
                b.speech->conv1.w.dtype == UM_BF16);
    float off = distance(encode(&b, w, false, &rows), exact, (size_t)rows * 64);
    assert_true(off > 1e-6f && off < 3e-2f);
    close_model(&b);
}

/* Tensors of another size, or missing ones: the message names the tensor and both shapes, and no output is set. */
static void misfit(bench *b, const char *says)
{
    um_err err = {0};
    um_speech *s = NULL;
    b->params = params_of(&b->ck, UM_ALL_PARTS, "auto", &b->dev, &b->arena, &b->device);
    assert_int_equal(um_speech_load(&s, &b->params, &err), UM_E_MODEL);
    if (strstr(err.msg, says) == NULL) fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
    assert_null(s);
}

static void test_misfits(void **state)
{
    (void)state;
    bench b;
    open_model(&b, "s4", UM_ISA_AUTO, 1);
    um_speech_model was = b.ck.model.speech, *m = &b.ck.model.speech;
    m->layers = 3;
    misfit(&b, "model.encoder.layers.2.self_attn_layer_norm.weight: missing in ");
    *m = was;
    m->mel_bins = 128;
    misfit(&b, "conv1.weight");
    *m = was;
    m->ffn_dim = 65;
    misfit(&b, "model.encoder.layers.0.fc1.weight");
    *m = was;
    m->positions = 1499;
    misfit(&b, "[1500,32], want [1499,32]");
    *m = was;
    m->queries = 51;
    misfit(&b, "model.query_tokens");
    *m = was;
    m->dec_layers = 4;
    misfit(&b, "model.mm_audio_aligner.decoder.audio_decoder.layers.3.");
    *m = was;
    m->proj = UM_PROJ_MLP;
    misfit(&b, "model.mm_audio_aligner.projector.0.weight");
    *m = was;
    b.ck.model.dim = 65;
    misfit(&b, "projector.weight");
    b.ck.model.dim = 64;
    m->present = false;
    misfit(&b, "no speech tower");
    close_model(&b);
}

/* A sample that is not a number would silently become rows of NaN. */
static void test_not_finite(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    open_model(&b, "s4", UM_ISA_AUTO, 1);
    load_tower(&b, "auto");
    um_wave w = noise(&b, 100);
    w.samples[77] = NAN;
    um_speech_acts *a =
        um_speech_acts_bind(&b.arena, &b.device, &b.ck.model.speech, 64, UM_AT_INPUT, false);
    float *rows = um_arena_f32(&b.device, 50, 64);
    assert_int_equal(
        um_speech_encode(rows, b.speech, a, w.samples, w.n, false, &b.dev, &b.arena, &err),
        UM_E_DATA);
    assert_non_null(strstr(err.msg, "sample 77"));
    close_model(&b);
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_window_counts),
        cmocka_unit_test(test_windows),   cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_bf16_weights),
        cmocka_unit_test(test_misfits),   cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
