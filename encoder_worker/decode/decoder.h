/* Decodes media files to images and waves in a separate process, unimoe-decoder, which has no network, no files, few system calls and
 * bounded memory and time. Whatever a media file does to a decoder costs one request; the next request uses a fresh process.
 *
 * A um_decoder owns at most one such process: started on first use; killed and reaped when it exits, exceeds the time limit or violates
 * the protocol. */
#pragma once

#include "encoder_worker/frontend/image.h"
#include "encoder_worker/frontend/wave.h"

#include <stddef.h>

/* Limits for one file; the decoder checks them before it allocates memory, and the reader of the answer checks them again. */
typedef struct um_media_limits {
    int64_t pixels;  /* of one image or frame */
    int64_t seconds; /* of audio, and of a video */
    int64_t frames;  /* images returned for one video */
    int64_t wait_ms; /* for one file */
} um_media_limits;

typedef struct um_decoder um_decoder;

/* program: path of unimoe-decoder; "" looks beside the running program, then in the parent folder (a build folder's tests). Does not
 * start it yet. UM_E_USAGE when the program does not exist. */
um_status um_decoder_open(um_decoder **out, const char *program, const um_media_limits *limits,
                          um_err *err);
/* Whether images are turned as their EXIF data say; off by default, as in the reference. */
void um_decoder_orient(um_decoder *d, bool orient);
void um_decoder_close(um_decoder *d); /* accepts NULL; kills and reaps the process */

/* For all three functions: name is used in messages. UM_E_DATA: one sentence that begins with name and says what is wrong with the file
 * (also when the decoder crashed on it, exceeded the time limit or violated the protocol). UM_E_IO: a decoder cannot be started here,
 * whatever the file: the program does not run, or the kernel cannot confine it. Files of more than UM_MEDIA_FILE_MAX bytes
 * (decode_wire.h) are refused. Results live in arena and are set on success only. Thread: one at a time; each thread may own a
 * um_decoder. */
um_status um_decode_image(um_decoder *d, um_image *out, const char *name, const uint8_t *bytes,
                          size_t n, um_arena *arena, um_err *err);
/* Converts any format, rate and number of channels to 16 kHz mono: mean of the channels, then soxr HQ (spec 2.3). Also reads the sound
 * track of a video. */
um_status um_decode_wave(um_decoder *d, um_wave *out, const char *name, const uint8_t *bytes,
                         size_t n, um_arena *arena, um_err *err);
/* Returns `want` frames, spread over the video as in the reference (spec 2.2). A video with fewer frames returns all of them, at least
 * one. All frames together may have at most UM_MEDIA_ANSWER_MAX bytes. */
um_status um_decode_video(um_decoder *d, um_image **frames, int *n_frames, int want,
                          const char *name, const uint8_t *bytes, size_t n, um_arena *arena,
                          um_err *err);
