/* Cache of encoded media: rows of the language model's width under the SHA-256 of the bytes that they were made of. When the room is
 * used up the least recently used entries are removed. Thread: one. */
#pragma once

#include "core/base/arena.h"
#include "core/base/sha256.h"

typedef struct um_media_cache um_media_cache;

/* bytes: room for rows; 0 keeps nothing. */
um_media_cache *um_media_cache_open(size_t bytes);
void um_media_cache_close(um_media_cache *c); /* accepts NULL */
/* The rows under key, valid until the next call, or NULL. */
const float *um_media_cache_find(um_media_cache *c, const char key[UM_SHA256_HEX], int *rows);
/* Copies rows [n, D]; what is larger than the whole room is left out. */
void um_media_cache_put(um_media_cache *c, const char key[UM_SHA256_HEX], const float *rows, int n,
                        int D);
