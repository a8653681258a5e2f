/* Where the rows of a training step went: how many of each modality each expert of each MoE layer had, and how even that is. Rows in any
 * slot of top-k count, so a row counts as often as it has experts. */
#pragma once

#include "core/base/json.h"
#include "core/base/text.h"
#include "core/model/model.h"

enum {
    UM_LOAD_CELLS = 1 << 20, /* MoE layers x modalities x experts up to which loads are counted */
    UM_LOAD_EXPERTS = 256    /* experts up to which they are listed one by one in a log */
};

typedef struct um_layer_load {
    int layer;            /* its number in the model */
    double max_over_mean; /* 1: even .. experts: one has all; NaN: there were no rows */
    double
        entropy; /* of the experts' shares, divided by that of even ones: 1: even .. 0; NaN as above */
    int idle;    /* experts without a row */
    const uint64_t *rows[UM_MODALITIES]; /* [experts], NULL: not listed, or none of that modality */
} um_layer_load;

typedef struct um_expert_load {
    int layers, experts; /* layers 0: not counted */
    um_layer_load *layer;
} um_expert_load;

/* Cells of a model's counts; 0 where it has no experts, or too many for counting. */
size_t um_expert_load_cells(const um_model *m);
/* rows: [moe_layers, UM_MODALITIES, experts] (um_routing_rows), which *out points into. Memory: arena. */
void um_expert_load_of(um_expert_load *out, const um_model *m, const uint64_t *rows,
                       um_arena *arena);
/* The least even layer's max_over_mean; the mean of entropy; all idle experts. NaN, NaN, 0 where there is nothing. */
double um_expert_load_max_over_mean(const um_expert_load *l);
double um_expert_load_entropy(const um_expert_load *l);
int um_expert_load_idle(const um_expert_load *l);

/* A list: {"layer":0,"max_over_mean":1.2,"entropy":0.97,"idle":0,"text":[12,9,3,8],"image":[...]} for each layer. */
void um_expert_load_json(um_text *out, const um_expert_load *l);
/* The same read back; layers 0 when j is no such list. Memory: arena. */
void um_expert_load_read(um_expert_load *out, const um_json *j, um_arena *arena);
