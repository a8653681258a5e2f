/* See mel.h. Source: transformers 4.31, WhisperFeatureExtractor and audio_utils (mel_filter_bank with the Slaney scale and norm,
 * spectrogram); the scale itself is from Slaney's Auditory Toolbox, 1998. */
#include "encoder_worker/frontend/mel.h"

#include "core/base/status.h"
#include "core/tensor/ops.h"

#include <string.h>

static const double top_hz = 8000.0;
static const double ln_10 = 2.302585092994045684018, two_pi = 6.283185307179586476925;

/* Linear below 1000 Hz (3 mel per 200 Hz), logarithmic above (27 mel per factor of 6.4). */
static double mel_of(double hz)
{
    return hz < 1000.0 ? 3.0 * hz / 200.0 : 15.0 + um_log(hz / 1000.0) * (27.0 / um_log(6.4));
}

static double hz_of(double mel)
{
    return mel < 15.0 ? 200.0 * mel / 3.0 : 1000.0 * um_exp(um_log(6.4) / 27.0 * (mel - 15.0));
}

static double at_least_0(double x) { return x > 0.0 ? x : 0.0; }

/* Bin b is a triangle of area 1 over hz, from edge b through edge b+1 to edge b+2; the edges are equally spaced in mel. */
static void filters(um_mel *m, int rate, um_arena *arena)
{
    int n = m->fft.half + 1;
    int *first = um_arena_alloc(arena, (size_t)m->bins * sizeof *first);
    int *count = um_arena_alloc(arena, (size_t)m->bins * sizeof *count);
    double step = (double)(rate / 2) / (double)(n - 1), top = mel_of(top_hz);
    double *weight = NULL;
    for (int pass = 0; pass < 2; pass++) { /* first counts, then fills */
        size_t all = 0;
        for (int b = 0; b < m->bins; b++) {
            double edge[3];
            for (int i = 0; i < 3; i++)
                edge[i] = hz_of(top * (double)(b + i) / (double)(m->bins + 1));
            first[b] = count[b] = 0;
            for (int k = 0; k < n; k++) {
                double hz = step * (double)k;
                double up = (hz - edge[0]) / (edge[1] - edge[0]);
                double down = (edge[2] - hz) / (edge[2] - edge[1]);
                double w = at_least_0(up < down ? up : down) * 2.0 / (edge[2] - edge[0]);
                if (!(w > 0.0)) continue;
                if (count[b]++ == 0) first[b] = k;
                if (weight != NULL) weight[all] = w;
                all++;
            }
        }
        if (weight == NULL) weight = um_arena_alloc(arena, (all + 1) * sizeof *weight);
    }
    m->first = first;
    m->count = count;
    m->weight = weight;
}

void um_mel_init(um_mel *m, int bins, int n_fft, int hop, int64_t window, int rate, um_arena *arena)
{
    UM_ASSERT(bins > 0 && hop > 0 && window % hop == 0 && window > n_fft / 2);
    *m = (um_mel){.bins = bins, .hop = hop, .window = window, .frames = (int)(window / hop)};
    um_fft_init(&m->fft, n_fft, arena);
    double *hann = um_arena_alloc(arena, (size_t)n_fft * sizeof *hann);
    for (int i = 0; i < n_fft; i++) { /* periodic */
        double s, c;
        um_sincos(two_pi * (double)i / (double)n_fft, &s, &c);
        hann[i] = 0.5 - 0.5 * c;
    }
    m->hann = hann;
    filters(m, rate, arena);
}

/* Samples of frame t times the window function; the wave is reflected at both ends of the audio window. Returns false when all samples
 * are silent. */
static bool frame_take(double *x, const um_mel *m, const float *wave, int64_t n, int t)
{
    int64_t N = m->fft.n, from = (int64_t)t * m->hop - N / 2, last = m->window - 1;
    int64_t mirrored =
        2 * last - (from + N - 1); /* the lowest index that is reflected at the end */
    if (from >= n && (mirrored >= n || from + N - 1 <= last)) return false;
    for (int64_t i = 0; i < N; i++) {
        int64_t at = from + i;
        if (at < 0) at = -at;
        if (at > last) at = 2 * last - at;
        x[i] = at < n ? (double)wave[at] * m->hann[i] : 0.0;
    }
    return true;
}

/* out[bins] = log10 of the mel powers, which are raised to at least 1e-10. */
static void frame_log(float *out, const um_mel *m, const double *power)
{
    const double *w = m->weight;
    for (int b = 0; b < m->bins; b++) {
        double sum = 0.0;
        for (int k = 0; k < m->count[b]; k++) sum += *w++ * power[m->first[b] + k];
        out[b] = (float)(um_log(sum > 1e-10 ? sum : 1e-10) / ln_10);
    }
}

void um_mel_frames(float *out, const um_mel *m, const float *wave, int64_t n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    size_t spectrum = (size_t)m->fft.half + 1, all = (size_t)m->frames * (size_t)m->bins;
    double *x = um_arena_alloc(scratch, (size_t)m->fft.n * sizeof *x);
    double *power = um_arena_alloc(scratch, spectrum * sizeof *power);
    double *work = um_arena_alloc(scratch, um_fft_work(&m->fft) * sizeof *work);
    float *silence = um_arena_f32(scratch, 1, (size_t)m->bins), top;
    UM_ASSERT(n >= 0 && n <= m->window);
    memset(power, 0, spectrum * sizeof *power);
    frame_log(silence, m, power);
    for (int t = 0; t < m->frames; t++) {
        float *to = out + (size_t)t * (size_t)m->bins;
        if (!frame_take(x, m, wave, n, t)) {
            memcpy(to, silence, (size_t)m->bins * sizeof *to);
            continue;
        }
        um_fft_power(&m->fft, power, x, work);
        frame_log(to, m, power);
    }
    top = out[0];
    for (size_t i = 1; i < all; i++) top = out[i] > top ? out[i] : top;
    for (size_t i = 0; i < all; i++) {
        float y = out[i] > top - 8.0f ? out[i] : top - 8.0f;
        out[i] = (y + 4.0f) / 4.0f;
    }
    um_arena_reset(scratch, mark);
}
