/* The packed speech tower: speech_load.c fills it, speech.c runs it. */
#pragma once

#include "encoder_worker/frontend/mel.h"
#include "encoder_worker/towers/speech.h"
#include "encoder_worker/towers/tower_parts.h"

/* A layer of the encoder or of the decoder; only the decoder has cross-attention. */
typedef struct um_speech_layer {
    um_norm self_norm, cross_norm, ffn_norm;
    um_linear qkv, out;                     /* [3D,D], [D,D] */
    um_linear cross_q, cross_kv, cross_out; /* [D,D], [2D,D] of the encoder's rows, [D,D] */
    um_linear fc1, fc2;                     /* [F,D], [D,F] */
} um_speech_layer;

struct um_speech {
    const um_speech_model *model;
    um_mel mel;
    um_linear conv1, conv2;   /* [D, 3*bins], [D, 3*D], tap after tap */
    const float *positions;   /* [model->positions, D] */
    um_speech_layer *encoder; /* [layers] */
    um_norm encoder_norm;
    const float *queries;     /* [queries, D], with their positions added */
    um_speech_layer *decoder; /* [dec_layers] */
    um_norm decoder_norm;
    um_linear *projector; /* [proj_layers] */
    int dim_out;          /* width of the language model */
};
