/* The mean of a video's frames, row by row (spec 2.2). Frames are added in blocks, each in order from zero, and then the blocks in order,
 * so that many frames do not lose accuracy. */
#pragma once

#include "core/tensor/ops.h"

enum { UM_FRAME_BLOCK = 16 };

typedef struct um_frame_mean {
    um_dev *dev;
    float *total, *block; /* device [values]: of all blocks; of the open one */
    size_t values;
    int open, frames; /* frames in block, and in all */
} um_frame_mean;

/* Memory: device. values: of a frame's rows. */
void um_frame_mean_begin(um_frame_mean *m, um_dev *dev, um_arena *device, size_t values);
void um_frame_mean_add(um_frame_mean *m, const float *frame);
/* The mean, in m->total. At least one frame has been added. */
void um_frame_mean_end(um_frame_mean *m);
