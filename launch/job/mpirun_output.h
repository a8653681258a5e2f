/* What mpirun writes to standard error, made readable: boxes of dashes are opened, reports about ranks become one cause that names
 * role and rank, boilerplate is dropped, everything else stays as it is. Fed with lines, one at a time.
 *
 * When a job fails, its ranks see the consequences of one fault and each logs an error of its own. Errors are held back until it
 * is known how the job ended: of a job that failed only the cause is shown, once, with the rank that is at fault in front; of a
 * job that went on to its end all are shown. With --log-level info and above every line is shown when it comes. */
#pragma once

#include "launch/job/mpirun_line.h"

enum { UM_MPIRUN_OUTPUT_LINES = 40, UM_MPIRUN_OUTPUT_WIDTH = 1024, UM_MPIRUN_OUTPUT_ERRORS = 16 };

typedef struct um_mpirun_output {
    const um_job *job;
    bool inside; /* between two lines of dashes */
    int n;
    char line[UM_MPIRUN_OUTPUT_LINES][UM_MPIRUN_OUTPUT_WIDTH];   /* of the open box */
    int errors;                                                  /* lines held back */
    char error[UM_MPIRUN_OUTPUT_ERRORS][UM_MPIRUN_OUTPUT_WIDTH]; /* "12:04:31.207 E expert/1 ..." */
    bool fatal;       /* a rank ended the job, or mpirun says that it cannot start it */
    bool unreachable; /* a rank saw no way from its network interfaces to another rank's */
    int signal;       /* that killed the first rank, 0 = none */
    char cause[UM_MPIRUN_OUTPUT_WIDTH]; /* the first such report, without "unimoe: " */
    char hint[UM_MPIRUN_OUTPUT_WIDTH]; /* a line that explains a failure but need not end the job */
    bool stopping; /* set by the caller: the job was asked to end, errors are no news any more */
    void (*print)(void *ctx, const char *line);
    void *ctx;
} um_mpirun_output;

/* A line that says nothing to a person, on whichever stream mpirun wrote it. */
bool um_mpirun_output_is_noise(const char *line);
void um_mpirun_output_line(um_mpirun_output *b, const char *line); /* without its newline */
/* Standard error is closed: handles what an open box holds, completes the cause, and shows held-back errors of a job without one. */
void um_mpirun_output_end(um_mpirun_output *b);
/* Why mpirun failed (wait_status, as waitpid gives it) when no rank and no box said so. Returns a status other than UM_OK. */
um_status um_mpirun_output_explain(const um_mpirun_output *b, int wait_status, um_err *err);
