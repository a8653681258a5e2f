/* Frames of a video, spread over it as the reference spreads them (spec 2.2). */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "encoder_worker/frontend/image.h"

typedef struct um_video_limits {
    int64_t pixels; /* of a frame */
    int64_t seconds;
} um_video_limits;

/* Takes each frame as it is found; p lives until it returns. */
typedef um_status (*um_video_take)(void *ctx, const um_image *p, um_err *err);

/* n_total = int(duration * fps); step = n_total / want; frame i of `want` is the one that is shown at (i * step) / fps, counted
 * from the first frame; so a frame that is held long comes more than once. The duration ends where the file does, its sound included.
 * A video with n_total < want gives each of its frames once, as does one of a single frame: the reference, whose step is then 0, takes the
 * first frame `want` times over. The file's quarter turns and mirroring are applied, as players and the reference's reader do.
 * Frames come in order of time. UM_E_DATA says what is wrong with the video. Memory: scratch, given back. */
um_status um_video_read(const uint8_t *bytes, size_t n, int want, const um_video_limits *limits,
                        um_video_take take, void *ctx, um_arena *scratch, um_err *err);
