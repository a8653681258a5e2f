/* See pool.h. */
#include "core/comm/pool.h"

#include "core/base/arena.h"

#include <string.h>

enum { SMALLEST = 256 };
static const size_t held_max = (size_t)128 << 20;

/* Class 4k+i holds buffers of SMALLEST * 2^k * (4+i)/4 bytes. */
static size_t class_bytes(int c) { return ((size_t)SMALLEST / 4 * (size_t)(4 + c % 4)) << (c / 4); }

static int class_of(size_t bytes)
{
    if (bytes <= SMALLEST) return 0;
    int octave = 63 - __builtin_clzll((unsigned long long)(bytes - 1) / SMALLEST);
    int c = 4 * octave;
    while (class_bytes(c) < bytes) c++;
    return c;
}

um_status um_pool_get(um_pool *p, um_msg *out, size_t bytes, um_err *err)
{
    if (bytes > UM_MSG_MAX)
        return UM_FAIL(err, UM_E_LIMIT, "message of %zu bytes, the transport takes at most %zu",
                       bytes, UM_MSG_MAX);
    int c = class_of(bytes);
    um_msg m = {.size = bytes, .cap = class_bytes(c), .peer = -1};
    void *first = p->free[c];
    if (first != NULL) {
        memcpy(&p->free[c], first, sizeof p->free[c]);
        p->held -= m.cap;
        m.data = first;
    } else {
        m.data = um_alloc_aligned(m.cap);
    }
    *out = m;
    return UM_OK;
}

void um_pool_put(um_pool *p, um_msg *msg)
{
    if (msg->data != NULL && p->held + msg->cap <= held_max) {
        int c = class_of(msg->cap);
        UM_ASSERT(class_bytes(c) == msg->cap);
        memcpy(msg->data, &p->free[c], sizeof p->free[c]);
        p->free[c] = msg->data;
        p->held += msg->cap;
    } else {
        um_free(msg->data);
    }
    *msg = (um_msg){0};
}

void um_pool_close(um_pool *p)
{
    for (int c = 0; c < UM_POOL_CLASSES; c++) {
        while (p->free[c] != NULL) {
            void *b = p->free[c];
            memcpy(&p->free[c], b, sizeof p->free[c]);
            um_free(b);
        }
    }
    p->held = 0;
}
