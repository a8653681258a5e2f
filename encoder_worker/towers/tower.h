/* One tower with its connector and projector, of whichever modality: forward from any point on the way to any later one, and backward down
 * to the point where something begins to be trained. vision.h, speech.h and sound.h say what each function does. */
#pragma once

#include "encoder_worker/towers/sound.h"
#include "encoder_worker/towers/speech.h"
#include "encoder_worker/towers/vision.h"

/* One of the three is set. */
typedef struct um_tower {
    const um_model *model;
    const um_vision *vision;
    const um_speech *speech;
    um_sound *sound;
} um_tower;

typedef struct um_tower_acts {
    um_vision_acts vision;
    um_speech_acts *speech;
    um_sound_acts *sound;
} um_tower_acts;

/* The activations of one image or window for forward from a point; keep: with all that backward down to it needs. Memory: host, device. */
void um_tower_acts_bind(um_tower_acts *a, const um_tower *t, um_arena *host, um_arena *device,
                        um_tower_point from, bool keep);
/* Images or windows that go through a tower together in training: so many at most. */
int um_tower_at_once(const um_tower *t);
/* The same for `parts` of them, whose values and rows lie one behind the other. */
void um_tower_acts_bind_parts(um_tower_acts *a, int parts, const um_tower *t, um_arena *host,
                              um_arena *device, um_tower_point from, bool keep);
/* Where the values of a point are, and how many; at is not UM_AT_ROWS. real: of a window of sound, rows before its padding. */
float *um_tower_at(const um_tower_acts *a, const um_tower *t, um_tower_point at);
size_t um_tower_values(const um_tower *t, um_tower_point at, int real);
/* Rows of the language model that one image or window makes. */
int um_tower_rows(const um_tower *t);

/* How a wave is cut: samples of a window, and between the starts of two adjacent ones; rows of all windows of n samples. exact: of speech
 * (um_speech_rows). */
int64_t um_tower_window(const um_tower *t);
int64_t um_tower_step(const um_tower *t, bool exact);
int64_t um_tower_wave_rows(const um_tower *t, int64_t n, bool exact);
/* The values at UM_AT_INPUT, into a, of one window: wave[n] on the host, finite, n at most um_tower_window. Returns, of a window of sound,
 * the rows before its padding; else 0. Memory: host, released before returning. */
int um_tower_wave_input(um_tower_acts *a, const um_tower *t, const float *wave, int64_t n,
                        um_arena *host);

void um_tower_fwd(float *rows, const um_tower *t, um_tower_acts *a, um_tower_point from,
                  um_tower_point to, int real, um_dev *dev);
void um_tower_bwd(const um_tower *t, const um_tower_acts *a, um_tower_point from, int real,
                  const float *drows, um_dev *dev, um_arena *scratch);

/* The point below which nothing of the parts is trained: backward need not go further down. UM_AT_ROWS: nothing is trained. */
um_tower_point um_tower_lowest(const um_tower *t, const um_params *ps);
