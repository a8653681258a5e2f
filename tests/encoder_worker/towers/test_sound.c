/* The sound tower: golden features, windows and their padding, the numbers of spec 13, the same bits whatever the way of computing, and
 * towers that do not fit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "encoder_worker/towers/beats.h"
#include "encoder_worker/towers/sound.h"
#include "tests/support/folder.h"
#include "tests/support/made_params.h"
#include "tests/support/test_support.h"
#include "tests/support/tower_fixture.h"
#include "tests/support/tiny_wav.h"

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
    um_sound *sound;
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
    if (um_sound_load(&b->sound, &b->params, &err) != UM_OK) fail_msg("%s", err.msg);
}

/* Loads it with values of t (f32) in place of the tensor of its name. Close *set when the tower has been used. */
static void load_with(bench *b, um_tensors **set, const um_tensor *t)
{
    um_err err = {0};
    char *dir = folder_make();
    const char *path = um_arena_fmt(&b->arena, "%s/other.safetensors", dir);
    b->params = params_of(&b->ck, UM_ALL_PARTS, "auto", &b->dev, &b->arena, &b->device);
    um_status st = um_tensors_write(path, t, 1, NULL, &err);
    if (st == UM_OK) st = um_tensors_open(set, path, &err);
    for (size_t i = 0; i < b->params.n && st == UM_OK; i++) {
        um_param *p = &b->params.list[i];
        if (strcmp(p->spec.name, t->name) != 0) continue;
        p->set = *set;
        p->stored = um_tensors_find(*set, t->name);
    }
    if (st == UM_OK) st = um_sound_load(&b->sound, &b->params, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    folder_remove(dir);
    um_free(dir);
}

static void open_tower(bench *b, um_isa isa, int threads)
{
    open_model(b, "a4", isa, threads);
    load_tower(b, "auto");
}

static void close_model(bench *b) { tower_close(&b->arena, &b->device, &b->dev, &b->ck, guarded); }

static um_wave sound_of(bench *b, const char *file) { return tiny_wav(file, &b->arena); }

/* The siren repeated to n samples. */
static float *long_wave(bench *b, int64_t n)
{
    um_wave siren = sound_of(b, "siren.wav");
    float *wave = um_arena_f32(&b->arena, 1, (size_t)n);
    for (int64_t i = 0; i < n; i++) wave[i] = siren.samples[i % siren.n];
    return wave;
}

static size_t values_of(const bench *b, int64_t n)
{
    return (size_t)um_sound_rows(&b->ck.model.sound, n) * (size_t)b->ck.model.dim;
}

/* The rows, brought to the host; nothing else stays in the arenas, and nothing is written behind the rows. keep: every layer has
 * activations of its own. */
static const float *encode_with(bench *b, const float *wave, int64_t n, bool keep)
{
    um_err err = {0};
    const size_t values = values_of(b, n);
    float *rows = um_arena_f32(&b->arena, 1, values + 1);
    um_mark host = um_arena_mark(&b->arena), device = um_arena_mark(&b->device);
    um_sound_acts *a = um_sound_acts_bind(&b->arena, &b->device, &b->ck.model.sound,
                                          b->ck.model.dim, UM_AT_INPUT, keep);
    float *out = um_arena_f32(&b->device, 1, values + 1);
    const size_t used = b->arena.used, device_used = b->device.used;
    b->dev.ops->fill(&b->dev, out + values, -777.0f, 1);
    um_status st = um_sound_encode(out, b->sound, a, wave, n, &b->dev, &b->arena, &err);
    b->dev.ops->get(&b->dev, rows, out, (values + 1) * sizeof *rows);
    if (st == UM_OK) st = um_dev_sync(&b->dev, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_true(rows[values] == -777.0f);
    assert_true(b->arena.used == used && b->device.used == device_used);
    um_arena_reset(&b->device, device);
    um_arena_reset(&b->arena, host);
    return rows;
}

static const float *encode(bench *b, const float *wave, int64_t n)
{
    return encode_with(b, wave, n, false);
}

static void test_golden(void **state)
{
    (void)state;
    static const char *const files[] = {"siren.wav", "speech.wav"};
    bench b;
    um_err err = {0};
    um_tensors *set = NULL;
    const um_tensor *t = NULL;
    open_tower(&b, UM_ISA_AUTO, 2);
    const um_sound_model *m = &b.ck.model.sound;
    const int64_t shape[] = {2, m->queries, b.ck.model.dim};
    um_status st =
        um_tensors_open(&set, golden_path(&b.arena, "cases/a4/mixed/expected.safetensors"), &err);
    if (st == UM_OK) st = um_tensors_want(set, &t, "sound_features", 3, shape, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    float *want = um_arena_f32(&b.arena, 1, t->bytes / 4);
    um_tensor_to_f32(want, t);
    for (size_t i = 0; i < 2; i++) {
        um_wave w = sound_of(&b, files[i]);
        const size_t n = values_of(&b, w.n);
        assert_int_equal(n, t->bytes / 8);
        const float off = distance(encode(&b, w.samples, w.n), want + i * n, n);
        if (!(off < 2e-5f))
            fail_msg("%s: sound_features differ by %g of the largest", files[i], (double)off);
    }
    um_tensors_close(set);
    close_model(&b);
}

static void test_same_bits(void **state)
{
    (void)state;
    bench first;
    open_tower(&first, UM_ISA_GENERIC, 1);
    um_wave w = sound_of(&first, "speech.wav");
    const float *want = encode(&first, w.samples, w.n);
    const size_t bytes = values_of(&first, w.n) * sizeof *want;
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        for (int threads = 1; threads <= 3; threads++) {
            um_dev probe;
            bench b;
            if (um_dev_open_cpu(&probe, isa, 1, NULL) != UM_OK) continue;
            open_tower(&b, isa, threads);
            if (memcmp(encode(&b, w.samples, w.n), want, bytes) != 0)
                fail_msg("%s, %d threads: other bits", um_isa_name(isa), threads);
            close_model(&b);
        }
    }
    close_model(&first);
}

static void test_rows(void **state)
{
    (void)state;
    const um_sound_model m = {.queries = 50, .window_seconds = 30};
    assert_int_equal(um_sound_rows(&m, 0), 0);
    assert_int_equal(um_sound_rows(&m, 1), 50);
    assert_int_equal(um_sound_rows(&m, 480000), 50);
    assert_int_equal(um_sound_rows(&m, 480001), 100);
    /* no limit of twenty windows (spec 2.3 has one in training) */
    assert_int_equal(um_sound_rows(&m, INT64_C(480000) * 21), 1050);
}

/* Waves of awkward lengths: each window is encoded as if it came alone, and windows that the padding fills in the same way have the
 * same rows. */
static void test_windows(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 399, 400, 479999, 480000, 480001, 481500};
    bench b;
    open_tower(&b, UM_ISA_AUTO, 2);
    float *wave = long_wave(&b, 481500);
    const size_t window = values_of(&b, 480000);
    const float *first = encode(&b, wave, 480000);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const int64_t n = lengths[i];
        const float *rows = encode(&b, wave, n);
        for (size_t k = 0; k < values_of(&b, n); k++) assert_true(isfinite(rows[k]));
        if (n <= 480000) continue;
        assert_memory_equal(rows, first, window * sizeof *rows);
        assert_memory_equal(rows + window, encode(&b, wave + 480000, n - 480000),
                            window * sizeof *rows);
        assert_int_equal(values_of(&b, n), 2 * window);
    }
    /* 400000 and one less have the same real rows: only the value of the padding counts, and it is the last sample's */
    const float last = wave[399999];
    wave[399999] = wave[399998];
    assert_memory_equal(encode(&b, wave, 399999), encode(&b, wave, 400000), window * sizeof *first);
    wave[399999] = last + 0.5f;
    assert_memory_not_equal(encode(&b, wave, 399999), encode(&b, wave, 400000),
                            window * sizeof *first);
    close_model(&b);
}

static void test_empty(void **state)
{
    (void)state;
    bench b;
    open_tower(&b, UM_ISA_AUTO, 1);
    encode(&b, NULL, 0);
    close_model(&b);
}

/* Padding is not silence: its rows are masked, so a pause that was recorded sounds different from one that was filled in. */
static void test_padding_is_masked(void **state)
{
    (void)state;
    bench b;
    open_tower(&b, UM_ISA_AUTO, 2);
    um_wave w = sound_of(&b, "siren.wav");
    float *filled = um_arena_f32(&b.arena, 1, 480000);
    for (int64_t i = 0; i < 480000; i++) filled[i] = w.samples[i < w.n ? i : w.n - 1];
    const size_t n = values_of(&b, w.n);
    const float off = distance(encode(&b, w.samples, w.n), encode(&b, filled, 480000), n);
    assert_true(off > 1e-3f);
    close_model(&b);
}

/* Spec 13, and by hand: half of the buckets for keys behind, the nearer ones with a bucket each. */
static void test_buckets(void **state)
{
    (void)state;
    static const int known[][2] = {{0, 0},      {1, 161},   {-1, 1},     {79, 239},   {-79, 79},
                                   {80, 240},   {-80, 80},  {800, 319},  {-800, 159}, {-1400, 159},
                                   {1400, 319}, {253, 280}, {-253, 120}, {2997, 319}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_int_equal(um_beats_bucket(known[i][0], 320, 800), known[i][1]);
    for (int d = 1; d < 3000; d++) { /* never nearer with more distance */
        assert_true(um_beats_bucket(d, 320, 800) >= um_beats_bucket(d - 1, 320, 800));
        assert_int_equal(um_beats_bucket(d, 320, 800), um_beats_bucket(-d, 320, 800) + 160);
    }
    assert_int_equal(um_beats_bucket(-7, 32, 128), 7);
    assert_int_equal(um_beats_bucket(-8, 32, 128), 8);
    assert_int_equal(um_beats_bucket(64, 32, 128), 30);
    assert_int_equal(um_beats_bucket(500, 32, 128), 31);
}

static void test_real_rows(void **state)
{
    (void)state;
    static const int known[][2] = {{160000, 500},  {1, 1},         {160, 1},       {320, 1},
                                   {321, 2},       {640, 2},       {478400, 1495}, {478401, 1496},
                                   {478720, 1496}, {479680, 1496}, {480000, 1496}};
    const um_sound_model m = {.window_seconds = 30};
    const um_beats b = {.model = &m, .frames = 2998, .rows = 1496};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_int_equal(um_beats_real_rows(&b, known[i][0]), known[i][1]);
}

/* BEATs' rows of one window, brought to the host. */
static const float *window_of(bench *b, const um_beats *beats, const float *wave, int64_t n)
{
    const size_t values = (size_t)beats->rows * (size_t)beats->model->dim;
    float *x = um_arena_f32(&b->arena, 1, values);
    um_mark device = um_arena_mark(&b->device);
    um_beats_acts a = {0};
    um_beats_acts_bind(&a, &b->arena, &b->device, beats->model, false);
    um_beats_fwd(&a, beats, um_beats_input(&a, beats, wave, n, &b->arena), &b->dev);
    b->dev.ops->get(&b->dev, x, a.out, values * sizeof *x);
    um_arena_reset(&b->device, device);
    return x;
}

/* Rows far in the padding are copies of one; computing each gives the same bits. */
static void test_far_rows_are_copies(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    um_beats beats;
    open_model(&b, "a4", UM_ISA_AUTO, 2);
    const um_sound_model *m = &b.ck.model.sound;
    b.params = params_of(&b.ck, 1u << UM_PART_SOUND, "auto", &b.dev, &b.arena, &b.device);
    um_status st = um_beats_load(&beats, &b.params, &err);
    if (st == UM_OK) st = um_beats_prepare(&beats, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(beats.rows, 1496);
    assert_int_equal(beats.reach, 778); /* 80 x 10^(79/80) = 777.4: the last bucket begins behind */
    const size_t D = (size_t)m->dim, values = 1496 * D;
    const float *wave = long_wave(&b, 480000);
    static const int64_t lengths[] = {1, 27648, 160000, 229760, 230080, 400000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        um_beats whole = beats;
        whole.reach = beats.rows; /* so that no row is far enough */
        const float *some = window_of(&b, &beats, wave, lengths[i]),
                    *all = window_of(&b, &whole, wave, lengths[i]);
        assert_memory_equal(some, all, values * sizeof *some);
        const bool has_far = lengths[i] <= 229760; /* 718 real rows: 717 + 778 is the last row */
        assert_true(has_far == (memcmp(some + values - 2 * D, some + values - D, D * 4) == 0 ||
                                lengths[i] == 229760));
    }
    close_model(&b);
}

/* Windows of another length: as many rows as fit, and those of a wave that fills them have the bits that they have in a longer window. */
static void test_short_windows(void **state)
{
    (void)state;
    enum { FULL = 384 * 160 }; /* samples whose rows fill a window of 4 s */
    bench b;
    um_err err = {0};
    um_beats beats;
    open_model(&b, "a4", UM_ISA_AUTO, 2);
    um_sound_model *m = &b.ck.model.sound;
    const float *wave = long_wave(&b, 70000);
    const float *rows[2];
    for (int i = 0; i < 2; i++) {
        m->window_seconds = i == 0 ? 30 : 4;
        b.params = params_of(&b.ck, 1u << UM_PART_SOUND, "auto", &b.dev, &b.arena, &b.device);
        um_status st = um_beats_load(&beats, &b.params, &err);
        if (st == UM_OK) st = um_beats_prepare(&beats, &err);
        if (st != UM_OK) fail_msg("%s", err.msg);
        assert_int_equal(um_beats_real_rows(&beats, FULL), 192);
        rows[i] = window_of(&b, &beats, wave, FULL);
    }
    assert_int_equal(beats.rows, 192);
    assert_memory_equal(rows[0], rows[1], 192 * (size_t)m->dim * sizeof *rows[0]);
    load_tower(&b, "auto");
    assert_int_equal(um_sound_rows(m, 64000), 50);
    assert_int_equal(um_sound_rows(m, 64001), 100);
    const size_t window = values_of(&b, 64000);
    const float *all = encode(&b, wave, 70000);
    assert_memory_equal(all, encode(&b, wave, 64000), window * sizeof *all);
    assert_memory_equal(all + window, encode(&b, wave + 64000, 6000), window * sizeof *all);
    close_model(&b);
}

static bool is_tensor(const void *name, const um_spec *s) { return strcmp(s->name, name) == 0; }

/* What is computed from weights follows them: after a change and um_sound_prepare the tower answers as one that was loaded with the new
 * weights. */
static void test_prepared_again(void **state)
{
    (void)state;
    static const struct {
        um_part part;
        um_slot slot;
    } kinds[] = {{UM_PART_SOUND, UM_SLOT_POS_CONV_V},
                 {UM_PART_SOUND, UM_SLOT_POS_CONV_G},
                 {UM_PART_SOUND, UM_SLOT_RELATIVE_BIAS},
                 {UM_PART_SOUND_ALIGNER, UM_SLOT_QUERIES}};
    um_err err = {0};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bench b;
        open_tower(&b, UM_ISA_AUTO, 2);
        um_wave w = sound_of(&b, "siren.wav");
        const size_t bytes = values_of(&b, w.n) * sizeof(float);
        const int layer = kinds[i].slot == UM_SLOT_RELATIVE_BIAS ? 0 : -1;
        const float *before = encode(&b, w.samples, w.n);
        um_param *p = um_params_find(
            &b.params, um_place_of(kinds[i].part, kinds[i].slot, layer, -1), UM_LEAF_WEIGHT);
        const size_t n = um_spec_values(&p->spec);
        if (um_params_train(&b.params, is_tensor, p->spec.name, &err) != UM_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(um_sound_prepare(b.sound, &err), UM_OK);
        assert_memory_equal(encode(&b, w.samples, w.n), before, bytes); /* as the file has it */
        float *x = um_arena_f32(&b.arena, 1, n);
        b.dev.ops->get(&b.dev, x, p->master, n * sizeof *x);
        for (size_t k = 0; k < n; k++) x[k] = x[n - 1 - k] + 0.25f;
        b.dev.ops->put(&b.dev, p->master, x, n * sizeof *x);
        um_param_changed(p);
        um_params_repack(&b.params);
        assert_int_equal(um_sound_prepare(b.sound, &err), UM_OK);
        const float *after = encode(&b, w.samples, w.n);
        assert_memory_not_equal(after, before, bytes);
        um_tensors *set = NULL;
        um_tensor changed = *p->stored;
        changed.data = (const void *)x;
        changed.dtype = UM_F32;
        changed.bytes = n * sizeof *x;
        load_with(&b, &set, &changed);
        assert_memory_equal(encode(&b, w.samples, w.n), after, bytes);
        um_tensors_close(set);
        close_model(&b);
    }
}

static void test_bf16_weights(void **state)
{
    (void)state;
    bench b;
    open_tower(&b, UM_ISA_AUTO, 1);
    um_wave w = sound_of(&b, "speech.wav");
    const float *exact = encode(&b, w.samples, w.n);
    load_tower(&b, "bf16");
    const float off = distance(encode(&b, w.samples, w.n), exact, values_of(&b, w.n));
    assert_true(off > 1e-6f && off < 3e-2f);
    close_model(&b);
}

static void want_misfit(bench *b, const char *first, const char *second)
{
    um_err err = {0};
    um_sound *out = NULL;
    b->params = params_of(&b->ck, UM_ALL_PARTS, "auto", &b->dev, &b->arena, &b->device);
    assert_int_equal(um_sound_load(&out, &b->params, &err), UM_E_MODEL);
    if (strstr(err.msg, first) == NULL || strstr(err.msg, second) == NULL)
        fail_msg("\"%s\" has not \"%s\" and \"%s\"", err.msg, first, second);
    assert_null(out); /* set on success only */
}

/* A tower whose tensors do not have the sizes that its config says: the tensor and both shapes are named. */
static void test_misfits(void **state)
{
    (void)state;
    bench b;
    open_model(&b, "a4", UM_ISA_AUTO, 1);
    um_sound_model was = b.ck.model.sound, *m = &b.ck.model.sound;

    m->patch = 32;
    want_misfit(&b, "patch_embedding.weight", "[32,1,16,16], want [32,1,32,32]");
    *m = was;
    m->patch = 4; /* 749 x 32 rows of 2998 frames */
    want_misfit(&b, "input_patch_size 4", "23968 rows of a window of 2998 frames");
    *m = was;
    m->layers = 4;
    want_misfit(&b, "encoder.layers.3.self_attn.q_proj.weight", "missing");
    *m = was;
    m->conv_pos = 64;
    want_misfit(&b, "encoder.pos_conv.0.weight_g", "[1,1,128], want [1,1,64]");
    *m = was;
    m->conv_groups = 8;
    want_misfit(&b, "encoder.pos_conv.0.weight_v", "[48,3,128], want [48,6,128]");
    *m = was;
    m->buckets = 160;
    want_misfit(&b, "relative_attention_bias.weight", "[320,4], want [160,4]");
    *m = was;
    m->heads = 3;
    want_misfit(&b, "relative_attention_bias.weight", "[320,4], want [320,3]");
    *m = was;
    m->queries = 40;
    want_misfit(&b, "query_tokens", "[1,50,48], want [1,40,48]");
    *m = was;
    m->q_cross = 1;
    want_misfit(&b, "encoder.layer.1.crossattention.attention.query.weight", "missing");
    *m = was;
    m->q_ffn_dim = 96;
    want_misfit(&b, "encoder.layer.0.intermediate_query.dense.weight", "[64,48], want [96,48]");
    *m = was;
    m->proj = UM_PROJ_MLP;
    want_misfit(&b, "model.mm_audio_aligner.projector.0.weight", "missing");
    *m = was;
    m->present = false;
    want_misfit(&b, "no sound tower", "");
    *m = was;
    load_tower(&b, "auto");
    close_model(&b);
    open_model(&b, "s4", UM_ISA_AUTO, 1);
    want_misfit(&b, "no sound tower", "");
    close_model(&b);
}

/* Without gru_rel_pos the bias is not gated; the gate changes the result. */
static void test_ungated(void **state)
{
    (void)state;
    bench b;
    open_tower(&b, UM_ISA_AUTO, 1);
    um_wave w = sound_of(&b, "speech.wav");
    const float *gated = encode(&b, w.samples, w.n);
    b.ck.model.sound.gated = false;
    load_tower(&b, "auto");
    const float off = distance(encode(&b, w.samples, w.n), gated, values_of(&b, w.n));
    assert_true(off > 1e-4f && off < 1.0f);
    close_model(&b);
}

/* Without the check, rows of NaN would reach the language model unnoticed. */
static void test_samples_not_finite(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    bench b;
    um_err err = {0};
    float wave[500] = {0};
    open_tower(&b, UM_ISA_AUTO, 1);
    assert_int_equal(b.ck.model.dim, 64);
    um_sound_acts *a =
        um_sound_acts_bind(&b.arena, &b.device, &b.ck.model.sound, 64, UM_AT_INPUT, false);
    float *out = um_arena_f32(&b.device, 50, 64);
    for (int i = 0; i < 3; i++) {
        wave[77] = bad[i];
        assert_int_equal(um_sound_encode(out, b.sound, a, wave, 500, &b.dev, &b.arena, &err),
                         UM_E_DATA);
        assert_non_null(strstr(err.msg, "sample 77 "));
    }
    wave[77] = 3e38f; /* loud, but a number */
    const float *rows = encode(&b, wave, 500);
    for (int i = 0; i < 50 * 64; i++) assert_true(isfinite(rows[i]));
    close_model(&b);
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_padding_is_masked),
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_real_rows),
        cmocka_unit_test(test_far_rows_are_copies),
        cmocka_unit_test(test_short_windows),
        cmocka_unit_test(test_prepared_again),
        cmocka_unit_test(test_bf16_weights),
        cmocka_unit_test(test_misfits),
        cmocka_unit_test(test_ungated),
        cmocka_unit_test(test_samples_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
