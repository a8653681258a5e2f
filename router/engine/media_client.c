/* See media_client.h. */
#include "router/engine/media_client.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "router/engine/media_cache.h"

#include <string.h>
#include <unistd.h>

enum {
    READ_BYTES = 4 << 20, /* files are read in pieces of so many bytes; then other work goes on */
    WINDOW_BYTES = 32 << 20, /* an encoder rank that has more on its way is sent no more */
    WINDOW_ITEMS = 16        /* the same by number of items */
};

/* Item i of a sequence. */
typedef struct task {
    um_sequence *s;
    int i;
} task;

/* The item at the front of the queue, on its way from disk to an encoder rank. */
typedef struct reading {
    task of;                   /* of.s is NULL: there is none, or its sequence was forgotten */
    int files;                 /* that are read whole */
    ProtobufCBinaryData *file; /* [item->n] */
    bool begun;                /* file[files] is being read */
    int fd;                    /* of it; -1: its content came with the request */
    size_t got;                /* bytes of it that are read */
    size_t bytes;              /* of all files that were begun */
    um_sha256 hash;
    bool blocked; /* every rank that reads it has a full window */
    um_arena arena;
} reading;

/* What is on its way to a rank and back. */
typedef struct window {
    int items;
    size_t bytes, sent[WINDOW_ITEMS]; /* of each item, in the order in which answers come */
} window;

struct um_media_client {
    const um_config *cfg;
    const um_model *model;
    um_link *link;
    um_media_sink sink;
    um_media_cache *cache;
    window *under_way; /* [ranks] */
    unsigned turn;     /* which of equally busy ranks is next */
    task *queue;       /* queue[first..n) are not read yet */
    int first, n, cap;
    task *waiting; /* [n_waiting] their rows are under way; the key is in the feature */
    int n_waiting, cap_waiting;
    reading now;
    um_media_stats stats;
};

static void reading_end(reading *r)
{
    um_sha256_drop(&r->hash);
    if (r->fd >= 0) close(r->fd);
    um_arena_free(&r->arena);
    *r = (reading){.arena = r->arena, .fd = -1};
}

um_media_client *um_media_client_open(const um_config *cfg, const um_model *m, um_link *link,
                                      um_media_sink sink)
{
    um_media_client *c = um_zalloc(sizeof *c);
    *c = (um_media_client){.cfg = cfg, .model = m, .link = link, .sink = sink};
    c->cache = um_media_cache_open((size_t)cfg->media_cache);
    c->under_way = um_zalloc((size_t)link->comm->topo.n * sizeof *c->under_way);
    um_arena_init(&c->now.arena, "media files", 1 << 16);
    c->now.fd = -1;
    return c;
}

void um_media_client_close(um_media_client *c)
{
    if (c == NULL) return;
    um_media_cache_close(c->cache);
    reading_end(&c->now);
    um_free(c->under_way);
    um_free(c->queue);
    um_free(c->waiting);
    um_free(c);
}

um_media_stats um_media_client_stats(const um_media_client *c) { return c->stats; }

static void push(task **list, int *n, int *cap, task t)
{
    if (*n == *cap) {
        *cap = *cap == 0 ? 16 : 2 * *cap;
        *list = um_realloc(*list, (size_t)*cap * sizeof **list);
    }
    (*list)[(*n)++] = t;
}

void um_media_client_request(um_media_client *c, um_sequence *s)
{
    if (c->first == c->n) c->first = c->n = 0;
    for (int i = 0; i < s->n_features; i++) push(&c->queue, &c->n, &c->cap, (task){s, i});
}

static int drop(task *list, int from, int n, const um_sequence *s)
{
    int kept = from;
    for (int i = from; i < n; i++)
        if (list[i].s != s) list[kept++] = list[i];
    return kept;
}

void um_media_client_forget(um_media_client *c, const um_sequence *s)
{
    c->n = drop(c->queue, c->first, c->n, s);
    c->n_waiting = drop(c->waiting, 0, c->n_waiting, s);
    if (c->now.of.s == s) reading_end(&c->now);
}

bool um_media_client_runnable(const um_media_client *c)
{
    return c->now.of.s != NULL ? !c->now.blocked : c->first < c->n;
}

/* --- to the encoder ranks --- */

static bool has_room(const window *w, size_t bytes)
{
    return w->items == 0 || (w->items < WINDOW_ITEMS && w->bytes + bytes <= WINDOW_BYTES);
}

/* Of the encoder ranks that read any of set, the one with the fewest bytes under way; -1 when there is none. */
static int rank_among(um_media_client *c, uint32_t set)
{
    const um_topology *topo = &c->link->comm->topo;
    int n = topo->count[UM_ROLE_ENCODER], best = -1;
    for (int i = 0; i < n; i++) {
        int r = topo->of_role[UM_ROLE_ENCODER][((unsigned)i + c->turn) % (unsigned)n];
        if ((topo->ranks[r].modalities & set) == 0) continue;
        const window *w = &c->under_way[r], *b = best < 0 ? NULL : &c->under_way[best];
        if (b == NULL || w->items < b->items || (w->items == b->items && w->bytes < b->bytes))
            best = r;
    }
    return best;
}

/* Images and videos share a tower: where no rank is named for the one, those of the other take it. */
static um_status rank_choose(um_media_client *c, int *rank, const um_feature *f, um_err *err)
{
    uint32_t own = 1u << f->modality;
    *rank = rank_among(c, own);
    if (*rank < 0 && (own & UM_READS_VISION) != 0) *rank = rank_among(c, UM_READS_VISION);
    if (*rank >= 0) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "%s: no encoder rank reads %s: start one with --encoders %s=1",
                   f->item->paths[0],
                   f->modality == UM_IMAGE   ? "images"
                   : f->modality == UM_VIDEO ? "videos"
                                             : um_modality_name(f->modality),
                   um_modality_name(f->modality));
}

static um_status item_send(um_media_client *c, const um_feature *f, int rank, um_err *err)
{
    Um__EncodeRequest req = UM__ENCODE_REQUEST__INIT;
    window *w = &c->under_way[rank];
    req.modality = (Um__Modality)f->modality;
    req.name = (char *)(uintptr_t)f->item->paths[0];
    req.n_media = (size_t)f->item->n;
    req.media = c->now.file;
    req.track = f->item->track;
    req.frames = f->item->frames;
    req.key = (char *)(uintptr_t)f->key;
    UM_TRY(um_link_control(c->link, rank, UM_KIND_ENCODE, &req.base, err));
    UM_CHECK(w->items < WINDOW_ITEMS);
    w->sent[w->items++] = c->now.bytes;
    w->bytes += c->now.bytes;
    c->turn++;
    return UM_OK;
}

/* --- one item --- */

static bool is_under_way(const um_media_client *c, const char *key)
{
    for (int i = 0; i < c->n_waiting; i++)
        if (strcmp(c->waiting[i].s->features[c->waiting[i].i].key, key) == 0) return true;
    return false;
}

/* The rows of an item with the same content: in the cache, or of the same sequence. NULL when there are none. */
static const float *rows_find(um_media_client *c, const um_sequence *s, const char *key, int *n)
{
    const float *rows = um_media_cache_find(c->cache, key, n);
    for (int i = 0; rows == NULL && i < s->n_features; i++) {
        const um_feature *f = &s->features[i];
        if (f->rows == NULL || strcmp(f->key, key) != 0) continue;
        rows = f->rows;
        *n = f->n;
    }
    return rows;
}

static void begin(um_media_client *c)
{
    reading *r = &c->now;
    r->of = c->queue[c->first++];
    const um_item *item = r->of.s->features[r->of.i].item;
    uint8_t head[4] = {(uint8_t)item->modality, item->track, item->frames,
                       (uint8_t)c->cfg->image_orientation[0]};
    r->file = um_arena_zero(&r->arena, (size_t)item->n * sizeof *r->file);
    um_sha256_init(&r->hash);
    um_sha256_update(&r->hash, head, sizeof head);
}

static um_status too_large(const um_item *item, const char *path, int64_t limit, um_err *err)
{
    return UM_FAIL(err, UM_E_DATA, "%s: larger than --media-max-bytes, which is %lld%s", path,
                   (long long)limit, item->n > 1 ? " for all frames of a video together" : "");
}

/* Begins the next file, when --media-max-bytes allows it: opens it, unless its content came with the request. */
static um_status file_begin(um_media_client *c, const um_item *item, um_err *err)
{
    reading *r = &c->now;
    ProtobufCBinaryData *f = &r->file[r->files];
    const char *path = item->paths[r->files];
    bool here = item->data != NULL && item->data[r->files].bytes != NULL;
    int64_t size = here ? (int64_t)item->data[r->files].n : 0, limit = c->cfg->media_max_bytes;
    uint8_t head[8];
    um_status st = here ? UM_OK : um_file_open_regular(&r->fd, &size, path, err);
    if (st != UM_OK) return UM_E_DATA;
    if (size > limit - (int64_t)r->bytes) return too_large(item, path, limit, err);
    f->len = (size_t)size;
    f->data =
        here ? (uint8_t *)(uintptr_t)item->data[r->files].bytes : um_arena_alloc(&r->arena, f->len);
    r->begun = true;
    r->bytes += f->len;
    r->got = 0;
    um_put_u64(head, f->len);
    um_sha256_update(&r->hash, head, sizeof head);
    return UM_OK;
}

/* Continues reading until all files are complete or some MiB have been read. The key covers what the rows depend on besides the model
 * and the settings that are fixed for the job: what the item is, the image orientation (begin), and every file's size and bytes. */
static um_status read_some(um_media_client *c, const um_item *item, um_err *err)
{
    reading *r = &c->now;
    for (size_t left = READ_BYTES; r->files < item->n && left > 0;) {
        if (!r->begun) UM_TRY(file_begin(c, item, err));
        ProtobufCBinaryData *f = &r->file[r->files];
        size_t n = f->len - r->got < left ? f->len - r->got : left;
        if (r->fd >= 0 &&
            um_file_read_piece(r->fd, f->data + r->got, n, item->paths[r->files], err) != UM_OK)
            return UM_E_DATA;
        um_sha256_update(&r->hash, f->data + r->got, n);
        r->got += n;
        left -= n;
        if (r->got < f->len) continue;
        if (r->fd >= 0) close(r->fd);
        r->fd = -1;
        r->begun = false;
        r->files++;
    }
    return UM_OK;
}

/* All files are read: the rows are there, are under way, or the item is sent, as soon as a rank has room. */
static um_status resolve(um_media_client *c, um_err *err, um_err *why, um_status *item_st)
{
    reading *r = &c->now;
    um_sequence *s = r->of.s;
    um_feature *f = &s->features[r->of.i];
    int n = 0, rank = -1, i = r->of.i;
    if (f->key[0] == '\0') {
        *item_st = um_sha256_final(&r->hash, f->key, why);
        if (*item_st != UM_OK) return UM_OK;
    }
    const float *rows = rows_find(c, s, f->key, &n);
    bool under_way = rows == NULL && is_under_way(c, f->key);
    if (rows == NULL && !under_way) {
        *item_st = rank_choose(c, &rank, f, why);
        if (*item_st != UM_OK) return UM_OK;
        r->blocked = !has_room(&c->under_way[rank], r->bytes);
        if (r->blocked) return UM_OK;
        UM_TRY(item_send(c, f, rank, err));
    } else {
        c->stats.cached++;
    }
    if (rows == NULL) push(&c->waiting, &c->n_waiting, &c->cap_waiting, r->of);
    reading_end(r);
    if (rows != NULL) c->sink.rows(c->sink.ctx, s, i, rows, n);
    return UM_OK;
}

um_status um_media_client_read(um_media_client *c, um_err *err)
{
    um_err why = {0};
    um_status st = UM_OK;
    if (c->now.of.s == NULL) {
        if (c->first == c->n) return UM_OK;
        begin(c);
    }
    um_sequence *s = c->now.of.s;
    const um_item *item = s->features[c->now.of.i].item;
    if (c->now.files < item->n) st = read_some(c, item, &why);
    if (st == UM_OK && c->now.files == item->n) UM_TRY(resolve(c, err, &why, &st));
    if (st == UM_OK) return UM_OK;
    um_media_client_forget(c, s);
    c->sink.failed(c->sink.ctx, s, st, &why);
    return UM_OK;
}

/* --- back from the encoder ranks --- */

/* Hands rows, or the refusal, to all that wait for the key. The sink may change the list (um_media_client_forget), so a task leaves the
 * list first and the search starts again. */
static void deliver(um_media_client *c, const Um__EncodeResult *res, const float *rows, int n)
{
    um_err why = {0};
    um_status st = res->status <= UM_E_STOPPED ? (um_status)res->status : UM_E_DATA;
    if (st != UM_OK) um_fail(&why, st, "%s", res->text);
    for (int i = 0; i < c->n_waiting;) {
        task t = c->waiting[i];
        if (strcmp(t.s->features[t.i].key, res->key) != 0) {
            i++;
            continue;
        }
        if (st == UM_OK) {
            memmove(c->waiting + i, c->waiting + i + 1,
                    (size_t)(--c->n_waiting - i) * sizeof *c->waiting);
            c->sink.rows(c->sink.ctx, t.s, t.i, rows, n);
        } else {
            um_media_client_forget(c, t.s);
            c->sink.failed(c->sink.ctx, t.s, st, &why);
        }
        i = 0;
    }
}

/* The oldest item of a rank's window came back; there is room again. */
static um_status window_pop(um_media_client *c, int peer, um_err *err)
{
    window *w = &c->under_way[peer];
    if (w->items == 0)
        return UM_FAIL(err, UM_E_CORRUPT, "encoded frame of rank %d, which was asked for nothing",
                       peer);
    w->bytes -= w->sent[0];
    memmove(w->sent, w->sent + 1, (size_t)--w->items * sizeof *w->sent);
    c->now.blocked = false;
    return UM_OK;
}

um_status um_media_client_encoded(um_media_client *c, const um_inbound *in, um_arena *scratch,
                                  um_err *err)
{
    um_mark mark = um_arena_mark(scratch);
    ProtobufCMessage *msg = NULL;
    float *rows = NULL;
    um_status st = um_link_unpack(&msg, &um__encode_result__descriptor, in, scratch, err);
    const Um__EncodeResult *res = (const Um__EncodeResult *)msg;
    if (st == UM_OK) st = window_pop(c, in->msg.peer, err);
    if (st == UM_OK && res->status == UM_OK) {
        if ((int)in->frame.cols != c->model->dim || in->frame.rows == 0)
            st = UM_FAIL(err, UM_E_CORRUPT, "encoded frame of %u x %u, want columns %d",
                         in->frame.rows, in->frame.cols, c->model->dim);
        if (st == UM_OK) {
            rows = um_arena_f32(scratch, in->frame.rows, in->frame.cols);
            st = um_link_rows(c->link, rows, in, scratch, err);
        }
        if (st == UM_OK && strlen(res->key) == UM_SHA256_HEX - 1)
            um_media_cache_put(c->cache, res->key, rows, (int)in->frame.rows, c->model->dim);
        c->stats.encoded++;
    }
    if (st == UM_OK) deliver(c, res, rows, (int)in->frame.rows);
    um_arena_reset(scratch, mark);
    return st;
}
