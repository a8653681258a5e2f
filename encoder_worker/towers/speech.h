/* The speech tower: log-mel, a Whisper encoder (spec 2.4), and a Whisper decoder fed with learned queries that turns every window into
 * a fixed number of rows of the language model's width (spec 3.2). */
#pragma once

#include "encoder_worker/frontend/wave.h"
#include "encoder_worker/towers/tower_parts.h"

typedef struct um_speech um_speech;

/* Loads the tower, its aligner and its projector, which ps lists, and releases their mapped pages. ps must outlive *out, which lives in
 * its host arena. UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_speech_load(um_speech **out, um_params *ps, um_err *err);

typedef struct um_speech_acts um_speech_acts;

/* Activations of one window for forward from a point, in host: of what stands before it nothing is bound but the values there
 * (um_speech_at). keep: for backward down to it. Memory: host, device (tower_parts.h). dim_out: width of the language model. */
um_speech_acts *um_speech_acts_bind(um_arena *host, um_arena *device, const um_speech_model *m,
                                    int dim_out, um_tower_point from, bool keep);

/* Where forward writes the values of a point, and backward reads them: host memory at UM_AT_INPUT, else the device's. */
float *um_speech_at(const um_speech_acts *a, um_tower_point at);
/* How many there are. */
size_t um_speech_values(const um_speech_model *m, um_tower_point at);

/* Samples of a window, and between the starts of two adjacent ones. */
int64_t um_speech_window(const um_speech_model *m);
int64_t um_speech_step(const um_speech_model *m, bool exact);

/* The values at UM_AT_INPUT, into a, of one window: wave[n] on the host, finite, n at most um_speech_window. Memory: host, released before
 * returning. */
void um_speech_input(um_speech_acts *a, const um_speech *s, const float *wave, int64_t n,
                     um_arena *host);
/* From the values at one point, in a, to those at a later one: into a or, at UM_AT_ROWS, into rows [queries, dim_out]. */
void um_speech_fwd(float *rows, const um_speech *s, um_speech_acts *a, um_tower_point from,
                   um_tower_point to, um_dev *dev);
/* Backward of um_speech_fwd from a point to UM_AT_ROWS, with the a that it has written: the gradients of what is trained += ..., from drows
 * [queries, dim_out]. scratch: device memory. */
void um_speech_bwd(const um_speech *s, const um_speech_acts *a, um_tower_point from,
                   const float *drows, um_dev *dev, um_arena *scratch);

/* Number of rows for n samples: windows x queries. exact: windows of 480000 samples; else the reference's rule, which uses 480001 and
 * so loses one sample of every full window (spec 2.3, 12 #7). 0 for an empty wave. */
int64_t um_speech_rows(const um_speech_model *m, int64_t n, bool exact);

/* rows[um_speech_rows, dim], device memory, of wave[n] on the host, 16 kHz mono; its windows one after another use the same a. The
 * result is bit-identical for every thread count and instruction set. UM_E_DATA when a sample is not finite. Memory: host, released
 * before returning. */
um_status um_speech_encode(float *rows, const um_speech *s, um_speech_acts *a, const float *wave,
                           int64_t n, bool exact, um_dev *dev, um_arena *host, um_err *err);
