/* The JSON lines that router 0 writes (README, "Output"). */
#pragma once

#include "core/base/json.h"
#include "core/comm/link.h"
#include "router/engine/engine.h"

/* {"kind":"result",...} or {"kind":"error",...} of a request that is done. */
void um_report_result(um_text *out, const Um__Result *r);
/* {"kind":"token","id":...,"token":{...}}: new tokens of a request that is not done. from: name, number and element of its line. */
void um_report_token(um_text *out, const um_request *from, const Um__Token *t);

/* Counters of all ranks for the summary. */
typedef struct um_report {
    int64_t requests, errors;
    int64_t answered; /* lines that went out: results and errors */
    Um__Stats *ranks; /* [n] */
    int64_t busy_ns;  /* from the first request to the last answer */
} um_report;
/* {"kind":"summary",...}. Shares: compute = backbone plus the slowest expert rank, exchange = codecs and frames on that way, wait =
 * the rest (transport, imbalance, sleep); they add up to 1. */
void um_report_summary(um_text *out, const um_report *r, const um_topology *topo);
/* {"kind":"progress",...}: how far the job is, as job_progress.h of the launcher has it. With phase "loading" the rest is not looked at. */
typedef struct um_report_state {
    const char *phase; /* "loading" or "working" */
    int64_t answered, requests,
        waiting; /* answers given, requests read, of which so many wait for encoders now */
    const um_engine_stats *engine;
} um_report_state;
void um_report_progress(um_text *out, const um_report_state *s);
