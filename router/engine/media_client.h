/* The router's client of the encoder ranks. Reads media files, looks them up in the cache, sends new ones to the least busy encoder
 * rank of their modality, and hands the rows to those who wait for them. The same content is encoded, and stored, only once.
 *
 *   um_media_client_request    queue of items, each with its waiter
 *          |
 *   um_media_client_read       one item: its files in pieces, its hash, which is the key of its rows
 *          |                     the cache has the rows: handed over at once
 *          |                     the key is under way: the waiter joins those who wait for it
 *          |                     else it is sent, as soon as a rank that reads it has room in its window
 *   um_media_client_encoded    rows into the cache, and to all that wait for this key
 *
 * Memory: the files of one item, and those on their way to encoder ranks; each rank has a window of bytes. Later items stay on disk.
 * Thread: the rank's main thread. */
#pragma once

#include "core/comm/link.h"
#include "core/model/model.h"
#include "core/options/config.h"
#include "router/engine/media_cache.h"
#include "router/request/request.h"

typedef struct um_media_stats {
    int64_t encoded, cached; /* items that encoder ranks made, and that were there already */
} um_media_stats;

/* What becomes of item i of a waiter. rows: lent for the call, to be held (um_media_rows_hold) by those who want them longer. After
 * failed nothing more is delivered to the waiter. Both may call um_media_client_forget. */
typedef struct um_media_sink {
    void (*rows)(void *ctx, void *waiter, int i, const um_media_rows *rows);
    void (*failed)(void *ctx, void *waiter, um_status st, const um_err *why);
    void *ctx;
} um_media_sink;

typedef struct um_media_client um_media_client;
/* The items that one waiter asked for. */
typedef struct um_media_request um_media_request;

/* All pointers stay the caller's. */
um_media_client *um_media_client_open(const um_config *cfg, const um_model *m, um_link *link,
                                      um_media_sink sink);
/* Accepts NULL. Every request must be forgotten, and all rows dropped. */
void um_media_client_close(um_media_client *c);

/* Queues items[n], which must stay until um_media_client_forget; nothing is delivered during the call. */
um_media_request *um_media_client_request(um_media_client *c, void *waiter, const um_item *items,
                                          int n);
/* Ends a request, delivered or not; accepts NULL. Items that were not sent yet are dropped. An answer that is under way goes to the
 * cache, and to others who wait for it. Work: O(items of the request). */
void um_media_client_forget(um_media_client *c, um_media_request *r);
/* True when um_media_client_read would do something now. */
bool um_media_client_runnable(const um_media_client *c);
/* Goes on with the item at the front: reads some MiB of its files, or looks it up and sends it. UM_OK unless the job cannot go on; a
 * file that cannot be read fails its waiter. */
um_status um_media_client_read(um_media_client *c, um_err *err);
/* Rows, or a refusal, that an encoder sent (a frame of kind UM_KIND_ENCODED), for all that wait for them. */
um_status um_media_client_encoded(um_media_client *c, const um_inbound *in, um_arena *scratch,
                                  um_err *err);

/* For the watch over progress: the encoder rank that has let a router wait for the longest. since_ns: when its oldest item was sent, or
 * when it last answered, whichever came later. False: no rank owes anything. */
typedef struct um_media_owed {
    int rank, items;
    int64_t since_ns;
} um_media_owed;
bool um_media_client_owed(const um_media_client *c, um_media_owed *out);
um_media_stats um_media_client_stats(const um_media_client *c);
