/* An image as input of preprocessing: decoded from an image file, or one frame of a video. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdint.h>

typedef struct um_image {
    int w, h;
    uint8_t *rgb; /* [h, w, 3] */
} um_image;
