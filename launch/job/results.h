/* The result lines of router 0 (JSON, one a line: "token", "result", "error", "summary", "progress"), made into what a person reads:
 *
 *   {"kind":"result","id":"7","line":3,"answer":"...","ids":[...],"prompt_tokens":111,"new_tokens":12,"finish":"stop", ...}
 *   {"kind":"token","id":"7","line":3,"token":{"index":0,"ids":[...],"text":"..."}}             (--stream, before the result)
 *   {"kind":"error","id":"8","line":4,"error":"..."}
 *   {"kind":"summary","requests":1,"prefill_tokens_per_second":..., "raw_bytes":..., "wire_bytes":..., "ranks":[...]}
 *
 * Progress lines go to job_progress.h. Other lines go to standard error as they are. */
#pragma once

#include "core/base/json.h"
#include "launch/job/job_progress.h"
#include "launch/job/run.h"

#include <stdio.h>

enum { UM_WANTED_UNKNOWN = -1 };

typedef struct um_results {
    FILE *out, *log;
    /* NULL, or takes the lines of results and errors, which are then not printed; false: it cannot, and the job is to end */
    bool (*take)(void *ctx, const um_json *line);
    void *ctx;
    bool refused;    /* it could not */
    bool json;       /* print the lines as they are */
    bool quiet;      /* no answers (trace) */
    bool unnamed;    /* the one request has no file to look it up in: its error needs no name */
    bool no_figures; /* --quiet: no line of figures */
    bool codec;      /* rows are compressed: the figures say how well */
    um_job_progress *progress; /* NULL: none is shown */
    const char *source;        /* where requests come from, for messages; may be NULL */
    int wanted;                /* requests given; UM_WANTED_UNKNOWN: the summary will say */
    int done, failed;
    int broken;   /* errno of a write to out, 0 = all went well */
    bool summary; /* the last line came */
    bool begun;   /* the beginning of the one answer was printed, without a line end */
} um_results;

/* Handles one line. UM_JOB_LAST when it was the summary, UM_JOB_STOP when out cannot be written. */
um_job_next um_results_line(um_results *a, const char *line);
/* False when out is a pipe whose reader is gone, so that the job need not work on to its next answer to notice. */
bool um_results_wanted(um_results *a);
/* st and err are those of the job. UM_E_DATA when requests failed, UM_E_PEER when answers are missing, UM_E_IO when out could not
 * be written (UM_E_STOPPED with signal SIGPIPE when its reader is gone). Says how many answers were written when not all were. */
um_status um_results_verdict(const um_results *a, um_status st, um_err *err);
