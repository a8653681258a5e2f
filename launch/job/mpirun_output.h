/* What mpirun writes to standard error, made readable: boxes of dashes are opened, reports about ranks become one line that names
 * role and rank, boilerplate goes, everything else stays as it is. Fed with lines, one at a time. */
#pragma once

#include "launch/job/mpirun_line.h"

enum { UM_MPIRUN_OUTPUT_LINES = 24, UM_MPIRUN_OUTPUT_WIDTH = 512 };

typedef struct um_mpirun_output {
    const um_job *job;
    bool inside; /* between two lines of dashes */
    int n;
    char line[UM_MPIRUN_OUTPUT_LINES][UM_MPIRUN_OUTPUT_WIDTH]; /* of the open box */
    char error
        [UM_MPIRUN_OUTPUT_WIDTH]; /* what the first rank that logged an error said: "expert/1 ..." */
    bool fatal;                   /* a rank ended the job */
    bool unreachable; /* a rank saw no way from its network interfaces to another rank's */
    char cause[UM_MPIRUN_OUTPUT_WIDTH]; /* the first such report, without "unimoe: " */
    void (*print)(void *ctx, const char *line);
    void *ctx;
} um_mpirun_output;

void um_mpirun_output_line(um_mpirun_output *b, const char *line); /* without its newline */
void um_mpirun_output_end(
    um_mpirun_output *b); /* standard error is closed: shows what an open box holds */
