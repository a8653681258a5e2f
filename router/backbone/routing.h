/* Counters of what the gates decide: for every MoE layer, modality and expert, and separately for rows of prompts (prefill) and rows of
 * new tokens (decode), since the two differ: a prompt brings its media, a new token is always text.
 *
 * They exist only with --routing. Each router counts its own rows; at the end router 0 asks the others for their counters, adds
 * them and writes one file. All counters are integers, so the sums do not depend on the order of rows, chunks and
 * routers: the same requests give the same bytes, however they are divided.
 *
 * The file (docs/ROUTING.md) is CSV: lines that begin with #, a line of column names, one line for each cell that is not zero. */
#pragma once

#include "core/base/json.h"
#include "core/comm/link.h"
#include "core/model/model.h"

/* A weight counts in units of 2^-28: finer than an f32 near 1, and 2^36 rows of one expert fit. */
enum { UM_WEIGHT_BITS = 28 };
/* Weights are probabilities: a value outside 0..1 counts as the nearer end, NaN as 0. */
uint64_t um_weight_units(float weight);

typedef struct um_routed {
    uint64_t tokens; /* rows that went to the expert, whichever slot */
    uint64_t first;  /* those whose first choice it was */
    uint64_t weight; /* sum of their weights, in units of 2^-UM_WEIGHT_BITS */
} um_routed;

typedef struct um_routing um_routing;

/* The model must stay. Memory: one counter an expert for every phase, layer and modality that occurs. */
um_routing *um_routing_open(const um_model *m);
void um_routing_close(um_routing *r); /* accepts NULL */

/* T rows of one phase: experts and weights [T,K] in slot order, modality [T] um_modality. A slot without an expert is -1; the
 * first choice is the first slot that has one. */
void um_routing_count(um_routing *r, int layer, um_phase phase, const uint8_t *modality,
                      const int32_t *experts, const float *weights, int T, int K);
/* One cell; zeros where nothing was counted. */
um_routed um_routing_at(const um_routing *r, int layer, um_phase phase, um_modality modality,
                        int expert);

/* Where a walk over the cells that are not zero stands; zero it to begin. */
typedef struct um_routing_for_each {
    int plane, expert;
} um_routing_for_each;
/* The next cells of one phase, layer and modality as a message, few enough for one frame. last: there are no more. Memory: arena. */
void um_routing_pack(const um_routing *r, um_routing_for_each *walk, Um__Routing *out,
                     um_arena *arena);
/* Adds the cells of a message of another router; checks every number. */
um_status um_routing_merge(um_routing *r, const Um__Routing *m, um_err *err);

/* The answer to router 0's question: all cells, in as many frames as it takes. Thread: main. */
um_status um_routing_send(const um_routing *r, um_link *link, int peer, um_err *err);
/* Router 0: asks every other router, one after the other in rank order, and adds what they counted. Thread: main. */
um_status um_routing_collect(um_routing *r, um_link *link, um_err *err);

/* To be called before work that takes hours: the folder of path can be written to, path does not ask for an image, and the model has
 * routed experts. */
um_status um_routing_check(const um_model *m, const char *path, um_err *err);
/* The text of the file. */
void um_routing_text(const um_routing *r, um_text *out, int64_t requests, int64_t failed);
/* Writes it to path, whole or not at all. */
um_status um_routing_write(const um_routing *r, const char *path, int64_t requests, int64_t failed,
                           um_err *err);
