/* The result lines of router 0 (JSON, one a line: "result", "error", "summary"), made into what a person reads:
 *
 *   {"kind":"result","id":"7","line":3,"answer":"...","ids":[...],"prompt_tokens":111,"new_tokens":12,"finish":"stop", ...}
 *   {"kind":"error","id":"8","line":4,"error":"..."}
 *   {"kind":"summary","requests":1,"prefill_tokens_per_second":..., "raw_bytes":..., "wire_bytes":..., "ranks":[...]}
 *
 * Lines that are none of these go to standard error as they are. */
#pragma once

#include "core/base/json.h"

#include <stdio.h>

enum { UM_WANTED_UNKNOWN = -1 };

typedef struct um_results {
    FILE *out, *log;
    bool json;          /* hand the lines on */
    bool quiet;         /* no answers (trace) */
    bool unnamed;       /* the one request has no file to look it up in: its error needs no name */
    const char *source; /* where requests come from, for messages; may be NULL */
    int wanted;         /* requests given; UM_WANTED_UNKNOWN: the summary will say */
    int done, failed;
    bool summary; /* the last line came */
} um_results;

/* Takes one line. True when it was the summary: the job is over. */
bool um_results_line(um_results *a, const char *line);
/* After a job that ended well: UM_E_DATA when requests failed, UM_E_PEER when answers are missing. */
um_status um_results_verdict(const um_results *a, um_err *err);
