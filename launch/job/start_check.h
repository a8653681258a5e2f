/* What must hold on this machine before mpirun can start ranks. Each check is a few system calls. doctor shows them all; a start
 * stops at the first that fails, for Open MPI hangs or crashes on most of them. */
#pragma once

#include "launch/job/mpirun_line.h"

typedef enum um_verdict { UM_CHECK_OK, UM_CHECK_WARN, UM_CHECK_FAIL } um_verdict;

typedef struct um_finding {
    um_verdict verdict;
    const char *what;    /* "TMPDIR" */
    const char *finding; /* "/tmp has 4.0 MiB free, ..." */
    const char *remedy;  /* NULL when all is well */
} um_finding;

typedef struct um_start {
    int ranks;          /* on this host, at most */
    bool shared_memory; /* ranks of one host exchange rows through /dev/shm */
    const um_job_site *site;
} um_start;

enum { UM_START_CHECKS = 6 };
/* All of them into out, in the order TMPDIR, /dev/shm, host name, programs, ssh, this folder. Texts live in arena. */
void um_start_findings(um_finding out[UM_START_CHECKS], const um_start *s, um_arena *arena);
/* UM_E_IO with finding and remedy of the first check that fails. Removes session folders of dead jobs when TMPDIR is full. */
um_status um_start_check(const um_start *s, um_arena *arena, um_err *err);
/* The deadline for ranks to come up when --start-timeout-ms is 0. */
int64_t um_start_timeout_ms(int ranks);
