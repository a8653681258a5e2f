/* Message buffers that are used again. A rank sends and receives frames of a few sizes over and over; taking each from malloc would
 * fault in fresh pages for every large one. Size classes: four an octave, so at most a quarter of a buffer is waste.
 * Thread: one. A buffer may go back to another pool than it came from: a receiver keeps what a sender on another thread gave it. */
#pragma once

#include "core/comm/comm.h"

enum { UM_POOL_CLASSES = 96 };
#define UM_MSG_MAX ((size_t)1 << 30) /* bytes of one message: transport counts are int */

typedef struct um_pool {
    void *free[UM_POOL_CLASSES]; /* each free buffer holds the address of the next one */
    size_t held;                 /* bytes in the free lists, bounded */
} um_pool;

/* out->size = bytes, 64-byte aligned, contents undefined. UM_E_LIMIT above UM_MSG_MAX. */
um_status um_pool_get(um_pool *p, um_msg *out, size_t bytes, um_err *err);
/* Takes msg back and empties it; accepts an empty one. */
void um_pool_put(um_pool *p, um_msg *msg);
void um_pool_close(um_pool *p);
