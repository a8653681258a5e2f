/* How far a long piece of work has come, for the person who waits for it: on a terminal one line that is redrawn, elsewhere a line
 * every few seconds, and nothing at all when the work is done within two seconds. Not thread-safe. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Where progress is shown, and when next. The text is the caller's. */
typedef struct um_progress_line {
    FILE *to;           /* NULL: silent */
    bool terminal;      /* redraw one line */
    bool drawn;         /* the terminal shows a line */
    bool shown;         /* something was shown */
    int64_t begun, due; /* monotonic ns */
} um_progress_line;

/* to: usually stderr, NULL for silence. */
void um_progress_line_open(um_progress_line *l, FILE *to);
bool um_progress_line_due(const um_progress_line *l, int64_t now);
void um_progress_line_show(um_progress_line *l, const char *text, int64_t now);
/* Removes the line from a terminal. Call it before anything else is written there, and at the end. */
void um_progress_line_clear(um_progress_line *l);

enum { UM_DURATION = 40 };
/* "42 s", "3 min 20 s", "2 h 5 min" */
void um_duration_text(char out[UM_DURATION], int64_t seconds);

/* Work whose amount is counted: a bar with what is done, what is to do, and the time left. */
typedef enum um_progress_unit { UM_PROGRESS_BYTES, UM_PROGRESS_COUNT } um_progress_unit;

typedef struct um_progress {
    um_progress_line line;
    const char *what; /* "writing weights"; borrowed */
    um_progress_unit unit;
    int64_t total; /* of unit; 0 = not known */
    int64_t done;  /* so far */
} um_progress;

/* to as in um_progress_line_open. total is 0 when nobody knows it. */
void um_progress_begin(um_progress *p, FILE *to, const char *what, um_progress_unit unit,
                       int64_t total);
/* n more are done. Cheap enough to call for every piece of 64 KiB. */
void um_progress_add(um_progress *p, int64_t n);
/* Removes the bar, or prints the last line when lines were printed. May be called twice. */
void um_progress_end(um_progress *p);

/* The two above at a given time, for tests. */
void um_progress_add_at(um_progress *p, int64_t n, int64_t now);
void um_progress_end_at(um_progress *p, int64_t now);
