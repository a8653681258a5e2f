/* How far a job is, for people, on standard error: on a terminal one line that is drawn again, elsewhere a line now and then. The
 * first comes after two seconds, so short jobs show nothing. Router 0 reports with --progress, at most once a second:
 *
 *   {"kind":"progress","phase":"loading"}
 *   {"kind":"progress","phase":"working","answered":3,"requests":8,"encoding":1,"prompt_tokens":640,"new_tokens":96}
 *
 * "requests" is how many the router has read so far, "encoding" how many of them wait for encoders while nothing else can be done;
 * tokens are those of router 0. Thread: one. */
#pragma once

#include "core/base/json.h"

#include <stdint.h>
#include <stdio.h>

typedef struct um_job_progress {
    FILE *to;      /* NULL: show nothing */
    bool terminal; /* draw over the same line */
    int ranks;
    int64_t wanted; /* requests given; < 0 while they are still being read */
    /* the rest is this module's */
    int64_t began_ns, work_ns, shown_ns, answer_ns;
    bool drawn; /* the terminal's line shows something */
    char phase[16];
    int64_t answered, encoding, prompt_tokens, new_tokens;
} um_job_progress;

/* ranks: of the whole job. Shows nothing with quiet. */
void um_job_progress_open(um_job_progress *p, FILE *to, int ranks, int64_t wanted, bool quiet);
/* A line of kind "progress". */
void um_job_progress_update(um_job_progress *p, const um_json *line);
/* Draws, when it is time to. now_ns: um_now_ns(). */
void um_job_progress_tick(um_job_progress *p, int64_t now_ns);
/* Before anything else is written to the terminal, and at the end. */
void um_job_progress_clear(um_job_progress *p);
