/* Log-mel spectrogram of one window, as Whisper's feature extractor computes it (spec 2.4): the first step for speech (wave -> mel ->
 * rows). */
#pragma once

#include "encoder_worker/frontend/fft.h"

#include <stdint.h>

typedef struct um_mel {
    int bins, hop;
    int64_t window;           /* samples of a window */
    int frames;               /* window / hop */
    um_fft fft;               /* length n_fft */
    const double *hann;       /* [n_fft] */
    const int *first, *count; /* [bins] range of spectrum bins of each mel bin */
    const double *weight;     /* of all spectrum bins, one mel bin after another */
} um_mel;

/* n_fft even, window a multiple of hop and longer than n_fft/2. The tables live in arena. */
void um_mel_init(um_mel *m, int bins, int n_fft, int hop, int64_t window, int rate,
                 um_arena *arena);

/* out[frames, bins] of wave[n], n <= window; missing samples at the end of the window count as silence. Computed in f64, rounded to f32
 * where the reference does. Memory: scratch, released before returning. Thread: any. */
void um_mel_frames(float *out, const um_mel *m, const float *wave, int64_t n, um_arena *scratch);
