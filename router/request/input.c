/* See input.h. */
#include "router/request/input.h"

#include "core/base/arena.h"
#include "router/request/request.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 65536, READS_MAX = 64 }; /* reads a call, for an item that does not end */
enum { PIPE_BYTES = 1 << 20 };

um_status um_input_open(um_input *in, const char *path, um_err *err)
{
    int fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return UM_FAIL(err, UM_E_DATA, "requests %s: %s", path, strerror(errno));
    (void)fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES); /* only a pipe can, and it may refuse */
    *in = (um_input){.fd = fd, .lines.limit = UM_REQUEST_BYTES_MAX, .buf = um_zalloc(READ_BYTES)};
    return UM_OK;
}

void um_input_close(um_input *in)
{
    if (in->fd >= 0) close(in->fd);
    um_json_lines_free(&in->lines);
    um_free(in->buf);
    *in = (um_input){.fd = -1, .ended = true};
}

bool um_input_ended(const um_input *in) { return in->fd < 0 && (in->buf == NULL || in->ended); }

/* Reads what is there now; false when there is nothing. */
static bool fill(um_input *in, um_status *st, um_err *err)
{
    struct pollfd p = {.fd = in->fd, .events = POLLIN};
    if (in->fd < 0 || poll(&p, 1, 0) <= 0) return false;
    ssize_t got = read(in->fd, in->buf, READ_BYTES);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) return false;
    if (got < 0) {
        *st = UM_FAIL(err, UM_E_DATA, "requests: %s", strerror(errno));
        return false;
    }
    if (got == 0) {
        close(in->fd);
        in->fd = -1;
    }
    in->from = 0;
    in->n = (size_t)got;
    return got > 0;
}

um_status um_input_next(um_input *in, um_json_item *item, um_err *err)
{
    um_status st = UM_OK;
    *item = (um_json_item){0};
    in->partial = false;
    for (int reads = 0; item->text == NULL; reads++) {
        if (in->from == in->n && (reads == READS_MAX || !fill(in, &st, err))) break;
        in->partial = true;
        in->from += um_json_lines_read(&in->lines, item, in->buf + in->from, in->n - in->from);
    }
    if (item->text == NULL && in->fd < 0 && in->buf != NULL && !in->ended) {
        um_json_lines_end(&in->lines, item);
        in->ended = true;
    }
    return st;
}
