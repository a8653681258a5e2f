/* The loop of a router rank. See router.h.
 *
 *   router 0: join_lead, load, wait for all, read and assign requests, work, collect results, ask for counters, shutdown, summary
 *   others:   join_follow, load, ready, work on what router 0 sends, answer, until shutdown
 *
 * Requests and answers go through dispatcher.h. */
#include "router/router.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "router/dispatcher.h"
#include "router/train/trainer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* For the counters of ranks that live: an encoder may be in the middle of a long file that nobody waits for any more. */
enum { STATS_SECONDS = 600 };
enum { PROGRESS_NS = 1000000000 };

typedef struct router {
    const um_config *cfg;
    um_emit emit;
    void *ctx;
    um_role_base base;
    um_tokenizer *tok;
    um_backbone backbone;
    um_engine *engine;
    um_trace *trace;
    um_routing *routing; /* NULL without --routing */
    um_dispatcher *dispatcher;
    um_arena counters;
    bool leads;          /* this is router 0 */
    bool shutdown;       /* others: router 0 said so */
    int64_t progress_ns; /* router 0: when it last reported progress */
    um_report report;
} router;

/* Router 0 with --progress: says how far the job is, at most once a second but each time that a phase begins. */
static um_status progress_out(router *r, const char *phase, um_err *err)
{
    int64_t now = um_now_ns();
    bool working = r->engine != NULL;
    if (!r->leads || !r->cfg->progress) return UM_OK;
    if (working && now - r->progress_ns < PROGRESS_NS) return UM_OK;
    r->progress_ns = now;
    um_text line = {0};
    um_report_state s = {.phase = phase, .answered = r->report.answered};
    if (working) s.engine = um_engine_stats_of(r->engine);
    if (working) s.requests = (int64_t)um_dispatcher_requests(r->dispatcher);
    if (working && !um_engine_runnable(r->engine)) s.waiting = um_engine_unfinished(r->engine);
    um_report_progress(&line, &s);
    um_status st = r->emit(r->ctx, line.s, err);
    um_text_free(&line);
    return st;
}

/* How long a router without work may wait for a frame or for its input: for ever, unless it reports progress. */
static int64_t wait_us(const router *r)
{
    if (r->leads && um_dispatcher_runnable(r->dispatcher)) return 0;
    return r->leads && r->cfg->progress ? PROGRESS_NS / 1000 : -1;
}

static um_status on_token(void *ctx, const Um__Token *t, um_err *err)
{
    return um_dispatcher_token(((router *)ctx)->dispatcher, t, err);
}

static um_status on_done(void *ctx, const Um__Result *result, um_err *err)
{
    return um_dispatcher_done(((router *)ctx)->dispatcher, result, err);
}

static void own_stats(router *r, Um__Stats *out)
{
    const um_engine_stats *e = um_engine_stats_of(r->engine);
    um_join_stats(&r->base.link, out);
    out->prompt_rows = (uint64_t)e->prompt_rows;
    out->new_tokens = (uint64_t)e->new_tokens;
    out->decode_tokens = (uint64_t)e->decode_tokens;
    out->prefill_us = (uint64_t)(e->prefill_ns / 1000);
    out->decode_us = (uint64_t)(e->decode_ns / 1000);
    out->reused_rows = (uint64_t)e->reused_rows;
    out->put_back = (uint64_t)e->put_back;
    um_media_stats media = um_engine_media_stats(r->engine);
    out->media_encoded = (uint64_t)media.encoded;
    out->media_cached = (uint64_t)media.cached;
}

/* A frame that is not part of an exchange. */
static um_status frame_in(router *r, const um_inbound *in, um_err *err)
{
    Um__Stats s;
    bool of_leader = !r->leads && in->msg.peer == um_join_leader(r->base.link.comm);
    switch (in->frame.kind) {
    case UM_KIND_ENCODED:
        return um_engine_encoded(r->engine, in, err);
    case UM_KIND_REQUEST:
    case UM_KIND_CANCEL:
    case UM_KIND_TOKEN:
    case UM_KIND_RESULT:
        return um_dispatcher_frame(r->dispatcher, in, err);
    case UM_KIND_STATS:
        if (!of_leader) break;
        own_stats(r, &s);
        return um_link_control(&r->base.link, in->msg.peer, UM_KIND_STATS, &s.base, err);
    case UM_KIND_ROUTING:
        if (!of_leader) break;
        if (r->routing == NULL)
            return UM_FAIL(err, UM_E_USAGE,
                           "router 0 asks for routing counters, and this router was started "
                           "without --routing: give it to every router");
        return um_routing_send(r->routing, &r->base.link, in->msg.peer, err);
    case UM_KIND_SHUTDOWN:
        if (!of_leader) break;
        r->shutdown = true;
        return UM_OK;
    default:
        break;
    }
    return um_link_unwanted(&r->base.link, in, "frames for a router at work", err);
}

/* Works until there is nothing left (router 0) or until shutdown (the others). */
static um_status work(router *r, um_err *err)
{
    for (;;) {
        if (r->leads) UM_TRY(um_dispatcher_read(r->dispatcher, err));
        if (r->leads ? um_dispatcher_finished(r->dispatcher) : r->shutdown) return UM_OK;
        bool runnable = um_engine_runnable(r->engine);
        UM_TRY(progress_out(r, "working", err));
        um_inbound in = {0};
        r->base.link.phase = "waiting for work";
        um_status st = um_link_wait(&r->base.link, &in, runnable ? 0 : wait_us(r), err);
        if (st == UM_OK) {
            st = frame_in(r, &in, err);
            um_link_release(&r->base.link, &in);
        } else if (st == UM_E_TIMEOUT) {
            st = runnable ? um_engine_step(r->engine, err) : UM_OK;
        }
        UM_TRY(st);
    }
}

static um_status stats_in(void *ctx, const um_inbound *in, um_err *err)
{
    router *r = ctx;
    ProtobufCMessage *msg = NULL;
    UM_TRY(um_link_unpack(&msg, &um__stats__descriptor, in, &r->counters, err));
    r->report.ranks[in->msg.peer] = *(const Um__Stats *)msg;
    return UM_OK;
}

/* Router 0, at the end: counters of every rank. */
static um_status stats_collect(router *r, um_err *err)
{
    um_link *l = &r->base.link;
    const um_topology *topo = &l->comm->topo;
    Um__Stats none = UM__STATS__INIT;
    l->phase = "collecting counters";
    r->report.ranks = um_arena_zero(&r->counters, (size_t)topo->n * sizeof(Um__Stats));
    own_stats(r, &r->report.ranks[l->comm->rank]);
    for (int p = 0; p < topo->n; p++)
        if (p != l->comm->rank) UM_TRY(um_link_control(l, p, UM_KIND_STATS, &none.base, err));
    /* media of a request that failed meanwhile may still come */
    return um_link_collect(l, UM_KIND_STATS, UM_KIND_ENCODED, STATS_SECONDS, stats_in, r, err);
}

static um_status shutdown_all(router *r, um_err *err)
{
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    bye.reason = "done";
    for (int p = 0; p < r->base.link.comm->topo.n; p++)
        if (p != r->base.link.comm->rank)
            UM_TRY(um_link_control(&r->base.link, p, UM_KIND_SHUTDOWN, &bye.base, err));
    return UM_OK;
}

static um_status lead(router *r, um_err *err)
{
    um_text line = {0};
    int64_t start = um_now_ns();
    if (r->cfg->request[0] != '\0') {
        r->trace = um_trace_open();
        UM_TRY(um_dispatcher_trace(r->dispatcher, r->trace, err));
    }
    UM_TRY(um_dispatcher_open_input(r->dispatcher, err));
    UM_TRY(work(r, err));
    r->report.busy_ns = um_now_ns() - start;
    r->report.requests = (int64_t)um_dispatcher_requests(r->dispatcher);
    if (r->trace != NULL && r->report.errors == 0)
        UM_TRY(um_trace_write(r->trace, r->cfg->out, err));
    if (r->routing != NULL) UM_TRY(um_routing_collect(r->routing, &r->base.link, err));
    UM_TRY(stats_collect(r, err));
    UM_TRY(shutdown_all(r, err));
    if (r->routing != NULL) /* may take long for many experts, so when nobody watches any more */
        UM_TRY(um_routing_write(r->routing, r->cfg->routing, r->report.requests, r->report.errors,
                                err));
    um_report_summary(&line, &r->report, &r->base.link.comm->topo);
    um_status st = r->emit(r->ctx, line.s, err);
    um_text_free(&line);
    return st;
}

static um_status routing_open(router *r, um_err *err)
{
    if (r->leads) UM_TRY(um_routing_check(&r->base.ck.model, r->cfg->routing, err));
    r->routing = um_routing_open(&r->base.ck.model);
    return UM_OK;
}

/* Everything up to the first request. */
static um_status start(router *r, um_comm *comm, um_err *err)
{
    const um_config *cfg = r->cfg;
    um_role_base *b = &r->base;
    const um_model *m = &b->ck.model;
    UM_TRY(um_role_begin(b, cfg, comm, err));
    UM_TRY(progress_out(r, "loading", err));
    UM_TRY(um_tokenizer_open(&r->tok, cfg->model, err));
    if (cfg->routing[0] != '\0') UM_TRY(routing_open(r, err));
    if (um_tokenizer_vocab(r->tok) > m->vocab)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s/tokenizer.model has %d pieces, config.json says vocab_size %d",
                       cfg->model, um_tokenizer_vocab(r->tok), m->vocab);
    if (r->leads && m->dynamic.token_drop)
        um_log_warn("config.json token_drop: true is for training: answers drop no token, so that "
                    "they do not depend on the requests beside them");
    UM_TRY(um_role_join(b, err));
    b->link.phase = "loading the backbone";
    UM_TRY(um_role_own(b, 0, err));
    UM_TRY(um_wrap(err, um_backbone_load(&r->backbone, &b->params, err), "load backbone"));
    um_log_info("backbone of %d layers, %.1f MiB, %d threads, %s", r->base.ck.model.layers,
                (double)r->backbone.weight_bytes / 1048576.0, r->base.dev.threads,
                um_isa_name(r->base.dev.isa));
    um_engine_events events = {cfg->stream ? on_token : NULL, on_done, r};
    UM_TRY(um_engine_open(&r->engine, cfg, &r->base.ck.model, r->tok, &r->backbone, &r->base.link,
                          &r->base.dev, &events, err));
    if (cfg->routing[0] != '\0') um_engine_count_routing(r->engine, r->routing);
    r->dispatcher = um_dispatcher_open(cfg, &r->base.link, r->engine, r->emit, r->ctx, &r->report);
    if (r->leads) return um_join_all_ready(&r->base.link, err);
    return um_join_ready(&r->base.link, r->backbone.weight_bytes, 0, err);
}

um_status um_router_run_to(const um_config *cfg, um_comm *comm, um_emit emit, void *ctx,
                           um_err *err)
{
    if (cfg->train) return um_trainer_run(cfg, comm, emit, ctx, err);
    router r = {.cfg = cfg, .emit = emit, .ctx = ctx, .leads = comm->rank == um_join_leader(comm)};
    um_arena_init(&r.counters, "counters", 1 << 16);
    um_status st = start(&r, comm, err);
    if (st == UM_OK) st = r.leads ? lead(&r, err) : work(&r, err);
    um_dispatcher_close(r.dispatcher);
    um_engine_close(r.engine);
    um_routing_close(r.routing);
    um_trace_close(r.trace);
    um_backbone_close(&r.backbone);
    um_tokenizer_close(r.tok);
    um_role_end(&r.base, st, err);
    um_arena_free(&r.counters);
    return st;
}

/* An answer that nobody can read is a reason to stop: whoever took the output away does not want the rest. */
static um_status to_stdout(void *ctx, const char *line, um_err *err)
{
    (void)ctx;
    if (puts(line) != EOF && fflush(stdout) == 0) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "the answers cannot be written to standard output: %s",
                   strerror(errno));
}

um_status um_router_run(const um_config *cfg, um_comm *comm, um_err *err)
{
    return um_router_run_to(cfg, comm, to_stdout, NULL, err);
}
