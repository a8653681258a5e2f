/* See serve.h. */
#include "encoder_worker/sandbox/serve.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "encoder_worker/sandbox/video_read.h"
#include "encoder_worker/decode/decode_wire.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "encoder_worker/sandbox/sandbox.h"
#include "encoder_worker/sandbox/wave_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PADDING = 64, /* zero bytes behind a file: libavcodec's readers look ahead */
    DISCARD = 1 << 16,
    CPU_SLACK = 10, /* seconds */
};
#define MEMORY_BASE ((int64_t)768 << 20) /* libraries' tables, packets, small buffers */
#define MEMORY_MOST ((int64_t)1 << 44)
/* Of an image or frame: the RGB result, a second one while converting, and the reference frames of a video codec. */
#define BYTES_PER_PIXEL 24
/* Of sound: the result and its parts. */
#define BYTES_PER_SECOND (2 * 4 * 16000)

typedef struct server {
    int fd;
    um_decode_request limits; /* the hello */
    uint32_t number;          /* of the request being answered */
    uint64_t sent;            /* bytes of its frames so far */
    um_arena arena;
} server;

static um_status write_all(int fd, const void *data, size_t n, um_err *err)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = write(fd, (const uint8_t *)data + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return UM_FAIL(err, UM_E_PEER, "write: %s", strerror(errno));
        done += (size_t)k;
    }
    return UM_OK;
}

/* *closed: the other end closed before the first byte. */
static um_status read_all(int fd, void *data, size_t n, bool *closed, um_err *err)
{
    *closed = false;
    for (size_t done = 0; done < n;) {
        ssize_t k = read(fd, (uint8_t *)data + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return UM_FAIL(err, UM_E_PEER, "read: %s", strerror(errno));
        if (k == 0 && done == 0) {
            *closed = true;
            return UM_OK;
        }
        if (k == 0) return UM_FAIL(err, UM_E_PEER, "closed in the middle of a message");
        done += (size_t)k;
    }
    return UM_OK;
}

static um_status send_block(server *s, um_decode_response *t, const void *data, um_err *err)
{
    uint8_t head[UM_RESPONSE_BYTES];
    t->number = s->number;
    um_decode_response_put(head, t);
    UM_TRY(write_all(s->fd, head, sizeof head, err));
    return write_all(s->fd, data, (size_t)t->bytes, err);
}

static um_status send_end(server *s, um_status st, const um_err *why, bool last, um_err *err)
{
    size_t n = st == UM_OK ? 0 : strnlen(why->msg, UM_RESPONSE_TEXT);
    um_decode_response t = {.kind = UM_RESPONSE_END, .status = st, .last = last, .bytes = n};
    return send_block(s, &t, why->msg, err);
}

static um_status send_image(void *ctx, const um_image *p, um_err *err)
{
    server *s = ctx;
    um_decode_response t = {.kind = UM_RESPONSE_FRAME,
                            .w = (uint32_t)p->w,
                            .h = (uint32_t)p->h,
                            .bytes = (uint64_t)p->w * (uint64_t)p->h * 3};
    s->sent += t.bytes;
    if (s->sent > UM_MEDIA_ANSWER_MAX)
        return UM_FAIL(err, UM_E_DATA, "its frames of %d x %d pixels are more than %d MiB", p->w,
                       p->h, (int)(UM_MEDIA_ANSWER_MAX >> 20));
    return send_block(s, &t, p->rgb, err);
}

static um_status answer(server *s, const um_decode_request *a, const uint8_t *bytes, um_err *err)
{
    size_t n = (size_t)a->bytes;
    if (a->kind == UM_REQUEST_IMAGE) {
        um_image p = {0};
        UM_TRY(um_image_read(&p, bytes, n, s->limits.pixels, &s->arena, err));
        if (a->orient) UM_TRY(um_image_orient(&p, bytes, n, &s->arena, err));
        return send_image(s, &p, err);
    }
    if (a->kind == UM_REQUEST_WAVE) {
        um_wave w = {0};
        UM_TRY(um_wave_read(&w, bytes, n, s->limits.seconds, &s->arena, err));
        um_decode_response t = {.kind = UM_RESPONSE_SAMPLES,
                                .bytes = (uint64_t)w.n * sizeof(float)};
        return send_block(s, &t, w.samples, err);
    }
    um_video_limits limits = {.pixels = s->limits.pixels, .seconds = s->limits.seconds};
    return um_video_read(bytes, n, (int)a->want, &limits, send_image, s, &s->arena, err);
}

/* The file of a request, with zeros behind it. UM_E_MEMORY: it has been read and thrown away. */
static um_status receive(server *s, uint8_t **out, size_t n, um_err *err)
{
    bool closed = false;
    if (um_arena_reserve(&s->arena, n + PADDING)) {
        *out = um_arena_alloc(&s->arena, n + PADDING);
        memset(*out + n, 0, PADDING);
        UM_TRY(read_all(s->fd, *out, n, &closed, err));
        return closed ? UM_FAIL(err, UM_E_PEER, "closed in the middle of a message") : UM_OK;
    }
    uint8_t *sink = um_arena_alloc(&s->arena, DISCARD);
    for (size_t left = n; left > 0;) {
        size_t part = left < DISCARD ? left : DISCARD;
        UM_TRY(read_all(s->fd, sink, part, &closed, err));
        if (closed) return UM_FAIL(err, UM_E_PEER, "closed in the middle of a message");
        left -= part;
    }
    return UM_FAIL(err, UM_E_MEMORY, "no memory for a file of %zu bytes", n);
}

static int64_t cpu_allowed(const server *s) { return s->limits.wait_ms / 1000 + CPU_SLACK; }

/* So much processor time is gone that one more file might reach the limit of the process's life. */
static bool worn(const server *s)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec >= cpu_allowed(s);
}

static um_status serve_one(server *s, const um_decode_request *a, bool *last, um_err *err)
{
    uint8_t *bytes = NULL;
    um_err why = {0};
    s->number = a->number;
    s->sent = 0;
    um_status st = receive(s, &bytes, (size_t)a->bytes, &why);
    if (st == UM_OK) st = answer(s, a, bytes, &why);
    if (st == UM_E_PEER) { /* nobody hears us any more */
        *err = why;
        return st;
    }
    *last = worn(s);
    return send_end(s, st, &why, *last, err);
}

static um_status hello(server *s, bool *closed, um_err *err)
{
    uint8_t head[UM_REQUEST_BYTES];
    um_err why = {0};
    UM_TRY(read_all(s->fd, head, sizeof head, closed, err));
    if (*closed) return UM_OK;
    UM_TRY(um_decode_request_get(&s->limits, head, err));
    const um_decode_request *l = &s->limits;
    if (l->kind != UM_REQUEST_HELLO)
        return UM_FAIL(err, UM_E_CORRUPT, "a request before the hello");
    int64_t pixels = 0, sound = 0, memory = 0;
    if (__builtin_mul_overflow(l->pixels, (int64_t)BYTES_PER_PIXEL, &pixels) ||
        __builtin_mul_overflow(l->seconds, (int64_t)BYTES_PER_SECOND, &sound) ||
        __builtin_add_overflow(pixels, sound, &memory) || memory > MEMORY_MOST)
        memory = MEMORY_MOST;
    memory += MEMORY_BASE + (int64_t)UM_MEDIA_FILE_MAX;
    um_status st = um_sandbox_enter(memory, 2 * cpu_allowed(s), &why);
    UM_TRY(send_end(s, st, &why, st != UM_OK, err));
    return st == UM_OK ? UM_OK : um_fail(err, st, "%s", why.msg);
}

um_status um_decode_serve(int fd, um_err *err)
{
    server s = {.fd = fd};
    bool closed = false, last = false;
    um_status st = UM_OK;
    UM_TRY(hello(&s, &closed, err));
    while (st == UM_OK && !closed && !last) {
        uint8_t head[UM_REQUEST_BYTES];
        um_decode_request a = {0};
        st = read_all(fd, head, sizeof head, &closed, err);
        if (st != UM_OK || closed) break;
        st = um_decode_request_get(&a, head, err);
        if (st == UM_OK && (a.kind == UM_REQUEST_HELLO || a.want > s.limits.frames))
            st = UM_FAIL(err, UM_E_CORRUPT, "a second hello, or more frames than the limit");
        um_arena_init(&s.arena, "file", 1 << 16);
        if (st == UM_OK) st = serve_one(&s, &a, &last, err);
        um_arena_free(&s.arena); /* the memory of one file never adds to the next one's */
    }
    return st;
}
