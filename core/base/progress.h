/* How far a long piece of work has come, for the person who waits for it: a bar that is redrawn on a terminal, a line now and then
 * elsewhere, nothing at all when the work is done within two seconds. Not thread-safe. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum um_progress_unit { UM_PROGRESS_BYTES, UM_PROGRESS_COUNT } um_progress_unit;

typedef struct um_progress {
    FILE *to;         /* NULL: silent */
    const char *what; /* "writing weights"; borrowed */
    um_progress_unit unit;
    bool bar;           /* to is a terminal */
    int64_t total;      /* of unit; 0 = not known */
    int64_t done;       /* so far */
    int64_t begun, due; /* monotonic ns: when it began, when the next report is due */
    bool shown;         /* something was printed */
} um_progress;

/* to: usually stderr, NULL for silence. total may be 0 when nobody knows it. */
void um_progress_begin(um_progress *p, FILE *to, const char *what, um_progress_unit unit,
                       int64_t total);
/* n more are done. Cheap enough to call for every piece of 64 KiB. */
void um_progress_add(um_progress *p, int64_t n);
/* Removes the bar, or prints the last line when lines were printed. May be called twice. */
void um_progress_end(um_progress *p);

/* The two above at a given time, for tests. */
void um_progress_add_at(um_progress *p, int64_t n, int64_t now);
void um_progress_end_at(um_progress *p, int64_t now);
