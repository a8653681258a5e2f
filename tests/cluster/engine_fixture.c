/* See engine_fixture.h. */
#include "tests/cluster/engine_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/comm/join.h"
#include "core/comm/role.h"
#include "router/backbone/backbone.h"

#include <stdio.h>
#include <string.h>

typedef struct body_call {
    engine_fixture *f;
    void (*body)(engine_fixture *f);
} body_call;

engine_fixture *engine_fixture_open(const char *model)
{
    engine_fixture *f = um_zalloc(sizeof *f);
    um_arena_init(&f->arena, "test", 1 << 16);
    cluster_init(&f->c, um_arena_str(&f->arena, model));
    f->c.cfg.experts = 2;
    f->c.cfg.temperature = 0;
    f->c.cfg.ignore_eos = true;
    return f;
}

static void forget(engine_fixture *f)
{
    for (int i = 0; i < REQUESTS_MAX; i++) um_text_free(&f->request[i].text);
    memset(f->request, 0, sizeof f->request);
    f->done = f->steps = 0;
    f->uncounted_done = 0;
}

void engine_fixture_close(engine_fixture *f)
{
    forget(f);
    cluster_free(&f->c);
    um_arena_free(&f->arena);
    um_free(f);
}

static void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) printf("%s\n", err->msg);
    assert_int_equal(st, UM_OK);
}

static um_status on_token(void *ctx, const Um__Token *t, um_err *err)
{
    engine_fixture *f = ctx;
    (void)err;
    assert_true(t->id < REQUESTS_MAX);
    engine_request *r = &f->request[t->id];
    assert_false(r->done);
    assert_int_equal(t->index, r->tokens);
    for (size_t i = 0; i < t->n_logprobs; i++)
        if (r->tokens + (int)i < 64) r->logprob[r->tokens + (int)i] = t->logprobs[i];
    r->tokens += (int)t->n_ids;
    um_text_add(&r->text, t->text, strlen(t->text));
    if (f->cancel_at > 0 && (int)t->id == f->cancel_number && r->tokens == f->cancel_at)
        assert_true(um_engine_cancel(f->engine, t->id));
    return UM_OK;
}

static um_status on_done(void *ctx, const Um__Result *from, um_err *err)
{
    engine_fixture *f = ctx;
    (void)err;
    if (from->id >= REQUESTS_MAX) {
        f->uncounted_done++;
        return UM_OK;
    }
    engine_request *r = &f->request[from->id];
    assert_false(r->done);
    r->done = true;
    r->result = *from;
    r->result.ids = um_arena_i32(&f->arena, from->n_ids);
    if (from->n_ids > 0) memcpy(r->result.ids, from->ids, from->n_ids * sizeof *from->ids);
    r->result.text = um_arena_str(&f->arena, from->text);
    r->result.error = um_arena_str(&f->arena, from->error);
    r->result.logprobs = um_arena_f32(&f->arena, 1, from->n_logprobs);
    if (from->n_logprobs > 0)
        memcpy(r->result.logprobs, from->logprobs, from->n_logprobs * sizeof *from->logprobs);
    f->done++;
    return UM_OK;
}

/* What router 0 does before its first request and after its last. */
static um_status lead(void *ctx, const um_config *cfg, um_comm *comm, um_err *err)
{
    body_call *call = ctx;
    engine_fixture *f = call->f;
    um_role_base base;
    um_tokenizer *tok = NULL;
    um_backbone backbone = {0};
    um_engine_events events = {f->no_tokens ? NULL : on_token, on_done, f};
    ok(um_role_begin(&base, cfg, comm, err), err);
    ok(um_tokenizer_open(&tok, cfg->model, err), err);
    ok(um_role_join(&base, err), err);
    ok(um_role_own(&base, 0, err), err);
    ok(um_backbone_load(&backbone, &base.params, err), err);
    ok(um_engine_open(&f->engine, cfg, &base.ck.model, tok, &backbone, &base.link, &base.dev,
                      &events, err),
       err);
    ok(um_join_all_ready(&base.link, err), err);
    f->link = &base.link;
    call->body(f);
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    for (int p = 1; p < comm->topo.n; p++)
        ok(um_link_control(&base.link, p, UM_KIND_SHUTDOWN, &bye.base, err), err);
    um_engine_close(f->engine);
    um_backbone_close(&backbone);
    um_tokenizer_close(tok);
    um_role_end(&base, UM_OK, err);
    return UM_OK;
}

void engine_run(engine_fixture *f, void (*body)(engine_fixture *f))
{
    body_call call = {f, body};
    f->c.lead = lead;
    f->c.lead_ctx = &call;
    forget(f);
    um_status st = cluster_run(&f->c);
    for (int r = 0; r < f->c.ranks; r++)
        if (f->c.status[r] != UM_OK) printf("rank %d: %s\n", r, f->c.err[r].msg);
    assert_int_equal(st, UM_OK);
}

void engine_submit(engine_fixture *f, uint64_t number, const char *json)
{
    Um__Result refusal;
    um_err err = {0};
    um_request_source from = {json, strlen(json), strlen(json), ".", number, .element = false};
    if (number < REQUESTS_MAX) {
        um_text_free(&f->request[number].text);
        f->request[number] = (engine_request){0};
    }
    ok(um_engine_submit(f->engine, number, &from, NULL, &refusal, &err), &err);
}

void engine_round(engine_fixture *f)
{
    um_inbound in = {0};
    um_err err = {0};
    bool runnable = um_engine_runnable(f->engine);
    um_status st = um_link_wait(f->link, &in, runnable ? 0 : -1, &err);
    if (st == UM_OK) {
        assert_int_equal(in.frame.kind, UM_KIND_ENCODED);
        st = um_engine_encoded(f->engine, &in, &err);
        um_link_release(f->link, &in);
    } else if (st == UM_E_TIMEOUT) {
        st = um_engine_step(f->engine, &err);
        f->steps++;
    }
    ok(st, &err);
}

void engine_finish(engine_fixture *f)
{
    while (um_engine_unfinished(f->engine) > 0) engine_round(f);
}
