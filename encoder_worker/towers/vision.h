/* The image tower: CLIP's ViT (spec 2.1) and the projector to the language model's width (spec 3.1). Pixels in, rows out: the last step
 * for an image (bytes -> image -> pixels -> rows). */
#pragma once

#include "encoder_worker/towers/tower_parts.h"

typedef struct um_vision_block {
    um_norm norm1, norm2;
    um_attention attention; /* q, k and v [D,D] */
    um_mlp mlp;             /* [F,D], [D,F] */
} um_vision_block;

typedef struct um_vision {
    const um_vision_model *model;
    um_linear patch;        /* [D, channels*patch*patch] */
    const float *class_row; /* [D] */
    const float *positions; /* [1+patches, D] */
    um_norm pre;
    um_vision_block *blocks; /* [run_layers]; layers after the selected feature are not loaded */
    um_linear *projector;    /* [proj_layers] */
    int dim_out;             /* width of the language model */
    um_params *params;       /* of which all this was loaded */
} um_vision;

/* Loads the tower and the projector, which ps lists, and releases their mapped pages. *out points into ps and its model, which must
 * outlive it. UM_E_MODEL names the tensor, its expected shape and its actual shape. */
um_status um_vision_load(um_vision *out, um_params *ps, um_err *err);

um_attention_shape um_vision_attention(const um_vision_model *m);

/* mid = in + attention(norm1(in)), out = mid + mlp(norm2(mid)). in, mid and out are one buffer unless they are kept, as are norm1 and
 * norm2. */
typedef struct um_vision_layer_acts {
    float *in, *mid, *out; /* [T,D] */
    float *norm1, *norm2;  /* [T,D] what the norms write */
    um_attention_acts attention;
    um_mlp_acts mlp;
} um_vision_layer_acts;

/* The activations of some images, one behind the other. T rows: class row and patches of each. */
typedef struct um_vision_acts {
    int images;
    float *staged; /* host: what becomes cols */
    float *cols;   /* [images*patches, channels*P*P] */
    float *sum;    /* [T,D] rows and positions, before the first norm */
    float *first;  /* [T,D] what the first layer reads */
    float *last;   /* [T,D] what the last layer writes */
    float *
        features; /* [um_vision_rows, D] the rows of it that the projector reads, of the first image */
    size_t next_features;        /* floats from one image's to the next one's */
    um_span *span;               /* host [images] */
    int32_t *key_row;            /* host [images] */
    um_vision_layer_acts *layer; /* [run_layers] */
    um_attention_pages pages;
    um_projector_acts **projector; /* [images] */
} um_vision_acts;

/* For forward from a point: of what stands before it nothing is bound but the values there (um_vision_at). keep: for backward down to it.
 * Memory: host, device (tower_parts.h). dim_out: width of the language model. */
void um_vision_acts_bind(um_vision_acts *a, um_arena *host, um_arena *device,
                         const um_vision_model *m, int dim_out, um_tower_point from, bool keep);

/* The same for several images that go through the tower together: gradients of weights are sums over all of their rows at once. */
void um_vision_acts_bind_images(um_vision_acts *a, int images, um_arena *host, um_arena *device,
                                const um_vision_model *m, int dim_out, um_tower_point from,
                                bool keep);

/* Where forward writes the values of a point, of the first image, and backward reads them: host memory at UM_AT_INPUT, else device. */
float *um_vision_at(const um_vision_acts *a, um_tower_point at);
/* How many there are of one image; those of the next follow. */
size_t um_vision_values(const um_vision_model *m, um_tower_point at);

/* The values at UM_AT_INPUT, into a, of pixels[channels, S, S] on the host. UM_E_DATA when one is not finite. */
um_status um_vision_input(um_vision_acts *a, const um_vision_model *m, const float *pixels,
                          um_err *err);
/* From the values at one point, in a, to those at a later one: into a or, at UM_AT_ROWS, into rows [images*um_vision_rows, dim_out]. */
void um_vision_fwd(float *rows, const um_vision *v, um_vision_acts *a, um_tower_point from,
                   um_tower_point to, um_dev *dev);
/* Backward of um_vision_fwd from a point to UM_AT_ROWS, with the a that it has written: the gradients of what is trained += ..., from drows
 * [images*um_vision_rows, dim_out]. scratch: device memory. */
void um_vision_bwd(const um_vision *v, const um_vision_acts *a, um_tower_point from,
                   const float *drows, um_dev *dev, um_arena *scratch);

/* rows[um_vision_rows, dim_out], device memory, of pixels[channels, S, S] on the host. The result is bit-identical for every thread
 * count and instruction set. UM_E_DATA when a pixel is not finite. */
um_status um_vision_encode(float *rows, const um_vision *v, um_vision_acts *a, const float *pixels,
                           um_dev *dev, um_err *err);
