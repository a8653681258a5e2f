/* What an encoder rank needs beside its weights for one piece of media: the launcher's plan of memory reads it. */
#pragma once

#include "core/model/modality.h"
#include "core/model/model.h"
#include "encoder_worker/towers/tower_parts.h"

#include <stddef.h>

typedef struct um_tower_bytes {
    size_t host;   /* pixels or samples, what is on its way to the device, rows on their way back */
    size_t device; /* activations and rows */
} um_tower_bytes;

/* Bytes for one image, or for one window of speech or sound: measured by binding the activations. Media before they are decoded are
 * not counted. Zero for text and where the model has no such tower. */
um_tower_bytes um_tower_bytes_of(const um_model *m, um_modality modality);
/* What an encoder rank keeps of one image or window until the gradient of its rows comes: its input, its rows, and the activations behind
 * the point `from`, below which nothing is trained. */
size_t um_tower_kept_bytes(const um_model *m, um_modality modality, um_tower_point from);
