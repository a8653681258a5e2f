/* Requests as they come: a file or a pipe, read without ever waiting, so that router 0 goes on working, and telling the others that
 * it lives, while somebody is still writing. json_lines.h says what an item is: a line, or an element of an array. */
#pragma once

#include "core/base/json_lines.h"
#include "core/base/status.h"

typedef struct um_input {
    int fd; /* -1: at its end, or never opened */
    um_json_lines lines;
    char *buf; /* bytes that were read and not cut yet are buf[from..n) */
    size_t from, n;
    bool ended;   /* the last item was handed out */
    bool partial; /* the last call read bytes and no whole item: more are likely to come at once */
} um_input;

/* path "-" is standard input. */
um_status um_input_open(um_input *in, const char *path, um_err *err);
void um_input_close(um_input *in);
/* The next item, with text NULL when there is none yet; then um_input_ended says whether one may still come. An item that is too long
 * to be kept comes with bytes > n. A call reads a few MiB at most. UM_E_DATA when the file cannot be read. */
um_status um_input_next(um_input *in, um_json_item *item, um_err *err);
bool um_input_ended(const um_input *in);
