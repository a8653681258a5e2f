/* The speech tower: log-mel, a Whisper encoder (spec 2.4), and a Whisper decoder fed with learned queries that turns every window into
 * a fixed number of rows of the language model's width (spec 3.2). */
#pragma once

#include "core/nn/params.h"
#include "encoder_worker/frontend/wave.h"

typedef struct um_speech um_speech;

/* Loads the tower, its aligner and its projector, which ps lists, and releases their mapped pages. ps must outlive *out, which lives in
 * its host arena. UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_speech_load(um_speech **out, um_params *ps, um_err *err);

typedef struct um_speech_acts um_speech_acts;

/* Activations of one window, in host. Memory: host, device (tower_parts.h). dim_out: width of the language model. */
um_speech_acts *um_speech_acts_bind(um_arena *host, um_arena *device, const um_speech_model *m,
                                    int dim_out, bool keep);

/* Number of rows for n samples: windows x queries. exact: windows of 480000 samples; else the reference's rule, which uses 480001 and
 * so loses one sample of every full window (spec 2.3, 12 #7). 0 for an empty wave. */
int64_t um_speech_rows(const um_speech_model *m, int64_t n, bool exact);

/* rows[um_speech_rows, dim], device memory, of wave[n] on the host, 16 kHz mono; its windows one after another use the same a. The
 * result is bit-identical for every thread count and instruction set. UM_E_DATA when a sample is not finite. Memory: host, released
 * before returning. */
um_status um_speech_encode(float *rows, const um_speech *s, um_speech_acts *a, const float *wave,
                           int64_t n, bool exact, um_dev *dev, um_arena *host, um_err *err);
