/* The protocol between an encoder rank and unimoe-decoder over one local socket. Both come from one build and run on one machine.
 * Each still checks every field that it receives; the rank does so because a media file may have compromised the decoder.
 *
 * The rank sends a hello (limits, number 0), then requests, each followed by the bytes of its file. The decoder answers each
 * request with blocks and a block "end": image: one frame; wave: one run of samples; video: up to `want` frames. An error may
 * follow some blocks; the receiver then discards those blocks.
 *
 * Request, 64 bytes, little-endian
 *   off size field                          off size field
 *     0   4  magic "UMDQ"                    24   8  limit: pixels      }
 *     4   2  version 2                       32   8  limit: seconds     } hello only, else 0
 *     6   2  um_decode_request_kind           40   8  limit: frames      }
 *     8   4  number: 0, then counting up     48   8  limit: wait_ms     }
 *    12   4  want: frames; video only, else 0 56   4  flags (1: turn as EXIF says); image only, else 0
 *    16   8  bytes of the file that follows; hello 0 60 4 0
 *
 * Block, 32 bytes, little-endian
 *   off size field                          off size field
 *     0   4  magic "UMDA"                    12   4  frame: width;  end: um_status; samples: 0
 *     4   2  version 2                       16   4  frame: height; end: flags (1: the process ends now); samples: 0
 *     6   2  um_decode_response_kind          20   4  0
 *     8   4  number of the request           24   8  bytes that follow: frame w*h*3 (8-bit RGB), samples 4*n (f32, 16 kHz, one
 *                                                    channel), end: the message, at most 511 bytes                            */
#pragma once

#include "core/base/status.h"

#include <stdint.h>

enum {
    UM_REQUEST_BYTES = 64,
    UM_RESPONSE_BYTES = 32,
    UM_RESPONSE_TEXT = 511,
    UM_REQUEST_ORIENT = 1, /* flag: turn the image as its EXIF data say */
    UM_RESPONSE_LAST = 1,  /* flag: this process does not answer further requests */
};
/* Largest file: a decoder's memory limit has space for it besides the images. */
#define UM_MEDIA_FILE_MAX ((uint64_t)512 << 20)

/* Maximum bytes of all frames of one answer. */
#define UM_MEDIA_ANSWER_MAX ((uint64_t)1 << 30)

typedef enum um_decode_request_kind {
    UM_REQUEST_HELLO,
    UM_REQUEST_IMAGE,
    UM_REQUEST_WAVE,
    UM_REQUEST_VIDEO
} um_decode_request_kind;
typedef enum um_decode_response_kind {
    UM_RESPONSE_FRAME = 1,
    UM_RESPONSE_SAMPLES,
    UM_RESPONSE_END
} um_decode_response_kind;

/* The limits are those of decoder.h. */
typedef struct um_decode_request {
    um_decode_request_kind kind;
    uint32_t number, want;
    uint64_t bytes;
    int64_t pixels, seconds, frames, wait_ms; /* hello only */
    bool orient;                              /* image only */
} um_decode_request;

typedef struct um_decode_response {
    um_decode_response_kind kind;
    uint32_t number;
    uint32_t w, h;    /* frame */
    um_status status; /* end */
    bool last;        /* end */
    uint64_t bytes;
} um_decode_response;

void um_decode_request_put(uint8_t buf[UM_REQUEST_BYTES], const um_decode_request *a);
void um_decode_response_put(uint8_t buf[UM_RESPONSE_BYTES], const um_decode_response *t);
/* UM_E_CORRUPT names the field. Both check their input against the tables above; the caller checks limits and order. */
um_status um_decode_request_get(um_decode_request *out, const uint8_t buf[UM_REQUEST_BYTES],
                                um_err *err);
um_status um_decode_response_get(um_decode_response *out, const uint8_t buf[UM_RESPONSE_BYTES],
                                 um_err *err);
