/* Encodes one medium of any modality to rows of the language model's width: an encoder rank's work between request and answer. The way
 * from the medium to its rows is in medium.h, for training and inference alike. */
#pragma once

#include "core/options/config.h"
#include "core/comm/link.h"
#include "encoder_worker/decode/decoder.h"
#include "encoder_worker/towers/sound.h"
#include "encoder_worker/towers/speech.h"
#include "encoder_worker/towers/vision.h"

/* Towers and connectors of the modalities that this rank reads; only these are loaded. */
typedef struct um_towers_held {
    uint32_t set; /* modality.h */
    const um_model *model;
    um_vision vision;
    um_speech *speech;
    um_sound *sound;
} um_towers_held;

typedef struct um_encode {
    um_towers_held towers;
    um_decoder *decoder;
    um_dev *dev;
    um_arena *device; /* the device's memory for one item's activations */
    int video_frames;
    bool exact_windows;
    size_t max_values; /* limit of an item's rows: the capacity of one frame to the router */
} um_encode;

/* Loads the towers and connectors of the modalities in set; ps lists them and must outlive *e. */
um_status um_encode_load(um_encode *e, um_params *ps, uint32_t set, um_err *err);

/* After a change of weights: computes again what the towers keep of them. */
um_status um_encode_prepare(const um_encode *e, um_err *err);

/* UM_E_DATA: the request is not one that this rank can encode. */
um_status um_encode_check(const um_encode *e, const Um__EncodeRequest *req, um_err *err);
/* Rejects a medium whose rows would not fit into one frame before it is encoded, so that only this request fails. */
um_status um_encode_rows_fit(const um_encode *e, int64_t rows, const char *name, um_err *err);

/* Encodes a request to rows [*n, D] on the host, in step, where what was decoded stays too. A video is the mean of its frames' rows (spec
 * 2.2). UM_E_DATA when the medium cannot be used. */
um_status um_encode_item(const um_encode *e, float **rows, int *n, const Um__EncodeRequest *req,
                         um_arena *step, um_err *err);
