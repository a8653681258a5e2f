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
#include "router/dispatcher.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

typedef struct router {
    const um_config *cfg;
    um_emit emit;
    void *ctx;
    um_link link;
    um_dev dev;
    um_checkpoint ck;
    um_tokenizer *tok;
    um_backbone backbone;
    um_engine *engine;
    um_trace *trace;
    um_routing *routing; /* NULL without --routing */
    um_dispatcher *dispatcher;
    um_arena model, counters;
    bool leads;    /* this is router 0 */
    bool shutdown; /* others: router 0 said so */
    um_report report;
} router;

static um_status sequence_done(void *ctx, const um_sequence *s, um_err *err)
{
    return um_dispatcher_done(((router *)ctx)->dispatcher, s, err);
}

static void own_stats(router *r, Um__Stats *out)
{
    const um_engine_stats *e = um_engine_stats_of(r->engine);
    um_join_stats(&r->link, out);
    out->prompt_rows = (uint64_t)e->prompt_rows;
    out->new_tokens = (uint64_t)e->new_tokens;
    out->decode_tokens = (uint64_t)e->decode_tokens;
    out->prefill_us = (uint64_t)(e->prefill_ns / 1000);
    out->decode_us = (uint64_t)(e->decode_ns / 1000);
    um_media_stats media = um_engine_media_stats(r->engine);
    out->media_encoded = (uint64_t)media.encoded;
    out->media_cached = (uint64_t)media.cached;
}

/* A frame that is not part of an exchange. */
static um_status frame_in(router *r, const um_inbound *in, um_err *err)
{
    Um__Stats s;
    switch (in->frame.kind) {
    case UM_KIND_ENCODED:
        return um_engine_encoded(r->engine, in, err);
    case UM_KIND_RESULT:
        if (r->leads) return um_dispatcher_result(r->dispatcher, in, err);
        break;
    case UM_KIND_REQUEST:
        if (!r->leads) return um_dispatcher_request(r->dispatcher, in, err);
        break;
    case UM_KIND_STATS:
        if (r->leads) break;
        own_stats(r, &s);
        return um_link_control(&r->link, in->msg.peer, UM_KIND_STATS, &s.base, err);
    case UM_KIND_ROUTING:
        if (r->leads) break;
        if (r->routing == NULL)
            return UM_FAIL(err, UM_E_USAGE,
                           "router 0 asks for routing counters, and this router was started "
                           "without --routing: give it to every router");
        return um_routing_send(r->routing, &r->link, in->msg.peer, err);
    case UM_KIND_SHUTDOWN:
        r->shutdown = true;
        return UM_OK;
    default:
        break;
    }
    return UM_FAIL(err, UM_E_CORRUPT, "%s frame of rank %d: a router does not take it here",
                   um_kind_name(in->frame.kind), in->msg.peer);
}

/* Works until there is nothing left (router 0) or until shutdown (the others). */
static um_status work(router *r, um_err *err)
{
    for (;;) {
        if (r->leads) UM_TRY(um_dispatcher_read(r->dispatcher, err));
        if (r->leads ? um_dispatcher_finished(r->dispatcher) : r->shutdown) return UM_OK;
        bool runnable = um_engine_runnable(r->engine);
        um_inbound in = {0};
        r->link.phase = "waiting for work";
        um_status st = um_link_next(&r->link, &in,
                                    runnable   ? 0
                                    : r->leads ? um_dispatcher_wait_us(r->dispatcher)
                                               : -1,
                                    err);
        if (st == UM_OK) {
            st = frame_in(r, &in, err);
            um_link_release(&r->link, &in);
        } else if (st == UM_E_TIMEOUT) {
            st = runnable ? um_engine_step(r->engine, err) : UM_OK;
        }
        UM_TRY(st);
    }
}

/* Router 0, at the end: counters of every rank. */
static um_status stats_collect(router *r, um_err *err)
{
    const um_topology *topo = &r->link.comm->topo;
    Um__Stats none = UM__STATS__INIT;
    r->link.phase = "asking for counters";
    r->report.ranks = um_arena_zero(&r->counters, (size_t)topo->n * sizeof(Um__Stats));
    own_stats(r, &r->report.ranks[r->link.comm->rank]);
    for (int p = 0; p < topo->n; p++)
        if (p != r->link.comm->rank)
            UM_TRY(um_link_control(&r->link, p, UM_KIND_STATS, &none.base, err));
    for (int missing = topo->n - 1; missing > 0;) {
        um_inbound in = {0};
        ProtobufCMessage *msg = NULL;
        UM_TRY(um_link_next(&r->link, &in, -1, err));
        um_status st = UM_OK;
        if (in.frame.kind == UM_KIND_STATS) {
            st = um_link_unpack(&msg, &um__stats__descriptor, &in, &r->counters, err);
            missing--;
        } else if (in.frame.kind != UM_KIND_ENCODED) { /* for a request that failed meanwhile */
            st = UM_FAIL(err, UM_E_CORRUPT, "%s frame of rank %d, want counters",
                         um_kind_name(in.frame.kind), in.msg.peer);
        }
        if (st == UM_OK && msg != NULL) r->report.ranks[in.msg.peer] = *(const Um__Stats *)msg;
        um_link_release(&r->link, &in);
        UM_TRY(st);
    }
    return UM_OK;
}

static um_status shutdown_all(router *r, um_err *err)
{
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    bye.reason = "done";
    for (int p = 0; p < r->link.comm->topo.n; p++)
        if (p != r->link.comm->rank)
            UM_TRY(um_link_control(&r->link, p, UM_KIND_SHUTDOWN, &bye.base, err));
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
    if (r->routing != NULL) UM_TRY(um_routing_collect(r->routing, &r->link, err));
    UM_TRY(stats_collect(r, err));
    UM_TRY(shutdown_all(r, err));
    if (r->routing != NULL) /* may take long for many experts, so when nobody watches any more */
        UM_TRY(um_routing_write(r->routing, r->cfg->routing, r->report.requests, r->report.errors,
                                err));
    um_report_summary(&line, &r->report, &r->link.comm->topo);
    um_status st = r->emit(r->ctx, line.s, err);
    um_text_free(&line);
    return st;
}

static um_status routing_open(router *r, um_err *err)
{
    if (r->leads) UM_TRY(um_routing_check(&r->ck.model, r->cfg->routing, err));
    r->routing = um_routing_open(&r->ck.model);
    return UM_OK;
}

/* Everything up to the first request. */
static um_status start(router *r, um_err *err)
{
    const um_config *cfg = r->cfg;
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    UM_TRY(um_dev_open_cpu(&r->dev, (um_isa)um_isa_from_name(cfg->isa),
                           um_join_threads(r->link.comm, cfg->threads), err));
    UM_TRY(um_checkpoint_open(&r->ck, cfg->model, &towers, err));
    UM_TRY(um_tokenizer_open(&r->tok, cfg->model, err));
    if (cfg->routing[0] != '\0') UM_TRY(routing_open(r, err));
    if (um_tokenizer_vocab(r->tok) > r->ck.model.vocab)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s/tokenizer.model has %d pieces, config.json says vocab_size %d",
                       cfg->model, um_tokenizer_vocab(r->tok), r->ck.model.vocab);
    if (r->leads)
        UM_TRY(um_join_lead(&r->link, cfg, &r->ck.model, &r->model, err));
    else
        UM_TRY(um_join_follow(&r->link, cfg, &r->ck.model, &r->model, err));
    UM_TRY(um_wrap(
        err,
        um_backbone_load(&r->backbone, &r->ck, &r->link, &r->dev, cfg->weights, &r->model, err),
        "load backbone"));
    um_log_info("backbone of %d layers, %.1f MiB, %d threads, %s", r->ck.model.layers,
                (double)r->backbone.weight_bytes / 1048576.0, r->dev.threads,
                um_isa_name(r->dev.isa));
    UM_TRY(um_engine_open(&r->engine, cfg, &r->ck.model, r->tok, &r->backbone, &r->link, &r->dev,
                          sequence_done, r, err));
    if (cfg->routing[0] != '\0') um_engine_count_routing(r->engine, r->routing);
    r->dispatcher =
        um_dispatcher_open(cfg, &r->link, r->engine, r->tok, r->emit, r->ctx, &r->report);
    if (r->leads) return um_join_all_ready(&r->link, err);
    return um_join_ready(&r->link, r->backbone.weight_bytes, 0, err);
}

um_status um_router_run_to(const um_config *cfg, um_comm *comm, um_emit emit, void *ctx,
                           um_err *err)
{
    router r = {.cfg = cfg, .emit = emit, .ctx = ctx, .leads = comm->rank == um_join_leader(comm)};
    um_arena_init(&r.model, "backbone weights", 1 << 20);
    um_arena_init(&r.counters, "counters", 1 << 16);
    um_link_open(&r.link, comm);
    um_status st = start(&r, err);
    if (st == UM_OK) st = r.leads ? lead(&r, err) : work(&r, err);
    if (st != UM_OK && st != UM_E_STOPPED) um_link_error(&r.link, st, err->msg);
    um_dispatcher_close(r.dispatcher);
    um_engine_close(r.engine);
    um_routing_close(r.routing);
    um_trace_close(r.trace);
    um_backbone_close(&r.backbone);
    um_tokenizer_close(r.tok);
    um_link_close(&r.link);
    um_checkpoint_close(&r.ck);
    um_arena_free(&r.counters);
    um_arena_free(&r.model);
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
