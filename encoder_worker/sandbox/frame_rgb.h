/* A decoded video frame to RGB: the one door to libswscale. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "encoder_worker/frontend/image.h"

#include <libavutil/frame.h>

/* How a frame is to be shown: clockwise quarter turns, after a swap of left and right where it is mirrored. */
typedef struct um_turn {
    int quarters; /* 0..3 */
    bool mirrored;
} um_turn;

/* The frame as 8-bit RGB by its own colour matrix and range (BT.601 and limited where it does not say, as ffmpeg takes it), alpha
 * dropped, turned. Same bits on every processor. Memory: arena. */
um_status um_frame_rgb(um_image *out, const AVFrame *f, um_turn turn, int64_t max_pixels,
                       um_arena *arena, um_err *err);
