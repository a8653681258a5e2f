/* The golden layers of the dynamic style (spec 10.1) as model directories of one layer, and such a layer computed in one piece,
 * without ranks. */
#pragma once

#include "core/nn/dynamic.h"
#include "core/nn/ffn.h"

/* Makes dir/config.json and dir/model.safetensors from golden/dynamic/NAME: its sizes and weights in layer 0, the rest of the
 * model small and random. */
void dynamic_model_make(const char *dir, const char *name, um_arena *a);

/* One layer's MoE block: gate, every expert over every row, the sum. */
typedef struct dynamic_layer {
    um_params params; /* of all parts, f32 */
    um_dynamic gate;
    um_linear gate_w;
    int blocks;        /* R routed, then F shared experts */
    um_ffn *ffn;       /* [blocks] */
    um_ffn_acts *acts; /* [blocks] */
    float **rows;      /* [blocks][S,D] */
    float *y;          /* [S,D] */
} dynamic_layer;

/* Loads layer 0 of ck and computes y from x [S,D]. real, drop: as um_dynamic_choose takes them. */
void dynamic_layer_run(dynamic_layer *l, const um_checkpoint *ck, const float *x, int S,
                       const uint8_t *real, bool drop, um_dev *dev, um_arena *a);
