/* The sound tower: a Kaldi-compatible filter bank, BEATs (spec 2.5), and a Q-Former that turns every window into a fixed number of rows
 * of the language model's width (spec 3.3). */
#pragma once

#include "encoder_worker/frontend/wave.h"
#include "encoder_worker/towers/tower_parts.h"

typedef struct um_sound um_sound;

/* Loads the tower, its Q-Former and its projector, which ps lists, and releases their mapped pages. ps must outlive *out, which lives in
 * its host arena. UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_sound_load(um_sound **out, um_params *ps, um_err *err);

/* Computes again what is kept of weights that have changed (um_beats_prepare); um_sound_load has done it once. */
um_status um_sound_prepare(um_sound *s, um_err *err);

typedef struct um_sound_acts um_sound_acts;

/* Activations of one window for forward from a point, in host: of what stands before it nothing is bound but the values there
 * (um_sound_at). keep: for backward down to it. Memory: host, device (tower_parts.h). dim_out: width of the language model. */
um_sound_acts *um_sound_acts_bind(um_arena *host, um_arena *device, const um_sound_model *m,
                                  int dim_out, um_tower_point from, bool keep);

/* Where forward writes the values of a point, and backward reads them: host memory at UM_AT_INPUT, else the device's. */
float *um_sound_at(const um_sound_acts *a, um_tower_point at);
/* How many there are; at UM_AT_INPUT of a window with `real` rows before its padding. */
size_t um_sound_values(const um_sound_model *m, um_tower_point at, int real);

/* Samples of a window. */
int64_t um_sound_window(const um_sound_model *m);

/* The values at UM_AT_INPUT, into a, of one window: wave[n] on the host, finite, 1 <= n <= um_sound_window. Returns the rows before its
 * padding. Memory: host, released before returning. */
int um_sound_input(um_sound_acts *a, const um_sound *s, const float *wave, int64_t n,
                   um_arena *host);
/* From the values at one point, in a, to those at a later one: into a or, at UM_AT_ROWS, into rows [queries, dim_out]. real: of the window;
 * used from UM_AT_INPUT only. */
void um_sound_fwd(float *rows, const um_sound *s, um_sound_acts *a, um_tower_point from,
                  um_tower_point to, int real, um_dev *dev);
/* Backward of um_sound_fwd from a point to UM_AT_ROWS, with the a that it has written: the gradients of what is trained += ..., from drows
 * [queries, dim_out]. Those of what is computed from weights are complete after um_sound_grads. scratch: device memory. */
void um_sound_bwd(um_sound *s, const um_sound_acts *a, um_tower_point from, int real,
                  const float *drows, um_dev *dev, um_arena *scratch);
/* Adds what backward has summed up for weights that are used through a form computed from them (um_beats_grads). After the last window
 * whose gradients belong together. */
um_status um_sound_grads(um_sound *s, um_err *err);

/* Number of rows for n samples: windows x queries, where a window is window_seconds of the model, by default 480000 samples (spec 2.3).
 * 0 for an empty wave. */
int64_t um_sound_rows(const um_sound_model *m, int64_t n);

/* rows[um_sound_rows, dim], device memory, of wave[n] on the host, 16 kHz mono; its windows one after another use the same a. The result
 * is bit-identical for every thread count and instruction set. UM_E_DATA when a sample is not finite. Memory: host, released before
 * returning. */
um_status um_sound_encode(float *rows, const um_sound *s, um_sound_acts *a, const float *wave,
                          int64_t n, um_dev *dev, um_arena *host, um_err *err);
