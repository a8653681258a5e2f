/* encoder_worker/mel: the golden spectrograms, and what happens at the ends of a window. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/nn/safetensors.h"
#include "core/tensor/ops.h"
#include "encoder_worker/frontend/mel.h"
#include "tests/support/fixture.h"
#include "tests/support/tiny_wav.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FRAMES = 3000, BINS = 80 };

static um_mel whisper(void)
{
    um_mel m;
    um_mel_init(&m, BINS, 400, 160, UM_WAVE_WINDOW, UM_WAVE_RATE, &arena);
    assert_int_equal(m.frames, FRAMES);
    return m;
}

static float *frames_of(const um_mel *m, const float *wave, int64_t n)
{
    float *out = um_arena_f32(&arena, (size_t)m->frames, (size_t)m->bins);
    size_t used = arena.used;
    um_mel_frames(out, m, wave, n, &arena);
    assert_int_equal(arena.used, used);
    return out;
}

/* The stored columns, and the last of them again to the end. */
static void test_golden(void **state)
{
    (void)state;
    static const char *const files[] = {"speech.wav", "siren.wav"};
    um_mel m = whisper();
    um_tensors *set = NULL;
    um_err err = {0};
    const char *path = UM_TEST_DATA "/golden/frontends/expected.safetensors";
    if (um_tensors_open(&set, path, &err) != UM_OK) fail_msg("%s", err.msg);
    for (int f = 0; f < 2; f++) {
        const um_tensor *t = um_tensors_find(set, um_arena_fmt(&arena, "mel.%s", files[f]));
        assert_true(t != NULL && t->rank == 2 && t->shape[0] == BINS);
        int n = (int)t->shape[1];
        float *want = um_arena_f32(&arena, BINS, (size_t)n), off = 0.0f;
        um_tensor_to_f32(want, t);
        um_wave w = tiny_wav(files[f], &arena);
        const float *got = frames_of(&m, w.samples, w.n);
        for (int i = 0; i < FRAMES; i++)
            for (int b = 0; b < BINS; b++)
                off = fmaxf(off, fabsf(got[i * BINS + b] - want[b * n + (i < n ? i : n - 1)]));
        if (!(off < 1e-5f)) fail_msg("%s: off by %g", files[f], (double)off);
    }
    um_tensors_close(set);
}

/* A window of silence is flat: log10 1e-10 = -10 everywhere, (-10 + 4) / 4. */
static void test_silence(void **state)
{
    (void)state;
    um_mel m = whisper();
    const float *got = frames_of(&m, NULL, 0);
    for (int i = 0; i < FRAMES * BINS; i++) assert_true(got[i] == -1.5f);
}

/* |sum of Hann-windowed samples times exp(-2 pi i k t / n)|^2 of the n samples from `from` on, mirrored at both ends of wave[N]. */
static double power_at(const float *wave, int N, int from, int k, int n)
{
    double re = 0, im = 0;
    for (int i = 0; i < n; i++) {
        int at = from + i;
        at = at < 0 ? -at : at >= N ? 2 * N - 2 - at : at;
        double angle = 2 * acos(-1.0) * (double)(k * i % n) / n;
        double x = (double)wave[at] * (0.5 - 0.5 * cos(2 * acos(-1.0) * i / n));
        re += x * cos(angle);
        im -= x * sin(angle);
    }
    return re * re + im * im;
}

/* A full window ends as the reference pads it: the samples after the end mirror those before it. */
static void test_ends(void **state)
{
    (void)state;
    enum { N = 1600, HOP = 160, FFT = 400, FEW = 20 };
    um_mel m;
    um_mel_init(&m, FEW, FFT, HOP, N, UM_WAVE_RATE, &arena);
    float wave[N], *got;
    for (int i = 0; i < N; i++) {
        double s, c;
        um_sincos(0.02 * (double)i + 1e-4 * (double)i * (double)i, &s, &c);
        wave[i] = (float)s;
    }
    got = frames_of(&m, wave, N);
    /* the same by the definition */
    double log_mel[N / HOP][FEW], top = -10;
    for (int t = 0; t < N / HOP; t++) {
        double power[FFT / 2 + 1];
        const double *w = m.weight;
        for (int k = 0; k <= FFT / 2; k++) power[k] = power_at(wave, N, t * HOP - FFT / 2, k, FFT);
        for (int b = 0; b < FEW; b++) {
            double sum = 0;
            for (int k = 0; k < m.count[b]; k++) sum += *w++ * power[m.first[b] + k];
            log_mel[t][b] = log10(fmax(sum, 1e-10));
            top = fmax(top, log_mel[t][b]);
        }
    }
    for (int t = 0; t < N / HOP; t++)
        for (int b = 0; b < FEW; b++) {
            double want = (fmax(log_mel[t][b], top - 8) + 4) / 4;
            if (!(fabs((double)got[t * FEW + b] - want) < 1e-6))
                fail_msg("frame %d bin %d: %g, want %g", t, b, (double)got[t * FEW + b], want);
        }
    /* missing samples count as zeros */
    float padded[N] = {0};
    memcpy(padded, wave, 700 * sizeof *wave);
    float *more = frames_of(&m, padded, N), *less = frames_of(&m, wave, 700);
    assert_memory_equal(more, less, (size_t)FEW * (N / HOP) * sizeof *more);
}

/* Triangles of area 1 over their own band, and one after another. */
static void test_filters(void **state)
{
    (void)state;
    um_mel m = whisper();
    const double *w = m.weight;
    for (int b = 0; b < BINS; b++) {
        assert_true(m.count[b] >= 1 && m.first[b] >= 0 && m.first[b] + m.count[b] <= 201);
        if (b > 0) assert_true(m.first[b] >= m.first[b - 1]);
        double area = 0;
        for (int k = 0; k < m.count[b]; k++) area += *w++ * 40.0;
        if (b > 50) assert_true(fabs(area - 1.0) < 0.1); /* wide enough to be sampled well */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_filters),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
