/* Media files to images and waves, in a process of its own: unimoe-decoder, which has no network, no files, few system calls and
 * bounded memory and time. Whatever a media file does to a decoder costs one request; the next one gets a fresh process.
 *
 * A um_decoder owns at most one such process: started at the first use, killed and reaped when it dies, is stuck or lies. */
#pragma once

#include "encoder_worker/frontend/image.h"
#include "encoder_worker/frontend/wave.h"

#include <stddef.h>

/* What one file may cost; checked in the decoder before memory is asked for, and again by whoever reads the answer. */
typedef struct um_media_limits {
    int64_t pixels;  /* of one image or frame */
    int64_t seconds; /* of audio, and of a video */
    int64_t frames;  /* images returned of one video */
    int64_t wait_ms; /* for one file */
} um_media_limits;

typedef struct um_decoder um_decoder;

/* program: path of unimoe-decoder; "" looks beside the running program, then in the folder above (a build folder's tests). Starts
 * nothing yet. UM_E_USAGE when the program is not there. */
um_status um_decoder_open(um_decoder **out, const char *program, const um_media_limits *limits,
                          um_err *err);
/* Whether images are turned as their EXIF data say; at first they are not, as in the reference. */
void um_decoder_orient(um_decoder *d, bool orient);
void um_decoder_close(um_decoder *d); /* accepts NULL; kills and reaps the process */

/* All three: name is for messages; UM_E_DATA says what is wrong with the file, in one sentence that begins with name (also when the
 * decoder crashed on it, took too long or told nonsense); UM_E_IO, that no decoder can be started here, whatever the file: the
 * program does not run, or the kernel cannot confine it. Files of more than UM_MEDIA_FILE_MAX bytes (decode_wire.h) are refused.
 * Results live in arena and are set on success only. Thread: one at a time; each thread may own a um_decoder. */
um_status um_decode_image(um_decoder *d, um_image *out, const char *name, const uint8_t *bytes,
                          size_t n, um_arena *arena, um_err *err);
/* Any format, rate and number of channels to 16 kHz mono: mean of the channels, then soxr HQ (spec 2.3). The sound track of a video
 * too. */
um_status um_decode_wave(um_decoder *d, um_wave *out, const char *name, const uint8_t *bytes,
                         size_t n, um_arena *arena, um_err *err);
/* want frames, spread over the video as the reference spreads them (spec 2.2). A video with fewer gives what it has, at least one.
 * All frames together may have UM_MEDIA_ANSWER_MAX bytes. */
um_status um_decode_video(um_decoder *d, um_image **frames, int *n_frames, int want,
                          const char *name, const uint8_t *bytes, size_t n, um_arena *arena,
                          um_err *err);
