/* Media of sequences on their way through the encoder ranks: reads the files, asks the cache, sends what is new to a rank that reads
 * its modality, and hands the rows out when they come. The same content is under way only once. */
#pragma once

#include "core/model/model.h"
#include "router/engine/sequence.h"

typedef struct um_media_stats {
    int64_t encoded, cached; /* items that encoder ranks made, and that were there already */
} um_media_stats;

typedef struct um_media_client um_media_client;

/* All pointers stay the caller's. */
um_media_client *um_media_client_open(const um_config *cfg, const um_model *m, um_link *link);
void um_media_client_close(um_media_client *d); /* accepts NULL */
/* Asks for every feature of s. s->owed counts those to come; s fails when a file cannot be read or no rank reads it. */
void um_media_client_request(um_media_client *d, um_sequence *s, um_sequence *const *others,
                             int n_others, um_arena *scratch);
/* Rows, or a refusal, that an encoder sent (a frame of kind UM_KIND_ENCODED), for every one of list[n] that waits for them. */
um_status um_media_client_encoded(um_media_client *d, const um_inbound *in,
                                  um_sequence *const *list, int n, um_arena *scratch, um_err *err);
um_media_stats um_media_client_stats(const um_media_client *d);
