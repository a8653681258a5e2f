/* Splits values into exponent bytes and the rest, and merges them again: the part of the zstd codec that processes every value.
 *
 * A value is rotated left by one bit, so that its exponent is the top byte and its sign the lowest bit:
 *   bf16  s eeeeeeee mmmmmmm   ->  eeeeeeee | mmmmmmm s            rest: 1 byte
 *   f32   s eeeeeeee m*23      ->  eeeeeeee | m*23 s               rest: 3 bytes, little-endian
 * exps holds n bytes, rest n * (size of a value - 1) bytes. A rotation is reversible, so every bit pattern is restored.
 * The functions do not read or write bytes outside these sizes; pointers need not be aligned. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct um_planes {
    const char *name;
    void (*split_bf16)(uint8_t *exps, uint8_t *rest, const void *src, size_t n);
    void (*merge_bf16)(void *dst, const uint8_t *exps, const uint8_t *rest, size_t n);
    void (*split_f32)(uint8_t *exps, uint8_t *rest, const void *src, size_t n);
    void (*merge_f32)(void *dst, const uint8_t *exps, const uint8_t *rest, size_t n);
} um_planes;

extern const um_planes um_planes_plain; /* plain C, on every machine */
const um_planes *
um_planes_best(void); /* the fastest that this CPU supports; the results are equal */
