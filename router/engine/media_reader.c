/* See media_reader.h. */
#include "router/engine/media_reader.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <unistd.h>

void um_media_reader_begin(um_media_reader *r, const um_item *item, const um_config *cfg,
                           um_arena *arena)
{
    const uint8_t head[4] = {(uint8_t)item->modality, item->track, item->frames,
                             (uint8_t)cfg->image_orientation[0]};
    *r = (um_media_reader){.item = item, .cfg = cfg, .arena = arena, .fd = -1};
    r->file = um_arena_zero(arena, (size_t)item->n * sizeof *r->file);
    um_sha256_init(&r->hash);
    um_sha256_update(&r->hash, head, sizeof head);
}

void um_media_reader_end(um_media_reader *r)
{
    if (r->item == NULL) return;
    um_sha256_drop(&r->hash);
    if (r->fd >= 0) close(r->fd);
    *r = (um_media_reader){.fd = -1};
}

static um_status too_large(const um_item *item, const char *path, int64_t limit, um_err *err)
{
    return UM_FAIL(err, UM_E_DATA, "%s: larger than --media-max-bytes, which is %lld%s", path,
                   (long long)limit, item->n > 1 ? " for all frames of a video together" : "");
}

/* Begins the next file, when --media-max-bytes allows it: opens it, unless its content came with the request. */
static um_status file_begin(um_media_reader *r, um_err *err)
{
    const um_item *item = r->item;
    ProtobufCBinaryData *file = &r->file[r->n];
    const char *path = item->paths[r->n];
    bool here = item->data != NULL && item->data[r->n].bytes != NULL;
    int64_t size = here ? (int64_t)item->data[r->n].n : 0, limit = r->cfg->media_max_bytes;
    uint8_t head[8];
    um_status st = here ? UM_OK : um_file_open_regular(&r->fd, &size, path, err);
    if (st != UM_OK) return UM_E_DATA;
    if (size > limit - (int64_t)r->bytes) return too_large(item, path, limit, err);
    file->len = (size_t)size;
    file->data =
        here ? (uint8_t *)(uintptr_t)item->data[r->n].bytes : um_arena_alloc(r->arena, file->len);
    r->begun = true;
    r->bytes += file->len;
    r->got = 0;
    um_put_u64(head, file->len);
    um_sha256_update(&r->hash, head, sizeof head);
    return UM_OK;
}

um_status um_media_reader_read(um_media_reader *r, size_t bytes, um_err *err)
{
    for (size_t left = bytes; !um_media_reader_complete(r) && left > 0;) {
        if (!r->begun) UM_TRY(file_begin(r, err));
        ProtobufCBinaryData *file = &r->file[r->n];
        size_t n = file->len - r->got < left ? file->len - r->got : left;
        if (r->fd >= 0 &&
            um_file_read_piece(r->fd, file->data + r->got, n, r->item->paths[r->n], err) != UM_OK)
            return UM_E_DATA;
        um_sha256_update(&r->hash, file->data + r->got, n);
        r->got += n;
        left -= n;
        if (r->got < file->len) continue;
        if (r->fd >= 0) close(r->fd);
        r->fd = -1;
        r->begun = false;
        r->n++;
    }
    return UM_OK;
}

um_status um_media_reader_key(um_media_reader *r, um_err *err)
{
    UM_ASSERT(um_media_reader_complete(r));
    return r->key[0] != '\0' ? UM_OK : um_sha256_final(&r->hash, r->key, err);
}

void um_media_reader_request(um_media_reader *r, Um__EncodeRequest *out)
{
    const um_item *item = r->item;
    um__encode_request__init(out);
    out->modality = (Um__Modality)item->modality;
    out->name = (char *)(uintptr_t)item->paths[0];
    out->n_media = (size_t)item->n;
    out->media = r->file;
    out->track = item->track;
    out->frames = item->frames;
    out->key = r->key;
}

um_status um_media_unread(const um_item *item, um_err *err)
{
    return UM_FAIL(err, UM_E_DATA, "%s: no encoder rank reads %s: start one with --encoders %s=1",
                   item->paths[0],
                   item->modality == UM_IMAGE   ? "images"
                   : item->modality == UM_VIDEO ? "videos"
                                                : um_modality_name(item->modality),
                   um_modality_name(item->modality));
}
