/* See media_reader.h. */
#include "router/engine/media_reader.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <unistd.h>

void um_media_reader_begin(um_media_reader *f, const um_item *item, const um_config *cfg,
                           um_arena *arena)
{
    const uint8_t head[4] = {(uint8_t)item->modality, item->track, item->frames,
                             (uint8_t)cfg->image_orientation[0]};
    *f = (um_media_reader){.item = item, .cfg = cfg, .arena = arena, .fd = -1};
    f->file = um_arena_zero(arena, (size_t)item->n * sizeof *f->file);
    um_sha256_init(&f->hash);
    um_sha256_update(&f->hash, head, sizeof head);
}

void um_media_reader_end(um_media_reader *f)
{
    if (f->item == NULL) return;
    um_sha256_drop(&f->hash);
    if (f->fd >= 0) close(f->fd);
    *f = (um_media_reader){.fd = -1};
}

static um_status too_large(const um_item *item, const char *path, int64_t limit, um_err *err)
{
    return UM_FAIL(err, UM_E_DATA, "%s: larger than --media-max-bytes, which is %lld%s", path,
                   (long long)limit, item->n > 1 ? " for all frames of a video together" : "");
}

/* Begins the next file, when --media-max-bytes allows it: opens it, unless its content came with the request. */
static um_status file_begin(um_media_reader *f, um_err *err)
{
    const um_item *item = f->item;
    ProtobufCBinaryData *file = &f->file[f->n];
    const char *path = item->paths[f->n];
    bool here = item->data != NULL && item->data[f->n].bytes != NULL;
    int64_t size = here ? (int64_t)item->data[f->n].n : 0, limit = f->cfg->media_max_bytes;
    uint8_t head[8];
    um_status st = here ? UM_OK : um_file_open_regular(&f->fd, &size, path, err);
    if (st != UM_OK) return UM_E_DATA;
    if (size > limit - (int64_t)f->bytes) return too_large(item, path, limit, err);
    file->len = (size_t)size;
    file->data =
        here ? (uint8_t *)(uintptr_t)item->data[f->n].bytes : um_arena_alloc(f->arena, file->len);
    f->begun = true;
    f->bytes += file->len;
    f->got = 0;
    um_put_u64(head, file->len);
    um_sha256_update(&f->hash, head, sizeof head);
    return UM_OK;
}

um_status um_media_reader_read(um_media_reader *f, size_t bytes, um_err *err)
{
    for (size_t left = bytes; !um_media_reader_complete(f) && left > 0;) {
        if (!f->begun) UM_TRY(file_begin(f, err));
        ProtobufCBinaryData *file = &f->file[f->n];
        size_t n = file->len - f->got < left ? file->len - f->got : left;
        if (f->fd >= 0 &&
            um_file_read_piece(f->fd, file->data + f->got, n, f->item->paths[f->n], err) != UM_OK)
            return UM_E_DATA;
        um_sha256_update(&f->hash, file->data + f->got, n);
        f->got += n;
        left -= n;
        if (f->got < file->len) continue;
        if (f->fd >= 0) close(f->fd);
        f->fd = -1;
        f->begun = false;
        f->n++;
    }
    return UM_OK;
}

um_status um_media_reader_key(um_media_reader *f, um_err *err)
{
    UM_ASSERT(um_media_reader_complete(f));
    return f->key[0] != '\0' ? UM_OK : um_sha256_final(&f->hash, f->key, err);
}

void um_media_reader_request(um_media_reader *f, Um__EncodeRequest *out)
{
    const um_item *item = f->item;
    um__encode_request__init(out);
    out->modality = (Um__Modality)item->modality;
    out->name = (char *)(uintptr_t)item->paths[0];
    out->n_media = (size_t)item->n;
    out->media = f->file;
    out->track = item->track;
    out->frames = item->frames;
    out->key = f->key;
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
