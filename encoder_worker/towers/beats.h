/* BEATs, the encoder of the sound tower (spec 2.5): reads one window of a wave and writes one row for every patch of its filter bank. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/frontend/fbank.h"
#include "encoder_worker/towers/tower_parts.h"
#include "encoder_worker/frontend/wave.h"

typedef struct um_beats_layer {
    um_linear q, kv, out; /* [D,D], [2D,D], [D,D] */
    um_linear fc1, fc2;   /* [F,D], [D,F] */
    um_norm attn_norm, end_norm;
    um_linear grep;      /* [8, head_dim] of the gate; unset unless the model is gated */
    const float *grep_a; /* [heads] */
} um_beats_layer;

typedef struct um_beats {
    const um_sound_model *model;
    um_fbank fbank;
    int frames, rows;      /* of one window: filter bank, patches */
    um_linear patch;       /* [patch_dim, patch*patch] */
    um_norm patch_norm;    /* [patch_dim] */
    um_linear project;     /* [D, patch_dim]; unset where D = patch_dim */
    const um_matrix *conv; /* [groups] of [D/groups, conv_pos * D/groups] */
    const float *conv_bias;
    um_norm norm;
    const float *table; /* [heads, 2 rows - 1] bias for every distance */
    int reach;          /* keys at least this far before a query all have the same bias */
    um_beats_layer *layers;
} um_beats;

/* Packs the tower and releases its mapped pages. UM_E_MODEL names the tensor, its expected shape and its actual shape. Memory:
 * l->model. */
um_status um_beats_load(um_beats *out, const um_sound_model *m, const um_tower_loader *l);

/* Bucket of the distance from a query to a key (key - query), out of `buckets`: each short distance has a bucket of its own, longer
 * ones share buckets logarithmically up to max_distance. The upper half of the buckets is for keys after the query. */
int um_beats_bucket(int distance, int buckets, int max_distance);

/* Rows of a window that belong to the n samples before its padding (1..UM_WAVE_WINDOW). Two reductions by "all" (spec 2.5): a frame is
 * padding when its whole block of samples is padding, and a row when its whole block of frames is. The remainder of a division is left
 * out at the end. */
int um_beats_real_rows(const um_beats *b, int64_t n);

/* x[b->rows, D] of wave[n], 1 <= n <= UM_WAVE_WINDOW. The last value of the wave is repeated to the end of the window; this padding is
 * not attended to. Memory: scratch, released before returning. */
void um_beats_encode(float *x, const um_beats *b, const float *wave, int64_t n, um_dev *dev,
                     um_arena *scratch);
