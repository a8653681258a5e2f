/* BEATs, the encoder of the sound tower (spec 2.5): reads one window of a wave and writes one row for every patch of its filter bank. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/frontend/fbank.h"
#include "encoder_worker/towers/tower_parts.h"
#include "encoder_worker/frontend/wave.h"

typedef struct um_beats_layer {
    um_attention attention; /* q [D,D], kv [2D,D] */
    um_mlp mlp;             /* [F,D], [D,F] */
    um_norm attn_norm, end_norm;
    um_linear grep;      /* [8, head_dim] of the gate; unset unless the model is gated */
    const float *grep_a; /* [heads] */
} um_beats_layer;

typedef struct um_beats {
    const um_sound_model *model;
    um_fbank fbank;
    int frames, rows;    /* of one window: filter bank, patches */
    um_linear patch;     /* [patch_dim, patch*patch] */
    um_norm patch_norm;  /* [patch_dim] */
    um_linear project;   /* [D, patch_dim]; unset where D = patch_dim */
    um_matrix *conv;     /* [groups] of [D/groups, conv_pos * D/groups]: g v / |v| */
    const float *conv_g; /* [conv_pos] */
    const float *conv_bias;
    um_param *conv_v; /* [D, D/groups, conv_pos]; not in device memory unless it is trained */
    um_norm norm;
    const float *bias; /* [buckets, heads] */
    int32_t *buckets;  /* [2 rows - 1] the bucket of every distance */
    float *table;      /* [heads, 2 rows - 1] bias for every distance */
    float *gathered;   /* [2 rows - 1, heads] on the way from one to the other */
    int reach;         /* keys at least this far before a query all have the same bias */
    um_matrix *conv_t; /* [groups] the transposed conv; NULL until backward has run */
    float *conv_grad;  /* [D, conv_pos, D/groups] summed since um_beats_grads; likewise */
    float *table_grad; /* [heads, 2 rows - 1] likewise */
    bool summed;       /* there is something in them */
    um_beats_layer *layers;
    um_params *params; /* of which all this was loaded */
} um_beats;

#define UM_BEATS_EPS 1e-5f  /* of its norms; not in the model's config */
enum { UM_BEATS_GREP = 8 }; /* outputs of the gate's linear layer: two sums of four values */

um_attention_shape um_beats_attention(const um_sound_model *m);
/* What the input of a layer is multiplied by on the way past it (DeepNorm). */
float um_beats_alpha(const um_sound_model *m);

/* The rows of one window that are computed, and of these the ones before its padding. */
typedef struct um_beats_extent {
    int T, real;
} um_beats_extent;
um_beats_extent um_beats_extent_of(const um_beats *b, int real);

/* y = norm(a in + out(attention(in)));   out = norm(a y + mlp(y)),   a = (2 layers)^(1/4) */
typedef struct um_beats_layer_acts {
    um_postnorm_acts attend, feed;
    um_attention_acts attention;
    float *grep, *gate; /* [T, heads, 8], [T, heads] of the bias; unset unless the model is gated */
    um_mlp_acts mlp;
} um_beats_layer_acts;

/* The activations of one window: T rows are computed, the `real` ones before its padding are keys. Room for all rows of a window. */
typedef struct um_beats_acts {
    float *bank;   /* host: the filter bank's frames */
    float *staged; /* host: what becomes cols */
    float *cols;   /* [real, P*P] */
    float *raw;    /* [real, patch_dim] */
    float *normed; /* [real, patch_dim] */
    float *rows;   /* [T,D] */
    float *group;  /* [T + conv_pos, D/groups] one group's columns of rows, between zeros */
    /* [T,D] positions by a convolution, and GELU of it; one buffer unless they are kept */
    float *conv, *act;
    float *sum; /* [T,D] rows + act; rows itself unless it is kept */
    um_attention_pages pages;
    um_beats_layer_acts *layer; /* [layers] */
    float *first;               /* [T,D] what the first layer reads */
    float *out;                 /* [rows of a window, D] */
} um_beats_acts;

/* Memory: host, device (tower_parts.h). */
void um_beats_acts_bind(um_beats_acts *a, um_arena *host, um_arena *device, const um_sound_model *m,
                        bool keep);

/* Samples of a window, frames of its filter bank, and the rows that its patches make. */
int64_t um_beats_window(const um_sound_model *m);
int um_beats_frames(const um_sound_model *m);
int um_beats_rows(const um_sound_model *m);

/* Loads the tower, which ps lists and which must outlive it, and releases its mapped pages. It can encode after um_beats_prepare.
 * UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_beats_load(um_beats *out, um_params *ps, um_err *err);
/* Computes what is made of weights and kept: the normalised convolution, and the bias of every distance. Once after loading, and again
 * after each change of the weights. UM_E_MODEL when a tap of the convolution is zero. */
um_status um_beats_prepare(um_beats *b, um_err *err);

/* Bucket of the distance from a query to a key (key - query), out of `buckets`: each short distance has a bucket of its own, longer
 * ones share buckets logarithmically up to max_distance. The upper half of the buckets is for keys after the query. */
int um_beats_bucket(int distance, int buckets, int max_distance);

/* Rows of a window that belong to the n samples before its padding (1..um_beats_window). Two reductions by "all" (spec 2.5): a frame is
 * padding when its whole block of samples is padding, and a row when its whole block of frames is. The remainder of a division is left
 * out at the end. */
int um_beats_real_rows(const um_beats *b, int64_t n);

/* What um_beats_fwd reads, into a->staged, of wave[n] on the host, 1 <= n <= um_beats_window. The last value of the wave is repeated to the
 * end of the window. Returns the rows before this padding. Memory: host, released before returning. */
int um_beats_input(um_beats_acts *a, const um_beats *b, const float *wave, int64_t n,
                   um_arena *host);
/* a->out[b->rows, D] of a->staged with `real` rows before the padding, which is not attended to. */
void um_beats_fwd(um_beats_acts *a, const um_beats *b, int real, um_dev *dev);
/* Its backward, with the kept a that it has written, from dout [b->rows, D]: the gradients of what is trained += ...; those of the
 * convolution over positions and of the bias are summed in b until um_beats_grads. scratch: device memory. */
void um_beats_bwd(um_beats *b, const um_beats_acts *a, int real, const float *dout, um_dev *dev,
                  um_arena *scratch);
/* Adds the gradients of the weights of which um_beats_prepare computes something, and forgets what was summed. */
um_status um_beats_grads(um_beats *b, um_err *err);
