/* Encoded media: rows of the language model's width under the SHA-256 of everything that they were made of, each stored once. Who uses
 * rows holds a reference to them. Rows that nobody uses are kept as long as there is room for them; the least recently used leave first.
 * Thread: one. */
#pragma once

#include "core/base/arena.h"
#include "core/base/sha256.h"

typedef struct um_media_cache um_media_cache;

/* The rows of one medium. They stay as they are while somebody holds a reference. */
typedef struct um_media_rows {
    char key[UM_SHA256_HEX];
    const float *rows; /* [n, D], host memory */
    int n;
} um_media_rows;

/* bytes: room for rows that nobody uses; 0 keeps none. */
um_media_cache *um_media_cache_open(size_t bytes);
/* Accepts NULL. No reference may be left. */
void um_media_cache_close(um_media_cache *c);
/* The rows under key with one more reference, or NULL. */
const um_media_rows *um_media_cache_find(um_media_cache *c, const char key[UM_SHA256_HEX]);
/* Copies rows [n, D], unless there are some under this key. Returns them with one more reference. */
const um_media_rows *um_media_cache_put(um_media_cache *c, const char key[UM_SHA256_HEX],
                                        const float *rows, int n, int D);

const um_media_rows *um_media_rows_hold(const um_media_rows *r); /* one more reference */
void um_media_rows_drop(const um_media_rows *r);                 /* one less; accepts NULL */
