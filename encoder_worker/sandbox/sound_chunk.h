/* Where containers of sound keep their samples and how many bytes their headers declare: what libraries hide when they cut the
 * number down to what a file has. Bytes only; no library. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct um_sound_chunk {
    size_t at;     /* where the samples begin; <= n */
    uint64_t size; /* bytes, as declared */
    bool
        open; /* no length is declared: programs that write to a pipe leave 0 or the largest number */
} um_sound_chunk;

/* WAV (RIFF, RIFX, RF64), W64, AIFF, AU, CAF. false: another format, or no samples found. */
bool um_sound_chunk_find(um_sound_chunk *out, const uint8_t *bytes, size_t n);

/* Opus in Ogg whose clock does not begin at zero (cut from a longer recording): libsndfile before 1.2.1 does not leave out there what
 * comes before the beginning. */
bool um_ogg_opus_late(const uint8_t *bytes, size_t n);

/* Bytes of the first of several Ogg files that stand one after another (a chain); n where there is no second one. */
size_t um_ogg_stream_bytes(const uint8_t *bytes, size_t n);
