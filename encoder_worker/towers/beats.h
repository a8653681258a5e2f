/* BEATs, the encoder of the sound tower (spec 2.5): one window of wave in, one row for every patch of the filter bank out. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/frontend/fbank.h"
#include "encoder_worker/towers/tower_parts.h"
#include "encoder_worker/frontend/wave.h"

typedef struct um_beats_layer {
    um_linear q, kv, out; /* [D,D], [2D,D], [D,D] */
    um_linear fc1, fc2;   /* [F,D], [D,F] */
    um_norm attn_norm, end_norm;
    um_linear grep;      /* [8, head_dim] of the gate; none unless the model is gated */
    const float *grep_a; /* [heads] */
} um_beats_layer;

typedef struct um_beats {
    const um_sound_model *model;
    um_fbank fbank;
    int frames, rows;      /* of one window: filter bank, patches */
    um_linear patch;       /* [patch_dim, patch*patch] */
    um_norm patch_norm;    /* [patch_dim] */
    um_linear project;     /* [D, patch_dim]; none where the two are equal */
    const um_matrix *conv; /* [groups] of [D/groups, conv_pos * D/groups] */
    const float *conv_bias;
    um_norm norm;
    const float *table; /* [heads, 2 rows - 1] bias of every distance */
    int reach;          /* keys so far before a query, or further, have all the same bias */
    um_beats_layer *layers;
} um_beats;

/* Packs the tower and lets its mapped pages go. UM_E_MODEL names the tensor, the wanted and the found shape. Memory: l->model. */
um_status um_beats_load(um_beats *out, const um_sound_model *m, const um_tower_loader *l);

/* Bucket of the distance from a query to a key (key - query), of `buckets` in all: the nearer ones have one each, the others share
 * them logarithmically up to max_distance; the upper half is for keys behind the query. */
int um_beats_bucket(int distance, int buckets, int max_distance);

/* Rows of a window that belong to the n samples before its padding (1..UM_WAVE_WINDOW). Two reductions by "all" (spec 2.5): a frame
 * is padding when its block of samples is, a row when its block of frames is; what does not divide is left out at the end. */
int um_beats_real_rows(const um_beats *b, int64_t n);

/* x[b->rows, D] of wave[n], 1 <= n <= UM_WAVE_WINDOW, which goes on with its last value to the end of the window: padding, which
 * nothing attends to. Memory: scratch, given back. */
void um_beats_encode(float *x, const um_beats *b, const float *wave, int64_t n, um_dev *dev,
                     um_arena *scratch);
