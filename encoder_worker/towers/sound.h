/* The sound tower: a Kaldi-compatible filter bank, BEATs (spec 2.5), and a Q-Former that brings every window to a fixed number of
 * rows of the language model's width (spec 3.3). Wave in, rows out. */
#pragma once

#include "core/nn/checkpoint.h"
#include "core/tensor/ops.h"
#include "encoder_worker/frontend/wave.h"

typedef struct um_sound um_sound;

/* Packs the tower, its Q-Former and projector and lets their mapped pages go. weights: auto, f32, bf16 (linear.h). ck must outlive
 * *out, which lives in model. UM_E_MODEL names the tensor, the wanted and the found shape. */
um_status um_sound_load(um_sound **out, const um_checkpoint *ck, um_dev *dev, const char *weights,
                        um_arena *model, um_err *err);

/* Rows that n samples become: windows of 480000 samples x queries (spec 2.3). 0 for an empty wave. */
int64_t um_sound_rows(const um_sound_model *m, int64_t n);

/* rows[um_sound_rows, dim] of wave[n], 16 kHz mono.
 * Memory: scratch, given back. The same bits for every thread count and instruction set. */
um_status um_sound_encode(float *rows, const um_sound *s, const float *wave, int64_t n, um_dev *dev,
                          um_arena *scratch, um_err *err);
