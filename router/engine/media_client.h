/* The router's client of the encoder ranks. Reads media files, looks them up in the cache, sends new ones to the least busy encoder
 * rank of their modality, and hands the embeddings to the sequences that wait for them. The same content is encoded only once.
 *
 *   um_media_client_request    queue of (sequence, item)
 *          |
 *   um_media_client_read       one item: its files in pieces, its hash, the cache
 *          |                   sent, as soon as a rank that reads it has room in its window
 *   um_media_client_encoded    rows to all sequences that wait for this content
 *
 * Memory: the files of one item, and those on their way to encoder ranks; each rank has a window of bytes. Later items stay on disk. */
#pragma once

#include "core/model/model.h"
#include "router/engine/sequence.h"

typedef struct um_media_stats {
    int64_t encoded, cached; /* items that encoder ranks made, and that were there already */
} um_media_stats;

/* What becomes of item i of a sequence. rows [n, D] are lent for the call. After failed the client forgets the sequence. */
typedef struct um_media_sink {
    void (*rows)(void *ctx, um_sequence *s, int i, const float *rows, int n);
    void (*failed)(void *ctx, um_sequence *s, um_status st, const um_err *why);
    void *ctx;
} um_media_sink;

typedef struct um_media_client um_media_client;

/* All pointers stay the caller's. */
um_media_client *um_media_client_open(const um_config *cfg, const um_model *m, um_link *link,
                                      um_media_sink sink);
void um_media_client_close(um_media_client *c); /* accepts NULL */

/* Queues every item of s, which must stay until all of them came or um_media_client_forget. */
void um_media_client_request(um_media_client *c, um_sequence *s);
/* Nothing of s is delivered from here on. */
void um_media_client_forget(um_media_client *c, const um_sequence *s);
/* True when um_media_client_read would do something now. */
bool um_media_client_runnable(const um_media_client *c);
/* Goes on with the item at the front: reads some MiB of its files, or looks it up and sends it. UM_OK unless the job cannot go on; a
 * file that cannot be read fails its sequence. */
um_status um_media_client_read(um_media_client *c, um_err *err);
/* Rows, or a refusal, that an encoder sent (a frame of kind UM_KIND_ENCODED), for all that wait for them. */
um_status um_media_client_encoded(um_media_client *c, const um_inbound *in, um_arena *scratch,
                                  um_err *err);
um_media_stats um_media_client_stats(const um_media_client *c);
