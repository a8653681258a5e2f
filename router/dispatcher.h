/* Requests in, answers out: which router works on which request.
 *
 *   router 0   --requests --> read --> number --> the router with the fewest unfinished requests
 *                                                   |  itself: um_engine_submit
 *                                                   |  another: REQUEST frame --> its engine --> TOKEN and RESULT frames
 *   tokens and results of all routers --> lines of JSON --> emit (standard output)
 *
 * A line {"cancel": ID} among the requests ends the unfinished ones of this id: CANCEL frame, or um_engine_cancel. Between routers
 * everything is a typed message (control.proto); lines are made here, at the edge.
 *
 * Intake is bounded: a router has at most a window of requests and of their bytes unfinished. While every window is full router 0 does not
 * read on, so whoever writes to it waits, and a file of any length is read in flat memory. */
#pragma once

#include "router/engine/engine.h"
#include "router/report.h"
#include "router/router.h"

typedef struct um_dispatcher um_dispatcher;

/* All pointers stay the caller's. emit and ctx: where router 0 puts lines; report: whose errors it counts. */
um_dispatcher *um_dispatcher_open(const um_config *cfg, um_link *link, um_engine *engine,
                                  um_emit emit, void *ctx, um_report *report);
void um_dispatcher_close(um_dispatcher *d); /* accepts NULL */

/* Router 0: opens --requests. */
um_status um_dispatcher_open_input(um_dispatcher *d, um_err *err);
/* Router 0: the one request of --request, traced. */
um_status um_dispatcher_trace(um_dispatcher *d, um_trace *trace, um_err *err);
/* Router 0: takes requests that were read, and assigns them as long as there is room, a bounded number of bytes a call. Never waits. */
um_status um_dispatcher_read(um_dispatcher *d, um_err *err);

/* Router 0: whether um_dispatcher_read would do something now. Else it has something to do after a frame, or when um_link_wait was
 * woken because of the input. */
bool um_dispatcher_runnable(const um_dispatcher *d);
/* Router 0: requests that came, and whether all of them are answered and no more will come. */
uint64_t um_dispatcher_requests(const um_dispatcher *d);
bool um_dispatcher_finished(const um_dispatcher *d);

/* Events of this router's engine (engine.h): they become lines here, or go to router 0. */
um_status um_dispatcher_token(um_dispatcher *d, const Um__Token *t, um_err *err);
um_status um_dispatcher_done(um_dispatcher *d, const Um__Result *r, um_err *err);
/* A frame of kind REQUEST or CANCEL (other routers), TOKEN or RESULT (router 0). UM_E_CORRUPT when it is about a request that its sender
 * was not assigned. */
um_status um_dispatcher_frame(um_dispatcher *d, const um_inbound *in, um_err *err);
