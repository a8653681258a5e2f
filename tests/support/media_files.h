/* Files and helpers of the decoder's tests: loading, made-up WAVs, what a made-up sound or frame must be. */
#pragma once

#include "core/base/arena.h"
#include "encoder_worker/frontend/image.h"
#include "encoder_worker/frontend/wave.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct media_blob {
    uint8_t *data;
    size_t n;
} media_blob;

/* A file of the tests folder; ends the test program when it is not there. */
media_blob media_load(um_arena *arena, const char *name);

typedef struct media_wav {
    int format; /* 1 integers, 3 floats */
    int bits, channels, rate;
    uint32_t declared; /* bytes of the data chunk by its header; 0 = as many as there are */
} media_wav;
/* A WAV around n bytes of samples. */
media_blob media_wav_make(um_arena *arena, const media_wav *w, const void *samples, size_t n);

/* The largest difference between the wave and the sound of media/tones.* over samples from..to. */
double media_tones_off(const um_wave *w, int64_t from, int64_t to);

/* Frame k of media/count.*: true when every pixel is within slack of its colour. */
bool media_is_frame(const um_image *p, int k, int slack);

/* Children of this process, zombies too; the id of the last in *pid unless NULL. */
int media_children(int *pid);
int media_open_files(void);
