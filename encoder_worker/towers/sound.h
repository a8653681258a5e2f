/* The sound tower: a Kaldi-compatible filter bank, BEATs (spec 2.5), and a Q-Former that turns every window into a fixed number of rows
 * of the language model's width (spec 3.3). */
#pragma once

#include "core/nn/params.h"
#include "encoder_worker/frontend/wave.h"

typedef struct um_sound um_sound;

/* Loads the tower, its Q-Former and its projector, which ps lists, and releases their mapped pages. ps must outlive *out, which lives in
 * its host arena. UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_sound_load(um_sound **out, um_params *ps, um_err *err);

/* Computes again what is kept of weights that have changed (um_beats_prepare); um_sound_load has done it once. */
um_status um_sound_prepare(um_sound *s, um_err *err);

typedef struct um_sound_acts um_sound_acts;

/* Activations of one window, in host. Memory: host, device (tower_parts.h). dim_out: width of the language model. */
um_sound_acts *um_sound_acts_bind(um_arena *host, um_arena *device, const um_sound_model *m,
                                  int dim_out, bool keep);

/* Number of rows for n samples: windows x queries, where a window is window_seconds of the model, by default 480000 samples (spec 2.3).
 * 0 for an empty wave. */
int64_t um_sound_rows(const um_sound_model *m, int64_t n);

/* rows[um_sound_rows, dim], device memory, of wave[n] on the host, 16 kHz mono; its windows one after another use the same a. The result
 * is bit-identical for every thread count and instruction set. UM_E_DATA when a sample is not finite. Memory: host, released before
 * returning. */
um_status um_sound_encode(float *rows, const um_sound *s, um_sound_acts *a, const float *wave,
                          int64_t n, um_dev *dev, um_arena *host, um_err *err);
