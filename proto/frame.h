/* Frames: everything that two ranks send to each other is a 64-byte header and a payload.
 *
 *   off size field                         off size field
 *     0   4  magic "UMX1"                    32   4  rows
 *     4   2  version (UM_WIRE_VERSION)       36   4  cols
 *     6   1  kind (um_kind)                  40   4  meta bytes (first part of the payload)
 *     7   1  dtype (um_dtype)                44   4  payload bytes (meta and encoded rows)
 *     8   1  codec (um_codec_id)             48   8  XXH3-64 of the payload
 *     9   3  zero                            56   4  micro-batch of the step
 *    12   4  epoch                           60   4  CRC-32C of bytes 0..59
 *    16   4  source rank
 *    20   4  layer
 *    24   8  step
 * All little-endian. payload = meta, then rows x cols values of dtype, encoded by codec.
 * Meta is: for dispatch, {u32 row, u32 expert} for every (row, expert) pair, by rising expert, then rising row; for control frames
 * the packed protobuf message; for UM_KIND_ENCODED the packed EncodeResult. Combine has no meta: row i answers pair i. Nor have the
 * frames of the backward pass: their row i belongs to pair i of the dispatch with the same step, layer and micro-batch; those of
 * UM_KIND_ENCODE_GRAD to row i of the medium, whose number in the micro-batch (EncodeTraining.item) stands as layer. For
 * UM_KIND_REDUCE it is a u64 (core/train/reduce.h).
 *
 * Every field is checked by the receiver, in release builds too: length, magic and version, limits, checksums, in that order. */
#pragma once

#include "core/base/status.h"
#include "core/tensor/dtype.h"

#include <stddef.h>
#include <stdint.h>

enum { UM_FRAME_HEADER = 64, UM_WIRE_VERSION = 2 };
#define UM_FRAME_MAX ((size_t)1 << 30) /* payload bytes of one frame; MPI counts are int */

typedef enum um_kind {
    UM_KIND_HELLO = 1, /* rank -> router 0 at start */
    UM_KIND_CONFIG,    /* router 0 -> all: ranks, expert owners, wire, codec, credit */
    UM_KIND_READY,     /* rank -> router 0: weights loaded */
    /* 4 was the heartbeat of version 1, which the transport now sends (core/comm/pulse.h) */
    UM_KIND_ENCODE = 5, /* router -> encoder: EncodeRequest */
    UM_KIND_ENCODED,    /* encoder -> router: EncodeResult and rows */
    UM_KIND_DISPATCH,   /* router -> expert: rows and the experts they are assigned to */
    UM_KIND_COMBINE,    /* expert -> router: one output row for every pair */
    UM_KIND_REQUEST,    /* router 0 -> router: a request to run */
    UM_KIND_RESULT,     /* router -> router 0: its answer */
    UM_KIND_STATS,      /* both ways: request (empty) and counters */
    UM_KIND_SHUTDOWN,
    UM_KIND_ERROR,   /* a rank cannot continue, and why */
    UM_KIND_ROUTING, /* both ways: request (empty) and counters of the gates */
    /* training */
    UM_KIND_DISPATCH_GRAD, /* router -> expert: the gradient of every row of a combine frame */
    UM_KIND_COMBINE_GRAD,  /* expert -> router: the gradient of every pair's input */
    UM_KIND_STEP_END,      /* both ways: how a step ends (core/train/step.h) */
    UM_KIND_REDUCE,        /* router -> router: a piece of a sum of gradients, or room for more */
    /* requests that live */
    UM_KIND_TOKEN,  /* router -> router 0: a token of a request */
    UM_KIND_CANCEL, /* router 0 -> router, router -> encoder: a request that nobody wants any more */
    /* training */
    UM_KIND_ENCODE_GRAD, /* router -> encoder: the gradient of the rows of an encoded medium */
    UM_KINDS,
} um_kind;
const char *um_kind_name(um_kind kind);

typedef struct um_frame {
    um_kind kind;
    um_dtype dtype;
    uint8_t codec;
    uint32_t epoch, source, layer;
    uint64_t step;
    uint32_t rows, cols, meta_bytes, payload_bytes;
    uint32_t batch;         /* micro-batch of the step */
    const uint8_t *payload; /* get: inside the buffer that was decoded; put: ignored */
} um_frame;

/* Writes the header into buf[0..63]. The payload of f->payload_bytes must already be at buf + 64. Thread: any. */
void um_frame_put(uint8_t *buf, const um_frame *f);
/* Checks buf[0..len) and fills *out. UM_E_CORRUPT names the field, the value found and the value expected: "frame: version 9, this
 * build speaks 2". */
um_status um_frame_get(um_frame *out, const uint8_t *buf, size_t len, um_err *err);

uint32_t um_crc32c(const uint8_t *p,
                   size_t n); /* with the SSE4.2 instruction when the CPU has it */
uint32_t um_crc32c_plain(const uint8_t *p, size_t n); /* the same result in plain C */
uint64_t um_xxh3(const void *p, size_t n);
