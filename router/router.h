/* A router rank: reads requests, runs the backbone, asks encoders and experts, answers. Router 0 leads the job: it checks that all
 * ranks agree, assigns requests to the routers, and reports. */
#pragma once

#include "core/options/config.h"
#include "core/comm/comm.h"

/* Writes one line of JSON: a result, an error of one request, or the summary (see README). A status that is not UM_OK ends the job.
 * Thread: the router's. */
typedef um_status (*um_emit)(void *ctx, const char *line, um_err *err);

/* The role with the lines going to emit. Thread: the calling thread is the rank's main thread. */
um_status um_router_run_to(const um_config *cfg, um_comm *comm, um_emit emit, void *ctx,
                           um_err *err);
/* The same with the lines going to standard output. */
um_status um_router_run(const um_config *cfg, um_comm *comm, um_err *err);
