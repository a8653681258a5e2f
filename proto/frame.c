/* See frame.h. */
#include "proto/frame.h"

#include "core/base/bytes.h"
#include "proto/codec.h"

#include <inttypes.h>

/* "UMX1" in memory order */
#define MAGIC 0x31584D55u
enum { CRC_AT = 60, PAIR_BYTES = 8, REDUCE_BYTES = 8 };

static const char *const kind_names[UM_KINDS] = {
    [UM_KIND_HELLO] = "hello",
    [UM_KIND_CONFIG] = "config",
    [UM_KIND_READY] = "ready",
    [UM_KIND_ENCODE] = "encode",
    [UM_KIND_ENCODED] = "encoded",
    [UM_KIND_DISPATCH] = "dispatch",
    [UM_KIND_COMBINE] = "combine",
    [UM_KIND_REQUEST] = "request",
    [UM_KIND_RESULT] = "result",
    [UM_KIND_STATS] = "stats",
    [UM_KIND_SHUTDOWN] = "shutdown",
    [UM_KIND_ERROR] = "error",
    [UM_KIND_ROUTING] = "routing",
    [UM_KIND_DISPATCH_GRAD] = "dispatch-grad",
    [UM_KIND_COMBINE_GRAD] = "combine-grad",
    [UM_KIND_STEP_END] = "step-end",
    [UM_KIND_REDUCE] = "reduce",
    [UM_KIND_TOKEN] = "token",
    [UM_KIND_CANCEL] = "cancel",
    [UM_KIND_ENCODE_GRAD] = "encode-grad",
};

const char *um_kind_name(um_kind kind)
{
    unsigned k = (unsigned)kind;
    return k < UM_KINDS && kind_names[k] != NULL ? kind_names[k] : "unknown";
}

void um_frame_put(uint8_t *buf, const um_frame *f)
{
    UM_ASSERT(f->kind >= UM_KIND_HELLO && f->kind < UM_KINDS);
    UM_ASSERT((f->dtype == UM_F32 || f->dtype == UM_BF16) && f->codec < UM_CODECS);
    UM_ASSERT(f->payload_bytes <= UM_FRAME_MAX && f->meta_bytes <= f->payload_bytes);
    um_put_u32(buf, MAGIC);
    um_put_u16(buf + 4, UM_WIRE_VERSION);
    buf[6] = (uint8_t)f->kind;
    buf[7] = (uint8_t)f->dtype;
    buf[8] = f->codec;
    memset(buf + 9, 0, 3);
    um_put_u32(buf + 12, f->epoch);
    um_put_u32(buf + 16, f->source);
    um_put_u32(buf + 20, f->layer);
    um_put_u64(buf + 24, f->step);
    um_put_u32(buf + 32, f->rows);
    um_put_u32(buf + 36, f->cols);
    um_put_u32(buf + 40, f->meta_bytes);
    um_put_u32(buf + 44, f->payload_bytes);
    um_put_u64(buf + 48, um_xxh3(buf + UM_FRAME_HEADER, f->payload_bytes));
    um_put_u32(buf + 56, f->batch);
    um_put_u32(buf + CRC_AT, um_crc32c(buf, CRC_AT));
}

/* Checks what every other field depends on. A version mismatch is reported before the checksum, which may cover other bytes there. */
static um_status envelope_ok(const uint8_t *buf, size_t len, um_err *err)
{
    if (len < UM_FRAME_HEADER)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: %zu bytes, a header has %d", len,
                       UM_FRAME_HEADER);
    if (um_get_u32(buf) != MAGIC)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: magic %02x %02x %02x %02x, want \"UMX1\"", buf[0],
                       buf[1], buf[2], buf[3]);
    unsigned version = um_get_u16(buf + 4);
    if (version != UM_WIRE_VERSION)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: version %u, this build speaks %d", version,
                       UM_WIRE_VERSION);
    uint32_t found = um_get_u32(buf + CRC_AT), want = um_crc32c(buf, CRC_AT);
    if (found != want)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: header checksum %08x, its bytes give %08x", found,
                       want);
    return UM_OK;
}

static um_status names_ok(const uint8_t *buf, um_err *err)
{
    if ((buf[9] | buf[10] | buf[11]) != 0)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: bytes 9..11 hold %02x%02x%02x, want zero", buf[9],
                       buf[10], buf[11]);
    if (buf[6] >= UM_KINDS || kind_names[buf[6]] == NULL)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: kind %u, known are %d..%d without 4", buf[6],
                       UM_KIND_HELLO, UM_KINDS - 1);
    if (buf[7] != UM_F32 && buf[7] != UM_BF16)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: dtype %u, want %d (f32) or %d (bf16)", buf[7],
                       UM_F32, UM_BF16);
    if (buf[8] >= UM_CODECS)
        return UM_FAIL(err, UM_E_CORRUPT, "frame: codec %u, known are 0..%d", buf[8],
                       UM_CODECS - 1);
    return UM_OK;
}

static um_status sizes_ok(const um_frame *f, size_t len, um_err *err)
{
    const char *kind = um_kind_name(f->kind);
    if (f->payload_bytes != len - UM_FRAME_HEADER)
        return UM_FAIL(err, UM_E_CORRUPT, "%s frame: payload of %u bytes, %zu are here", kind,
                       f->payload_bytes, len - UM_FRAME_HEADER);
    if (f->payload_bytes > UM_FRAME_MAX)
        return UM_FAIL(err, UM_E_CORRUPT, "%s frame: payload of %u bytes, at most %zu", kind,
                       f->payload_bytes, UM_FRAME_MAX);
    if (f->meta_bytes > f->payload_bytes)
        return UM_FAIL(err, UM_E_CORRUPT, "%s frame: meta of %u bytes in a payload of %u", kind,
                       f->meta_bytes, f->payload_bytes);
    if (f->kind == UM_KIND_DISPATCH && f->meta_bytes % PAIR_BYTES != 0)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "dispatch frame: meta of %u bytes, want whole pairs of %d", f->meta_bytes,
                       PAIR_BYTES);
    bool bare = f->kind == UM_KIND_COMBINE || f->kind == UM_KIND_DISPATCH_GRAD ||
                f->kind == UM_KIND_COMBINE_GRAD || f->kind == UM_KIND_ENCODE_GRAD;
    if (bare && f->meta_bytes != 0)
        return UM_FAIL(err, UM_E_CORRUPT, "%s frame: meta of %u bytes, want none", kind,
                       f->meta_bytes);
    if (f->kind == UM_KIND_REDUCE && f->meta_bytes != REDUCE_BYTES)
        return UM_FAIL(err, UM_E_CORRUPT, "reduce frame: meta of %u bytes, want %d", f->meta_bytes,
                       REDUCE_BYTES);
    size_t values = 0, bytes = f->payload_bytes - f->meta_bytes;
    if (!um_mul_ok(&values, f->rows, f->cols) ||
        !um_codec_plausible(f->codec, f->dtype, values, bytes))
        return UM_FAIL(err, UM_E_CORRUPT,
                       "%s frame: %u rows of %u %s values cannot be %zu bytes of codec %s", kind,
                       f->rows, f->cols, f->dtype == UM_F32 ? "f32" : "bf16", bytes,
                       um_codec_name(f->codec));
    return UM_OK;
}

um_status um_frame_get(um_frame *out, const uint8_t *buf, size_t len, um_err *err)
{
    UM_TRY(envelope_ok(buf, len, err));
    UM_TRY(names_ok(buf, err));
    um_frame f = {
        .kind = buf[6],
        .dtype = buf[7],
        .codec = buf[8],
        .epoch = um_get_u32(buf + 12),
        .source = um_get_u32(buf + 16),
        .layer = um_get_u32(buf + 20),
        .step = um_get_u64(buf + 24),
        .rows = um_get_u32(buf + 32),
        .cols = um_get_u32(buf + 36),
        .meta_bytes = um_get_u32(buf + 40),
        .payload_bytes = um_get_u32(buf + 44),
        .batch = um_get_u32(buf + 56),
        .payload = buf + UM_FRAME_HEADER,
    };
    UM_TRY(sizes_ok(&f, len, err));
    uint64_t found = um_get_u64(buf + 48), want = um_xxh3(f.payload, f.payload_bytes);
    if (found != want)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "%s frame of rank %u: payload checksum %016" PRIx64
                       ", its bytes give %016" PRIx64,
                       um_kind_name(f.kind), f.source, found, want);
    *out = f;
    return UM_OK;
}
