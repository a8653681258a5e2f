/* Starts a job's mpirun, feeds and reads it, and sees to its end: whatever happens, um_job_run returns, within seconds of a fatal
 * report, a signal or a missed deadline, and no process of the job is left on this machine. Ranks on other hosts end with mpirun's
 * daemons there. */
#pragma once

#include "launch/job/mpirun_line.h"

/* What the reader of a job's output wants next. */
typedef enum um_job_next {
    UM_JOB_GO_ON,
    UM_JOB_LAST, /* that was the last line: the job should end by itself now */
    UM_JOB_STOP, /* nobody can use further lines: end the job at once */
} um_job_next;

typedef struct um_job_io {
    const char *input; /* goes to rank 0's standard input */
    size_t input_size;
    bool input_more; /* and then what comes from input_fd, until its end; it is only read here */
    int input_fd;
    um_job_next (*line)(void *ctx, const char *line); /* a line of standard output */
    void (*log)(void *ctx, const char *line);         /* a line for people, from standard error */
    um_job_next (*tick)(
        void *ctx);   /* called a few times a second while the job runs; may be NULL */
    int64_t start_ms; /* standard output must have its first line by then; 0 = no deadline */
    /* The job saves when it is asked to stop: SIGUSR1 goes to its ranks as it is, and the first SIGINT or SIGTERM as SIGUSR2, upon which
     * they save and end by themselves; a second one ends them at once. */
    bool saves;
    void *ctx;
} um_job_io;

/* UM_OK when mpirun ended with 0. Else the message names the role and rank that ended the job, where mpirun says so, and the
 * status is that of the rank's exit code (2 usage, 3 model, 4 data) or UM_E_PEER (err->signal: what killed a rank);
 * UM_E_TIMEOUT when start_ms passed; UM_E_STOPPED after SIGINT, SIGTERM or SIGHUP (err->signal), and after UM_JOB_STOP
 * (err->signal 0). A signal that was ignored when we were started (nohup) stays ignored. SIGPIPE must be ignored by the caller.
 * Thread: main; blocks those signals and SIGCHLD while it runs. */
um_status um_job_run(const um_job *job, const um_job_io *io, um_err *err);
