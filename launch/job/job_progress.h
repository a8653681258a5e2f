/* How far a job is, in the line of core/base/progress.h. Router 0 reports with --progress, at most once a second:
 *
 *   {"kind":"progress","phase":"loading"}
 *   {"kind":"progress","phase":"working","answered":3,"requests":8,"encoding":1,"prompt_tokens":640,"new_tokens":96}
 *
 * "requests" is how many the router has read so far, "encoding" how many of them wait for encoders while nothing else can be done;
 * tokens are those of router 0. Thread: one. */
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"

#include <stdint.h>
#include <stdio.h>

typedef struct um_job_progress {
    um_progress_line line;
    int ranks;
    int64_t wanted; /* requests given; < 0 while they are still being read */
    /* the rest is this module's */
    int64_t work_ns, answer_ns;
    char phase[16];
    int64_t answered, encoding, prompt_tokens, new_tokens;
} um_job_progress;

/* ranks: of the whole job. Shows nothing with quiet. */
void um_job_progress_open(um_job_progress *p, FILE *to, int ranks, int64_t wanted, bool quiet);
/* A line of kind "progress". */
void um_job_progress_update(um_job_progress *p, const um_json *line);
/* Shows the state when it is due. now_ns: um_now_ns(). */
void um_job_progress_tick(um_job_progress *p, int64_t now_ns);
/* Before anything else is written to the terminal, and at the end. */
void um_job_progress_clear(um_job_progress *p);
