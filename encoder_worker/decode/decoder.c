/* See decoder.h. */
#include "encoder_worker/decode/decoder.h"

#include "core/base/process.h"
#include "encoder_worker/decode/decode_wire.h"
#include "encoder_worker/decode/decoder_child.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct um_decoder {
    char *program;
    um_media_limits limits;
    bool orient;
    um_decoder_child child;
    uint32_t number; /* of the last request */
};

/* Where an answer is stored: images or a wave. */
typedef struct answer {
    um_decode_request_kind kind;
    int want, n;    /* images */
    uint64_t bytes; /* of the images so far */
    um_image *images;
    um_wave wave;
} answer;

/* ---- opening ---- */

/* Finds unimoe-decoder in the folder of the running program, or in the parent folder, where a build folder has it for its tests. */
static um_status look_beside(char *out, size_t size, um_err *err)
{
    char self[4000], beside[4096] = "";
    UM_TRY(um_wrap(err, um_process_program(self, sizeof self, err), "unimoe-decoder"));
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(self, '/');
        if (slash == NULL) break;
        *slash = '\0';
        snprintf(out, size, "%s/unimoe-decoder", self);
        if (access(out, X_OK) == 0) return UM_OK;
        if (up == 0) snprintf(beside, sizeof beside, "%s", out);
    }
    return UM_FAIL(err, UM_E_USAGE, "%s: no such program, and media are decoded by it only",
                   beside);
}

um_status um_decoder_open(um_decoder **out, const char *program, const um_media_limits *limits,
                          um_err *err)
{
    char path[4096];
    UM_ASSERT(limits->pixels > 0 && limits->seconds > 0 && limits->frames > 0 &&
              limits->wait_ms > 0);
    if (program[0] == '\0')
        UM_TRY(look_beside(path, sizeof path, err));
    else if (snprintf(path, sizeof path, "%s", program) >= (int)sizeof path ||
             access(path, X_OK) != 0)
        return UM_FAIL(err, UM_E_USAGE, "%s: no such program", program);
    um_decoder *d = um_zalloc(sizeof *d);
    d->program = um_strdup(path);
    d->limits = *limits;
    *out = d;
    return UM_OK;
}

void um_decoder_orient(um_decoder *d, bool orient) { d->orient = orient; }

void um_decoder_close(um_decoder *d)
{
    if (d == NULL) return;
    um_decoder_child_stop(&d->child);
    um_free(d->program);
    um_free(d);
}

/* ---- requests and answers ---- */

static um_decoder_wait patience(const um_decoder *d)
{
    return um_decoder_wait_new(d->limits.wait_ms);
}

static um_status next_block(um_decoder *d, um_decode_response *t, uint32_t number,
                            um_decoder_wait *w, um_err *err)
{
    uint8_t head[UM_RESPONSE_BYTES];
    UM_TRY(um_decoder_child_receive(&d->child, head, sizeof head, w, err));
    UM_TRY(um_wrap(err, um_decode_response_get(t, head, err), "the decoder sent a bad block"));
    if (t->number != number)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "the decoder answered request %" PRIu32 ", asked was %" PRIu32, t->number,
                       number);
    return UM_OK;
}

/* Reads the message of an end block. Its bytes come from a process that a media file may have compromised. */
static um_status end_text(um_decoder *d, char text[UM_RESPONSE_TEXT + 1],
                          const um_decode_response *t, um_decoder_wait *w, um_err *err)
{
    UM_TRY(um_decoder_child_receive(&d->child, text, (size_t)t->bytes, w, err));
    text[t->bytes] = '\0';
    for (size_t i = 0; i < t->bytes; i++)
        if (text[i] < ' ' || text[i] > '~') text[i] = '?';
    return UM_OK;
}

static um_status greet(um_decoder *d, um_err *err)
{
    uint8_t head[UM_REQUEST_BYTES];
    char text[UM_RESPONSE_TEXT + 1];
    um_decode_response t = {0};
    um_decoder_wait w = patience(d);
    um_decode_request a = {.kind = UM_REQUEST_HELLO,
                           .pixels = d->limits.pixels,
                           .seconds = d->limits.seconds,
                           .frames = d->limits.frames,
                           .wait_ms = d->limits.wait_ms};
    um_decode_request_put(head, &a);
    d->number = 0;
    UM_TRY(um_decoder_child_send(&d->child, head, sizeof head, &w, err));
    UM_TRY(next_block(d, &t, 0, &w, err));
    if (t.kind != UM_RESPONSE_END) return UM_FAIL(err, UM_E_CORRUPT, "the decoder did not greet");
    UM_TRY(end_text(d, text, &t, &w, err));
    return t.status == UM_OK ? UM_OK : um_fail(err, t.status, "%s", text);
}

/* Ensures that a process is running and ready. The file is not the cause of a failure here. */
static um_status ready(um_decoder *d, um_err *err)
{
    if (um_decoder_child_alive(&d->child)) return UM_OK;
    um_status st = um_decoder_child_start(&d->child, d->program, err);
    if (st == UM_OK) {
        st = greet(d, err);
        if (st != UM_OK) um_decoder_child_stop(&d->child);
    }
    if (st == UM_OK) return UM_OK;
    um_wrap(err, st, "start of %s", d->program);
    return UM_E_IO;
}

static um_status no_memory(um_err *err)
{
    return UM_FAIL(err, UM_E_MEMORY, "no memory for what it decodes to");
}

static um_status take_frame(um_decoder *d, answer *a, const um_decode_response *t,
                            um_decoder_wait *w, um_arena *arena, um_err *err)
{
    a->bytes += t->bytes;
    if (a->kind == UM_REQUEST_WAVE || a->n == a->want || (int64_t)t->w * t->h > d->limits.pixels ||
        a->bytes > UM_MEDIA_ANSWER_MAX)
        return UM_FAIL(err, UM_E_CORRUPT, "the decoder sent a frame that was not asked for");
    if (!um_arena_reserve(arena, (size_t)t->bytes)) return no_memory(err);
    um_image p = {.w = (int)t->w, .h = (int)t->h, .rgb = um_arena_alloc(arena, (size_t)t->bytes)};
    a->images[a->n++] = p;
    return um_decoder_child_receive(&d->child, p.rgb, (size_t)t->bytes, w, err);
}

static um_status take_samples(um_decoder *d, answer *a, const um_decode_response *t,
                              um_decoder_wait *w, um_arena *arena, um_err *err)
{
    uint64_t n = t->bytes / sizeof(float);
    if (a->kind != UM_REQUEST_WAVE || a->n > 0 || n / UM_WAVE_RATE > (uint64_t)d->limits.seconds)
        return UM_FAIL(err, UM_E_CORRUPT, "the decoder sent samples that were not asked for");
    if (!um_arena_reserve(arena, (size_t)t->bytes)) return no_memory(err);
    a->n = 1;
    a->wave = (um_wave){.samples = um_arena_f32(arena, 1, (size_t)n), .n = (int64_t)n};
    return um_decoder_child_receive(&d->child, a->wave.samples, (size_t)t->bytes, w, err);
}

/* Reads blocks up to the end block. *clean: the process sent the end block itself and accepts further requests. */
static um_status hear(um_decoder *d, answer *a, um_decoder_wait *w, bool *clean, um_arena *arena,
                      um_err *err)
{
    um_decode_response t = {0};
    char text[UM_RESPONSE_TEXT + 1];
    for (;;) {
        UM_TRY(next_block(d, &t, d->number, w, err));
        if (t.kind == UM_RESPONSE_END) break;
        if (t.kind == UM_RESPONSE_FRAME)
            UM_TRY(take_frame(d, a, &t, w, arena, err));
        else
            UM_TRY(take_samples(d, a, &t, w, arena, err));
    }
    UM_TRY(end_text(d, text, &t, w, err));
    if (t.status != UM_OK) {
        *clean = !t.last;
        return um_fail(err, t.status, "%s", text);
    }
    if (a->n == 0) return UM_FAIL(err, UM_E_CORRUPT, "the decoder sent nothing");
    *clean = !t.last;
    return UM_OK;
}

static um_status ask(um_decoder *d, answer *a, const uint8_t *bytes, size_t n, um_arena *arena,
                     um_err *err)
{
    uint8_t head[UM_REQUEST_BYTES];
    bool clean = false;
    um_decoder_wait w = patience(d);
    um_decode_request q = {.kind = a->kind,
                           .number = ++d->number,
                           .want = a->kind == UM_REQUEST_VIDEO ? (uint32_t)a->want : 0,
                           .bytes = n,
                           .orient = d->orient && a->kind == UM_REQUEST_IMAGE};
    um_decode_request_put(head, &q);
    um_status st = um_decoder_child_send(&d->child, head, sizeof head, &w, err);
    if (st == UM_OK) st = um_decoder_child_send(&d->child, bytes, n, &w, err);
    if (st == UM_OK) st = hear(d, a, &w, &clean, arena, err);
    if (!clean) um_decoder_child_stop(&d->child);
    return st;
}

/* Decodes one file. A process that died since the last file (killed, out of memory) is replaced: this file is not the cause. */
static um_status decode(um_decoder *d, answer *a, const char *name, const uint8_t *bytes, size_t n,
                        um_arena *arena, um_err *err)
{
    um_mark mark = um_arena_mark(arena);
    if (n > UM_MEDIA_FILE_MAX)
        return UM_FAIL(err, UM_E_DATA, "%s: %zu bytes, limit %" PRIu64, name, n,
                       (uint64_t)UM_MEDIA_FILE_MAX);
    um_status st = um_wrap(err, ready(d, err), "%s", name);
    if (st != UM_OK) return st;
    a->n = 0;
    if (a->kind != UM_REQUEST_WAVE)
        a->images = um_arena_zero(arena, (size_t)a->want * sizeof *a->images);
    st = ask(d, a, bytes, n, arena, err);
    if (st == UM_OK) return UM_OK;
    um_arena_reset(arena, mark);
    um_wrap(err, st, "%s", name);
    return UM_E_DATA;
}

um_status um_decode_image(um_decoder *d, um_image *out, const char *name, const uint8_t *bytes,
                          size_t n, um_arena *arena, um_err *err)
{
    answer a = {.kind = UM_REQUEST_IMAGE, .want = 1};
    UM_TRY(decode(d, &a, name, bytes, n, arena, err));
    *out = a.images[0];
    return UM_OK;
}

um_status um_decode_wave(um_decoder *d, um_wave *out, const char *name, const uint8_t *bytes,
                         size_t n, um_arena *arena, um_err *err)
{
    answer a = {.kind = UM_REQUEST_WAVE};
    UM_TRY(decode(d, &a, name, bytes, n, arena, err));
    *out = a.wave;
    return UM_OK;
}

um_status um_decode_video(um_decoder *d, um_image **frames, int *n_frames, int want,
                          const char *name, const uint8_t *bytes, size_t n, um_arena *arena,
                          um_err *err)
{
    UM_ASSERT(want > 0);
    if (want > d->limits.frames)
        return UM_FAIL(err, UM_E_DATA, "%s: %d frames wanted, limit %" PRId64, name, want,
                       d->limits.frames);
    answer a = {.kind = UM_REQUEST_VIDEO, .want = want};
    UM_TRY(decode(d, &a, name, bytes, n, arena, err));
    *frames = a.images;
    *n_frames = a.n;
    return UM_OK;
}
