/* See input.h. */
#include "router/request/input.h"

#include "core/base/arena.h"
#include "router/request/request.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    READ_BYTES = 65536,
    INPUT_BYTES = 256 << 10, /* items that are cut and not taken; one of any length is kept alone */
    PIPE_BYTES = 1 << 20
};

struct um_input {
    int fd, stop; /* what is read; an eventfd that ends a wait for it */
    void (*wake)(void *ctx);
    void *ctx;
    um_json_lines lines; /* of the thread, as is buf */
    char *buf;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t room;
    um_input_item *first, **end;
    size_t bytes;
    int looks;
    bool closing, ended; /* the thread shall end; it has handed over everything */
    um_status st;        /* why the rest cannot be read */
    um_err why;
};

void um_input_item_free(um_input_item *i) { um_free(i); }

static um_input_item *item_copy(const um_json_item *from)
{
    um_input_item *i = um_zalloc(sizeof *i + from->n + 1);
    char *text = (char *)(i + 1);
    i->item = *from;
    memcpy(text, from->text, from->n);
    i->item.text = text;
    return i;
}

/* Hands an item over as soon as there is room for it. False: the input is being closed. */
static bool hand_over(um_input *in, const um_json_item *from)
{
    um_input_item *i = item_copy(from);
    pthread_mutex_lock(&in->lock);
    while (!in->closing && in->first != NULL && in->bytes + from->n > INPUT_BYTES)
        pthread_cond_wait(&in->room, &in->lock);
    bool on = !in->closing, wake = on && in->first == NULL;
    if (on) {
        *in->end = i;
        in->end = &i->next;
        in->bytes += from->n;
    }
    pthread_mutex_unlock(&in->lock);
    if (!on) um_input_item_free(i);
    if (wake) in->wake(in->ctx);
    return on;
}

static bool cut(um_input *in, const char *data, size_t n)
{
    for (size_t from = 0; from < n;) {
        um_json_item item = {0};
        from += um_json_lines_read(&in->lines, &item, data + from, n - from);
        if (item.text != NULL && !hand_over(in, &item)) return false;
    }
    return true;
}

/* Waits until there are bytes, or until the input is being closed. */
static bool look(um_input *in)
{
    struct pollfd p[2] = {{.fd = in->fd, .events = POLLIN}, {.fd = in->stop, .events = POLLIN}};
    pthread_mutex_lock(&in->lock);
    in->looks++;
    pthread_mutex_unlock(&in->lock);
    while (poll(p, 2, -1) < 0 && errno == EINTR) {
    }
    return p[1].revents == 0;
}

/* UM_OK at the end of the file. */
static um_status read_all(um_input *in, um_err *err)
{
    while (look(in)) {
        ssize_t got = read(in->fd, in->buf, READ_BYTES);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got < 0) return UM_FAIL(err, UM_E_DATA, "requests: %s", strerror(errno));
        if (got == 0) {
            um_json_item item = {0};
            um_json_lines_end(&in->lines, &item);
            if (item.text != NULL) hand_over(in, &item);
            return UM_OK;
        }
        if (!cut(in, in->buf, (size_t)got)) return UM_OK;
    }
    return UM_OK;
}

static void *input_main(void *arg)
{
    um_input *in = arg;
    um_err why = {0};
    um_status st = read_all(in, &why);
    pthread_mutex_lock(&in->lock);
    in->ended = true;
    in->st = st;
    in->why = why;
    pthread_mutex_unlock(&in->lock);
    in->wake(in->ctx);
    return NULL;
}

/* The thread gets no signals: they are for the rank's main thread. */
static int thread_start(um_input *in)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&in->thread, NULL, input_main, in);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void input_free(um_input *in)
{
    for (um_input_item *i; (i = in->first) != NULL;) {
        in->first = i->next;
        um_input_item_free(i);
    }
    if (in->fd >= 0) close(in->fd);
    if (in->stop >= 0) close(in->stop);
    pthread_cond_destroy(&in->room);
    pthread_mutex_destroy(&in->lock);
    um_json_lines_free(&in->lines);
    um_free(in->buf);
    um_free(in);
}

um_status um_input_open(um_input **out, const char *path, void (*wake)(void *ctx), void *ctx,
                        um_err *err)
{
    int fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return UM_FAIL(err, UM_E_DATA, "requests %s: %s", path, strerror(errno));
    (void)fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES); /* only a pipe can, and it may refuse */
    um_input *in = um_zalloc(sizeof *in);
    *in = (um_input){.fd = fd,
                     .stop = eventfd(0, EFD_CLOEXEC),
                     .wake = wake,
                     .ctx = ctx,
                     .lines.limit = UM_REQUEST_BYTES_MAX,
                     .buf = um_zalloc(READ_BYTES)};
    in->end = &in->first;
    pthread_mutex_init(&in->lock, NULL);
    pthread_cond_init(&in->room, NULL);
    int rc = in->stop < 0 ? errno : thread_start(in);
    if (rc != 0) {
        input_free(in);
        return UM_FAIL(err, UM_E_IO, "requests %s: the thread that reads them: %s", path,
                       strerror(rc));
    }
    *out = in;
    return UM_OK;
}

void um_input_close(um_input *in)
{
    if (in == NULL) return;
    pthread_mutex_lock(&in->lock);
    in->closing = true;
    pthread_cond_signal(&in->room);
    pthread_mutex_unlock(&in->lock);
    (void)eventfd_write(in->stop, 1);
    pthread_join(in->thread, NULL);
    input_free(in);
}

um_status um_input_next(um_input *in, um_input_item **item, um_err *err)
{
    pthread_mutex_lock(&in->lock);
    um_input_item *i = in->first;
    um_status st = i == NULL ? in->st : UM_OK;
    if (st != UM_OK) *err = in->why;
    if (i != NULL) {
        in->first = i->next;
        in->bytes -= i->item.n;
        if (in->first == NULL) in->end = &in->first;
        i->next = NULL;
        pthread_cond_signal(&in->room);
    }
    pthread_mutex_unlock(&in->lock);
    *item = i;
    return st;
}

bool um_input_ended(um_input *in)
{
    pthread_mutex_lock(&in->lock);
    bool ended = in->ended && in->first == NULL && in->st == UM_OK;
    pthread_mutex_unlock(&in->lock);
    return ended;
}

int um_input_looks(um_input *in)
{
    pthread_mutex_lock(&in->lock);
    int n = in->looks;
    pthread_mutex_unlock(&in->lock);
    return n;
}
