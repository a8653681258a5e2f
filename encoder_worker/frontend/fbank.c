/* See fbank.h. Sources: spec 2.5; Kaldi's feature-window.cc, feature-fbank.cc and mel-computations.cc, with the options that BEATs'
 * preprocessing sets. */
#include "encoder_worker/frontend/fbank.h"

#include "core/base/bytes.h"
#include "core/tensor/ops.h"

/* Kaldi expects samples in the range of 16-bit integers. */
static const double SAMPLE_SCALE = 32768.0;
static const double PRE_EMPHASIS = 0.97, WINDOW_POWER = 0.85;
static const double LOW_HZ = 20.0, RATE_HZ = 16000.0;
static const double ENERGY_FLOOR = 1.1920928955078125e-07; /* the f32 epsilon */
static const double MEAN = 15.41663, DEVIATION = 6.55582;  /* of BEATs' training data */

static double mel(double hz) { return 1127.0 * um_log(1.0 + hz / 700.0); }

/* Povey's window: a Hann window, zero at both ends, to the power 0.85. */
static const double *make_window(um_arena *model)
{
    double *w = um_arena_alloc(model, UM_FBANK_FRAME * sizeof *w);
    for (int i = 0; i < UM_FBANK_FRAME; i++) {
        double s, c;
        um_sincos(6.283185307179586476925 * i / (UM_FBANK_FRAME - 1), &s, &c);
        const double hann = 0.5 - 0.5 * c;
        w[i] = hann > 0.0 ? um_exp(WINDOW_POWER * um_log(hann)) : 0.0;
    }
    return w;
}

/* Rises from left to centre and falls to right; the bin at half the sampling rate is not used. */
static um_fbank_band make_band(double left, double centre, double right, um_arena *model)
{
    double weight[UM_FBANK_FFT / 2];
    um_fbank_band b = {0};
    for (int k = 0; k < UM_FBANK_FFT / 2; k++) {
        const double at = mel(k * RATE_HZ / UM_FBANK_FFT);
        const double up = (at - left) / (centre - left), down = (right - at) / (right - centre);
        const double w = up < down ? up : down;
        if (w <= 0.0) continue;
        if (b.count == 0) b.from = k;
        weight[b.count++] = w;
    }
    double *kept = um_arena_alloc(model, (size_t)b.count * sizeof *kept);
    memcpy(kept, weight, (size_t)b.count * sizeof *kept);
    b.weight = kept;
    return b;
}

void um_fbank_init(um_fbank *f, um_arena *model)
{
    const double low = mel(LOW_HZ), step = (mel(RATE_HZ / 2) - low) / (UM_FBANK_BINS + 1);
    um_fft_init(&f->fft, UM_FBANK_FFT, model);
    f->window = make_window(model);
    for (int i = 0; i < UM_FBANK_BINS; i++)
        f->band[i] = make_band(low + i * step, low + (i + 1) * step, low + (i + 2) * step, model);
}

int um_fbank_frames(int64_t n)
{
    return n < UM_FBANK_FRAME ? 0 : (int)(1 + (n - UM_FBANK_FRAME) / UM_FBANK_SHIFT);
}

/* x[UM_FBANK_FFT] = the frame that starts at sample `at`: mean subtracted, pre-emphasis, window, zero padding. */
static void frame_of(double *x, const double *window, const float *wave, int64_t n, int64_t at)
{
    double sum = 0.0;
    for (int i = 0; i < UM_FBANK_FRAME; i++) {
        x[i] = (double)wave[at + i < n ? at + i : n - 1] * SAMPLE_SCALE;
        sum += x[i];
    }
    const double mean = sum / UM_FBANK_FRAME;
    double before = x[0] - mean;
    for (int i = 0; i < UM_FBANK_FRAME; i++) {
        const double here = x[i] - mean;
        x[i] = (here - PRE_EMPHASIS * before) * window[i];
        before = here;
    }
    memset(x + UM_FBANK_FRAME, 0, (UM_FBANK_FFT - UM_FBANK_FRAME) * sizeof *x);
}

static float normalised(double energy)
{
    const double e = energy > ENERGY_FLOOR ? energy : ENERGY_FLOOR;
    return (float)((um_log(e) - MEAN) / (2.0 * DEVIATION));
}

void um_fbank_run(float *out, const um_fbank *f, int frames, const float *wave, int64_t n,
                  um_arena *scratch)
{
    UM_ASSERT(n >= 1);
    um_mark mark = um_arena_mark(scratch);
    double x[UM_FBANK_FFT], power[UM_FBANK_FFT / 2 + 1];
    double *work = um_arena_alloc(scratch, um_fft_work(&f->fft) * sizeof *work);
    const float silence = normalised(0.0);
    for (int t = 0; t < frames; t++, out += UM_FBANK_BINS) {
        const int64_t at = (int64_t)t * UM_FBANK_SHIFT;
        if (at >= n - 1) { /* all samples are equal: subtracting the mean leaves zeros */
            for (int i = 0; i < UM_FBANK_BINS; i++) out[i] = silence;
            continue;
        }
        frame_of(x, f->window, wave, n, at);
        um_fft_power(&f->fft, power, x, work);
        for (int i = 0; i < UM_FBANK_BINS; i++) {
            const um_fbank_band *b = &f->band[i];
            double sum = 0.0;
            for (int k = 0; k < b->count; k++) sum += b->weight[k] * power[b->from + k];
            out[i] = normalised(sum);
        }
    }
    um_arena_reset(scratch, mark);
}
