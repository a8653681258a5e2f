/* What frozen towers have made of media (medium.h), by the key of the medium: in training the same media come again in every epoch. Bounded
 * by bytes; those that were used longest ago go first. Host memory. Thread: the rank's. */
#pragma once

#include "encoder_worker/medium.h"

typedef struct um_tower_cache um_tower_cache;

/* bytes: --tower-cache; 0 keeps nothing. */
um_tower_cache *um_tower_cache_open(size_t bytes);
void um_tower_cache_close(um_tower_cache *c); /* accepts NULL */
/* NULL: it is not there. Valid until the next put or clear. */
const um_medium *um_tower_cache_get(um_tower_cache *c, const char *key);
/* Keeps a copy under a key that is not there, unless it is larger than the whole cache. */
void um_tower_cache_put(um_tower_cache *c, const char *key, const um_medium *m);
size_t um_tower_cache_used(const um_tower_cache *c); /* bytes */
