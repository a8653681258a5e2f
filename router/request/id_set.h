/* Ids that were used before, so that somebody can be told when two requests have the same one. It remembers the newest UM_ID_SET_MAX of
 * them, in memory that does not grow. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { UM_ID_SET_MAX = 1 << 16 };

/* Zero to begin. Remembers 64 bits of each id. */
typedef struct um_id_set {
    uint64_t *hash; /* [UM_ID_SET_MAX] the n-th id at n mod UM_ID_SET_MAX; 0: none yet */
    int32_t *head;  /* [UM_ID_SET_MAX] by the low bits of the hash: its place + 1; 0: none */
    int32_t *next;  /* [UM_ID_SET_MAX] of those with the same low bits */
    uint64_t n;
} um_id_set;

/* Adds an id; true when it is remembered from before. */
bool um_id_set_add(um_id_set *s, const char *id);
void um_id_set_free(um_id_set *s);
