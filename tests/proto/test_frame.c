/* Frames: the layout byte for byte, and that no damaged header or payload passes. Buffers are exactly as long as the frame, so
 * that a sanitizer build sees any read beyond it. */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "proto/codec.h"
#include "proto/frame.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/mman.h>

/* A frame whose values travel with codec none; its payload is a pattern. */
static uint8_t *make_frame(um_frame f, size_t *len)
{
    *len = UM_FRAME_HEADER + f.payload_bytes;
    uint8_t *buf = um_zalloc(*len);
    for (size_t i = 0; i < f.payload_bytes; i++) buf[UM_FRAME_HEADER + i] = (uint8_t)(i * 7 + 3);
    um_frame_put(buf, &f);
    return buf;
}

static um_frame dispatch_frame(void)
{
    return (um_frame){.kind = UM_KIND_DISPATCH,
                      .dtype = UM_BF16,
                      .codec = UM_CODEC_NONE,
                      .epoch = 0x01020304,
                      .source = 7,
                      .layer = 11,
                      .step = 0x1122334455667788,
                      .batch = 0x99AABBCC,
                      .rows = 3,
                      .cols = 5,
                      .meta_bytes = 32,
                      .payload_bytes = 32 + 3 * 5 * 2};
}

static void reseal(uint8_t *buf) { um_put_u32(buf + 60, um_crc32c(buf, 60)); }

static void expect_bad(const uint8_t *buf, size_t len, const char *text)
{
    um_err err = {0};
    um_frame out = {.rows = 77};
    assert_int_equal(um_frame_get(&out, buf, len, &err), UM_E_CORRUPT);
    assert_int_equal(out.rows, 77);
    if (strstr(err.msg, text) == NULL) fail_msg("\"%s\" does not say \"%s\"", err.msg, text);
}

static void test_crc32c(void **state)
{
    (void)state;
    uint8_t bytes[400];
    um_rng r = um_rng_seed(1, 1);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)um_rng_u64(&r);
    assert_int_equal(um_crc32c((const uint8_t *)"123456789", 9),
                     0xE3069283); /* check value of RFC 3720's polynomial */
    assert_int_equal(um_crc32c_plain((const uint8_t *)"123456789", 9), 0xE3069283);
    assert_int_equal(um_crc32c(NULL, 0), 0);
    for (size_t from = 0; from < 9; from++)
        for (size_t n = 0; n + from <= sizeof bytes; n++)
            assert_int_equal(um_crc32c(bytes + from, n), um_crc32c_plain(bytes + from, n));
}

static void test_xxh3(void **state)
{
    (void)state;
    assert_true(um_xxh3("", 0) ==
                0x2D06800538D394C2u); /* the published value of no bytes with seed 0 */
    assert_true(um_xxh3("a", 1) != um_xxh3("b", 1));
}

static void test_layout(void **state)
{
    (void)state;
    const uint8_t want[48] = {'U',
                              'M',
                              'X',
                              '1',
                              2,
                              0,
                              UM_KIND_DISPATCH,
                              UM_BF16,
                              UM_CODEC_NONE,
                              0,
                              0,
                              0,
                              4,
                              3,
                              2,
                              1,
                              7,
                              0,
                              0,
                              0,
                              11,
                              0,
                              0,
                              0,
                              0x88,
                              0x77,
                              0x66,
                              0x55,
                              0x44,
                              0x33,
                              0x22,
                              0x11,
                              3,
                              0,
                              0,
                              0,
                              5,
                              0,
                              0,
                              0,
                              32,
                              0,
                              0,
                              0,
                              62,
                              0,
                              0,
                              0};
    size_t len;
    uint8_t *buf = make_frame(dispatch_frame(), &len);
    assert_memory_equal(buf, want, sizeof want);
    assert_true(um_get_u64(buf + 48) == um_xxh3(buf + 64, 62));
    assert_int_equal(um_get_u32(buf + 56), 0x99AABBCC);
    assert_int_equal(um_get_u32(buf + 60), um_crc32c_plain(buf, 60));
    um_free(buf);
}

static void round_trip(um_frame f)
{
    size_t len;
    uint8_t *buf = make_frame(f, &len);
    um_err err = {0};
    um_frame g;
    if (um_frame_get(&g, buf, len, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(g.kind, f.kind);
    assert_int_equal(g.dtype, f.dtype);
    assert_int_equal(g.codec, f.codec);
    assert_int_equal(g.epoch, f.epoch);
    assert_int_equal(g.source, f.source);
    assert_int_equal(g.layer, f.layer);
    assert_true(g.step == f.step);
    assert_int_equal(g.batch, f.batch);
    assert_int_equal(g.rows, f.rows);
    assert_int_equal(g.cols, f.cols);
    assert_int_equal(g.meta_bytes, f.meta_bytes);
    assert_int_equal(g.payload_bytes, f.payload_bytes);
    assert_ptr_equal(g.payload, buf + UM_FRAME_HEADER);
    um_free(buf);
}

static void test_round_trips(void **state)
{
    (void)state;
    const uint32_t rows[] = {0, 1, 3, 1000}, cols[] = {0, 1, 17, 64};
    for (int kind = UM_KIND_HELLO; kind < UM_KINDS; kind += kind == UM_KIND_READY ? 2 : 1)
        for (int dtype = UM_F32; dtype <= UM_BF16; dtype++)
            for (size_t i = 0; i < 16; i++) {
                um_frame f = {.kind = (um_kind)kind,
                              .dtype = (um_dtype)dtype,
                              .epoch = UINT32_MAX,
                              .source = 5,
                              .layer = UINT32_MAX,
                              .step = UINT64_MAX,
                              .batch = UINT32_MAX,
                              .rows = rows[i / 4],
                              .cols = cols[i % 4]};
                f.meta_bytes = kind == UM_KIND_COMBINE || kind == UM_KIND_DISPATCH_GRAD ||
                                       kind == UM_KIND_COMBINE_GRAD || kind == UM_KIND_ENCODE_GRAD
                                   ? 0
                               : kind == UM_KIND_REDUCE ? 8
                                                        : 8 * f.rows;
                f.payload_bytes = f.meta_bytes + f.rows * f.cols * (dtype == UM_F32 ? 4 : 2);
                round_trip(f);
            }
}

static void test_kind_names(void **state)
{
    (void)state;
    assert_string_equal(um_kind_name(UM_KIND_HELLO), "hello");
    assert_string_equal(um_kind_name(UM_KIND_ERROR), "error");
    assert_string_equal(um_kind_name((um_kind)0), "unknown");
    assert_string_equal(um_kind_name(UM_KINDS), "unknown");
    for (int i = UM_KIND_HELLO; i < UM_KINDS; i++)
        if (i != UM_KIND_READY + 1) assert_string_not_equal(um_kind_name((um_kind)i), "unknown");
    assert_string_equal(um_kind_name(UM_KIND_READY + 1), "unknown"); /* the old heartbeat */
}

static void test_every_header_bit(void **state)
{
    (void)state;
    size_t len;
    uint8_t *buf = make_frame(dispatch_frame(), &len);
    for (int bit = 0; bit < UM_FRAME_HEADER * 8; bit++) {
        int byte = bit / 8;
        buf[byte] ^= (uint8_t)(1 << bit % 8);
        expect_bad(buf, len, byte < 4 ? "magic" : byte < 6 ? "version" : "header checksum");
        buf[byte] ^= (uint8_t)(1 << bit % 8);
    }
    um_free(buf);
}

static void test_every_payload_bit(void **state)
{
    (void)state;
    size_t len;
    uint8_t *buf = make_frame(dispatch_frame(), &len);
    for (size_t bit = UM_FRAME_HEADER * 8; bit < len * 8; bit++) {
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_bad(buf, len, "dispatch frame of rank 7: payload checksum");
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    um_free(buf);
}

static void test_every_length(void **state)
{
    (void)state;
    size_t len;
    uint8_t *buf = make_frame(dispatch_frame(), &len);
    for (size_t n = 0; n < len + 9; n++) {
        if (n == len) continue;
        uint8_t *other = um_zalloc(n);
        if (n > 0) memcpy(other, buf, n < len ? n : len);
        expect_bad(other, n, n < UM_FRAME_HEADER ? "a header has 64" : "payload of 62 bytes");
        um_free(other);
    }
    um_free(buf);
}

/* Headers whose checksum is right but whose fields lie: the sender is broken or hostile, not the network. */
static void test_lies(void **state)
{
    (void)state;
    static const struct {
        int at, bytes;
        uint64_t value;
        const char *text;
    } lies[] = {
        {4, 2, 9, "version 9, this build speaks 2"},
        {9, 1, 1, "want zero"},
        {11, 1, 0x80, "want zero"},
        {6, 1, 0, "kind 0, known are 1..21"},
        {6, 1, 4, "kind 4"}, /* the heartbeat of version 1 */
        {6, 1, UM_KINDS, "kind 22"},
        {6, 1, 255, "kind 255"},
        {7, 1, UM_F16, "dtype 2"},
        {7, 1, 255, "dtype 255"},
        {8, 1, UM_CODECS, "codec 2"},
        {44, 4, 61, "payload of 61 bytes, 62 are here"},
        {44, 4, 0, "payload of 0 bytes"},
        {44, 4, UINT32_MAX, "payload of 4294967295 bytes"},
        {40, 4, 63, "meta of 63 bytes in a payload of 62"},
        {40, 4, UINT32_MAX, "meta of 4294967295 bytes"},
        {40, 4, 31, "want whole pairs of 8"},
        {40, 4, 24, "3 rows of 5 bf16 values cannot be 38 bytes of codec none"},
        {6, 1, UM_KIND_COMBINE, "combine frame: meta of 32 bytes, want none"},
        {6, 1, UM_KIND_DISPATCH_GRAD, "dispatch-grad frame: meta of 32 bytes, want none"},
        {6, 1, UM_KIND_COMBINE_GRAD, "combine-grad frame: meta of 32 bytes, want none"},
        {32, 4, 0, "0 rows of 5"},
        {32, 4, 4, "4 rows of 5"},
        {32, 4, UINT32_MAX, "4294967295 rows of 5"},
        {32, 8, UINT64_MAX, "4294967295 rows of 4294967295"},
        {32, 8, 0xFFF1000F00010001,
         "65537 rows of 4293984271"}, /* 15 values in 32-bit arithmetic */
        {32, 8, 0x8000000080000000, "2147483648 rows of 2147483648"},
        {7, 1, UM_F32, "f32 values cannot be 30 bytes"},
    };
    size_t len;
    uint8_t *buf = make_frame(dispatch_frame(), &len);
    uint8_t *bad = um_zalloc(len);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(bad, buf, len);
        for (int k = 0; k < lies[i].bytes; k++)
            bad[lies[i].at + k] = (uint8_t)(lies[i].value >> 8 * k);
        reseal(bad);
        expect_bad(bad, len, lies[i].text);
    }
    um_free(bad);
    um_free(buf);
}

/* Another version may place its checksum elsewhere: it must still be distinguished from damage. */
static void test_other_version(void **state)
{
    (void)state;
    size_t len;
    uint8_t *buf = make_frame(dispatch_frame(), &len);
    um_put_u16(buf + 4, 3);
    memset(buf + 6, 0xAB, 58);
    expect_bad(buf, len, "version 3, this build speaks 2");
    um_free(buf);
}

/* With codec zstd the header alone bounds the rows: at most twice the payload can be asked for. */
static void test_zstd_claims(void **state)
{
    (void)state;
    um_frame f = {.kind = UM_KIND_COMBINE,
                  .dtype = UM_BF16,
                  .codec = UM_CODEC_ZSTD,
                  .rows = 1,
                  .cols = 1000,
                  .payload_bytes = 1500};
    round_trip(f);
    size_t len;
    uint8_t *buf = make_frame(f, &len);
    um_put_u32(buf + 36,
               1496); /* 1495 values and less fit into 1500 bytes, 748 and more fill them */
    reseal(buf);
    expect_bad(buf, len, "1 rows of 1496 bf16 values cannot be 1500 bytes of codec zstd");
    um_put_u32(buf + 36, 747);
    reseal(buf);
    expect_bad(buf, len, "cannot be 1500 bytes");
    um_put_u32(buf + 36, 748);
    reseal(buf);
    um_frame out;
    assert_int_equal(um_frame_get(&out, buf, len, NULL), UM_OK);
    um_free(buf);
}

/* One byte over the limit, in address space that is never touched beyond the header. */
static void test_too_large(void **state)
{
    (void)state;
    size_t len = UM_FRAME_HEADER + UM_FRAME_MAX + 1;
    uint8_t *buf =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(buf != MAP_FAILED);
    um_frame f = {.kind = UM_KIND_HELLO};
    um_frame_put(buf, &f);
    um_put_u32(buf + 40, (uint32_t)UM_FRAME_MAX + 1);
    um_put_u32(buf + 44, (uint32_t)UM_FRAME_MAX + 1);
    reseal(buf);
    expect_bad(buf, len, "payload of 1073741825 bytes, at most 1073741824");
    munmap(buf, len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c),
        cmocka_unit_test(test_xxh3),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_kind_names),
        cmocka_unit_test(test_every_header_bit),
        cmocka_unit_test(test_every_payload_bit),
        cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_other_version),
        cmocka_unit_test(test_zstd_claims),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
