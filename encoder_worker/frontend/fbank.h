/* The filter bank in front of BEATs: log energies of 128 mel bands, 100 frames a second, equal to Kaldi's (spec 2.5). Wave in,
 * normalised rows out. Computed in f64, bit-identical on every machine. */
#pragma once

#include "encoder_worker/frontend/fft.h"

#include <stdint.h>

enum {
    UM_FBANK_BINS = 128,
    UM_FBANK_FRAME = 400, /* samples: 25 ms */
    UM_FBANK_SHIFT = 160, /* 10 ms */
    UM_FBANK_FFT = 512,
};

/* Weights of one band for the power of FFT bins from .. from+count-1: a triangle in the mel domain. */
typedef struct um_fbank_band {
    int from, count;
    const double *weight;
} um_fbank_band;

typedef struct um_fbank {
    um_fft fft;
    const double *window; /* [UM_FBANK_FRAME] */
    um_fbank_band band[UM_FBANK_BINS];
} um_fbank;

/* The tables live in model. */
void um_fbank_init(um_fbank *f, um_arena *model);

/* Number of frames that lie wholly within n samples; may be 0. */
int um_fbank_frames(int64_t n);

/* out[frames, UM_FBANK_BINS] = (log energies - mean) / (2 deviation), with BEATs' own mean and deviation. wave[n], n >= 1, f32 in [-1,
 * 1]; its last value is repeated where frames reach beyond its end. Memory: scratch, released before returning. Thread: any. */
void um_fbank_run(float *out, const um_fbank *f, int frames, const float *wave, int64_t n,
                  um_arena *scratch);
