/* The sound of a media file to 16 kHz mono, as the reference has it: each channel to f32 in [-1, 1), the mean over the channels,
 * then soxr HQ (librosa's default); no resampling at 16 kHz. Integers are scaled as libsndfile scales them. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "encoder_worker/frontend/wave.h"

enum {
    UM_WAVE_RATE_MIN = 1000, /* of a file */
    UM_WAVE_RATE_MAX = 768000,
};

/* The first sound track of the bytes, whatever their container: ceil(n 16000 / rate) samples. UM_E_DATA says what is wrong;
 * more than `seconds` is refused as soon as it is known. Memory: arena; on error nothing is kept. Same bytes, same bits, on every
 * x86-64 processor: libavcodec runs without its vector kernels here (free-format MP3 apart, ADR 10). Thread: one at a time in a process. */
um_status um_wave_read(um_wave *out, const uint8_t *bytes, size_t n, int64_t seconds,
                       um_arena *arena, um_err *err);
/* Whether a rate is one that is read; UM_E_DATA. */
um_status um_wave_rate_ok(int rate, um_err *err);
