/* The filter bank of BEATs against the golden one, and its behaviour at the edges of a wave. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "encoder_worker/frontend/fbank.h"
#include "tests/support/test_support.h"
#include "tests/support/tiny_wav.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WINDOW_FRAMES = 2998 };

typedef struct bench {
    um_arena arena;
    um_fbank f;
} bench;

static bench *open_bench(void)
{
    bench *b = um_zalloc(sizeof *b);
    um_arena_init(&b->arena, "case", 1 << 20);
    um_fbank_init(&b->f, &b->arena);
    return b;
}

static void close_bench(bench *b)
{
    um_arena_free(&b->arena);
    um_free(b);
}

static float *run(bench *b, int frames, const float *wave, int64_t n)
{
    float *out = um_arena_f32(&b->arena, (size_t)frames, UM_FBANK_BINS);
    um_fbank_run(out, &b->f, frames, wave, n, &b->arena);
    return out;
}

static void golden(void **state)
{
    (void)state;
    static const char *const files[] = {"speech.wav", "siren.wav"};
    bench *b = open_bench();
    um_tensors *set = NULL;
    um_err err = {0};
    if (um_tensors_open(&set, golden_path(&b->arena, "frontends/expected.safetensors"), &err) !=
        UM_OK)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < 2; i++) {
        um_wave w = tiny_wav(files[i], &b->arena);
        const int64_t shape[] = {-1, UM_FBANK_BINS};
        const um_tensor *t = NULL;
        char name[64];
        snprintf(name, sizeof name, "fbank.%s", files[i]);
        if (um_tensors_want(set, &t, name, 2, shape, &err) != UM_OK) fail_msg("%s", err.msg);
        const int frames = (int)t->shape[0];
        assert_true(frames > um_fbank_frames(w.n)); /* the golden frames go into the padding */
        float *want = um_arena_f32(&b->arena, (size_t)frames, UM_FBANK_BINS),
              *got = run(b, WINDOW_FRAMES, w.samples, w.n);
        um_tensor_to_f32(want, t);
        /* the golden values were made in f32, which shows in the quiet bands of loud frames */
        double worst = 0.0, sum = 0.0;
        for (int k = 0; k < frames * UM_FBANK_BINS; k++) {
            const double off = fabs((double)got[k] - (double)want[k]);
            worst = fmax(worst, off);
            sum += off;
        }
        const double mean = sum / (frames * UM_FBANK_BINS);
        if (!(worst < 3e-4 && mean < 1e-6))
            fail_msg("%s: off by up to %g, %g on average", files[i], worst, mean);
    }
    um_tensors_close(set);
    close_bench(b);
}

static void frame_counts(void **state)
{
    (void)state;
    assert_int_equal(um_fbank_frames(0), 0);
    assert_int_equal(um_fbank_frames(399), 0);
    assert_int_equal(um_fbank_frames(400), 1);
    assert_int_equal(um_fbank_frames(559), 1);
    assert_int_equal(um_fbank_frames(560), 2);
    assert_int_equal(um_fbank_frames(480000), WINDOW_FRAMES);
}

/* A wave that ends early gives the same bits as one padded with its last value. */
static void goes_on_with_its_last_value(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 2, 3, 159, 160, 161, 162, 399, 400, 401, 561, 1999, 2000};
    enum { ALL = 2000, FRAMES = 11 };
    bench *b = open_bench();
    float wave[ALL], filled[ALL];
    for (int i = 0; i < ALL; i++) wave[i] = 0.5f * sinf((float)(i * i) * 1e-3f) + 0.25f;
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        const int64_t n = lengths[k];
        for (int i = 0; i < ALL; i++) filled[i] = wave[i < n ? i : n - 1];
        const float *got = run(b, FRAMES, wave, n), *want = run(b, FRAMES, filled, ALL);
        assert_memory_equal(got, want, FRAMES * UM_FBANK_BINS * sizeof *got);
    }
    close_bench(b);
}

/* Zero energy gives the floor, not minus infinity; a constant has none because the mean is subtracted. */
static void silence_is_the_floor(void **state)
{
    (void)state;
    bench *b = open_bench();
    float wave[800] = {0};
    const float floor = (float)((log(1.1920928955078125e-07) - 15.41663) / (2 * 6.55582));
    const float *zero = run(b, 3, wave, 800);
    for (int i = 0; i < 800; i++) wave[i] = -0.7f;
    const float *flat = run(b, 3, wave, 800);
    for (int i = 0; i < 3 * UM_FBANK_BINS; i++) {
        assert_true(fabsf(zero[i] - floor) < 1e-6f);
        assert_true(flat[i] == zero[i]);
    }
    close_bench(b);
}

/* A tone is loudest in the band whose centre is nearest to it. */
static void a_tone_is_in_its_band(void **state)
{
    (void)state;
    static const float tones[] = {200.0f, 440.0f, 1000.0f, 3000.0f, 7000.0f};
    bench *b = open_bench();
    float wave[400];
    const double low = 1127 * log(1 + 20.0 / 700), high = 1127 * log(1 + 8000.0 / 700);
    for (size_t k = 0; k < sizeof tones / sizeof *tones; k++) {
        for (int i = 0; i < 400; i++)
            wave[i] = 0.3f * sinf(6.2831853f * tones[k] * (float)i / 16000.0f);
        const float *got = run(b, 1, wave, 400);
        int loudest = 0;
        for (int i = 1; i < UM_FBANK_BINS; i++)
            if (got[i] > got[loudest]) loudest = i;
        const double at = (1127 * log(1 + (double)tones[k] / 700) - low) / (high - low) * 129 - 1;
        assert_true(fabs(at - loudest) < 2.0); /* low bands are narrower than a bin of the FFT */
    }
    close_bench(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test(frame_counts),
        cmocka_unit_test(goes_on_with_its_last_value),
        cmocka_unit_test(silence_is_the_floor),
        cmocka_unit_test(a_tone_is_in_its_band),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
