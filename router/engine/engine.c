/* See engine.h. Admission and the end of sequences; micro-batches are in batch.c, pages in pages.c. */
#include "router/engine/engine.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "router/engine/batch.h"
#include "router/engine/pages.h"

#include <inttypes.h>
#include <string.h>

enum {
    ADMIT_BYTES =
        256 << 10,     /* text that is tokenised between two micro-batches, but for one request */
    QUEUE_BATCHES = 4, /* requests in the queue, for each that may be active */
    QUEUE_BYTES =
        96 << 20, /* of their JSON; one request of any length is taken when there is none */
};

struct um_engine {
    const um_config *cfg;
    const um_model *model;
    const um_tokenizer *tok;
    um_link *link;
    um_exchange *exchange;
    um_engine_events events;
    um_sequence *
        *queue; /* [cap_queue] the n_queue in order of arrival, from queue[first] on, in a ring */
    int first, n_queue, cap_queue;
    size_t queue_bytes;
    um_sequence *ended;   /* those that were cancelled in the queue, in a list */
    um_sequence *refused; /* whose texts the last refusal points to */
    um_sequence **
        active; /* [n_active], in order of arrival; while events are reported, NULL: it has ended */
    int n_active, max_active;
    bool wait; /* the first ready sequence waits for pages */
    bool
        shortened; /* a warning was logged: some answer ends where the model has no more positions */
    um_pages pages;
    um_batcher batcher;
    um_media_client *media;
    um_arena scratch, device;
};

/* --- open and close --- */

static void media_forget(um_engine *e, um_sequence *s)
{
    um_media_client_forget(e->media, s->wanted);
    s->wanted = NULL;
}

static void media_rows(void *ctx, void *waiter, int i, const um_media_rows *rows)
{
    um_engine *e = ctx;
    um_sequence *s = waiter;
    um_sequence_feature(s, i, rows, e->cfg, e->model);
    if (s->state != UM_SEQ_ENCODING) media_forget(e, s); /* all are there, or it failed */
}

static void media_failed(void *ctx, void *waiter, um_status st, const um_err *why)
{
    um_engine *e = ctx;
    um_sequence *s = waiter;
    um_sequence_fail(s, st, why);
    media_forget(e, s);
}

/* Micro-batches in flight. With expert ranks on other hosts messages take time that another micro-batch can use; on one host all ranks
 * share the cores, and a second one would only read the weights twice. */
static int flights_of(const um_config *cfg, const um_model *m, const um_topology *topo, int rank)
{
    if (m->experts == 0) return 1;
    if (cfg->micro_batches > 0) return (int)cfg->micro_batches;
    for (int r = 0; r < topo->n; r++)
        if (topo->ranks[r].role == UM_ROLE_EXPERT && topo->ranks[r].host != topo->ranks[rank].host)
            return 2;
    return 1;
}

um_status um_engine_open(um_engine **out, const um_config *cfg, const um_model *m,
                         const um_tokenizer *tok, um_backbone *backbone, um_link *link, um_dev *dev,
                         const um_engine_events *events, um_err *err)
{
    const um_comm *c = link->comm;
    int rows = (int)(cfg->prefill_chunk + cfg->max_batch), credit_rows = rows;
    if (m->experts > 0) UM_TRY(um_exchange_max_rows(link, m->dim, m->top_k, &credit_rows, err));
    um_engine *e = um_zalloc(sizeof *e);
    *e = (um_engine){.cfg = cfg, .model = m, .tok = tok, .link = link, .events = *events};
    int flights = um_min_int(flights_of(cfg, m, &c->topo, c->rank), UM_FLIGHTS_MAX);
    e->max_active = flights * (int)cfg->max_batch;
    e->exchange = um_exchange_open(link, dev, m->dim);
    um_exchange_sparse(e->exchange);
    e->media = um_media_client_open(cfg, m, link, (um_media_sink){media_rows, media_failed, e});
    e->active = um_zalloc((size_t)e->max_active * sizeof *e->active);
    e->cap_queue = QUEUE_BATCHES * e->max_active;
    e->queue = um_zalloc((size_t)e->cap_queue * sizeof *e->queue);
    um_arena_init(&e->scratch, "engine step", 4 << 20);
    um_dev_arena(&e->device, dev, "engine step", 1 << 20);
    um_status st = um_pages_open(&e->pages, cfg, m, &c->topo, c->rank, e->max_active, dev, err);
    e->batcher = (um_batcher){.cfg = cfg,
                              .model = m,
                              .backbone = backbone,
                              .exchange = e->exchange,
                              .link = link,
                              .dev = dev,
                              .pool = e->pages.pool,
                              .prefix = e->pages.prefix,
                              .scratch = &e->scratch,
                              .device = &e->device,
                              .max_rows = um_min_int(rows, credit_rows),
                              .flights = flights};
    um_batcher_open(&e->batcher);
    if (st == UM_OK)
        *out = e;
    else
        um_engine_close(e);
    return st;
}

static void sequence_free(um_engine *e, um_sequence *s)
{
    if (s == NULL) return;
    media_forget(e, s);
    um_batcher_release(&e->batcher, s);
    um_sequence_close(s);
    um_free(s);
}

static um_sequence *queue_at(const um_engine *e, int i)
{
    return e->queue[(e->first + i) % e->cap_queue];
}

void um_engine_close(um_engine *e)
{
    if (e == NULL) return;
    um_batcher_close(&e->batcher);
    for (int i = 0; i < e->n_active; i++) sequence_free(e, e->active[i]);
    for (int i = 0; i < e->n_queue; i++) sequence_free(e, queue_at(e, i));
    for (um_sequence *s = e->ended, *next; s != NULL; s = next) {
        next = s->next;
        sequence_free(e, s);
    }
    sequence_free(e, e->refused);
    um_media_client_close(e->media);
    um_pages_close(&e->pages);
    um_exchange_close(e->exchange);
    um_free(e->active);
    um_free(e->queue);
    um_arena_free(&e->device);
    um_arena_free(&e->scratch);
    um_free(e);
}

int um_engine_capacity(const um_engine *e) { return e->max_active; }

int um_engine_unfinished(const um_engine *e)
{
    int n = e->n_active + e->n_queue;
    for (const um_sequence *s = e->ended; s != NULL; s = s->next) n++;
    return n;
}

um_engine_load um_engine_load_of(const um_engine *e)
{
    return (um_engine_load){.queued = e->n_queue,
                            .active = e->n_active,
                            .queued_bytes = e->queue_bytes,
                            .pages = um_kv_pool_count(e->pages.pool)};
}

const um_engine_stats *um_engine_stats_of(const um_engine *e) { return &e->batcher.stats; }
um_media_stats um_engine_media_stats(const um_engine *e) { return um_media_client_stats(e->media); }
void um_engine_count_routing(um_engine *e, um_routing *routing) { e->batcher.routing = routing; }

/* --- from the queue to an answer --- */

/* s needs `need` pages and cannot have more than `most`. */
static um_status memory_error(const um_engine *e, const um_sequence *s, int64_t need, int64_t most,
                              um_err *err)
{
    const double page = (double)e->pages.page_bytes / 1073741824.0;
    return UM_FAIL(err, UM_E_DATA,
                   "%d prompt rows%s and %d new tokens need %.3f GiB for keys and values, %.3f GiB "
                   "%s: lower max_new_tokens or shorten the prompt",
                   s->T, s->state == UM_SEQ_QUEUED ? " or more" : "", s->max_out,
                   (double)need * page, (double)most * page,
                   e->pages.limited ? "are allowed by --request-memory"
                                    : "are free for this router");
}

/* What is wrong with accepting s, whose text may be accepted. */
static um_status room_check(um_engine *e, const um_sequence *s, um_err *err)
{
    int32_t need = um_kv_pages_of(um_sequence_positions(s, e->model));
    bool full = e->n_queue == e->cap_queue ||
                (e->n_queue > 0 && e->queue_bytes + s->text_bytes > QUEUE_BYTES);
    if (full)
        return UM_FAIL(err, UM_E_LIMIT,
                       "the queue of this router is full (%d requests, %.1f MiB): send it again "
                       "when some are answered",
                       e->n_queue, (double)e->queue_bytes / 1048576.0);
    return need > e->pages.most ? memory_error(e, s, need, e->pages.most, err) : UM_OK;
}

um_status um_engine_submit(um_engine *e, uint64_t number, const um_request_source *from,
                           um_trace *trace, Um__Result *refusal, um_err *err)
{
    um_sequence *s = um_zalloc(sizeof *s);
    um_err why = {0};
    um_status st = um_sequence_open(s, number, from, trace, e->cfg, e->model, e->tok, &why);
    if (st == UM_OK) st = room_check(e, s, &why);
    if (st != UM_OK) {
        sequence_free(e, e->refused);
        e->refused = s;
        um_sequence_refusal(s, st, &why, refusal, &s->arena);
        *err = why;
        return st;
    }
    e->queue[(e->first + e->n_queue++) % e->cap_queue] = s;
    e->queue_bytes += s->text_bytes;
    return UM_OK;
}

/* Takes the i-th out of the queue. */
static um_sequence *queue_remove(um_engine *e, int i)
{
    um_sequence *s = queue_at(e, i);
    e->queue_bytes -= s->text_bytes;
    e->n_queue--;
    if (i == 0)
        e->first = (e->first + 1) % e->cap_queue;
    else
        for (; i < e->n_queue; i++) e->queue[(e->first + i) % e->cap_queue] = queue_at(e, i + 1);
    return s;
}

bool um_engine_cancel(um_engine *e, uint64_t number)
{
    for (int i = 0; i < e->n_active; i++) {
        um_sequence *s = e->active[i];
        if (s == NULL || s->number != number || !um_sequence_wanted(s)) continue;
        media_forget(e, s);
        um_sequence_cancel(s);
        e->wait = false; /* it may be the one that waits for memory */
        return true;
    }
    for (int i = 0; i < e->n_queue; i++) {
        if (queue_at(e, i)->number != number) continue;
        um_sequence *s = queue_remove(e, i), **end = &e->ended;
        um_sequence_cancel(s);
        while (*end != NULL) end = &(*end)->next;
        *end = s;
        return true;
    }
    return false;
}

static um_status finish(um_engine *e, um_sequence *s, um_err *err)
{
    Um__Result r;
    s->done_ns = um_now_ns();
    um_sequence_result(s, &r, &s->arena);
    um_status st = e->events.on_done(e->events.ctx, &r, err);
    sequence_free(e, s);
    return st;
}

static bool can_admit(const um_engine *e) { return e->n_queue > 0 && e->n_active < e->max_active; }

bool um_engine_runnable(const um_engine *e)
{
    if (can_admit(e) || e->ended != NULL || um_batcher_busy(&e->batcher)) return true;
    if (!e->wait && um_media_client_runnable(e->media)) return true;
    for (int i = 0; i < e->n_active; i++) {
        um_sequence_state s = e->active[i]->state;
        if (s != UM_SEQ_ENCODING && !(s == UM_SEQ_READY && e->wait)) return true;
    }
    return false;
}

/* Tokenises requests as long as there are places for them, and asks for their media. */
static void admit(um_engine *e)
{
    for (size_t bytes = 0; can_admit(e) && bytes < ADMIT_BYTES;) {
        um_sequence *s = queue_remove(e, 0);
        e->active[e->n_active++] = s;
        um_sequence_begin(s, e->cfg, e->model, e->tok);
        bytes += s->arena.used;
        if (s->state == UM_SEQ_ENCODING)
            s->wanted = um_media_client_request(e->media, s, s->req.items, s->req.n_items);
    }
}

static void warn_shortened(um_engine *e, const um_sequence *s)
{
    if (!s->shortened || e->shortened) return;
    e->shortened = true;
    um_log_warn(
        "request %s: its answer ends after %d tokens, where the model has no more positions "
        "(max_position_embeddings %d); later requests are shortened without a warning",
        s->req.id, s->max_out, e->model->max_positions);
}

/* Pages for another prompt: what there is room for, less what sequences that have begun still need for theirs. *alone: no sequence has
 * pages or needs any. */
static int64_t room(const um_engine *e, bool *alone)
{
    int64_t pages = um_pages_room(&e->pages);
    *alone = um_kv_pool_count(e->pages.pool).used == 0;
    for (int i = 0; i < e->n_active; i++) {
        const um_sequence *s = e->active[i];
        if (s->state != UM_SEQ_PREFILL) continue;
        pages -= um_page_table_missing(&s->pages, s->T + s->n_out);
        *alone = false;
    }
    return pages;
}

/* Lets a ready sequence begin, refuses it, or lets it wait. */
static um_status grant_one(um_engine *e, um_sequence *s, um_err *err)
{
    bool alone = false;
    int32_t all = um_kv_pages_of(um_sequence_positions(s, e->model));
    int64_t most = all > e->pages.most ? e->pages.most : room(e, &alone);
    if (all <= e->pages.most && um_kv_pages_of(s->T) <= most) {
        warn_shortened(e, s);
        um_sequence_grant(s, e->model);
        return um_batcher_begin(&e->batcher, s, err);
    }
    e->wait = all <= e->pages.most && !alone;
    if (e->wait) return UM_OK;
    um_err why = {0};
    um_status st = memory_error(e, s, all, most, &why);
    um_sequence_fail(s, st, &why);
    return UM_OK;
}

/* Lets ready sequences begin whose prompts have room; their answers may take pages of younger ones later. In order of arrival: the first
 * that must wait holds up those behind it, so that it is not overtaken for ever. */
static um_status grant(um_engine *e, um_err *err)
{
    um_status st = UM_OK;
    e->wait = false;
    for (int i = 0; i < e->n_active && !e->wait && st == UM_OK; i++)
        if (e->active[i]->state == UM_SEQ_READY) st = grant_one(e, e->active[i], err);
    return st;
}

/* Reports the new tokens of a sequence. */
static um_status tell(um_engine *e, um_sequence *s, um_err *err)
{
    Um__Token t;
    um_status st = UM_OK;
    um_mark mark = um_arena_mark(&e->scratch);
    if (e->events.on_token != NULL && um_sequence_token(s, &t, &e->scratch))
        st = e->events.on_token(e->events.ctx, &t, err);
    um_arena_reset(&e->scratch, mark);
    return st;
}

/* Reports new tokens, gives the results of those that are done, and forgets them. An event may cancel any of them meanwhile. */
static um_status retire(um_engine *e, um_err *err)
{
    um_status st = UM_OK;
    for (um_sequence *s; st == UM_OK && (s = e->ended) != NULL;) {
        e->ended = s->next;
        st = finish(e, s, err);
    }
    for (int i = 0; i < e->n_active && st == UM_OK; i++) {
        um_sequence *s = e->active[i];
        if (s->cancelled) um_sequence_cancel(s);
        st = tell(e, s, err);
        if (s->state != UM_SEQ_DONE || s->in_flight > 0 || st != UM_OK) continue;
        st = finish(e, s, err);
        e->active[i] = NULL;
    }
    int kept = 0;
    for (int i = 0; i < e->n_active; i++)
        if (e->active[i] != NULL) e->active[kept++] = e->active[i];
    if (kept < e->n_active) e->wait = false; /* there may be room now */
    e->n_active = kept;
    return st;
}

um_status um_engine_encoded(um_engine *e, const um_inbound *in, um_err *err)
{
    return um_media_client_encoded(e->media, in, &e->scratch, err);
}

um_status um_engine_step(um_engine *e, um_err *err)
{
    admit(e);
    if (!e->wait) UM_TRY(um_media_client_read(e->media, err));
    UM_TRY(grant(e, err));
    UM_TRY(um_batcher_step(&e->batcher, e->active, e->n_active, err));
    return retire(e, err);
}
