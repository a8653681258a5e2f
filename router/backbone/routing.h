/* Counters of the gates' decisions: for every MoE layer, modality and expert, and separately for rows of prompts (prefill) and of new
 * tokens (decode). The two phases differ: a prompt contains media, a new token is always text.
 *
 * They exist only with --routing. Each router counts its own rows; at the end router 0 requests the counters of the others, adds them
 * and writes one file. All counters are integers, so the sums do not depend on the order of rows, chunks and routers: the same requests
 * give the same bytes, however they are distributed.
 *
 * The file (docs/ROUTING.md) is CSV: lines that begin with #, a line of column names, one line for each nonzero cell. */
#pragma once

#include "core/base/json.h"
#include "core/comm/link.h"
#include "core/model/model.h"

/* A weight counts in units of 2^-28: finer than an f32 near 1, and 2^36 rows of one expert fit. */
enum { UM_WEIGHT_BITS = 28 };
/* Weights are probabilities: a value outside 0..1 is clamped, NaN counts as 0. */
uint64_t um_weight_units(float weight);

typedef struct um_routed {
    uint64_t tokens; /* rows sent to the expert, in any top-k slot */
    uint64_t first;  /* rows whose first choice is the expert */
    uint64_t weight; /* sum of their weights, in units of 2^-UM_WEIGHT_BITS */
} um_routed;

typedef struct um_routing um_routing;

/* The model must outlive it. Memory: one cell per expert for every phase, layer and modality that occurs. */
um_routing *um_routing_open(const um_model *m);
void um_routing_close(um_routing *r); /* accepts NULL */

/* T rows of one phase: experts and weights [T,K] in slot order, modality [T] um_modality. A slot without an expert is -1; the
 * first choice is the first slot that has one. */
void um_routing_count(um_routing *r, int layer, um_phase phase, const uint8_t *modality,
                      const int32_t *experts, const float *weights, int T, int K);
/* Sets all cells to zero. */
void um_routing_clear(um_routing *r);
/* The rows of a phase by expert: out [moe_layers, UM_MODALITIES, experts], in the order of the MoE layers. */
void um_routing_rows(const um_routing *r, um_phase phase, uint64_t *out);
/* One cell; zeros where nothing was counted. */
um_routed um_routing_at(const um_routing *r, int layer, um_phase phase, um_modality modality,
                        int expert);

/* Position of an iteration over the nonzero cells; set it to zero to begin. */
typedef struct um_routing_cursor {
    int plane, expert;
} um_routing_cursor;
/* Packs the next cells of one phase, layer and modality into a message that fits one frame. last: it is the last. Memory: arena. */
void um_routing_pack(const um_routing *r, um_routing_cursor *cursor, Um__Routing *out,
                     um_arena *arena);
/* Adds the cells of another router's message; checks every number. */
um_status um_routing_merge(um_routing *r, const Um__Routing *m, um_err *err);

/* Answers router 0's request: sends all cells, in as many frames as needed. Thread: main. */
um_status um_routing_send(const um_routing *r, um_link *link, int peer, um_err *err);
/* Router 0: requests the counters of every other router, in rank order, and adds them. Thread: main. */
um_status um_routing_collect(um_routing *r, um_link *link, um_err *err);

/* Call before work that takes hours: checks that the folder of path is writable, that path does not name an image, and that the model
 * has routed experts. */
um_status um_routing_check(const um_model *m, const char *path, um_err *err);
/* Composes the text of the file. */
void um_routing_text(const um_routing *r, um_text *out, int64_t requests, int64_t failed);
/* Writes the file to path, completely or not at all. */
um_status um_routing_write(const um_routing *r, const char *path, int64_t requests, int64_t failed,
                           um_err *err);
