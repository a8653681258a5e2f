/* See media_client.h. */
#include "router/engine/media_client.h"

#include "core/base/clock.h"
#include "router/engine/media_reader.h"

#include <stdio.h>
#include <string.h>

enum {
    READ_BYTES = 4 << 20, /* files are read in pieces of so many bytes; then other work goes on */
    WINDOW_BYTES = 32 << 20, /* an encoder rank that has more on its way is sent no more */
    WINDOW_ITEMS = 16        /* the same by number of items */
};

/* Item i of a request, in one list at most: the queue, or those who wait for a key. */
typedef struct want {
    struct want *prev, *next; /* NULL: in no list */
    um_media_request *of;
    int i;
} want;

struct um_media_request {
    void *waiter;
    const um_item *items;
    int n;
    want want[]; /* [n] */
};

/* A key whose rows an encoder rank was asked for. */
typedef struct flight {
    char key[UM_SHA256_HEX];
    int rank;
    size_t bytes;
    int64_t sent_ns;
    want waiters;         /* a list; empty when all were forgotten */
    struct flight *chain; /* next in its bucket */
} flight;

/* The item at the front of the queue, on its way from disk to an encoder rank. */
typedef struct reading {
    want *of; /* NULL: there is none, or it was forgotten */
    um_media_reader reader;
    bool blocked; /* every rank that reads it has a full window */
    um_arena arena;
} reading;

/* What is on its way to a rank and back. */
typedef struct window {
    int items;
    size_t bytes;
    flight *sent[WINDOW_ITEMS]; /* oldest first */
    int64_t answered_ns;        /* when the rank last answered */
} window;

enum { BUCKETS = 256 }; /* by the first two digits of the key */

struct um_media_client {
    const um_config *cfg;
    const um_model *model;
    um_link *link;
    um_media_sink sink;
    um_media_cache *cache;
    window *under_way; /* [ranks] */
    flight *bucket[BUCKETS];
    unsigned turn; /* which of equally busy ranks is next */
    want queue;    /* a list: not read yet */
    reading now;
    um_media_stats stats;
};

/* --- lists --- */

static void list_init(want *list) { list->prev = list->next = list; }
static want *list_first(const want *list) { return list->next == list ? NULL : list->next; }

static void list_append(want *list, want *w)
{
    w->prev = list->prev;
    w->next = list;
    w->prev->next = w->next->prev = w;
}

static void list_remove(want *w)
{
    if (w->next == NULL) return;
    w->prev->next = w->next;
    w->next->prev = w->prev;
    w->prev = w->next = NULL;
}

static flight **bucket_of(um_media_client *c, const char *key)
{
    unsigned b = 0;
    for (int i = 0; i < 2; i++)
        b = b * 16 + (unsigned)(key[i] <= '9' ? key[i] - '0' : key[i] - 'a' + 10);
    return &c->bucket[b % BUCKETS];
}

static flight *flight_of(um_media_client *c, const char *key)
{
    flight *f = *bucket_of(c, key);
    while (f != NULL && strcmp(f->key, key) != 0) f = f->chain;
    return f;
}

/* --- requests --- */

static void reading_end(reading *r)
{
    um_media_reader_end(&r->reader);
    um_arena_free(&r->arena);
    *r = (reading){.arena = r->arena};
}

static bool owed(void *ctx, um_owed *out)
{
    um_media_owed o = {0};
    if (!um_media_client_owed(ctx, &o)) return false;
    *out = (um_owed){.peer = o.rank, .since_ns = o.since_ns};
    snprintf(out->what, sizeof out->what, "the encoded frame of %d media", o.items);
    return true;
}

um_media_client *um_media_client_open(const um_config *cfg, const um_model *m, um_link *link,
                                      um_media_sink sink)
{
    um_media_client *c = um_zalloc(sizeof *c);
    *c = (um_media_client){.cfg = cfg, .model = m, .link = link, .sink = sink};
    c->cache = um_media_cache_open((size_t)cfg->media_cache);
    c->under_way = um_zalloc((size_t)link->comm->topo.n * sizeof *c->under_way);
    list_init(&c->queue);
    um_arena_init(&c->now.arena, "media files", 1 << 16);
    um_link_owes(link, owed, c);
    return c;
}

void um_media_client_close(um_media_client *c)
{
    if (c == NULL) return;
    UM_ASSERT(c->now.of == NULL && list_first(&c->queue) == NULL);
    um_link_owes_end(c->link, c);
    um_media_cache_close(c->cache);
    reading_end(&c->now);
    for (int r = 0; r < c->link->comm->topo.n; r++)
        for (int i = 0; i < c->under_way[r].items; i++) um_free(c->under_way[r].sent[i]);
    um_free(c->under_way);
    um_free(c);
}

um_media_stats um_media_client_stats(const um_media_client *c) { return c->stats; }

um_media_request *um_media_client_request(um_media_client *c, void *waiter, const um_item *items,
                                          int n)
{
    um_media_request *r = um_zalloc(sizeof *r + (size_t)n * sizeof r->want[0]);
    *r = (um_media_request){.waiter = waiter, .items = items, .n = n};
    for (int i = 0; i < n; i++) {
        r->want[i] = (want){.of = r, .i = i};
        list_append(&c->queue, &r->want[i]);
    }
    return r;
}

/* Nothing of it is read, sent or delivered from here on. */
static void withdraw(um_media_client *c, um_media_request *r)
{
    if (c->now.of != NULL && c->now.of->of == r) reading_end(&c->now);
    for (int i = 0; i < r->n; i++) list_remove(&r->want[i]);
}

void um_media_client_forget(um_media_client *c, um_media_request *r)
{
    if (r == NULL) return;
    withdraw(c, r);
    um_free(r);
}

bool um_media_client_runnable(const um_media_client *c)
{
    return c->now.of != NULL ? !c->now.blocked : list_first(&c->queue) != NULL;
}

bool um_media_client_owed(const um_media_client *c, um_media_owed *out)
{
    bool found = false;
    for (int r = 0; r < c->link->comm->topo.n; r++) {
        const window *w = &c->under_way[r];
        if (w->items == 0) continue;
        int64_t since = w->sent[0]->sent_ns > w->answered_ns ? w->sent[0]->sent_ns : w->answered_ns;
        if (!found || since < out->since_ns) *out = (um_media_owed){r, w->items, since};
        found = true;
    }
    return found;
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
static um_status rank_choose(um_media_client *c, int *rank, const um_item *item, um_err *err)
{
    uint32_t own = 1u << item->modality;
    *rank = rank_among(c, own);
    if (*rank < 0 && (own & UM_READS_VISION) != 0) *rank = rank_among(c, UM_READS_VISION);
    if (*rank >= 0) return UM_OK;
    return um_media_unread(item, err);
}

/* Sends the item that was read; its waiter is the first of this key. */
static um_status item_send(um_media_client *c, int rank, um_err *err)
{
    Um__EncodeRequest req;
    window *w = &c->under_way[rank];
    const um_media_reader *reader = &c->now.reader;
    um_media_reader_request(&c->now.reader, &req);
    UM_TRY(um_link_control(c->link, rank, UM_KIND_ENCODE, &req.base, err));
    UM_CHECK(w->items < WINDOW_ITEMS);
    flight *f = um_zalloc(sizeof *f), **bucket = bucket_of(c, reader->key);
    *f = (flight){.rank = rank, .bytes = reader->bytes, .sent_ns = um_now_ns(), .chain = *bucket};
    memcpy(f->key, reader->key, sizeof f->key);
    list_init(&f->waiters);
    list_append(&f->waiters, c->now.of);
    *bucket = f;
    w->sent[w->items++] = f;
    w->bytes += f->bytes;
    c->turn++;
    return UM_OK;
}

/* --- one item --- */

static const um_item *item_of(const want *w) { return &w->of->items[w->i]; }

static void begin(um_media_client *c)
{
    reading *r = &c->now;
    r->of = list_first(&c->queue);
    list_remove(r->of);
    um_media_reader_begin(&r->reader, item_of(r->of), c->cfg, &r->arena);
}

/* All files are read: the rows are there, are under way, or the item is sent, as soon as a rank has room. */
static um_status resolve(um_media_client *c, um_err *err, um_err *why, um_status *item_st)
{
    reading *r = &c->now;
    want *w = r->of;
    int rank = -1;
    *item_st = um_media_reader_key(&r->reader, why);
    if (*item_st != UM_OK) return UM_OK;
    const um_media_rows *rows = um_media_cache_find(c->cache, r->reader.key);
    flight *f = rows == NULL ? flight_of(c, r->reader.key) : NULL;
    if (rows == NULL && f == NULL) {
        *item_st = rank_choose(c, &rank, item_of(w), why);
        if (*item_st != UM_OK) return UM_OK;
        r->blocked = !has_room(&c->under_way[rank], r->reader.bytes);
        if (r->blocked) return UM_OK;
        UM_TRY(item_send(c, rank, err));
    } else {
        c->stats.cached++;
    }
    if (f != NULL) list_append(&f->waiters, w);
    reading_end(r);
    if (rows != NULL) c->sink.rows(c->sink.ctx, w->of->waiter, w->i, rows);
    um_media_rows_drop(rows);
    return UM_OK;
}

static void fail(um_media_client *c, um_media_request *r, um_status st, const um_err *why)
{
    withdraw(c, r);
    c->sink.failed(c->sink.ctx, r->waiter, st, why);
}

um_status um_media_client_read(um_media_client *c, um_err *err)
{
    um_err why = {0};
    if (c->now.of == NULL) {
        if (list_first(&c->queue) == NULL) return UM_OK;
        begin(c);
    }
    want *w = c->now.of;
    um_status st = um_media_reader_read(&c->now.reader, READ_BYTES, &why);
    if (st == UM_OK && um_media_reader_complete(&c->now.reader)) UM_TRY(resolve(c, err, &why, &st));
    if (st != UM_OK) fail(c, w->of, st, &why);
    return UM_OK;
}

/* --- back from the encoder ranks --- */

/* Hands rows, or the refusal, to all that wait for the key. The sink may forget any request meanwhile, so each leaves the list first. */
static void deliver(um_media_client *c, flight *f, const Um__EncodeResult *res,
                    const um_media_rows *rows)
{
    um_err why = {0};
    um_status st = res->status <= UM_E_STOPPED ? (um_status)res->status : UM_E_DATA;
    if (st != UM_OK) um_fail(&why, st, "%s", res->text);
    for (want *w; (w = list_first(&f->waiters)) != NULL;) {
        list_remove(w);
        if (st == UM_OK)
            c->sink.rows(c->sink.ctx, w->of->waiter, w->i, rows);
        else
            fail(c, w->of, st, &why);
    }
}

/* Takes the flight that a rank answers out of its window, where there is room again. */
static um_status land(um_media_client *c, flight **out, int peer, const char *key, um_err *err)
{
    window *w = &c->under_way[peer];
    flight *f = strlen(key) == UM_SHA256_HEX - 1 ? flight_of(c, key) : NULL;
    int at = 0;
    if (f == NULL || f->rank != peer)
        return UM_FAIL(err, UM_E_CORRUPT, "encoded frame of rank %d, which was not asked for it",
                       peer);
    while (w->sent[at] != f) UM_CHECK(++at < w->items);
    memmove(w->sent + at, w->sent + at + 1, (size_t)(--w->items - at) * sizeof w->sent[0]);
    w->bytes -= f->bytes;
    w->answered_ns = um_now_ns();
    flight **in = bucket_of(c, key);
    while (*in != f) in = &(*in)->chain;
    *in = f->chain;
    c->now.blocked = false;
    *out = f;
    return UM_OK;
}

/* Decodes the rows of an answer into the cache. */
static um_status rows_in(um_media_client *c, const um_media_rows **out, const um_inbound *in,
                         const char *key, um_arena *scratch, um_err *err)
{
    const um_frame *f = &in->frame;
    if ((int)f->cols != c->model->dim || f->rows == 0)
        return UM_FAIL(err, UM_E_CORRUPT, "encoded frame of %u x %u, want columns %d", f->rows,
                       f->cols, c->model->dim);
    float *rows = um_arena_f32(scratch, f->rows, f->cols);
    UM_TRY(um_link_rows(c->link, rows, in, scratch, err));
    *out = um_media_cache_put(c->cache, key, rows, (int)f->rows, c->model->dim);
    c->stats.encoded++;
    return UM_OK;
}

um_status um_media_client_encoded(um_media_client *c, const um_inbound *in, um_arena *scratch,
                                  um_err *err)
{
    um_mark mark = um_arena_mark(scratch);
    ProtobufCMessage *msg = NULL;
    flight *f = NULL;
    const um_media_rows *rows = NULL;
    um_status st = um_link_unpack(&msg, &um__encode_result__descriptor, in, scratch, err);
    const Um__EncodeResult *res = (const Um__EncodeResult *)msg;
    if (st == UM_OK) st = land(c, &f, in->msg.peer, res->key, err);
    if (st == UM_OK && res->status == UM_OK) st = rows_in(c, &rows, in, f->key, scratch, err);
    if (st == UM_OK) deliver(c, f, res, rows);
    um_media_rows_drop(rows);
    um_free(f);
    um_arena_reset(scratch, mark);
    return st;
}
