/* See decode_wire.h. */
#include "encoder_worker/decode/decode_wire.h"

#include "core/base/bytes.h"

#include <inttypes.h>
#include <string.h>

#define MAGIC_ASK 0x51444d55u  /* "UMDQ" */
#define MAGIC_TOLD 0x41444d55u /* "UMDA" */

enum { VERSION = 2, SIDE_MAX = 65535 };

void um_decode_request_put(uint8_t buf[UM_REQUEST_BYTES], const um_decode_request *a)
{
    memset(buf, 0, UM_REQUEST_BYTES);
    um_put_u32(buf, MAGIC_ASK);
    um_put_u16(buf + 4, VERSION);
    um_put_u16(buf + 6, (uint16_t)a->kind);
    um_put_u32(buf + 8, a->number);
    um_put_u32(buf + 12, a->want);
    um_put_u64(buf + 16, a->bytes);
    um_put_u64(buf + 24, (uint64_t)a->pixels);
    um_put_u64(buf + 32, (uint64_t)a->seconds);
    um_put_u64(buf + 40, (uint64_t)a->frames);
    um_put_u64(buf + 48, (uint64_t)a->wait_ms);
    um_put_u32(buf + 56, a->orient ? UM_REQUEST_ORIENT : 0u);
}

void um_decode_response_put(uint8_t buf[UM_RESPONSE_BYTES], const um_decode_response *t)
{
    bool end = t->kind == UM_RESPONSE_END;
    memset(buf, 0, UM_RESPONSE_BYTES);
    um_put_u32(buf, MAGIC_TOLD);
    um_put_u16(buf + 4, VERSION);
    um_put_u16(buf + 6, (uint16_t)t->kind);
    um_put_u32(buf + 8, t->number);
    um_put_u32(buf + 12, end ? (uint32_t)t->status : t->w);
    um_put_u32(buf + 16, end ? (t->last ? UM_RESPONSE_LAST : 0u) : t->h);
    um_put_u64(buf + 24, t->bytes);
}

static um_status head_ok(const uint8_t *buf, uint32_t magic, int kinds, um_err *err)
{
    if (um_get_u32(buf) != magic) return UM_FAIL(err, UM_E_CORRUPT, "bad magic");
    if (um_get_u16(buf + 4) != VERSION)
        return UM_FAIL(err, UM_E_CORRUPT, "version %d, want %d", um_get_u16(buf + 4), VERSION);
    if (um_get_u16(buf + 6) > kinds)
        return UM_FAIL(err, UM_E_CORRUPT, "kind %d is not known", um_get_u16(buf + 6));
    return UM_OK;
}

static bool ask_fits(const um_decode_request *a)
{
    bool limits = a->pixels > 0 && a->seconds > 0 && a->frames > 0 && a->wait_ms > 0;
    bool none = a->pixels == 0 && a->seconds == 0 && a->frames == 0 && a->wait_ms == 0;
    if (a->kind == UM_REQUEST_HELLO)
        return limits && a->number == 0 && a->want == 0 && a->bytes == 0 && !a->orient;
    if (a->orient && a->kind != UM_REQUEST_IMAGE) return false;
    return none && a->number > 0 && a->bytes <= UM_MEDIA_FILE_MAX &&
           (a->want > 0) == (a->kind == UM_REQUEST_VIDEO);
}

um_status um_decode_request_get(um_decode_request *out, const uint8_t buf[UM_REQUEST_BYTES],
                                um_err *err)
{
    UM_TRY(head_ok(buf, MAGIC_ASK, UM_REQUEST_VIDEO, err));
    um_decode_request a = {.kind = (um_decode_request_kind)um_get_u16(buf + 6),
                           .number = um_get_u32(buf + 8),
                           .want = um_get_u32(buf + 12),
                           .bytes = um_get_u64(buf + 16),
                           .pixels = (int64_t)um_get_u64(buf + 24),
                           .seconds = (int64_t)um_get_u64(buf + 32),
                           .frames = (int64_t)um_get_u64(buf + 40),
                           .wait_ms = (int64_t)um_get_u64(buf + 48),
                           .orient = um_get_u32(buf + 56) == UM_REQUEST_ORIENT};
    if (um_get_u32(buf + 56) > UM_REQUEST_ORIENT || um_get_u32(buf + 60) != 0 || !ask_fits(&a))
        return UM_FAIL(err, UM_E_CORRUPT, "a field does not fit kind %d", (int)a.kind);
    *out = a;
    return UM_OK;
}

static bool told_fits(const um_decode_response *t, uint32_t first, uint32_t second)
{
    switch (t->kind) {
    case UM_RESPONSE_FRAME:
        return t->w >= 1 && t->w <= SIDE_MAX && t->h >= 1 && t->h <= SIDE_MAX &&
               t->bytes == (uint64_t)t->w * t->h * 3;
    case UM_RESPONSE_SAMPLES:
        return first == 0 && second == 0 && t->bytes > 0 && t->bytes % 4 == 0;
    case UM_RESPONSE_END:
        return first <= UM_E_STOPPED && second <= UM_RESPONSE_LAST &&
               t->bytes <= UM_RESPONSE_TEXT && (first == UM_OK) == (t->bytes == 0);
    }
    return false;
}

um_status um_decode_response_get(um_decode_response *out, const uint8_t buf[UM_RESPONSE_BYTES],
                                 um_err *err)
{
    UM_TRY(head_ok(buf, MAGIC_TOLD, UM_RESPONSE_END, err));
    uint32_t first = um_get_u32(buf + 12), second = um_get_u32(buf + 16);
    um_decode_response t = {.kind = (um_decode_response_kind)um_get_u16(buf + 6),
                            .number = um_get_u32(buf + 8),
                            .bytes = um_get_u64(buf + 24)};
    if (t.kind == UM_RESPONSE_FRAME) {
        t.w = first;
        t.h = second;
    }
    if (um_get_u32(buf + 20) != 0 || !told_fits(&t, first, second))
        return UM_FAIL(err, UM_E_CORRUPT, "a field does not fit kind %d", (int)t.kind);
    if (t.kind == UM_RESPONSE_END) {
        t.status = (um_status)first;
        t.last = second == UM_RESPONSE_LAST;
    }
    *out = t;
    return UM_OK;
}
