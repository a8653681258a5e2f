/* Codecs of token batches: a table; a new codec is one entry. All are lossless on the wire type.
 *
 *   none  the values as they are, little-endian
 *   zstd  blocks of 65536 values, the last one shorter. In each the exponent byte of every value goes through zstd with
 *         literals-only Huffman; sign and mantissa stay raw (DESIGN 6). A block that would not become smaller is stored.
 *
 * Layout of one zstd block of n values of s bytes (2 bf16, 4 f32); blocks follow one another without gaps:
 *   off  size       field
 *     0  3          z: bytes of zstd, little-endian; 0 in a stored block, 1..n-1 in planes
 *     3  1          mode: 0 stored, 1 planes
 *   stored:
 *     4  n*s        the values, little-endian
 *   planes: each value rotated left by one bit is its exponent byte on top of s-1 bytes of mantissa and sign
 *     4  n*(s-1)    the s-1 low bytes of every rotated value, little-endian
 *     .  z          zstd frame without magic number (format magicless) of the n exponent bytes
 *
 * A decoder reads (buf, len), checks everything, and must use every byte: too few and too many bytes are errors. */
#pragma once

#include "core/base/status.h"
#include "core/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum um_codec_id { UM_CODEC_NONE, UM_CODEC_ZSTD, UM_CODECS } um_codec_id;

typedef struct um_codec um_codec; /* state for encoding and decoding; one per thread */

/* level: of zstd; negative levels are faster. 0 selects the fastest, -131072, which gives the smallest output on activations too
 * (bench/results/codec.md). UM_E_USAGE when outside zstd's range. */
um_status um_codec_open(um_codec **out, um_codec_id id, int level, um_err *err);
void um_codec_close(um_codec *c); /* accepts NULL */
um_codec_id um_codec_id_of(const um_codec *c);
int um_codec_from_name(const char *name); /* -1 when unknown */
const char *um_codec_name(um_codec_id id);

/* Maximum encoded size in bytes of n values of dtype (f32 or bf16), for any codec. */
size_t um_codec_bound(um_dtype dtype, size_t n);
/* Can an encoding of n values have this many bytes? Limits the memory that a received header can request: codecs do not compress values
 * to less than half. */
bool um_codec_plausible(um_codec_id id, um_dtype dtype, size_t n, size_t bytes);
/* Encodes n values of dtype at src into out (um_codec_bound bytes). Cannot fail; returns the bytes used. n = 0 gives 0. */
size_t um_codec_encode(um_codec *c, uint8_t *out, const void *src, um_dtype dtype, size_t n);
/* Decodes exactly n values into dst. id comes from the frame and may differ from c's. UM_E_CORRUPT when buf is not exactly an encoding
 * of n values; dst is then undefined. */
um_status um_codec_decode(um_codec *c, um_codec_id id, void *dst, um_dtype dtype, size_t n,
                          const uint8_t *buf, size_t len, um_err *err);
