/* A medium on its way to its rows, cut into parts: an image, the frames of a video, the windows of a wave. Inference reads it as far as
 * the rows. In training its values are kept at the point where something begins to be trained: what stands before that point is computed
 * once for each medium. */
#pragma once

#include "encoder_worker/encode.h"
#include "encoder_worker/frame_mean.h"
#include "encoder_worker/towers/tower.h"

typedef struct um_medium_part {
    int real;      /* rows before the padding of a window of sound; else 0 */
    size_t values; /* how many */
    float *value;  /* [values] host memory */
} um_medium_part;

typedef struct um_medium {
    um_modality modality;
    um_tower_point at; /* where the values are; at UM_AT_ROWS one part has all rows */
    int rows;          /* that the medium makes */
    int parts;
    um_medium_part *part; /* [parts] */
} um_medium;

/* The tower that reads a modality, among those that e has loaded. */
um_tower um_medium_tower(const um_encode *e, um_modality modality);

/* Decodes a request that um_encode_check has accepted, and computes its values at a point. They lie in host, as what was decoded does;
 * e->device is used and reset. UM_E_DATA when the medium cannot be used: it cannot be decoded (the message begins with its name), a value
 * is not finite, or its rows do not fit into a frame. */
um_status um_medium_read(um_medium *out, const um_encode *e, um_tower_point at,
                         const Um__EncodeRequest *req, um_arena *host, um_err *err);

/* The rows of a medium in the device's memory, as its parts are computed in their order: one part's after the other's or, of a video, the
 * mean over its frames. */
typedef struct um_part_rows {
    bool video;
    size_t one;         /* values of a part's rows */
    float *rows, *next; /* [m->rows, D]; where those of the next part belong */
    um_frame_mean mean; /* of a video, whose frames use `rows` one after another */
} um_part_rows;

/* m: modality and rows. Memory: e->device. */
void um_part_rows_begin(um_part_rows *r, const um_encode *e, const um_medium *m);
/* A part's rows are at r->next, which then is the place of the following one's. */
void um_part_rows_add(um_part_rows *r);
/* The medium's rows [m->rows, D]; at least one part has been added. */
const float *um_part_rows_end(um_part_rows *r);

/* Bytes of a copy with its values. */
size_t um_medium_bytes(const um_medium *m);
/* A copy in memory of its own, one block: free with um_free. */
um_medium *um_medium_copy(const um_medium *m);
/* A copy in host, with its values or without. */
um_medium *um_medium_in(const um_medium *m, um_arena *host, bool with_values);
