/* See input.h. */
#include "router/request/input.h"

#include "core/base/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 65536 };
#define LINE_BYTES_MAX ((size_t)64 << 20) /* a request must fit a control message */

um_status um_input_open(um_input *in, const char *path, um_err *err)
{
    int fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return UM_FAIL(err, UM_E_DATA, "requests %s: %s", path, strerror(errno));
    *in = (um_input){.fd = fd};
    return UM_OK;
}

void um_input_close(um_input *in)
{
    if (in->fd >= 0) close(in->fd);
    um_free(in->buf);
    *in = (um_input){.fd = -1};
}

bool um_input_ended(const um_input *in) { return in->fd < 0 && in->from == in->n; }

/* Reads what is there now. */
static um_status fill(um_input *in, um_err *err)
{
    struct pollfd p = {.fd = in->fd, .events = POLLIN};
    while (in->fd >= 0 && poll(&p, 1, 0) > 0) {
        if (in->from > 0) {
            memmove(in->buf, in->buf + in->from, in->n - in->from);
            in->n -= in->from;
            in->from = 0;
        }
        if (in->n + READ_BYTES + 1 > in->cap)
            in->buf = um_realloc(in->buf, in->cap = 2 * (in->n + READ_BYTES + 1));
        ssize_t got = read(in->fd, in->buf + in->n, READ_BYTES);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) return UM_OK;
        if (got < 0) return UM_FAIL(err, UM_E_DATA, "requests: %s", strerror(errno));
        if (got == 0) {
            close(in->fd);
            in->fd = -1;
        }
        in->n += (size_t)got;
        if (memchr(in->buf, '\n', in->n) != NULL) return UM_OK;
        if (in->n > LINE_BYTES_MAX)
            return UM_FAIL(err, UM_E_DATA, "requests: a line of more than %zu bytes",
                           LINE_BYTES_MAX);
    }
    return UM_OK;
}

um_status um_input_line(um_input *in, char **line, um_err *err)
{
    *line = NULL;
    if (in->n == in->from || memchr(in->buf + in->from, '\n', in->n - in->from) == NULL)
        UM_TRY(fill(in, err));
    if (in->n == in->from) return UM_OK;
    char *start = in->buf + in->from, *stop = memchr(start, '\n', in->n - in->from);
    if (stop == NULL && in->fd >= 0) return UM_OK;
    if (stop == NULL)
        stop = in->buf + in->n; /* there is room for the 0: fill keeps one byte free */
    in->from = stop < in->buf + in->n ? (size_t)(stop + 1 - in->buf) : in->n;
    *stop = '\0';
    *line = start;
    return UM_OK;
}
