/* A decoded video frame to RGB: the one door to libswscale. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "encoder_worker/frontend/image.h"

#include <libavutil/frame.h>

/* The frame as 8-bit RGB by its own colour matrix and range (BT.601 and limited where it does not say, as ffmpeg takes it), alpha
 * dropped, turned clockwise by quarter turns (0..3). Same bits on every processor. Memory: arena. */
um_status um_frame_rgb(um_image *out, const AVFrame *f, int turns, int64_t max_pixels,
                       um_arena *arena, um_err *err);
