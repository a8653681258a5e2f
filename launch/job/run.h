/* Starts a job's mpirun, feeds and reads it, and sees to its end: whatever happens, um_job_run returns, within seconds of a fatal
 * report or a signal, and no process of the job is left on this machine. Ranks on other hosts end with mpirun's daemons there. */
#pragma once

#include "launch/job/mpirun_line.h"

typedef struct um_job_io {
    const char *input; /* goes to rank 0's standard input */
    size_t input_size;
    bool input_more; /* and then what comes from input_fd, until its end; it is only read here */
    int input_fd;
    /* A line that a rank wrote to standard output. True: that was the last one, the job should end by itself now. */
    bool (*line)(void *ctx, const char *line);
    void (*log)(void *ctx, const char *line); /* a line for people, from standard error */
    void *ctx;
} um_job_io;

/* UM_OK when mpirun ended with 0. Else the message names the role and rank that ended the job, where mpirun says so, and the
 * status is that of the rank's exit code (2 usage, 3 model, 4 data) or UM_E_PEER; UM_E_STOPPED after SIGINT, SIGTERM or SIGHUP.
 * SIGPIPE must be ignored by the caller. Thread: main; blocks those signals and SIGCHLD while it runs. */
um_status um_job_run(const um_job *job, const um_job_io *io, um_err *err);
