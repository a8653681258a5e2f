/* See train_media.h. */
#include "router/train/train_media.h"

#include "core/base/clock.h"
#include "router/engine/media_reader.h"

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

/* Nobody is asked, and there will be no rows. */
static void refuse(um_train_item *it, const char *why)
{
    it->keep = false;
    it->rank = -1;
    it->why = um_strdup(why);
    it->done = true;
}

static um_status send(um_train_media *c, um_train_item *it, um_media_reader *reader, um_err *err)
{
    Um__EncodeRequest req;
    Um__EncodeTraining train = UM__ENCODE_TRAINING__INIT;
    um_media_reader_request(reader, &req);
    train.step = it->step;
    train.batch = it->batch;
    train.item = it->number;
    train.keep = it->keep;
    req.train = &train;
    UM_TRY(um_link_control(c->link, it->rank, UM_KIND_ENCODE, &req.base, err));
    if (c->busy[it->rank]++ == 0) c->since_ns[it->rank] = um_now_ns();
    *c->last = it;
    c->last = &it->next;
    return UM_OK;
}

/* Reads the files; then its rows are in the cache, or its rank is asked for them. */
static um_status resolve(um_train_media *c, um_train_item *it, um_err *err)
{
    um_err why = {0};
    um_media_reader reader;
    um_media_reader_begin(&reader, it->of, c->cfg, &c->scratch);
    um_status st = um_media_reader_read(&reader, SIZE_MAX, &why);
    if (st == UM_OK) st = um_media_reader_key(&reader, &why);
    if (st != UM_OK) {
        refuse(it, why.msg);
        st = UM_OK;
    } else if (it->fixed && (it->shared = um_media_cache_find(c->cache, reader.key)) != NULL) {
        it->rank = -1;
        it->rows = it->shared->rows;
        it->n = it->shared->n;
        it->done = true;
    } else {
        st = send(c, it, &reader, err);
    }
    um_media_reader_end(&reader);
    return st;
}

um_status um_train_media_ask(um_train_media *c, um_train_item *it, um_err *err)
{
    um_err why = {0};
    const bool trained = (c->trained >> it->of->modality & 1) != 0;
    it->keep = trained && (it->batch & UM_BATCH_FORWARD) == 0;
    it->fixed = !trained;
    it->rank = rank_of(c, it->of->modality, trained);
    if (it->rank < 0) {
        um_media_unread(it->of, &why);
        refuse(it, why.msg);
        return UM_OK;
    }
    um_mark mark = um_arena_mark(&c->scratch);
    um_status st = resolve(c, it, err);
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
