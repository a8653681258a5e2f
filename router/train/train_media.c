/* See train_media.h. */
#include "router/train/train_media.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/file.h"

#include <stdio.h>
#include <string.h>

struct um_train_media {
    const um_config *cfg;
    const um_model *model;
    um_link *link;
    uint32_t trained;
    um_media_cache *cache;
    um_train_item *asked, **last; /* a list of those whose answer has not come, oldest first */
    int *busy;                    /* [ranks] items asked of each */
    int64_t *since_ns;            /* [ranks] when it was asked first, or last answered */
    um_arena scratch;
};

/* --- what is owed --- */

/* An um_link_owed. */
static bool owed(void *ctx, um_owed *out)
{
    um_train_media *c = ctx;
    const um_train_item *it = c->asked;
    if (it == NULL) return false;
    *out = (um_owed){.peer = it->rank, .since_ns = c->since_ns[it->rank]};
    snprintf(out->what, sizeof out->what, "the encoded frames of %d media", c->busy[it->rank]);
    return true;
}

/* --- answers --- */

/* Takes the item that a frame answers out of the list; NULL: it answers none. */
static um_train_item *taken(um_train_media *c, const um_inbound *in)
{
    for (um_train_item **at = &c->asked; *at != NULL; at = &(*at)->next) {
        um_train_item *it = *at;
        if (it->rank != in->msg.peer || it->step != in->frame.step ||
            it->batch != in->frame.batch || it->number != in->frame.layer)
            continue;
        *at = it->next;
        if (c->last == &it->next) c->last = at;
        it->next = NULL;
        return it;
    }
    return NULL;
}

/* The rows of a frame, into memory of the item's own or into the cache. */
static um_status rows_in(um_train_media *c, um_train_item *it, const um_inbound *in,
                         const char *key, um_err *err)
{
    const size_t n = (size_t)in->frame.rows * in->frame.cols;
    if (in->frame.rows == 0 || in->frame.cols != (uint32_t)c->model->dim)
        return UM_FAIL(err, UM_E_CORRUPT, "encoded frame of %u x %u values, want rows of %d",
                       in->frame.rows, in->frame.cols, c->model->dim);
    float *rows = um_alloc_aligned(n * sizeof *rows);
    um_status st = um_link_rows(c->link, rows, in, &c->scratch, err);
    it->n = (int)in->frame.rows;
    if (st == UM_OK && it->fixed && strlen(key) == UM_SHA256_HEX - 1) {
        it->shared = um_media_cache_put(c->cache, key, rows, it->n, c->model->dim);
        it->rows = it->shared->rows;
        um_free(rows);
        return UM_OK;
    }
    it->own = rows;
    it->rows = rows;
    return st;
}

/* An um_link_take of encoded frames. */
static um_status encoded(void *ctx, const um_inbound *in, um_err *err)
{
    um_train_media *c = ctx;
    ProtobufCMessage *msg = NULL;
    um_mark mark = um_arena_mark(&c->scratch);
    um_status st = um_link_unpack(&msg, &um__encode_result__descriptor, in, &c->scratch, err);
    const Um__EncodeResult *res = (const Um__EncodeResult *)msg;
    um_train_item *it = st == UM_OK ? taken(c, in) : NULL;
    if (st == UM_OK && it == NULL)
        st = UM_FAIL(err, UM_E_CORRUPT, "encoded frame of rank %d, which was not asked for it",
                     in->msg.peer);
    if (st == UM_OK) {
        c->busy[it->rank]--;
        c->since_ns[it->rank] = um_now_ns();
        it->done = true;
        if (res->status != 0) {
            it->why = um_strdup(res->text[0] != '\0' ? res->text : "it cannot be encoded");
            it->keep = false; /* no gradient is waited for */
        } else {
            st = rows_in(c, it, in, res->key, err);
        }
    }
    um_arena_reset(&c->scratch, mark);
    return st;
}

um_train_media *um_train_media_open(const um_config *cfg, const um_model *m, um_link *link,
                                    uint32_t trained)
{
    um_train_media *c = um_zalloc(sizeof *c);
    const size_t ranks = (size_t)link->comm->topo.n;
    *c = (um_train_media){.cfg = cfg, .model = m, .link = link, .trained = trained};
    c->cache = um_media_cache_open((size_t)cfg->media_cache);
    c->last = &c->asked;
    c->busy = um_zalloc(ranks * sizeof *c->busy);
    c->since_ns = um_zalloc(ranks * sizeof *c->since_ns);
    um_arena_init(&c->scratch, "training media", 1 << 20);
    um_link_handle(link, UM_KIND_ENCODED, encoded, c);
    um_link_owes(link, owed, c);
    return c;
}

void um_train_media_close(um_train_media *c)
{
    if (c == NULL) return;
    um_link_handle(c->link, UM_KIND_ENCODED, NULL, NULL);
    um_link_owes_end(c->link, c);
    um_media_cache_close(c->cache);
    um_arena_free(&c->scratch);
    um_free(c->since_ns);
    um_free(c->busy);
    um_free(c);
}

/* --- questions --- */

/* The rank that encodes it: the first that reads its modality when it trains, else the least busy one; -1: none reads it. Images and
 * videos share a tower, and where it trains a rank. */
static int rank_of(const um_train_media *c, um_modality modality, bool trained)
{
    const um_topology *topo = &c->link->comm->topo;
    const uint32_t own = 1u << modality;
    const uint32_t set = (own & UM_READS_VISION) != 0 ? UM_READS_VISION : own;
    int best = -1;
    for (int i = 0; i < topo->count[UM_ROLE_ENCODER]; i++) {
        int r = topo->of_role[UM_ROLE_ENCODER][i];
        if ((topo->ranks[r].modalities & set) == 0) continue;
        if (best < 0 || (!trained && c->busy[r] < c->busy[best])) best = r;
    }
    return best;
}

/* Reads the files of an item; the key is the hash of all that its rows depend on (as media_client.c makes it). */
static um_status read_files(const um_train_media *c, const um_item *item, ProtobufCBinaryData *file,
                            char key[UM_SHA256_HEX], um_arena *arena, um_err *err)
{
    um_sha256 hash;
    size_t left = (size_t)c->cfg->media_max_bytes;
    const uint8_t head[4] = {(uint8_t)item->modality, item->track, item->frames,
                             (uint8_t)c->cfg->image_orientation[0]};
    um_sha256_init(&hash);
    um_sha256_update(&hash, head, sizeof head);
    for (int i = 0; i < item->n; i++) {
        uint8_t size[8], *data = NULL;
        size_t n = 0;
        if (item->data != NULL && item->data[i].bytes != NULL) {
            data = (uint8_t *)(uintptr_t)item->data[i].bytes;
            n = item->data[i].n;
        } else if (um_file_read_regular(&data, &n, item->paths[i], left, arena, err) != UM_OK) {
            um_sha256_drop(&hash);
            return UM_E_DATA;
        }
        if (n > left) {
            um_sha256_drop(&hash);
            return UM_FAIL(err, UM_E_DATA, "%s: larger than --media-max-bytes, which is %lld",
                           item->paths[i], (long long)c->cfg->media_max_bytes);
        }
        left -= n;
        um_put_u64(size, n);
        um_sha256_update(&hash, size, sizeof size);
        um_sha256_update(&hash, data, n);
        file[i] = (ProtobufCBinaryData){.data = data, .len = n};
    }
    return um_sha256_final(&hash, key, err);
}

static um_status refuse(um_train_item *it, const char *why)
{
    it->why = um_strdup(why);
    it->done = true;
    return UM_OK;
}

static um_status send(um_train_media *c, um_train_item *it, ProtobufCBinaryData *file, char *key,
                      um_err *err)
{
    Um__EncodeRequest req = UM__ENCODE_REQUEST__INIT;
    Um__EncodeTraining train = UM__ENCODE_TRAINING__INIT;
    const um_item *item = it->of;
    train.step = it->step;
    train.batch = it->batch;
    train.item = it->number;
    train.keep = it->keep;
    req.modality = (Um__Modality)item->modality;
    req.name = (char *)(uintptr_t)item->paths[0];
    req.n_media = (size_t)item->n;
    req.media = file;
    req.track = item->track;
    req.frames = item->frames;
    req.key = key;
    req.train = &train;
    UM_TRY(um_link_control(c->link, it->rank, UM_KIND_ENCODE, &req.base, err));
    if (c->busy[it->rank]++ == 0) c->since_ns[it->rank] = um_now_ns();
    *c->last = it;
    c->last = &it->next;
    return UM_OK;
}

um_status um_train_media_ask(um_train_media *c, um_train_item *it, um_err *err)
{
    um_err why = {0};
    char key[UM_SHA256_HEX];
    const um_item *item = it->of;
    const bool trained = (c->trained >> item->modality & 1) != 0;
    um_mark mark = um_arena_mark(&c->scratch);
    it->keep = trained && (it->batch & UM_BATCH_FORWARD) == 0;
    it->fixed = !trained;
    it->rank = rank_of(c, item->modality, trained);
    if (it->rank < 0) {
        it->keep = false;
        um_fail(&why, UM_E_DATA, "%s: no encoder rank reads %s: start one with --encoders %s=1",
                item->paths[0], um_modality_name(item->modality), um_modality_name(item->modality));
        return refuse(it, why.msg);
    }
    ProtobufCBinaryData *file = um_arena_zero(&c->scratch, (size_t)item->n * sizeof *file);
    um_status st = read_files(c, item, file, key, &c->scratch, &why);
    if (st != UM_OK) {
        it->keep = false;
        it->rank = -1;
        st = refuse(it, why.msg);
    } else if (!trained && (it->shared = um_media_cache_find(c->cache, key)) != NULL) {
        it->rank = -1;
        it->rows = it->shared->rows;
        it->n = it->shared->n;
        it->done = true;
    } else {
        st = send(c, it, file, key, err);
    }
    um_arena_reset(&c->scratch, mark);
    return st;
}

um_status um_train_media_back(um_train_media *c, um_train_item *it, const float *grad,
                              um_arena *scratch, um_err *err)
{
    if (!it->keep) return UM_OK;
    it->keep = false;
    const um_data_frame f = {.kind = UM_KIND_ENCODE_GRAD,
                             .layer = it->number,
                             .step = it->step,
                             .batch = it->batch,
                             .rows = grad,
                             .n = grad == NULL ? 0 : (uint32_t)it->n,
                             .cols = (uint32_t)c->model->dim};
    return um_link_send_rows(c->link, it->rank, &f, scratch, err);
}

void um_train_media_drop(um_train_item *it)
{
    UM_ASSERT(it->done);
    um_media_rows_drop(it->shared);
    um_free(it->own);
    um_free(it->why);
    it->shared = NULL;
    it->own = NULL;
    it->rows = NULL;
    it->why = NULL;
}
