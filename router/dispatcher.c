/* See dispatcher.h. */
#include "router/dispatcher.h"

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/comm/join.h"
#include "router/result_order.h"
#include "router/unfinished.h"
#include "router/request/id_set.h"
#include "router/request/input.h"

#include <string.h>

enum {
    READ_BYTES =
        1 << 20, /* requests are assigned until they have so many bytes, then other work goes on */
    AHEAD_BYTES =
        256
        << 10, /* of requests that are read before there is room for them, so that lines behind them can cancel others */
    WINDOW_BYTES =
        16 << 20,       /* a router that has more request text unfinished is assigned no more */
    WINDOW_BATCHES = 2, /* the same by number: so many times what may be active in a router */
    ORDER_BATCHES =
        32, /* --in-order: the oldest unfinished request may be so many times that behind the newest */
    IGNORED_MAX = 64
};

/* The unfinished requests of a router, as router 0 knows them. */
typedef struct load {
    int requests;
    size_t bytes;
} load;

struct um_dispatcher {
    const um_config *cfg;
    um_link *link;
    um_engine *engine;
    um_emit emit;
    void *ctx;
    um_report *report;
    bool leads;                   /* this is router 0; all below is its own */
    um_input *input;              /* NULL: there is none */
    um_input_item *ahead, **last; /* requests that were read and not assigned yet, in a list */
    size_t ahead_bytes;
    const char *folder; /* where relative media paths of requests start */
    uint64_t next;      /* number of the next request */
    bool more;          /* the last read ended before it had assigned all that it could */
    load *routers;      /* [R] */
    um_unfinished unfinished;
    um_result_order order;            /* with --in-order */
    um_id_set ids;                    /* of the newest requests */
    bool warned_ids;                  /* that two of them are the same */
    const char *ignored[IGNORED_MAX]; /* keys that were logged as ignored */
    int n_ignored;
    um_arena scratch;
    um_arena names; /* lives as long as this */
};

/* --- requests ahead --- */

static void ahead_add(um_dispatcher *d, um_input_item *i)
{
    *d->last = i;
    d->last = &i->next;
    d->ahead_bytes += i->item.n;
}

static um_input_item *ahead_take(um_dispatcher *d)
{
    um_input_item *i = d->ahead;
    d->ahead = i->next;
    if (d->ahead == NULL) d->last = &d->ahead;
    d->ahead_bytes -= i->item.n;
    return i;
}

/* --- open and close --- */

um_dispatcher *um_dispatcher_open(const um_config *cfg, um_link *link, um_engine *engine,
                                  um_emit emit, void *ctx, um_report *report)
{
    const um_topology *topo = &link->comm->topo;
    um_dispatcher *d = um_zalloc(sizeof *d);
    *d = (um_dispatcher){.cfg = cfg,
                         .link = link,
                         .engine = engine,
                         .emit = emit,
                         .ctx = ctx,
                         .report = report,
                         .leads = link->comm->rank == um_join_leader(link->comm)};
    d->last = &d->ahead;
    d->routers = um_zalloc((size_t)topo->count[UM_ROLE_ROUTER] * sizeof *d->routers);
    um_arena_init(&d->scratch, "requests", 1 << 16);
    if (cfg->in_order)
        um_result_order_open(&d->order, (uint64_t)ORDER_BATCHES *
                                            (uint64_t)um_engine_capacity(engine) *
                                            (uint64_t)topo->count[UM_ROLE_ROUTER]);
    um_arena_init(&d->names, "folder of the requests", 1 << 12);
    return d;
}

void um_dispatcher_close(um_dispatcher *d)
{
    if (d == NULL) return;
    um_input_close(d->input);
    while (d->ahead != NULL) um_input_item_free(ahead_take(d));
    um_id_set_free(&d->ids);
    um_unfinished_free(&d->unfinished);
    um_result_order_close(&d->order);
    um_arena_free(&d->scratch);
    um_arena_free(&d->names);
    um_free(d->routers);
    um_free(d);
}

/* --- in --- */

static void wake(void *ctx) { um_comm_wake(ctx); }

um_status um_dispatcher_open_input(um_dispatcher *d, um_err *err)
{
    const char *path = d->cfg->requests;
    if (path[0] == '\0') return UM_OK;
    if (strcmp(path, "-") == 0 && d->link->comm->rank != 0)
        return UM_FAIL(
            err, UM_E_USAGE,
            "--requests -: mpirun gives its standard input to rank 0, so name unimoe-router first");
    d->folder = d->cfg->media_folder[0] != '\0' ? d->cfg->media_folder
                : strcmp(path, "-") == 0        ? "."
                                                : um_path_dir(&d->names, path);
    return um_input_open(&d->input, path, wake, d->link->comm, err);
}

/* The router with the fewest unfinished requests of those whose window has room; on ties number mod R comes first. -1: all are full. */
static int router_choose(const um_dispatcher *d)
{
    int n = d->link->comm->topo.count[UM_ROLE_ROUTER], best = -1;
    int window = WINDOW_BATCHES * um_engine_capacity(d->engine);
    if (d->cfg->in_order && !um_result_order_room(&d->order, d->next)) return -1;
    for (int i = 0; i < n; i++) {
        int r = (int)((d->next + (uint64_t)i) % (uint64_t)n);
        const load *l = &d->routers[r];
        if (l->requests >= window || l->bytes >= WINDOW_BYTES) continue;
        if (best < 0 || l->requests < d->routers[best].requests) best = r;
    }
    return best;
}

/* Router 0 keeps what no message can carry, to refuse it. */
static bool is_kept(const um_request_source *from)
{
    return from->bytes > from->n || memchr(from->json, 0, from->n) != NULL;
}

/* Logs the first id that an earlier request has too. Both are answered: data files have samples of one id. */
static void id_check(um_dispatcher *d, const um_request_source *from, const char *id)
{
    if (id == NULL || d->warned_ids || !um_id_set_add(&d->ids, id)) return;
    um_log_warn("requests: the id of %s %llu, \"%.100s\", is that of an earlier one too; \"%s\" in "
                "their results tells them apart",
                from->element ? "element" : "line", (unsigned long long)from->number, id,
                from->element ? "element" : "line");
    d->warned_ids = true;
}

static int rank_of(const um_dispatcher *d, int router)
{
    return d->link->comm->topo.of_role[UM_ROLE_ROUTER][router];
}

/* Submits a request to the engine of this router; one that is refused is answered at once. */
static um_status submit(um_dispatcher *d, uint64_t number, const um_request_source *from,
                        um_trace *trace, um_err *err)
{
    Um__Result refusal;
    um_err why = {0};
    if (um_engine_submit(d->engine, number, from, trace, &refusal, &why) == UM_OK) return UM_OK;
    return um_dispatcher_done(d, &refusal, err);
}

/* The next request is the router's. */
static um_unfinished_request *unfinished_add(um_dispatcher *d, int router,
                                             const um_request_source *from)
{
    um_mark mark = um_arena_mark(&d->scratch);
    const char *id = um_request_id(from->json, from->n, &d->scratch);
    id_check(d, from, id);
    um_unfinished_request *u = um_unfinished_add(&d->unfinished, d->next++, router, from, id);
    um_arena_reset(&d->scratch, mark);
    d->routers[router].requests++;
    d->routers[router].bytes += from->n;
    return u;
}

static um_status assign(um_dispatcher *d, int router, const um_request_source *from,
                        um_trace *trace, um_err *err)
{
    if (is_kept(from)) router = 0;
    uint64_t number = unfinished_add(d, router, from)->number;
    if (router == 0) return submit(d, number, from, trace, err);
    Um__Request req = UM__REQUEST__INIT;
    req.id = number;
    req.json = (char *)(uintptr_t)from->json;
    req.folder = (char *)(uintptr_t)from->folder;
    req.number = from->number;
    req.element = from->element;
    return um_link_control(d->link, rank_of(d, router), UM_KIND_REQUEST, &req.base, err);
}

/* Requests of this id that are not assigned yet: they are answered in their turn, without being begun. */
static int ahead_cancel(um_dispatcher *d, const char *id)
{
    int n = 0;
    for (um_input_item *i = d->ahead; i != NULL; i = i->next) {
        um_mark mark = um_arena_mark(&d->scratch);
        const char *own = um_request_id(i->item.text, i->item.n, &d->scratch);
        bool same = own != NULL && strcmp(own, id) == 0;
        i->cancelled |= same;
        n += same;
        um_arena_reset(&d->scratch, mark);
    }
    return n;
}

/* {"cancel": ID}: ends the unfinished requests of this id. Their results come from where they run. */
static um_status cancel(um_dispatcher *d, const char *id, const um_json_item *item, um_err *err)
{
    if (id == NULL) {
        um_log_warn("requests: %s %llu: want {\"cancel\": ID} and nothing else; it is passed over",
                    item->element ? "element" : "line", (unsigned long long)item->number);
        return UM_OK;
    }
    int n = ahead_cancel(d, id);
    um_unfinished_request *r = NULL;
    while ((r = um_unfinished_named(&d->unfinished, id, r)) != NULL) {
        n++;
        if (r->cancelled) continue;
        r->cancelled = true;
        Um__Cancel msg = UM__CANCEL__INIT;
        msg.id = r->number;
        if (r->router == 0)
            um_engine_cancel(d->engine, r->number);
        else
            UM_TRY(um_link_control(d->link, rank_of(d, r->router), UM_KIND_CANCEL, &msg.base, err));
    }
    if (n == 0) um_log_info("requests: cancel \"%.100s\": no unfinished request has this id", id);
    return UM_OK;
}

/* Takes what was read: cancels at once, and keeps some requests ahead. */
static um_status input_take(um_dispatcher *d, um_err *err)
{
    while (d->input != NULL && (d->ahead == NULL || d->ahead_bytes < AHEAD_BYTES)) {
        um_input_item *i = NULL;
        const char *id = NULL;
        um_status st = UM_OK;
        UM_TRY(um_input_next(d->input, &i, err));
        if (i == NULL) return UM_OK;
        um_mark mark = um_arena_mark(&d->scratch);
        if (um_request_is_cancel(&id, i->item.text, i->item.n, &d->scratch)) {
            st = cancel(d, id, &i->item, err);
            um_input_item_free(i);
        } else {
            ahead_add(d, i);
        }
        um_arena_reset(&d->scratch, mark);
        UM_TRY(st);
    }
    return UM_OK;
}

/* Its place among the results is kept, and nothing else. */
static um_status answer_cancelled(um_dispatcher *d, const um_request_source *from, um_err *err)
{
    Um__Result r = UM__RESULT__INIT;
    const um_unfinished_request *u = unfinished_add(d, 0, from);
    r.id = u->number;
    r.name = (char *)(uintptr_t)u->from.id;
    r.number = from->number;
    r.element = from->element;
    r.finish = UM__FINISH__FINISH_CANCELLED;
    return um_dispatcher_done(d, &r, err);
}

um_status um_dispatcher_read(um_dispatcher *d, um_err *err)
{
    size_t bytes = 0;
    for (d->more = false;;) {
        UM_TRY(input_take(d, err));
        int router = d->ahead == NULL ? -1 : router_choose(d);
        if (router < 0) return UM_OK;
        um_input_item *i = ahead_take(d);
        um_request_source from = {i->item.text, i->item.n,      i->item.bytes,
                                  d->folder,    i->item.number, .element = i->item.element};
        bytes += i->item.n;
        um_status st =
            i->cancelled ? answer_cancelled(d, &from, err) : assign(d, router, &from, NULL, err);
        um_input_item_free(i);
        UM_TRY(st);
        d->more = bytes >= READ_BYTES;
        if (d->more) return UM_OK;
    }
}

um_status um_dispatcher_trace(um_dispatcher *d, um_trace *trace, um_err *err)
{
    uint8_t *text = NULL;
    size_t n = 0;
    const char *path = d->cfg->request;
    um_mark mark = um_arena_mark(&d->scratch);
    um_status st = um_file_read(&text, &n, path, UM_REQUEST_BYTES_MAX, &d->scratch, err);
    if (st == UM_OK) {
        um_request_source from = {(const char *)text, n, n, um_path_dir(&d->scratch, path), 1,
                                  .recorded = true};
        st = assign(d, 0, &from, trace, err);
    }
    um_arena_reset(&d->scratch, mark);
    return st;
}

/* --- what is left --- */

uint64_t um_dispatcher_requests(const um_dispatcher *d) { return d->next; }

bool um_dispatcher_finished(const um_dispatcher *d)
{
    return d->unfinished.n == 0 && d->ahead == NULL &&
           (d->input == NULL || um_input_ended(d->input));
}

bool um_dispatcher_runnable(const um_dispatcher *d) { return d->more; }

/* --- out --- */

/* Logs keys of samples that mean nothing here, each once. */
static void ignored_log(um_dispatcher *d, const Um__Result *r)
{
    um_text list = {0};
    for (size_t i = 0; i < r->n_ignored; i++) {
        bool logged = d->n_ignored == IGNORED_MAX;
        for (int k = 0; k < d->n_ignored && !logged; k++)
            logged = strcmp(d->ignored[k], r->ignored[i]) == 0;
        if (logged) continue;
        d->ignored[d->n_ignored++] = um_arena_str(&d->names, r->ignored[i]);
        um_text_fmt(&list, "%s%s", list.n > 0 ? ", " : "", r->ignored[i]);
    }
    if (list.n > 0) um_log_warn("requests: keys of samples that are ignored: %s", list.s);
    um_text_free(&list);
}

/* Router 0: a result line of request number, which goes out now or, with --in-order, behind those before it. */
static um_status line_out(um_dispatcher *d, uint64_t number, const char *line, um_err *err)
{
    if (!d->cfg->in_order) return d->emit(d->ctx, line, err);
    um_status st = um_result_order_put(&d->order, number, line, err);
    for (char *next; st == UM_OK && (next = um_result_order_take(&d->order)) != NULL;) {
        st = d->emit(d->ctx, next, err);
        um_free(next);
    }
    return st;
}

/* Router 0: request number works at this router, or the frame that says so is wrong. */
static um_status unfinished_find(um_dispatcher *d, um_unfinished_request **out, uint64_t number,
                                 int router, um_err *err)
{
    *out = um_unfinished_find(&d->unfinished, number);
    if (*out != NULL && (*out)->router == router) return UM_OK;
    return UM_FAIL(err, UM_E_CORRUPT,
                   "a frame about request %llu of rank %d, which was not assigned it",
                   (unsigned long long)number, rank_of(d, router));
}

static um_status token_out(um_dispatcher *d, int router, const Um__Token *t, um_err *err)
{
    um_unfinished_request *r = NULL;
    um_text line = {0};
    UM_TRY(unfinished_find(d, &r, t->id, router, err));
    um_report_token(&line, &r->from, t);
    um_status st = d->emit(d->ctx, line.s, err);
    um_text_free(&line);
    return st;
}

static um_status result_out(um_dispatcher *d, int router, const Um__Result *result, um_err *err)
{
    um_unfinished_request *r = NULL;
    um_text line = {0};
    UM_TRY(unfinished_find(d, &r, result->id, router, err));
    d->routers[router].requests--;
    d->routers[router].bytes -= r->bytes;
    d->report->errors += result->status != UM_OK;
    d->report->answered++;
    ignored_log(d, result);
    um_report_result(&line, result);
    um_unfinished_remove(&d->unfinished, r); /* the result may be in its words */
    um_status st = line_out(d, result->id, line.s, err);
    um_text_free(&line);
    return st;
}

um_status um_dispatcher_token(um_dispatcher *d, const Um__Token *t, um_err *err)
{
    if (d->leads) return token_out(d, 0, t, err);
    return um_link_control(d->link, um_join_leader(d->link->comm), UM_KIND_TOKEN, &t->base, err);
}

um_status um_dispatcher_done(um_dispatcher *d, const Um__Result *r, um_err *err)
{
    if (d->leads) return result_out(d, 0, r, err);
    return um_link_control(d->link, um_join_leader(d->link->comm), UM_KIND_RESULT, &r->base, err);
}

/* --- frames --- */

static um_status request_in(um_dispatcher *d, const Um__Request *req, um_err *err)
{
    size_t n = strlen(req->json);
    um_request_source from = {req->json, n, n, req->folder, req->number, .element = req->element};
    return submit(d, req->id, &from, NULL, err);
}

/* Router 0 tells the others what to do, and they tell it what they did. */
static um_status sender_check(const um_dispatcher *d, const um_inbound *in, um_err *err)
{
    const um_rank *from = &d->link->comm->topo.ranks[in->msg.peer];
    um_kind kind = in->frame.kind;
    bool of_leader = in->msg.peer == um_join_leader(d->link->comm);
    bool order = kind == UM_KIND_REQUEST || kind == UM_KIND_CANCEL;
    if (order ? !d->leads && of_leader : d->leads && from->role == UM_ROLE_ROUTER && !of_leader)
        return UM_OK;
    return um_link_unwanted(
        d->link, in, d->leads ? "tokens and results of the other routers" : "requests of router 0",
        err);
}

um_status um_dispatcher_frame(um_dispatcher *d, const um_inbound *in, um_err *err)
{
    const ProtobufCMessageDescriptor *type =
        in->frame.kind == UM_KIND_REQUEST  ? &um__request__descriptor
        : in->frame.kind == UM_KIND_CANCEL ? &um__cancel__descriptor
        : in->frame.kind == UM_KIND_TOKEN  ? &um__token__descriptor
                                           : &um__result__descriptor;
    int router = d->link->comm->topo.ranks[in->msg.peer].index;
    um_mark mark = um_arena_mark(&d->scratch);
    ProtobufCMessage *msg = NULL;
    UM_TRY(sender_check(d, in, err));
    um_status st = um_link_unpack(&msg, type, in, &d->scratch, err);
    if (st == UM_OK && type == &um__request__descriptor)
        st = request_in(d, (const Um__Request *)msg, err);
    else if (st == UM_OK && type == &um__cancel__descriptor)
        um_engine_cancel(d->engine, ((const Um__Cancel *)msg)->id); /* it may be done already */
    else if (st == UM_OK && type == &um__token__descriptor)
        st = token_out(d, router, (const Um__Token *)msg, err);
    else if (st == UM_OK)
        st = result_out(d, router, (const Um__Result *)msg, err);
    um_arena_reset(&d->scratch, mark);
    return st;
}
