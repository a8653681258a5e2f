/* The sound tower: a Kaldi-compatible filter bank, BEATs (spec 2.5), and a Q-Former that turns every window into a fixed number of rows
 * of the language model's width (spec 3.3). */
#pragma once

#include "core/nn/checkpoint.h"
#include "core/tensor/ops.h"
#include "encoder_worker/frontend/wave.h"

typedef struct um_sound um_sound;

/* Packs the tower, its Q-Former and its projector and releases their mapped pages. weights: auto, f32, bf16 (linear.h). ck must outlive
 * *out, which lives in model. UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_sound_load(um_sound **out, const um_checkpoint *ck, um_dev *dev, const char *weights,
                        um_arena *model, um_err *err);

/* Number of rows for n samples: windows of 480000 samples x queries (spec 2.3). 0 for an empty wave. */
int64_t um_sound_rows(const um_sound_model *m, int64_t n);

/* rows[um_sound_rows, dim] of wave[n], 16 kHz mono. The result is bit-identical for every thread count and instruction set. Memory:
 * scratch, released before returning. */
um_status um_sound_encode(float *rows, const um_sound *s, const float *wave, int64_t n, um_dev *dev,
                          um_arena *scratch, um_err *err);
