/* Requests as they come: lines of a file or a pipe, read without ever waiting, so that router 0 goes on working, and telling the
 * others that it lives, while somebody is still writing. */
#pragma once

#include "core/base/status.h"

typedef struct um_input {
    int fd; /* -1: at its end, or never opened */
    char *buf;
    size_t from, n, cap; /* unread bytes are buf[from..n) */
} um_input;

/* path "-" is standard input. */
um_status um_input_open(um_input *in, const char *path, um_err *err);
void um_input_close(um_input *in);
/* The next whole line (without its end, 0-terminated, valid until the next call), or *line = NULL when there is none yet; then
 * um_input_ended says whether one may still come. The last line may lack its end. UM_E_DATA for a line over the limit. */
um_status um_input_line(um_input *in, char **line, um_err *err);
bool um_input_ended(const um_input *in);
