/* The media of training samples: read, sent to the encoder ranks ahead of the micro-batch that needs them, and their rows taken in.
 *
 *   um_train_media_ask   reads the files, ENCODE {step, micro-batch, item}  ─►  encoder rank
 *   (as frames come)     rows, or the reason why there are none             ◄─  ENCODED
 *   um_train_media_back  gradient of the rows, ENCODE_GRAD                  ─►  the same rank, where something on the way trains
 *
 * A modality of which something trains has all its media encoded by one rank, the first that reads it, and anew in every step; the rows of
 * others are kept under the hash of their files (--media-cache), and their ranks share the work. A medium that cannot be read or
 * decoded is a reason (item->why), never the end of the job. Thread: the rank's. */
#pragma once

#include "core/comm/exchange.h"
#include "core/options/config.h"
#include "router/engine/media_cache.h"
#include "router/request/request.h"

/* One medium of a micro-batch. */
typedef struct um_train_item {
    const um_item *of;
    uint64_t step;
    uint32_t batch,
        number; /* number: among the items of the micro-batch, in the order of its rows */
    /* set by um_train_media */
    int rank;   /* -1: nobody was asked */
    bool keep;  /* its encoder waits for a gradient */
    bool fixed; /* nothing on the way to its rows trains: they are kept for the next time */
    bool done;  /* rows or why have come */
    float *own; /* rows that are this item's alone, or NULL */
    const um_media_rows *shared;
    const float *rows; /* [n, D] host */
    int n;
    char *why; /* NULL: there are rows */
    struct um_train_item *next;
} um_train_item;

typedef struct um_train_media um_train_media;

/* trained: the modalities of which something trains (um_select_modalities). From here on the link's encoded frames come to it. */
um_train_media *um_train_media_open(const um_config *cfg, const um_model *m, um_link *link,
                                    uint32_t trained);
void um_train_media_close(um_train_media *c); /* accepts NULL */
/* Reads and sends one item, which must stay until it is dropped; it may be done at once. */
um_status um_train_media_ask(um_train_media *c, um_train_item *it, um_err *err);
/* Sends the gradient [n, D] (host) of an item that its encoder keeps; grad NULL: it was not used. Nothing otherwise. */
um_status um_train_media_back(um_train_media *c, um_train_item *it, const float *grad,
                              um_arena *scratch, um_err *err);
/* Its rows are not needed any more. It must be done. */
void um_train_media_drop(um_train_item *it);
