/* The loop of a router rank. See router.h.
 *
 *   router 0: join_lead, load, wait for all, read requests, deal them, work, collect results, ask for counters, shutdown, summary
 *   others:   join_follow, load, ready, work on what router 0 sends, answer, until shutdown */
#include "router/router.h"

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/comm/join.h"
#include "router/engine/engine.h"
#include "router/request/input.h"
#include "router/report.h"

#include <stdio.h>
#include <string.h>

#define REQUEST_BYTES_MAX ((size_t)64 << 20)

enum { INPUT_LOOK_US = 50000 }; /* an idle router looks for new requests this often */

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
    um_arena model, requests;
    um_input input; /* router 0: where requests come from */
    bool leads;     /* this is router 0 */
    int elsewhere;  /* router 0: requests that other routers owe */
    bool shutdown;  /* others: router 0 said so */
    uint64_t next;  /* number of the next request */
    um_report report;
} router;

/* One line out: to emit here, or to router 0, which emits it. */
static um_status line_out(router *r, uint64_t number, const um_text *line, bool error, um_err *err)
{
    if (r->leads) {
        r->report.errors += error;
        r->emit(r->ctx, line->s);
        return UM_OK;
    }
    Um__Result res = UM__RESULT__INIT;
    res.id = number << 1 | (error ? 1 : 0);
    res.json = line->s;
    return um_link_control(&r->link, um_join_leader(r->link.comm), UM_KIND_RESULT, &res.base, err);
}

static void sequence_done(void *ctx, const um_sequence *s)
{
    router *r = ctx;
    um_text line = {0};
    um_err err = {0};
    um_report_sequence(&line, s, r->tok);
    if (line_out(r, s->number, &line, s->status != UM_OK, &err) != UM_OK)
        um_log_error("result of request %s: %s", s->req->id, err.msg);
    um_text_free(&line);
}

/* Reads one request and queues it; a bad one is answered at once. Text and request live in r->requests. */
static um_status request_add(router *r, uint64_t number, const char *json, const char *folder,
                             um_trace *trace, um_err *err)
{
    um_request *req = um_arena_zero(&r->requests, sizeof *req);
    um_err why = {0};
    um_status st = um_request_parse(req, json, strlen(json), folder, &r->requests, &why);
    if (st == UM_OK) {
        if (req->id == NULL)
            req->id = um_arena_fmt(&r->requests, "%llu", (unsigned long long)number);
        um_engine_add(r->engine, number, req, trace);
        return UM_OK;
    }
    um_text line = {0};
    const char *id = um_request_id(json, strlen(json), &r->requests);
    if (id == NULL) id = um_arena_fmt(&r->requests, "%llu", (unsigned long long)number);
    um_report_error(&line, id, why.msg);
    st = line_out(r, number, &line, true, err);
    um_text_free(&line);
    return st;
}

/* Router 0: hands request number to router number mod R. */
static um_status request_deal(router *r, const char *json, um_err *err)
{
    const um_topology *topo = &r->link.comm->topo;
    uint64_t number = r->next++;
    int to = (int)(number % (uint64_t)topo->count[UM_ROLE_ROUTER]);
    if (to == 0) return request_add(r, number, json, ".", NULL, err);
    Um__Request req = UM__REQUEST__INIT;
    req.id = number;
    req.json = (char *)(uintptr_t)json;
    req.folder = ".";
    r->elsewhere++;
    return um_link_control(&r->link, topo->of_role[UM_ROLE_ROUTER][to], UM_KIND_REQUEST, &req.base,
                           err);
}

/* The JSONL of --requests: deals out the lines that are there now, blank ones left out. */
static um_status requests_take(router *r, um_err *err)
{
    for (;;) {
        char *line = NULL;
        UM_TRY(um_input_line(&r->input, &line, err));
        if (line == NULL) return UM_OK;
        if (line[strspn(line, " \t\r")] != '\0') UM_TRY(request_deal(r, line, err));
    }
}

static um_status requests_open(router *r, um_err *err)
{
    if (r->cfg->requests[0] == '\0') return UM_OK;
    if (strcmp(r->cfg->requests, "-") == 0 && r->link.comm->rank != 0)
        return UM_FAIL(
            err, UM_E_USAGE,
            "--requests -: mpirun gives its standard input to rank 0, so name unimoe-router first");
    return um_input_open(&r->input, r->cfg->requests, err);
}

/* The one request of `trace`. */
static um_status traced_read(router *r, um_err *err)
{
    uint8_t *text = NULL;
    size_t n = 0;
    if (r->cfg->request[0] == '\0') return UM_OK;
    UM_TRY(um_file_read(&text, &n, r->cfg->request, REQUEST_BYTES_MAX, &r->requests, err));
    r->trace = um_trace_open();
    return request_add(r, r->next++, (const char *)text, um_path_dir(&r->requests, r->cfg->request),
                       r->trace, err);
}

static um_status result_in(router *r, const um_inbound *in, um_err *err)
{
    um_mark mark = um_arena_mark(&r->requests);
    ProtobufCMessage *msg = NULL;
    UM_TRY(um_link_unpack(&msg, &um__result__descriptor, in, &r->requests, err));
    const Um__Result *res = (const Um__Result *)msg;
    r->report.errors += (int64_t)(res->id & 1);
    r->elsewhere--;
    r->emit(r->ctx, res->json);
    um_arena_reset(&r->requests, mark);
    return UM_OK;
}

static um_status request_in(router *r, const um_inbound *in, um_err *err)
{
    ProtobufCMessage *msg = NULL;
    UM_TRY(um_link_unpack(&msg, &um__request__descriptor, in, &r->requests, err));
    const Um__Request *req = (const Um__Request *)msg;
    return request_add(r, req->id, req->json, req->folder, NULL, err);
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
        if (r->leads) return result_in(r, in, err);
        break;
    case UM_KIND_REQUEST:
        if (!r->leads) return request_in(r, in, err);
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
        if (r->leads) UM_TRY(requests_take(r, err));
        bool unfinished =
            um_engine_unfinished(r->engine) > 0 || r->elsewhere > 0 || !um_input_ended(&r->input);
        if (r->leads ? !unfinished : r->shutdown) return UM_OK;
        bool runnable = um_engine_runnable(r->engine);
        um_inbound in = {0};
        r->link.phase = "waiting for work";
        um_status st = um_link_next(&r->link, &in,
                                    runnable           ? 0
                                    : r->input.fd >= 0 ? INPUT_LOOK_US
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
    r->report.ranks = um_arena_zero(&r->requests, (size_t)topo->n * sizeof(Um__Stats));
    own_stats(r, &r->report.ranks[r->link.comm->rank]);
    for (int p = 0; p < topo->n; p++)
        if (p != r->link.comm->rank)
            UM_TRY(um_link_control(&r->link, p, UM_KIND_STATS, &none.base, err));
    for (int owed = topo->n - 1; owed > 0;) {
        um_inbound in = {0};
        ProtobufCMessage *msg = NULL;
        UM_TRY(um_link_next(&r->link, &in, -1, err));
        um_status st = UM_OK;
        if (in.frame.kind == UM_KIND_STATS) {
            st = um_link_unpack(&msg, &um__stats__descriptor, &in, &r->requests, err);
            owed--;
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
    UM_TRY(traced_read(r, err));
    UM_TRY(requests_open(r, err));
    UM_TRY(work(r, err));
    r->report.busy_ns = um_now_ns() - start;
    r->report.requests = (int64_t)r->next;
    if (r->trace != NULL && r->report.errors == 0)
        UM_TRY(um_trace_write(r->trace, r->cfg->out, err));
    if (r->routing != NULL) UM_TRY(um_routing_collect(r->routing, &r->link, err));
    UM_TRY(stats_collect(r, err));
    UM_TRY(shutdown_all(r, err));
    if (r->routing != NULL) /* may take long for many experts, so when nobody watches any more */
        UM_TRY(um_routing_write(r->routing, r->cfg->routing, r->report.requests, r->report.errors,
                                err));
    um_report_summary(&line, &r->report, &r->link.comm->topo);
    r->emit(r->ctx, line.s);
    um_text_free(&line);
    return UM_OK;
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
    if (cfg->routing[0] != '\0') um_engine_count(r->engine, r->routing);
    if (r->leads) return um_join_all_ready(&r->link, err);
    return um_join_ready(&r->link, r->backbone.weight_bytes, 0, err);
}

um_status um_router_run_to(const um_config *cfg, um_comm *comm, um_emit emit, void *ctx,
                           um_err *err)
{
    router r = {.input.fd = -1,
                .cfg = cfg,
                .emit = emit,
                .ctx = ctx,
                .leads = comm->rank == um_join_leader(comm)};
    um_arena_init(&r.model, "backbone weights", 1 << 20);
    um_arena_init(&r.requests, "requests", 1 << 16);
    um_link_open(&r.link, comm);
    um_status st = start(&r, err);
    if (st == UM_OK) st = r.leads ? lead(&r, err) : work(&r, err);
    if (st != UM_OK && st != UM_E_STOPPED) um_link_error(&r.link, st, err->msg);
    um_input_close(&r.input);
    um_engine_close(r.engine);
    um_routing_close(r.routing);
    um_trace_close(r.trace);
    um_backbone_close(&r.backbone);
    um_tokenizer_close(r.tok);
    um_link_close(&r.link);
    um_checkpoint_close(&r.ck);
    um_arena_free(&r.requests);
    um_arena_free(&r.model);
    return st;
}

static void to_stdout(void *ctx, const char *line)
{
    (void)ctx;
    puts(line);
    fflush(stdout);
}

um_status um_router_run(const um_config *cfg, um_comm *comm, um_err *err)
{
    return um_router_run_to(cfg, comm, to_stdout, NULL, err);
}
