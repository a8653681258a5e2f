/* Placement: which expert rank computes which expert of which layer. It has one owner: router 0 decides it and sends it with the job
 * config; every rank loads, routes and checks by what it was told. So there may be another placement for every layer, and an expert may
 * be on more than one rank. Answers do not depend on it: whichever rank computes a row, its bits are the same.
 *
 *   layer 0   expert  0   1   2   3            layer 1   expert  0   1   2   3
 *             ranks   0   0   1   1                      ranks   1  0,1  0   1      rows of expert 1: even ones to 0, odd ones to 1
 *
 * Expert ranks are meant by their index among the expert ranks. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct um_placement {
    int experts, ranks; /* E; expert ranks of the job */
    int layers;         /* lists: one for each layer of the model, or 1 that holds for all */
    int32_t *at;        /* [layers][E+1] where the owners of an expert begin in owner */
    int32_t *owner;     /* those of one expert in ascending order */
} um_placement;

/* How router 0 decides, unless um_config.placer says otherwise: rank x of X owns experts floor(x*E/X) .. floor((x+1)*E/X)-1 of every
 * layer. The numbers of two ranks differ by at most one; the last own none where there are more ranks than experts. UM_E_USAGE when
 * E > 0 and there is no expert rank. */
um_status um_placement_blocks(um_placement *out, int layers, int E, int ranks, um_arena *arena,
                              um_err *err);
/* UM_E_CORRUPT unless the sizes are those of the job, every expert of every layer that has experts (moe [layers]) has an owner, and
 * every owner is an expert rank, named once. */
um_status um_placement_check(const um_placement *p, int layers, int E, int ranks,
                             const uint8_t *moe, um_err *err);

/* The list of a layer. */
static inline const int32_t *um_placement_list(const um_placement *p, int layer)
{
    int list = p->layers == 1 ? 0 : layer;
    return p->at + (size_t)list * ((size_t)p->experts + 1);
}
/* The rank that computes `expert` of `layer` for row `row` of a micro-batch: of several owners, row modulo their number. */
static inline int um_placement_owner(const um_placement *p, int layer, int expert, int row)
{
    const int32_t *at = um_placement_list(p, layer) + expert;
    return p->owner[at[0] + row % (at[1] - at[0])];
}
bool um_placement_owns(const um_placement *p, int rank, int layer, int expert);
int um_placement_owned(const um_placement *p, int rank, int layer); /* experts of that layer */
