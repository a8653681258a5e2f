/* Counter-seeded random numbers: the same seed gives the same stream on every machine. splitmix64 (Steele et al. 2014) seeds
 * xoshiro256** (Blackman, Vigna 2018). State is the caller's. */
#pragma once

#include <stdint.h>

typedef struct um_rng {
    uint64_t s[4];
} um_rng;

/* Independent streams of one seed: give each use its own stream number. */
um_rng um_rng_seed(uint64_t seed, uint64_t stream);
/* The stream number of a tensor or whatever has a name: FNV-1a of it. */
uint64_t um_rng_stream(const char *name);
uint64_t um_rng_u64(um_rng *r);
double um_rng_uniform(um_rng *r);             /* in [0, 1), 53 bits */
double um_rng_open(um_rng *r);                /* in (0, 1), never 0: for logarithms */
uint64_t um_rng_below(um_rng *r, uint64_t n); /* 0..n-1, unbiased; n > 0 */
/* n normal values, Irwin-Hall of 12 uniforms over exact 16-bit parts: no libm, so the bits do not depend on the machine. */
void um_rng_normal_f32(um_rng *r, float *out, uint64_t n, float std);
