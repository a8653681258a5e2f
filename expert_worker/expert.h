/* An expert rank: owns some experts of every MoE layer for the whole job and answers dispatch frames, in whatever order they come. When
 * the job does not train it keeps nothing between frames: one that comes twice is answered twice, with the same rows. What it keeps in
 * training is in expert_train.h. */
#pragma once

#include "core/options/config.h"
#include "core/comm/exchange.h"
#include "core/nn/ffn.h"

typedef struct um_experts {
    const um_model *model;
    int owned;      /* experts, those of all MoE layers counted */
    um_ffn *ffn;    /* [owned] */
    int32_t *at;    /* [moe layers][E] where an expert is in ffn, -1: on other ranks */
    int *moe_index; /* [layers] index among the MoE layers, -1 for dense layers */
    size_t weight_bytes;
} um_experts;

/* Loads the experts that expert rank number `me` owns; ps lists them and must outlive *out. */
um_status um_experts_load(um_experts *out, um_params *ps, const um_placement *place, int me,
                          um_err *err);

/* y (device) [pairs, D]: passes every pair's row through its expert. A pair is one (token row, expert) assignment of a dispatch batch. All
 * experts of a frame are computed together, in slices of the rows that acts has room for; acts holds the last slice afterwards. The
 * result of a row does not depend on the other rows. scratch: host. */
um_status um_experts_run(const um_experts *e, float *y, const um_dispatch_batch *batch,
                         um_expert_acts *acts, um_dev *dev, um_arena *scratch, um_err *err);

/* The groups of a batch's pairs from .. from+n-1, one for each expert that is among them, rows counted from `from`. Returns how many; group
 * has room for n. */
int um_experts_groups(um_ffn_group *group, const um_experts *e, const um_dispatch_batch *batch,
                      int from, int n);
/* UM_E_CORRUPT when the layer of a frame has no experts. */
um_status um_experts_layer(const um_experts *e, uint32_t layer, um_err *err);

/* The role: joins, loads, serves until shutdown. The caller keeps ownership of comm. Thread: the calling thread is the rank's main
 * thread. */
um_status um_expert_run(const um_config *cfg, um_comm *comm, um_err *err);
