/* Sound as input of the encoders: 16 kHz, one channel, f32 in [-1, 1]. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdint.h>

enum {
    UM_WAVE_RATE = 16000,
    UM_WAVE_WINDOW = 480000, /* samples of one window: 30 s */
};

typedef struct um_wave {
    float *samples; /* [n] */
    int64_t n;
} um_wave;
