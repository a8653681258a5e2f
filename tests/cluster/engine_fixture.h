/* The engine of a router under the test's own hands: experts and encoders are threads, router 0 is the test's thread, which steps the
 * engine itself and sees its events. */
#pragma once

#include "router/engine/engine.h"
#include "tests/cluster/cluster.h"

enum { REQUESTS_MAX = 64 };

/* What the events said of one request; kept in the fixture's arena. */
typedef struct engine_request {
    bool done;
    Um__Result result; /* texts and ids are copies */
    int tokens;        /* that on_token reported */
    um_text text;      /* the texts of its tokens */
    float logprob[64]; /* of its first tokens */
} engine_request;

typedef struct engine_fixture {
    cluster c; /* set c.cfg before engine_run */
    um_arena arena;
    um_engine *engine;
    um_link *link;
    engine_request request[REQUESTS_MAX]; /* by number */
    int done, steps;
    bool no_tokens;         /* on_token is not wanted */
    int64_t uncounted_done; /* of requests with higher numbers */
    int cancel_number,
        cancel_at; /* on_token cancels this request when it has so many tokens; at 0: none */
} engine_fixture;

engine_fixture *engine_fixture_open(const char *model);
void engine_fixture_close(engine_fixture *f);
/* Starts all ranks, calls body with the engine open, ends the job. */
void engine_run(engine_fixture *f, void (*body)(engine_fixture *f));

/* Within body: submits a request (fmt makes its JSON), which must be accepted. Requests of other runs of the engine are forgotten. */
void engine_submit(engine_fixture *f, uint64_t number, const char *json);
/* What a router does in one round without new requests: a frame, if one came, else a step, if there is something to do. Waits for a
 * frame when there is not. */
void engine_round(engine_fixture *f);
/* Until all that was submitted is done. */
void engine_finish(engine_fixture *f);
