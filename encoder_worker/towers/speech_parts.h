/* The packed speech tower: speech_load.c fills it, speech.c runs it. */
#pragma once

#include "encoder_worker/frontend/mel.h"
#include "encoder_worker/towers/speech.h"
#include "encoder_worker/towers/tower_parts.h"

/* The activations of a layer: mid = in + attention(self_norm(in)); in the decoder cross = mid + attention to the encoder's rows, of
 * cross_norm(mid); out = cross (or mid) + mlp(ffn_norm(cross)). in, mid, cross and out are one buffer unless they are kept, as are the
 * three norms. */
typedef struct um_speech_layer_acts {
    float *in, *mid, *cross, *out;            /* [T,D] */
    float *self_norm, *cross_norm, *ffn_norm; /* [T,D] what the norms write */
    um_attention_acts self_attention, cross_attention;
    um_mlp_acts mlp;
} um_speech_layer_acts;

/* A stack of layers: the encoder's, T = positions, or the decoder's, T = queries. */
typedef struct um_speech_stack_acts {
    float *first, *last; /* [T,D] what the first layer reads, what the last one writes */
    float *normed;       /* [T,D] last after the stack's norm */
    um_speech_layer_acts *layer;
} um_speech_stack_acts;

struct um_speech_acts {
    float *staged; /* host: the log-mel frames */
    float *mel;    /* [2T+2, bins] frames between two rows of zeros, T = positions */
    /* [2T,D], [2T+2,D] the first convolution, and GELU of it between two rows of zeros */
    float *conv1, *act1;
    float *conv2; /* [T,D] */
    um_speech_stack_acts encoder, decoder;
    um_attention_pages pages;
    um_projector_acts *projector;
};

/* A layer of the encoder or of the decoder; only the decoder has cross-attention. */
typedef struct um_speech_layer {
    um_norm self_norm, cross_norm, ffn_norm;
    um_attention self;  /* qkv [3D,D] */
    um_attention cross; /* q [D,D], kv [2D,D] of the encoder's rows */
    um_mlp mlp;         /* [F,D], [D,F] */
} um_speech_layer;

/* D rows' width. layers: QKV in self-attention, Q_KV in cross-attention. */
um_attention_shape um_speech_attention(int D, int heads, um_attention_layers layers);

struct um_speech {
    const um_speech_model *model;
    um_mel mel;
    um_linear conv1, conv2;   /* [D, 3*bins], [D, 3*D], tap after tap */
    const float *positions;   /* [model->positions, D] */
    um_speech_layer *encoder; /* [layers] */
    um_norm encoder_norm;
    const float *queries;         /* [queries, D] */
    const float *query_positions; /* [dec_positions, D]; the queries stand at 0, 1, ... */
    um_speech_layer *decoder;     /* [dec_layers] */
    um_norm decoder_norm;
    um_linear *projector; /* [proj_layers] */
    int dim_out;          /* width of the language model */
    um_params *params;    /* of which all this was loaded */
};
