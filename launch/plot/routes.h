/* The contents of a routing file (docs/ROUTING.md), as numbers to draw. */
#pragma once

#include "core/base/arena.h"
#include "core/base/json.h"
#include "core/model/model.h"

typedef struct um_routes {
    const char *path, *name; /* name: the file name without folder and .csv */
    const char *model, *variant;
    int layers, experts, top_k;
    int64_t requests, failed;
    int *layer; /* [moe_layers] their numbers, in rising order */
    int moe_layers;
    bool counted[UM_PHASES];    /* phases that are drawn */
    bool seen[UM_MODALITIES];   /* modalities that have tokens */
    uint64_t **cell[UM_PHASES]; /* [moe_layers * modalities] tokens [experts], or NULL */
} um_routes;

/* Reads path and keeps the rows of one phase ("prefill" "decode") or of "all". A file that is not a routing file, lacks a column,
 * has a number out of range or the same cell twice, or has no such rows is UM_E_DATA; the message names the line. Memory: arena. */
um_status um_routes_read(um_routes *out, const char *path, const char *phase, um_arena *arena,
                         um_err *err);
/* Verifies that the two runs can be subtracted; the message of UM_E_DATA says what differs. */
um_status um_routes_alike(const um_routes *a, const um_routes *b, um_err *err);

/* Tokens of a modality (-1: all) in layers l0 <= l < l1 (positions in the list) that went to experts e0 <= e < e1. */
double um_routes_sum(const um_routes *r, int modality, int l0, int l1, int e0, int e1);
