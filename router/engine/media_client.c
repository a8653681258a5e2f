/* See media.h. */
#include "router/engine/media_client.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "router/engine/media_cache.h"

#include <string.h>

struct um_media_client {
    const um_config *cfg;
    const um_model *model;
    um_link *link;
    um_media_cache *cache;
    int *under_way; /* [ranks] items sent and not answered */
    unsigned turn;  /* which of equally busy ranks is next */
    um_media_stats stats;
};

um_media_client *um_media_client_open(const um_config *cfg, const um_model *m, um_link *link)
{
    um_media_client *d = um_zalloc(sizeof *d);
    *d = (um_media_client){.cfg = cfg, .model = m, .link = link};
    d->cache = um_media_cache_open((size_t)cfg->media_cache);
    d->under_way = um_zalloc((size_t)link->comm->topo.n * sizeof *d->under_way);
    return d;
}

void um_media_client_close(um_media_client *d)
{
    if (d == NULL) return;
    um_media_cache_close(d->cache);
    um_free(d->under_way);
    um_free(d);
}

um_media_stats um_media_client_stats(const um_media_client *d) { return d->stats; }

/* Of the encoder ranks that read any of set, the one with the least under way; -1 when there is none. */
static int rank_among(um_media_client *d, uint32_t set)
{
    const um_topology *topo = &d->link->comm->topo;
    int n = topo->count[UM_ROLE_ENCODER], best = -1;
    for (int i = 0; i < n; i++) {
        int r = topo->of_role[UM_ROLE_ENCODER][((unsigned)i + d->turn) % (unsigned)n];
        if ((topo->ranks[r].modalities & set) == 0) continue;
        if (best < 0 || d->under_way[r] < d->under_way[best]) best = r;
    }
    d->turn++;
    return best;
}

/* Images and videos share a tower: where no rank is named for the one, those of the other take it. */
static um_status rank_choose(um_media_client *d, int *rank, const um_feature *f, um_err *err)
{
    uint32_t own = 1u << f->modality;
    *rank = rank_among(d, own);
    if (*rank < 0 && (own & UM_READS_VISION) != 0) *rank = rank_among(d, UM_READS_VISION);
    if (*rank >= 0) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "%s: no encoder rank reads %s: start one with --encoders %s=1",
                   f->item->paths[0],
                   f->modality == UM_IMAGE   ? "images"
                   : f->modality == UM_VIDEO ? "videos"
                                             : um_modality_name(f->modality),
                   um_modality_name(f->modality));
}

/* The files of an item, in scratch. */
static um_status files_read(const um_media_client *d, ProtobufCBinaryData *files,
                            const um_item *item, um_arena *scratch, um_err *err)
{
    size_t room = (size_t)d->cfg->media_max_bytes;
    for (int i = 0; i < item->n; i++) {
        um_status st =
            um_file_read_regular(&files[i].data, &files[i].len, item->paths[i], room, scratch, err);
        if (st == UM_E_LIMIT)
            return UM_FAIL(err, UM_E_DATA, "%s: more than --media-max-bytes, which is %lld",
                           item->paths[i], (long long)d->cfg->media_max_bytes);
        if (st == UM_E_IO) st = UM_E_DATA;
        if (st != UM_OK) return st;
        room -= files[i].len;
    }
    return UM_OK;
}

/* What the rows depend on besides the model and the job's options, which stay. */
static um_status key_make(char key[UM_SHA256_HEX], const um_item *item,
                          const ProtobufCBinaryData *files, um_err *err)
{
    um_sha256 h;
    uint8_t head[3] = {(uint8_t)item->modality, item->track, item->frames}, size[8];
    um_sha256_init(&h);
    um_sha256_update(&h, head, sizeof head);
    for (int i = 0; i < item->n; i++) {
        um_put_u64(size, files[i].len);
        um_sha256_update(&h, size, sizeof size);
        um_sha256_update(&h, files[i].data, files[i].len);
    }
    return um_sha256_final(&h, key, err);
}

static um_status item_send(um_media_client *d, um_feature *f, ProtobufCBinaryData *files,
                           um_err *err)
{
    Um__EncodeRequest req = UM__ENCODE_REQUEST__INIT;
    int rank = -1;
    UM_TRY(rank_choose(d, &rank, f, err));
    req.modality = (Um__Modality)f->modality;
    req.name = (char *)(uintptr_t)f->item->paths[0];
    req.n_media = (size_t)f->item->n;
    req.media = files;
    req.track = f->item->track;
    req.frames = f->item->frames;
    req.key = f->key;
    UM_TRY(um_link_control(d->link, rank, UM_KIND_ENCODE, &req.base, err));
    d->under_way[rank]++;
    return UM_OK;
}

static bool is_under_way(const char *key, um_sequence *const *list, int n)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; list[i]->state == UM_SEQ_ENCODING && k < list[i]->n_features; k++)
            if (list[i]->features[k].asked && list[i]->features[k].rows == NULL &&
                strcmp(list[i]->features[k].key, key) == 0)
                return true;
    return false;
}

static um_status feature_request(um_media_client *d, um_sequence *s, int i,
                                 um_sequence *const *others, int n_others, um_arena *scratch,
                                 um_err *err)
{
    um_feature *f = &s->features[i];
    ProtobufCBinaryData *files = um_arena_zero(scratch, (size_t)f->item->n * sizeof *files);
    int n = 0;
    UM_TRY(files_read(d, files, f->item, scratch, err));
    UM_TRY(key_make(f->key, f->item, files, err));
    const float *rows = um_media_cache_find(d->cache, f->key, &n);
    if (rows != NULL) {
        d->stats.cached++;
        um_sequence_feature(s, i, rows, n, d->model->dim);
        return UM_OK;
    }
    if (is_under_way(f->key, others, n_others))
        d->stats.cached++;
    else
        UM_TRY(item_send(d, f, files, err));
    f->asked = true;
    s->owed++;
    return UM_OK;
}

void um_media_client_request(um_media_client *d, um_sequence *s, um_sequence *const *others,
                             int n_others, um_arena *scratch)
{
    um_err why = {0};
    for (int i = 0; i < s->n_features; i++) {
        um_mark mark = um_arena_mark(scratch);
        um_status st = feature_request(d, s, i, others, n_others, scratch, &why);
        um_arena_reset(scratch, mark);
        if (st == UM_OK) continue;
        um_sequence_fail(s, st, &why);
        return;
    }
}

/* Gives rows to, or fails, everyone who waits for key. */
static void deliver(const um_media_client *d, const Um__EncodeResult *res, const float *rows, int n,
                    um_sequence *const *list, int n_list)
{
    um_err why = {0};
    um_status st = res->status <= UM_E_STOPPED ? (um_status)res->status : UM_E_DATA;
    if (st != UM_OK) um_fail(&why, st, "%s", res->text);
    for (int i = 0; i < n_list; i++) {
        um_sequence *s = list[i];
        for (int k = 0; k < s->n_features && s->state == UM_SEQ_ENCODING; k++) {
            um_feature *f = &s->features[k];
            if (!f->asked || f->rows != NULL || strcmp(f->key, res->key) != 0) continue;
            if (st != UM_OK) {
                um_sequence_fail(s, st, &why);
            } else {
                um_sequence_feature(s, k, rows, n, d->model->dim);
                s->owed--;
            }
        }
    }
}

um_status um_media_client_encoded(um_media_client *d, const um_inbound *in,
                                  um_sequence *const *list, int n, um_arena *scratch, um_err *err)
{
    um_mark mark = um_arena_mark(scratch);
    ProtobufCMessage *msg = NULL;
    float *rows = NULL;
    um_status st = um_link_unpack(&msg, &um__encode_result__descriptor, in, scratch, err);
    const Um__EncodeResult *res = (const Um__EncodeResult *)msg;
    if (st == UM_OK && d->under_way[in->msg.peer]-- == 0)
        st = UM_FAIL(err, UM_E_CORRUPT, "encoded frame of rank %d, which was asked for nothing",
                     in->msg.peer);
    if (st == UM_OK && res->status == UM_OK) {
        if ((int)in->frame.cols != d->model->dim || in->frame.rows == 0)
            st = UM_FAIL(err, UM_E_CORRUPT, "encoded frame of %u x %u, want columns %d",
                         in->frame.rows, in->frame.cols, d->model->dim);
        if (st == UM_OK) {
            rows = um_arena_f32(scratch, in->frame.rows, in->frame.cols);
            st = um_link_rows(d->link, rows, in, scratch, err);
        }
        if (st == UM_OK && strlen(res->key) == UM_SHA256_HEX - 1)
            um_media_cache_put(d->cache, res->key, rows, (int)in->frame.rows, d->model->dim);
        d->stats.encoded++;
    }
    if (st == UM_OK) deliver(d, res, rows, (int)in->frame.rows, list, n);
    um_arena_reset(scratch, mark);
    return st;
}
