/* Images: every kind of PNG and JPEG decodes to the colours of the reference; bad files are refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/nn/safetensors.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "tests/support/fixture.h"
#include "tests/support/tiny_png.h"

#include <stdio.h>
#include <string.h>

enum { MANY = 100000000 };

typedef struct blob {
    uint8_t *data;
    size_t n;
} blob;

static blob load(const char *name)
{
    um_err err = {0};
    blob b = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/%s", UM_TEST_DATA, name);
    if (um_file_read(&b.data, &b.n, path, 1 << 20, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    return b;
}

/* Decodes what must be refused; returns the message. The arena must hold nothing more afterwards. */
static const char *refused(const void *bytes, size_t n, int64_t max_pixels)
{
    static um_err err;
    um_image p = {.w = -7};
    size_t used = arena.used;
    um_status st = um_image_decode(&p, "it", bytes, n, max_pixels, &arena, &err);
    if (st != UM_E_DATA) fail_msg("%zu bytes: status %d, want UM_E_DATA", n, (int)st);
    assert_int_equal(p.w, -7);
    assert_int_equal(arena.used, used);
    assert_non_null(strstr(err.msg, "image it: "));
    return err.msg;
}

static um_image image_of(const uint8_t *bytes, size_t n)
{
    um_err err = {0};
    um_image p = {0};
    if (um_image_decode(&p, "it", bytes, n, MANY, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    return p;
}

typedef struct kind_case {
    const char *what;
    int w, depth, kind;
    uint8_t row[16];
    size_t row_bytes;
    uint8_t trns[8];
    size_t n_trns;
    uint8_t rgb[12];
} kind_case;

static const uint8_t two_colours[] = {10, 20, 30, 40, 50, 60};

/* Expected colours: what PIL 10.0's convert("RGB") gives. */
static const kind_case kinds[] = {
    {"gray 1 bit", 4, 1, 0, {0x50}, 1, {0}, 0, {0, 0, 0, 255, 255, 255, 0, 0, 0, 255, 255, 255}},
    {"gray 2 bit", 4, 2, 0, {0x1b}, 1, {0}, 0, {0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255}},
    {"gray 4 bit",
     4,
     4,
     0,
     {0x01, 0xaf},
     2,
     {0},
     0,
     {0, 0, 0, 17, 17, 17, 170, 170, 170, 255, 255, 255}},
    {"gray 8 bit, tRNS", 2, 8, 0, {5, 77}, 2, {0, 5}, 2, {5, 5, 5, 77, 77, 77}},
    {"gray 16 bit",
     4,
     16,
     0,
     {0, 5, 0, 255, 1, 0, 255, 255},
     8,
     {0},
     0,
     {5, 5, 5, 255, 255, 255, 255, 255, 255, 255, 255, 255}},
    {"gray 16 bit, tRNS", 2, 16, 0, {0, 5, 0, 7}, 4, {0, 5}, 2, {5, 5, 5, 7, 7, 7}},
    {"gray and alpha 8 bit", 2, 8, 4, {5, 0, 77, 128}, 4, {0}, 0, {5, 5, 5, 77, 77, 77}},
    {"gray and alpha 16 bit",
     2,
     16,
     4,
     {0x12, 0x34, 0, 0, 0x12, 0xff, 0, 5},
     8,
     {0},
     0,
     {18, 18, 18, 18, 18, 18}},
    {"RGB 8 bit, tRNS", 1, 8, 2, {1, 2, 3}, 3, {0, 1, 0, 2, 0, 3}, 6, {1, 2, 3}},
    {"RGB 16 bit", 1, 16, 2, {0x12, 0xff, 0, 0xff, 0xff, 0xff}, 6, {0}, 0, {18, 0, 255}},
    {"RGBA 8 bit", 2, 8, 6, {1, 2, 3, 0, 4, 5, 6, 128}, 8, {0}, 0, {1, 2, 3, 4, 5, 6}},
    {"RGBA 16 bit", 1, 16, 6, {0x12, 0xff, 0, 0xff, 0xff, 0xff, 0, 7}, 8, {0}, 0, {18, 0, 255}},
    {"palette 1 bit", 4, 1, 3, {0x50}, 1, {0}, 0, {10, 20, 30, 40, 50, 60, 10, 20, 30, 40, 50, 60}},
    {"palette 2 bit, past its end", 4, 2, 3, {0x1b}, 1, {0}, 0, {10, 20, 30, 40, 50, 60}},
    {"palette 8 bit, tRNS", 2, 8, 3, {0, 1}, 2, {0, 128}, 2, {10, 20, 30, 40, 50, 60}},
    {"palette 8 bit, past its end", 4, 8, 3, {0, 1, 2, 200}, 4, {0}, 0, {10, 20, 30, 40, 50, 60}},
};

static void kind_png(tiny_png *png, const kind_case *k)
{
    tiny_png_begin(png, (uint32_t)k->w, 1, k->depth, k->kind, false);
    if (k->kind == 3) tiny_png_chunk(png, "PLTE", two_colours, sizeof two_colours);
    if (k->n_trns > 0) tiny_png_chunk(png, "tRNS", k->trns, k->n_trns);
    tiny_png_rows(png, k->row, k->row_bytes, k->row_bytes);
    tiny_png_end(png);
}

static void test_png_kinds(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const kind_case *k = &kinds[i];
        tiny_png png;
        um_err err = {0};
        um_image p = {0};
        kind_png(&png, k);
        if (um_image_decode(&p, k->what, png.bytes, png.n, MANY, &arena, &err) != UM_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(p.w, k->w);
        assert_int_equal(p.h, 1);
        for (int b = 0; b < 3 * k->w; b++)
            if (p.rgb[b] != k->rgb[b])
                fail_msg("%s: byte %d is %d, want %d", k->what, b, p.rgb[b], k->rgb[b]);
    }
}

/* Adam7: pass n has the pixels from (x, y) on in steps of (dx, dy). */
static const int adam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};

static void test_png_interlaced(void **state)
{
    (void)state;
    enum { W = 7, H = 6 };
    uint8_t rgb[H][W][3], raw[512];
    size_t n = 0;
    tiny_png png;
    um_err err = {0};
    um_image p = {0};
    for (int i = 0; i < W * H * 3; i++) ((uint8_t *)rgb)[i] = (uint8_t)(i * 37 + i / 5);
    for (int pass = 0; pass < 7; pass++) {
        const int *a = adam7[pass];
        for (int y = a[1]; y < H && a[0] < W; y += a[3]) {
            raw[n++] = 0; /* no filter */
            for (int x = a[0]; x < W; x += a[2], n += 3) memcpy(raw + n, rgb[y][x], 3);
        }
    }
    tiny_png_begin(&png, W, H, 8, 2, true);
    tiny_png_rows(&png, raw, n, 0);
    tiny_png_end(&png);
    if (um_image_decode(&p, "it", png.bytes, png.n, MANY, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(p.w, W);
    assert_int_equal(p.h, H);
    assert_memory_equal(p.rgb, rgb, sizeof rgb);
}

static const char *const jpegs[] = {"images/gray.jpg", "images/cmyk.jpg", "images/progressive.jpg",
                                    "images/wide-chroma.jpg", "images/full-chroma.jpg"};

/* Another version of libjpeg may differ by a level or two where its transform rounds. */
static void test_jpeg_kinds(void **state)
{
    (void)state;
    um_err err = {0};
    um_tensors *set = NULL;
    if (um_tensors_open(&set, UM_TEST_DATA "/images/expected.safetensors", &err) != UM_OK)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < sizeof jpegs / sizeof jpegs[0]; i++) {
        char name[64];
        blob b = load(jpegs[i]);
        um_image p = {0};
        snprintf(name, sizeof name, "rgb.%s", strchr(jpegs[i], '/') + 1);
        const um_tensor *t = um_tensors_find(set, name);
        assert_non_null(t);
        if (um_image_decode(&p, name, b.data, b.n, MANY, &arena, &err) != UM_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(p.h, t->shape[0]);
        assert_int_equal(p.w, t->shape[1]);
        for (size_t k = 0; k < t->bytes; k++) {
            int off = (int)p.rgb[k] - (int)t->data[k];
            if (off < -2 || off > 2)
                fail_msg("%s: byte %zu is %d, want %d", name, k, p.rgb[k], t->data[k]);
        }
    }
    um_tensors_close(set);
}

static void test_limits(void **state)
{
    (void)state;
    tiny_png png;
    size_t peak = arena.peak;
    tiny_png_begin(&png, 60000, 60000, 8, 2, false);
    tiny_png_rows(&png, (const uint8_t *)"abc", 3, 3);
    tiny_png_end(&png);
    says(refused(png.bytes, png.n, 40000000), "60000 x 60000 = 3600000000 pixels, limit 40000000");
    tiny_png_begin(&png, 65536, 1, 8, 2, false);
    tiny_png_rows(&png, (const uint8_t *)"abc", 3, 3);
    says(refused(png.bytes, png.n, MANY), "65536 x 1 pixels: a side must be 1..65535");
    tiny_png_begin(&png, 0, 1, 8, 2, false);
    says(refused(png.bytes, png.n, MANY), "corrupt PNG");
    tiny_png_begin(&png, 1, 1, 3, 2, false);
    says(refused(png.bytes, png.n, MANY), "bit depth");

    blob b = load(jpegs[0]);
    size_t frame = 0; /* start of frame: ff c0, length, precision, height, width */
    while (frame + 9 < b.n && !(b.data[frame] == 0xff && b.data[frame + 1] == 0xc0)) frame++;
    memcpy(b.data + frame + 5, "\xea\x60\xea\x60", 4);
    says(refused(b.data, b.n, 40000000), "60000 x 60000 = 3600000000 pixels, limit 40000000");
    memcpy(b.data + frame + 5, "\xff\xff\0\1", 4);
    assert_non_null(refused(b.data, b.n, MANY));
    assert_true(arena.peak < peak + (1 << 20)); /* nobody asked for gigabytes */
}

static const char *const small_files[] = {"golden/media/small.png", "golden/media/palette.png",
                                          "images/gray.jpg",        "images/cmyk.jpg",
                                          "images/progressive.jpg", "images/wide-chroma.jpg"};
static const char *const files[] = {"golden/media/tall.png",    "golden/media/wide.png",
                                    "golden/media/rgba.png",    "golden/media/gray.png",
                                    "golden/media/palette.png", "golden/media/photo.jpg",
                                    "images/progressive.jpg",   "images/cmyk.jpg"};

/* What a PNG may lose: its last 24 bytes or so (end mark, a checksum and most of another); some JPEGs, the end
 * mark. Then all pixels are there. */
static void test_cut_off(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        blob b = load(files[i]);
        for (size_t part = 1; part < 8; part++)
            says(refused(b.data, b.n * part / 8, MANY), "corrupt");
        bool png = strstr(files[i], ".png") != NULL;
        says(refused(b.data, b.n - (png ? 30 : 1), MANY), "cut off");
    }
    for (size_t i = 0; i < sizeof small_files / sizeof small_files[0]; i++) {
        blob b = load(small_files[i]);
        bool png = strstr(small_files[i], ".png") != NULL;
        um_image whole = image_of(b.data, b.n), p = {0};
        for (size_t n = 0; n < b.n; n++) {
            um_err err = {0};
            if (n < b.n - (png ? 30 : 2)) {
                assert_non_null(refused(b.data, n, MANY));
            } else if (um_image_decode(&p, "it", b.data, n, MANY, &arena, &err) == UM_OK) {
                assert_int_equal(p.w, whole.w);
                assert_memory_equal(p.rgb, whole.rgb, (size_t)p.w * (size_t)p.h * 3);
            }
        }
    }
}

/* Every byte of a PNG is under a checksum, has one meaning only, or stands behind the pixels: a wrong one is noticed or harmless. */
static void test_png_any_wrong_byte(void **state)
{
    (void)state;
    blob b = load("golden/media/small.png");
    um_image whole = image_of(b.data, b.n), p = {0};
    size_t harmless = 0;
    for (size_t i = 0; i < b.n; i++) {
        um_err err = {0};
        b.data[i] ^= 0x10;
        if (um_image_decode(&p, "it", b.data, b.n, MANY, &arena, &err) == UM_OK) {
            assert_memory_equal(p.rgb, whole.rgb, (size_t)whole.w * (size_t)whole.h * 3);
            harmless++;
        }
        b.data[i] ^= 0x10;
    }
    assert_true(harmless <=
                24); /* checksum of the chunk of pixels, padding behind their data, end mark */
}

/* The checksum of a text chunk before the pixels is checked, as in PIL. */
static void test_png_wrong_text(void **state)
{
    (void)state;
    tiny_png png;
    um_err err = {0};
    um_image p = {0};
    tiny_png_begin(&png, 1, 1, 8, 2, false);
    size_t text = png.n + 8;
    tiny_png_chunk(&png, "tEXt", (const uint8_t *)"Title\0square", 12);
    tiny_png_rows(&png, (const uint8_t *)"abc", 3, 3);
    tiny_png_end(&png);
    assert_int_equal(um_image_decode(&p, "it", png.bytes, png.n, MANY, &arena, &err), UM_OK);
    png.bytes[text] ^= 1;
    says(refused(png.bytes, png.n, MANY), "CRC");
}

/* Image data ends in the middle with an end marker: libjpeg would fill the rest with gray. */
static void test_jpeg_missing_data(void **state)
{
    (void)state;
    blob b = load("golden/media/photo.jpg");
    size_t keep = b.n * 2 / 3;
    while (b.data[keep - 1] == 0xff) keep--;
    b.data[keep] = 0xff;
    b.data[keep + 1] = 0xd9;
    says(refused(b.data, keep + 2, MANY), "premature end of data segment");
}

/* A JPEG has no checksums, so a wrong byte may pass; it may also claim any size within the limit. */
static void test_wrong_bytes(void **state)
{
    (void)state;
    um_rng rng = um_rng_seed(11, 0);
    int failed = 0, passed = 0;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        blob b = load(files[i]);
        for (int round = 0; round < 300; round++) {
            um_err err = {0};
            um_image p = {0};
            um_mark mark = um_arena_mark(&arena);
            uint8_t *bad = um_arena_alloc(&arena, b.n);
            memcpy(bad, b.data, b.n);
            for (int k = 0; k <= round % 4; k++)
                bad[um_rng_below(&rng, b.n)] ^= (uint8_t)(1 + um_rng_below(&rng, 255));
            um_status st = um_image_decode(&p, "it", bad, b.n, 1000000, &arena, &err);
            assert_true(st == UM_OK || st == UM_E_DATA);
            assert_true((err.msg[0] != '\0') == (st != UM_OK));
            *(st == UM_OK ? &passed : &failed) += 1;
            um_arena_reset(&arena, mark);
        }
    }
    assert_true(failed > 1500 && passed > 0);
}

/* A small file that asks for hundreds of passes over the image. The first scan, made the full precision of its coefficients so
 * that it may be repeated, is put in again and again. */
static void test_jpeg_too_many_scans(void **state)
{
    (void)state;
    blob b = load("images/progressive.jpg");
    size_t from = 0, to = 0;
    while (!(b.data[from] == 0xff && b.data[from + 1] == 0xda)) from++;
    size_t head = (size_t)b.data[from + 2] << 8 | b.data[from + 3];
    b.data[from + 2 + head - 1] = 0; /* last bit of DC right away, no refinement left out */
    for (to = from + 2 + head; b.data[to] != 0xff || b.data[to + 1] == 0; to++) {
    }
    size_t scan = to - from, again = 300;
    uint8_t *many = um_arena_alloc(&arena, b.n + again * scan);
    memcpy(many, b.data, to);
    for (size_t i = 0; i < again; i++) memcpy(many + to + i * scan, b.data + from, scan);
    memcpy(many + to + again * scan, b.data + to, b.n - to);
    says(refused(many, b.n + again * scan, MANY), "scans");
}

/* Bytes between two markers are odd but harm nothing: cameras write them. */
static void test_jpeg_extra_bytes(void **state)
{
    (void)state;
    blob b = load("images/gray.jpg");
    um_err err = {0};
    um_image p = {0};
    size_t first = 4 + ((size_t)b.data[4] << 8 | b.data[5]); /* past ff d8 and the first segment */
    uint8_t *more = um_arena_alloc(&arena, b.n + 3);
    memcpy(more, b.data, first);
    memset(more + first, 0, 3);
    memcpy(more + first + 3, b.data + first, b.n - first);
    if (um_image_decode(&p, "it", more, b.n + 3, MANY, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png_kinds),        cmocka_unit_test(test_png_interlaced),
        cmocka_unit_test(test_jpeg_kinds),       cmocka_unit_test(test_limits),
        cmocka_unit_test(test_cut_off),          cmocka_unit_test(test_png_any_wrong_byte),
        cmocka_unit_test(test_png_wrong_text),   cmocka_unit_test(test_jpeg_missing_data),
        cmocka_unit_test(test_wrong_bytes),      cmocka_unit_test(test_jpeg_too_many_scans),
        cmocka_unit_test(test_jpeg_extra_bytes),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
