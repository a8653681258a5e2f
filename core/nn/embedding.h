/* The token table [V,D] as rows: read from the mapped file, or from the master when it is trained. With a tied model the table is the
 * head's matrix too: one parameter, whose gradient has both parts. */
#pragma once

#include "core/nn/linear.h"

typedef struct um_embedding {
    um_param *table;
} um_embedding;

um_status um_embedding_load(um_embedding *out, um_params *ps, um_place at, um_err *err);

/* Row i of out[n,D] = row ids[i] of the table; where ids[i] is negative the row is left as it is. ids: host, below V. out, device:
 * device memory. */
void um_embed_rows(um_dev *d, float *out, const um_embedding *e, const int32_t *ids, int n,
                   um_arena *host, um_arena *device);
/* The gradient of row ids[i] += dy[i], i in order, when the table is trained. */
void um_embed_bwd(um_dev *d, const um_embedding *e, const float *dy, const int32_t *ids, int n,
                  um_arena *device);
