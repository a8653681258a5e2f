/* What mpirun writes to standard error, made readable: boxes of dashes are opened, reports about ranks become one line that names
 * role and rank, boilerplate goes, everything else stays as it is. Fed with lines, one at a time. */
#pragma once

#include "launch/job.h"

enum { UM_BANNER_LINES = 24, UM_BANNER_WIDTH = 512 };

typedef struct um_banner {
    const um_job *job;
    bool inside; /* between two lines of dashes */
    int n;
    char line[UM_BANNER_LINES][UM_BANNER_WIDTH]; /* of the open box */
    char error[UM_BANNER_WIDTH]; /* what the first rank that logged an error said: "expert/1 ..." */
    bool fatal;                  /* a rank ended the job */
    char cause[UM_BANNER_WIDTH]; /* the first such report, without "unimoe: " */
    void (*print)(void *ctx, const char *line);
    void *ctx;
} um_banner;

void um_banner_line(um_banner *b, const char *line); /* without its newline */
void um_banner_end(um_banner *b); /* standard error is closed: shows what an open box holds */
