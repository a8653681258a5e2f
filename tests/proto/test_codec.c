/* Codecs: every bit pattern comes back, at every size; damaged or lying input is refused and never read past its end (buffers are
 * exactly as long as their content, for sanitizer builds). */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "proto/codec.h"
#include "proto/planes.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

static const size_t sizes[] = {0,  1,   2,    15,   16,    17,    33,    63,    64,
                               65, 100, 1000, 4096, 65535, 65536, 65537, 200001};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static size_t size_of(um_dtype t) { return t == UM_F32 ? 4 : 2; }

typedef enum pattern { GAUSS, NOISE, ZEROS, ONES, COUNT, SPECIALS, SPARSE, PATTERNS } pattern;

static uint32_t special(size_t i)
{
    static const uint32_t bits[] = {
        0x00000000, 0x80000000,                         /* +0, -0 */
        0x00000001, 0x807FFFFF, 0x00010000, 0x807F0000, /* denormals of f32 and of bf16 */
        0x7F800000, 0xFF800000,                         /* infinities */
        0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0xFFC12345, 0x7FAB0000,
        0xFF810000, /* NaNs, quiet and signalling, with payloads */
        0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x3F800000, 0xBF800000,
    };
    return bits[i % (sizeof bits / sizeof bits[0])];
}

/* n values of dtype in an exactly sized buffer. */
static uint8_t *make_values(pattern p, um_dtype t, size_t n)
{
    uint8_t *v = um_zalloc(n * size_of(t));
    um_rng r = um_rng_seed(n, p);
    for (size_t i = 0; i < n; i++) {
        uint32_t u = 0;
        float f = 0;
        if (p == GAUSS || (p == SPARSE && i % 97 == 5)) {
            um_rng_normal_f32(&r, &f, 1, (float)(1 + i / 512 % 7));
            u = um_f32_bits(f);
        }
        if (p == NOISE) u = (uint32_t)um_rng_u64(&r);
        if (p == ONES) u = UINT32_MAX;
        if (p == COUNT)
            u = t == UM_F32 ? (uint32_t)i * 2654435761u
                            : (uint32_t)i << 16; /* bf16: all 65536 patterns */
        if (p == SPECIALS) u = special(i);
        if (t == UM_F32)
            um_put_u32(v + 4 * i, u);
        else
            um_put_u16(v + 2 * i, (uint16_t)(u >> 16));
    }
    return v;
}

static um_codec *open_codec(um_codec_id id, int level)
{
    um_codec *c = NULL;
    um_err err = {0};
    if (um_codec_open(&c, id, level, &err) != UM_OK) fail_msg("%s", err.msg);
    return c;
}

/* Encodes into the bound, copies to an exact buffer. */
static uint8_t *encode(um_codec *c, const uint8_t *v, um_dtype t, size_t n, size_t *len)
{
    size_t bound = um_codec_bound(t, n);
    uint8_t *roomy = um_zalloc(bound);
    *len = um_codec_encode(c, roomy, v, t, n);
    assert_true(*len <= bound);
    assert_true(um_codec_plausible(um_codec_id_of(c), t, n, *len));
    uint8_t *exact = um_zalloc(*len);
    memcpy(exact, roomy, *len);
    um_free(roomy);
    return exact;
}

static void expect_back(um_codec *c, um_codec_id id, const uint8_t *v, um_dtype t, size_t n,
                        const uint8_t *buf, size_t len)
{
    um_err err = {0};
    uint8_t *back = um_zalloc(n * size_of(t));
    memset(back, 0x5A, n * size_of(t));
    if (um_codec_decode(c, id, back, t, n, buf, len, &err) != UM_OK)
        fail_msg("n %zu: %s", n, err.msg);
    assert_memory_equal(back, v, n * size_of(t));
    um_free(back);
}

static void expect_bad(um_codec *c, um_codec_id id, um_dtype t, size_t n, const uint8_t *buf,
                       size_t len, const char *text)
{
    um_err err = {0};
    uint8_t *back = um_zalloc(n * size_of(t));
    assert_int_equal(um_codec_decode(c, id, back, t, n, buf, len, &err), UM_E_CORRUPT);
    if (strstr(err.msg, text) == NULL) fail_msg("\"%s\" does not say \"%s\"", err.msg, text);
    um_free(back);
}

static void test_round_trips(void **state)
{
    (void)state;
    for (int id = 0; id < UM_CODECS; id++) {
        um_codec *c = open_codec((um_codec_id)id, 0);
        for (int t = UM_F32; t <= UM_BF16; t++)
            for (int p = 0; p < PATTERNS; p++)
                for (int i = 0; i < SIZES; i++) {
                    size_t len, n = sizes[i];
                    uint8_t *v = make_values((pattern)p, (um_dtype)t, n);
                    uint8_t *buf = encode(c, v, (um_dtype)t, n, &len);
                    assert_true((n == 0) == (len == 0));
                    expect_back(c, (um_codec_id)id, v, (um_dtype)t, n, buf, len);
                    um_free(buf);
                    um_free(v);
                }
        um_codec_close(c);
    }
}

/* What a peer sends does not depend on the codec that this rank was opened with. */
static void test_foreign_state(void **state)
{
    (void)state;
    um_codec *none = open_codec(UM_CODEC_NONE, 0), *zstd = open_codec(UM_CODEC_ZSTD, 0);
    size_t n = 70000, len;
    uint8_t *v = make_values(GAUSS, UM_BF16, n);
    uint8_t *buf = encode(zstd, v, UM_BF16, n, &len);
    expect_back(none, UM_CODEC_ZSTD, v, UM_BF16, n, buf, len);
    expect_bad(none, UM_CODEC_NONE, UM_BF16, n, buf, len, "codec none");
    um_free(buf);
    buf = encode(none, v, UM_BF16, n, &len);
    expect_back(zstd, UM_CODEC_NONE, v, UM_BF16, n, buf, len);
    expect_bad(zstd, UM_CODECS, UM_BF16, n, buf, len, "codec 2, known are 0..1");
    expect_bad(zstd, UM_CODEC_NONE, UM_F16, n, buf, len, "dtype 2");
    um_free(buf);
    um_free(v);
    um_codec_close(none);
    um_codec_close(zstd);
}

static void test_levels(void **state)
{
    (void)state;
    const int levels[] = {-131072, -100, -1, 1, 3, 19, 22};
    size_t n = 3000, len, fast_len;
    uint8_t *v = make_values(GAUSS, UM_BF16, n);
    um_codec *fast = open_codec(UM_CODEC_ZSTD, 0);
    um_free(encode(fast, v, UM_BF16, n, &fast_len));
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        um_codec *c = open_codec(UM_CODEC_ZSTD, levels[i]);
        uint8_t *buf = encode(c, v, UM_BF16, n, &len);
        if (levels[i] == -131072) assert_int_equal(len, fast_len); /* what 0 stands for */
        expect_back(fast, UM_CODEC_ZSTD, v, UM_BF16, n, buf, len);
        um_free(buf);
        um_codec_close(c);
    }
    um_codec_close(fast);
    um_free(v);
    um_codec *c = NULL;
    um_err err = {0};
    assert_int_equal(um_codec_open(&c, UM_CODEC_ZSTD, 23, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "zstd level 23, allowed -131072..22"));
    assert_int_equal(um_codec_open(&c, UM_CODEC_ZSTD, -131073, &err), UM_E_USAGE);
    assert_int_equal(um_codec_open(&c, UM_CODECS, 0, &err), UM_E_USAGE);
    assert_null(c);
    um_codec_close(NULL);
}

/* The purpose of the codec: exponents shrink to about their entropy, and no input grows by more than its block headers. */
static void test_sizes(void **state)
{
    (void)state;
    um_codec *c = open_codec(UM_CODEC_ZSTD, 0);
    size_t n = 200000, len;
    for (int t = UM_F32; t <= UM_BF16; t++) {
        double raw = (double)(n * size_of((um_dtype)t));
        uint8_t *v = make_values(GAUSS, (um_dtype)t, n);
        um_free(encode(c, v, (um_dtype)t, n, &len));
        um_free(v);
        assert_true((double)len < raw * (t == UM_F32 ? 0.86 : 0.71));
        v = make_values(NOISE, (um_dtype)t, n);
        um_free(encode(c, v, (um_dtype)t, n, &len));
        um_free(v);
        assert_true(len <= n * size_of((um_dtype)t) + 16);
        v = make_values(ZEROS, (um_dtype)t, n);
        um_free(encode(c, v, (um_dtype)t, n, &len));
        um_free(v);
        assert_true(len < n * (size_of((um_dtype)t) - 1) + 4 * 100);
    }
    um_codec_close(c);
}

static void test_names_and_bounds(void **state)
{
    (void)state;
    assert_int_equal(um_codec_from_name("none"), UM_CODEC_NONE);
    assert_int_equal(um_codec_from_name("zstd"), UM_CODEC_ZSTD);
    assert_int_equal(um_codec_from_name("ZSTD"), -1);
    assert_int_equal(um_codec_from_name(""), -1);
    assert_string_equal(um_codec_name(UM_CODEC_ZSTD), "zstd");
    assert_string_equal(um_codec_name(UM_CODECS), "unknown");
    assert_int_equal(um_codec_bound(UM_BF16, 0), 0);
    assert_true(um_codec_bound(UM_F32, SIZE_MAX) == SIZE_MAX);
    assert_true(um_codec_bound(UM_BF16, 100) >= 200);
    for (int id = 0; id < UM_CODECS; id++) {
        assert_true(um_codec_plausible((um_codec_id)id, UM_F32, 0, 0));
        assert_false(um_codec_plausible((um_codec_id)id, UM_F32, 0, 1));
        assert_false(um_codec_plausible((um_codec_id)id, UM_F32, 1, 0));
        assert_false(um_codec_plausible((um_codec_id)id, UM_BF16, 100, 400));
        assert_false(um_codec_plausible((um_codec_id)id, UM_BF16, 100, 100));
        assert_false(um_codec_plausible((um_codec_id)id, UM_BF16, SIZE_MAX, SIZE_MAX));
    }
}

static void test_lengths(void **state)
{
    (void)state;
    for (int id = 0; id < UM_CODECS; id++) {
        um_codec *c = open_codec((um_codec_id)id, 0);
        const size_t counts[] = {1, 20, 300};
        for (int k = 0; k < 3; k++) {
            size_t len, n = counts[k];
            uint8_t *v = make_values(GAUSS, UM_F32, n), *buf = encode(c, v, UM_F32, n, &len);
            for (size_t other = 0; other < len + 5; other++) {
                if (other == len) continue;
                uint8_t *cut = um_zalloc(other);
                if (other > 0) memcpy(cut, buf, other < len ? other : len);
                expect_bad(c, (um_codec_id)id, UM_F32, n, cut, other, "codec ");
                um_free(cut);
            }
            expect_bad(c, (um_codec_id)id, UM_F32, n + 1, buf, len, "codec ");
            expect_bad(c, (um_codec_id)id, UM_F32, n - 1, buf, len, "codec ");
            um_free(buf);
            um_free(v);
        }
        um_codec_close(c);
    }
}

/* Block headers that contradict the length or each other. */
static void test_lies(void **state)
{
    (void)state;
    um_codec *c = open_codec(UM_CODEC_ZSTD, 0);
    size_t n = 1000, len;
    uint8_t *v = make_values(GAUSS, UM_BF16, n), *buf = encode(c, v, UM_BF16, n, &len);
    assert_int_equal(buf[3], 1);
    size_t z = len - 4 - n;
    assert_int_equal(um_get_u32(buf) & 0xFFFFFF, z);
    static const struct {
        uint32_t z, mode;
        const char *text;
    } lies[] = {
        {0, 1, "0 bytes of zstd for 1000 exponents"},
        {1000, 1, "1000 bytes of zstd"},
        {0xFFFFFF, 1, "16777215 bytes of zstd"},
        {999, 1, "planes take 1999"},
        {1, 1, "exponents:"},
        {0, 0, "stored values take 2000"},
        {5, 0, "in a stored block"},
        {5, 2, "mode 2"},
        {5, 255, "mode 255"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        um_put_u32(buf, lies[i].mode << 24 | lies[i].z);
        expect_bad(c, UM_CODEC_ZSTD, UM_BF16, n, buf, len, lies[i].text);
        expect_bad(c, UM_CODEC_ZSTD, UM_BF16, n, buf, len, "codec zstd: block 0 at byte 0");
    }
    um_put_u32(buf, 1u << 24 | (uint32_t)(z - 1));
    expect_bad(c, UM_CODEC_ZSTD, UM_BF16, n, buf, len, "codec zstd");
    um_put_u32(buf, 1u << 24 | (uint32_t)(z + 1));
    expect_bad(c, UM_CODEC_ZSTD, UM_BF16, n, buf, len, "planes take");
    /* the zstd part of fewer exponents in the place of all */
    size_t half_len;
    uint8_t *half = encode(c, v, UM_BF16, n / 2, &half_len);
    size_t hz = um_get_u32(half) & 0xFFFFFF, forged_len = 4 + n + hz;
    uint8_t *forged = um_zalloc(forged_len);
    um_put_u32(forged, 1u << 24 | (uint32_t)hz);
    memcpy(forged + 4 + n, half + half_len - hz, hz);
    expect_bad(c, UM_CODEC_ZSTD, UM_BF16, n, forged, forged_len, "500 exponents, want 1000");
    um_free(forged);
    um_free(half);
    um_free(buf);
    um_free(v);
    um_codec_close(c);
}

/* One flipped bit is refused or gives other values (frames carry the checksum); it never reads or writes outside. */
static void test_flips(void **state)
{
    (void)state;
    um_codec *c = open_codec(UM_CODEC_ZSTD, 0);
    size_t n = 700, len, refused = 0;
    for (int t = UM_F32; t <= UM_BF16; t++) {
        size_t bytes = n * size_of((um_dtype)t);
        uint8_t *v = make_values(GAUSS, (um_dtype)t, n), *buf = encode(c, v, (um_dtype)t, n, &len),
                *back = um_zalloc(bytes);
        for (size_t bit = 0; bit < 8 * len; bit++) {
            buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
            um_status st = um_codec_decode(c, UM_CODEC_ZSTD, back, (um_dtype)t, n, buf, len, NULL);
            assert_true(st == UM_OK || st == UM_E_CORRUPT);
            refused += st != UM_OK;
            buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        expect_back(c, UM_CODEC_ZSTD, v, (um_dtype)t, n, buf,
                    len); /* and the codec's state survived all of it */
        um_free(back);
        um_free(buf);
        um_free(v);
    }
    assert_true(refused >= 64);
    um_codec_close(c);
}

static void planes_agree(size_t n, size_t shift)
{
    const um_planes *best = um_planes_best(), *plain = &um_planes_plain;
    for (int t = UM_F32; t <= UM_BF16; t++) {
        size_t bytes = n * size_of((um_dtype)t);
        uint8_t *v = make_values(NOISE, (um_dtype)t, n), *src = um_zalloc(shift + bytes),
                *back = um_zalloc(shift + bytes);
        memcpy(src + shift, v, bytes);
        uint8_t *e1 = um_zalloc(n), *e2 = um_zalloc(shift + n), *r1 = um_zalloc(bytes - n),
                *r2 = um_zalloc(shift + bytes - n);
        (t == UM_F32 ? plain->split_f32 : plain->split_bf16)(e1, r1, v, n);
        (t == UM_F32 ? best->split_f32 : best->split_bf16)(e2 + shift, r2 + shift, src + shift, n);
        assert_memory_equal(e1, e2 + shift, n);
        assert_memory_equal(r1, r2 + shift, bytes - n);
        (t == UM_F32 ? best->merge_f32 : best->merge_bf16)(back + shift, e2 + shift, r2 + shift, n);
        assert_memory_equal(back + shift, v, bytes);
        memset(back, 0, shift + bytes);
        (t == UM_F32 ? plain->merge_f32 : plain->merge_bf16)(back, e1, r1, n);
        assert_memory_equal(back, v, bytes);
        um_free(e1);
        um_free(e2);
        um_free(r1);
        um_free(r2);
        um_free(v);
        um_free(src);
        um_free(back);
    }
}

static void test_planes(void **state)
{
    (void)state;
    for (size_t n = 1; n < 150; n++)
        for (size_t shift = 0; shift < 4; shift++) planes_agree(n, shift);
    planes_agree(65537, 1);
}

/* The documented meaning of the planes, on values written out by hand. */
static void test_plane_layout(void **state)
{
    (void)state;
    const uint8_t bf16[4] = {0x81, 0xBF, 0x00,
                             0x40}; /* 0xBF81 = 1 01111111 0000001, 0x4000 = 2.0 */
    const uint8_t f32[8] = {0x01, 0x00, 0x80, 0xBF,
                            0xFF, 0xFF, 0xFF, 0x7F}; /* 0xBF800001, 0x7FFFFFFF */
    const uint8_t exps16[2] = {127, 128}, rest16[2] = {0x03, 0x00};
    const uint8_t exps32[2] = {127, 255}, rest32[6] = {0x03, 0x00, 0x00, 0xFE, 0xFF, 0xFF};
    uint8_t e[2], r[6];
    um_planes_plain.split_bf16(e, r, bf16, 2);
    assert_memory_equal(e, exps16, 2);
    assert_memory_equal(r, rest16, 2);
    um_planes_plain.split_f32(e, r, f32, 2);
    assert_memory_equal(e, exps32, 2);
    assert_memory_equal(r, rest32, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),      cmocka_unit_test(test_foreign_state),
        cmocka_unit_test(test_levels),           cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_lengths),          cmocka_unit_test(test_lies),
        cmocka_unit_test(test_names_and_bounds), cmocka_unit_test(test_flips),
        cmocka_unit_test(test_planes),           cmocka_unit_test(test_plane_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
