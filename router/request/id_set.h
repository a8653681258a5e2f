/* Ids that were used before, so that somebody can be told when two requests have the same one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero to begin. Remembers 64 bits of each id, of the first few million. */
typedef struct um_id_set {
    uint64_t *slot; /* [cap], 0: empty */
    size_t n, cap;  /* cap is 0 or a power of two */
} um_id_set;

/* Adds an id; true when it was there before. */
bool um_id_set_add(um_id_set *s, const char *id);
void um_id_set_free(um_id_set *s);
