/* The files of one medium on their way from disk into a request to an encoder rank, and the key of its rows: the SHA-256 of all that they
 * depend on besides the model and the settings that are fixed for the job. That is, in this order, four bytes (modality, track, frames,
 * the first letter of --image-orientation), then of every file its size (u64, little-endian) and its bytes.
 *
 *   um_media_reader_begin ─► um_media_reader_read ... until um_media_reader_complete ─► um_media_reader_key ─► um_media_reader_end
 *
 * Thread: the rank's main thread. */
#pragma once

#include "core/base/sha256.h"
#include "core/comm/link.h"
#include "core/options/config.h"
#include "router/request/request.h"

typedef struct um_media_reader {
    const um_item *item;
    const um_config *cfg;
    um_arena *arena;
    int n;                     /* files that are read whole */
    ProtobufCBinaryData *file; /* [item->n] */
    bool begun;                /* file[n] is being read */
    int fd;                    /* of it; -1: its content came with the request */
    size_t got;                /* bytes of it that are read */
    size_t bytes;              /* of all files that were begun */
    um_sha256 hash;
    char key[UM_SHA256_HEX]; /* "" until um_media_reader_key */
} um_media_reader;

/* Begins an item. It and cfg must stay until the end, and so must what lies in arena: the files' content. */
void um_media_reader_begin(um_media_reader *r, const um_item *item, const um_config *cfg,
                           um_arena *arena);
/* Closes what is open; what lies in the arena stays. Accepts one that has ended. */
void um_media_reader_end(um_media_reader *r);
/* Reads until all files are complete or `bytes` more have been read. UM_E_DATA names the file: it cannot be read, or is larger than
 * --media-max-bytes, with the item's files before it. */
um_status um_media_reader_read(um_media_reader *r, size_t bytes, um_err *err);
static inline bool um_media_reader_complete(const um_media_reader *r) { return r->n == r->item->n; }
/* Fills r->key when all files are complete; nothing when it is there already. */
um_status um_media_reader_key(um_media_reader *r, um_err *err);
/* *out asks for the rows of the item; everything in it stays the item's and the files'. */
void um_media_reader_request(um_media_reader *r, Um__EncodeRequest *out);

/* The fault of an item that no encoder rank of the job reads: UM_E_DATA. */
um_status um_media_unread(const um_item *item, um_err *err);
