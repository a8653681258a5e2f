/* How much memory a router may promise to its sequences: rows of media, keys and values up to the last token that they may write.
 *
 *   available on the host now ------------------------------------------------------+
 *   | a tenth spare | shares of the other routers of this host | this router's share |
 *   |               |                                          | outstanding | free  |
 *
 * A promise is made whole before a prompt is read, and its pages are touched later. So what was promised and is not touched yet
 * (outstanding) is taken off this router's share of what the system says is free. With --request-memory the limit is that number,
 * whatever is free. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct um_memory_budget {
    int64_t limit;             /* bytes of --request-memory; 0: what is free on the host */
    int share;                 /* routers of this host, at least 1 */
    int64_t promised, touched; /* bytes of all sequences that hold memory, and of these in use */
} um_memory_budget;

typedef enum um_grant {
    UM_GRANT_NOW,   /* there is room */
    UM_GRANT_WAIT,  /* there is room when other sequences have ended */
    UM_GRANT_NEVER, /* there is no room if this router held nothing else */
} um_grant;

/* Is there room for bytes? available: bytes free on the host now, 0 when unknown (then there is, unless there is a limit). *most: the
 * room if this router held nothing. */
um_grant um_memory_budget_ask(const um_memory_budget *b, int64_t bytes, int64_t available,
                              int64_t *most);
