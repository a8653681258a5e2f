/* Images of all formats against what Pillow 10.1 gives (tests/images/make_formats.py), the limits of each, and what is said of
 * files that are not read. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/sha256.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "tests/support/fixture.h"

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
    snprintf(path, sizeof path, UM_TEST_DATA "/images/%s", name);
    if (um_file_read(&b.data, &b.n, path, 1 << 20, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    return b;
}

/* Decodes what must be refused; returns the message. The arena must hold nothing more afterwards. */
static const char *refused(const void *bytes, size_t n, int64_t max_pixels)
{
    static um_err err;
    um_image p = {.w = -7};
    size_t used = arena.used;
    err.msg[0] = '\0';
    um_status st = um_image_decode(&p, "it", bytes, n, max_pixels, &arena, &err);
    if (st != UM_E_DATA) fail_msg("status %d, want UM_E_DATA: %s", (int)st, err.msg);
    assert_int_equal(p.w, -7);
    assert_int_equal(arena.used, used);
    return err.msg;
}

/* "61x47 SHA-256" of an image. */
static void describe(char out[96], const um_image *p)
{
    char hex[UM_SHA256_HEX];
    um_sha256 h;
    um_err err = {0};
    um_sha256_init(&h);
    um_sha256_update(&h, p->rgb, (size_t)p->w * (size_t)p->h * 3);
    assert_int_equal(um_sha256_final(&h, hex, &err), UM_OK);
    snprintf(out, 96, "%dx%d %s", p->w, p->h, hex);
}

/* Every line of expected.txt: "NAME WxH SHA-256" or "NAME refused". */
static void test_as_pillow(void **state)
{
    (void)state;
    blob list = load("formats/expected.txt");
    int files = 0, wrong = 0;
    char *at = um_arena_strn(&arena, (const char *)list.data, list.n);
    for (char *end; (end = strchr(at, '\n')) != NULL; at = end + 1, files++) {
        char name[128], got[96];
        um_err err = {0};
        um_image p = {0};
        um_mark mark = um_arena_mark(&arena);
        *end = '\0';
        char *want = strchr(at, ' ');
        assert_non_null(want);
        *want++ = '\0';
        snprintf(name, sizeof name, "formats/%s", at);
        blob b = load(name);
        um_status st = um_image_decode(&p, at, b.data, b.n, MANY, &arena, &err);
        assert_true(st == UM_OK || st == UM_E_DATA);
        if (st == UM_OK)
            describe(got, &p);
        else
            snprintf(got, sizeof got, "refused");
        if (strcmp(got, want) != 0) {
            print_error("%s: %s, want %s (%s)\n", at, got, want, err.msg);
            wrong++;
        }
        um_arena_reset(&arena, mark);
    }
    assert_int_equal(wrong, 0);
    assert_true(files > 120);
}

/* The message for a truncated file of each format. Some formats lose nothing with their last bytes. */
static void test_cut_off(void **state)
{
    (void)state;
    static const char *const names[] = {"palette.gif",   "24.bmp",    "32.bmp",  "strips.tif",
                                        "group4.tif",    "rgba.avif", "rgb.tga", "rgb.ppm",
                                        "rgb.pcx",       "rgb.sgi",   "rgb.jp2", "lossless.webp",
                                        "animated.webp", "png.ico",   "bmp.ico", "frames.apng"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "formats/%s", names[i]);
        blob b = load(name);
        for (size_t n = 0; n < b.n; n++) {
            um_err err = {0};
            um_image p = {0};
            um_mark mark = um_arena_mark(&arena);
            um_status st = um_image_decode(&p, "it", b.data, n, MANY, &arena, &err);
            assert_true(st == UM_OK || st == UM_E_DATA);
            assert_true((err.msg[0] != '\0') == (st != UM_OK));
            if (n < b.n / 3 && st == UM_OK) fail_msg("%s: %zu bytes of %zu are read", name, n, b.n);
            um_arena_reset(&arena, mark);
        }
    }
}

typedef struct wrong {
    const char *bytes;
    size_t n;
    const char *says;
} wrong;

#define BYTES(text) text, sizeof(text) - 1

static const wrong not_read[] = {
    {BYTES(""), "the file is empty"},
    {BYTES("\0\0\0\x20"
           "ftypheic\0\0\0\0"),
     "HEIC image: not read, convert it to PNG or JPEG"},
    {BYTES("\0\0\0\x18"
           "ftypmif1\0\0\0\0mif1heic"),
     "HEIF image: not read, convert it"},
    {BYTES("\xff\x0a\0\0"), "JPEG XL image: not read, convert it to PNG or JPEG"},
    {BYTES("\0\0\0\x0cJXL \r\n\x87\n"), "JPEG XL image: not read"},
    {BYTES("8BPS\0\1"), "Photoshop image: not read, convert it to PNG or JPEG"},
    {BYTES("%PDF-1.7\n"), "PDF document: not an image: convert the page to PNG"},
    {BYTES("%!PS-Adobe-3.0 EPSF-3.0\n"), "PostScript document: not read"},
    {BYTES("<svg xmlns='http://www.w3.org/2000/svg'/>"), "SVG drawing: not read, draw it to PNG"},
    {BYTES("<?xml version='1.0'?>\n<!-- made by -->\n<svg/>"), "SVG drawing"},
    {BYTES("\xef\xbb\xbf<svg/>"), "SVG drawing"},
    {BYTES("\n <!DOCTYPE HTML><title>404</title>"), "HTML page: not an image: a download may"},
    {BYTES("<html><body>Sign in</body></html>"), "HTML page"},
    {BYTES("<rss></rss>"), "XML text: not an image"},
    {BYTES("hello, world"), "text: not an image"},
    {BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"),
     "Git LFS pointer: the file itself is missing, fetch it with: git lfs pull"},
    {BYTES("PK\3\4\x14\0"), "ZIP archive: not an image: unpack it"},
    {BYTES("\x1f\x8b\x08\0"), "gzip archive: not an image: unpack it"},
    {BYTES("\x80\4\x95\x10\0\0"), "Python pickle: not an image"},
    {BYTES("\x93NUMPY\1\0"), "NumPy array: not an image: save it as PNG"},
    {BYTES("\0\0\0\x20"
           "ftypisom"),
     "MP4 video: give it as a video"},
    {BYTES("\x1a\x45\xdf\xa3\x9f"), "Matroska or WebM video: give it as a video"},
    {BYTES("RIFF\1\2\3\4AVI LIST"), "AVI video: give it as a video"},
    {BYTES("RIFF\1\2\3\4WAVEfmt "), "WAV: an audio file, give it as speech or as sound"},
    {BYTES("OggS\0\2"), "Ogg: an audio file"},
    {BYTES("\x89P\0\1"), "not an image of a known format (first bytes 89 50 00 01)"},
    {BYTES("\xfe\xed\xfa\xce\0\0\0\1\2"), "first bytes fe ed fa ce 00 00 00 01): PNG, JPEG, WebP"},
    {BYTES("GIF89a\1\0\1\0"), "corrupt GIF: the file is cut off"},
    {BYTES("GIF89a\1\0\1\0\0\0\0;"), "GIF without an image"},
    {BYTES("RIFF\1\2\3\4WEBPVP8 "), "corrupt WebP"},
    {BYTES("BM\1\2"), "corrupt BMP"},
    {BYTES("II*\0\x08\0\0\0"), "corrupt TIFF, or cut off"},
    {BYTES("\0\0\1\0\1\0"), "corrupt icon: no image in it"},
    {BYTES("\0\0\0\x18"
           "ftypavif\0\0\0\0avifmif1"),
     "corrupt AVIF"},
    {BYTES("P6 3 3 255\nabc"), "corrupt PNM"},
};

static void test_not_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof not_read / sizeof not_read[0]; i++) {
        const char *message = refused(not_read[i].bytes, not_read[i].n, MANY);
        says(message, "image it: ");
        says(message, not_read[i].says);
    }
}

/* Headers that declare 60000 x 60000 pixels, followed by only a few bytes. */
static const wrong bombs[] = {
    {BYTES("GIF89a\x60\xea\x60\xea\0\0\0,\0\0\0\0\1\0\1\0\0\2"), "GIF, by its screen"},
    {BYTES("GIF89a\1\0\1\0\0\0\0,\0\0\0\0\x60\xea\x60\xea\0\2"), "GIF, by its image"},
    {BYTES(
         "BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x60\xea\0\0\x60\xea\0\0\1\0\x08\0\1\0\0\0\0\0\0\0"
         "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\5\1\0\1"),
     "BMP with runs"},
    {BYTES("BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\xff\xff\xff\x7f\1\0\0\x80\1\0\x20\0\0\0\0\0\0\0"
           "\0\0"
           "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
     "BMP of 2^31 - 1 squared pixels"},
    {BYTES("II*\0\x08\0\0\0\2\0\0\1\4\0\1\0\0\0\x60\xea\0\0\1\1\4\0\1\0\0\0\x60\xea\0\0\0\0\0\0"),
     "TIFF"},
    {BYTES("P6 60000 60000 255\nabc"), "PPM"},
    {BYTES("P1 60000 60000\n0 1"), "PBM"},
    {BYTES("\0\0\x0a\0\0\0\0\0\0\0\0\0\x60\xea\x60\xea\x18\0\xff\1\2\3"), "TGA with runs"},
    {BYTES("qoif\0\0\xea\x60\0\0\xea\x60\3\0\xfe\1\2\3\xfd\0\0\0\0\0\0\0\1"), "QOI"},
    {BYTES("RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0\x5f\xea\0\x5f\xea\0ANIM\0\0\0\0"), "WebP"},
};

static void test_limits(void **state)
{
    (void)state;
    size_t peak = arena.peak;
    for (size_t i = 0; i < sizeof bombs / sizeof bombs[0]; i++) {
        const char *message = refused(bombs[i].bytes, bombs[i].n, 40000000);
        if (strstr(message, "60000 x 60000 = 3600000000 pixels, limit 40000000") == NULL &&
            strstr(message, "cut off") == NULL &&
            strstr(message, "a side must be 1..65535") == NULL)
            fail_msg("%s: %s", bombs[i].says, message);
    }
    assert_true(arena.peak < peak + (1 << 20)); /* nobody asked for gigabytes */

    blob b = load("formats/rgba.avif");
    size_t ispe = 0;
    while (ispe + 16 < b.n && memcmp(b.data + ispe, "ispe", 4) != 0) ispe++;
    memcpy(b.data + ispe + 8, "\0\0\x2e\xe0\0\0\x2e\xe0", 8);
    says(refused(b.data, b.n, 40000000), "12000 x 12000 = 144000000 pixels, limit 40000000");
    static const char *const names[] = {"rgb.jp2",       "rgb.pcx",   "rgb.sgi",
                                        "bmp.ico",       "tiles.tif", "offset.gif",
                                        "animated.webp", "rgb.qoi",   "bits.pbm"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "formats/%s", names[i]);
        b = load(name);
        says(refused(b.data, b.n, 100), "limit 100: make the image smaller or raise");
    }
}

typedef struct turn_case {
    const char *name;
    int w, h;
} turn_case;

static void test_orientation(void **state)
{
    (void)state;
    static const turn_case cases[] = {
        {"exif-orientation-6.jpg", 47, 61},   {"formats/turned.png", 9, 13},
        {"formats/turned.webp", 9, 13},       {"formats/turned.avif", 9, 13},
        {"formats/orientation-6.tif", 9, 13}, /* turned already */
        {"formats/palette.gif", 13, 9},       {"gray.jpg", 29, 19},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        um_err err = {0};
        um_image p = {0};
        blob b = load(cases[i].name);
        assert_int_equal(um_image_read(&p, b.data, b.n, MANY, &arena, &err), UM_OK);
        assert_int_equal(um_image_orient(&p, b.data, b.n, &arena, &err), UM_OK);
        if (p.w != cases[i].w || p.h != cases[i].h)
            fail_msg("%s: %d x %d", cases[i].name, p.w, p.h);
    }
}

/* The letters of a 3 x 2 image, abc over def, after each orientation: as PIL's ImageOps.exif_transpose puts them. */
static void test_turns(void **state)
{
    (void)state;
    static const char *const want[] = {"abcdef", "abcdef", "cbafed", "fedcba", "defabc",
                                       "adbecf", "daebfc", "fcebda", "cfbead", "abcdef"};
    for (int o = 0; o < 10; o++) {
        um_err err = {0};
        uint8_t rgb[18];
        um_image p = {.w = 3, .h = 2, .rgb = rgb};
        for (int i = 0; i < 6; i++) memset(rgb + 3 * i, 'a' + i, 3);
        size_t used = arena.used;
        assert_int_equal(um_image_turn(&p, o, &arena, &err), UM_OK);
        assert_int_equal(arena.used, used);
        assert_int_equal(p.w, o >= 5 && o <= 8 ? 2 : 3);
        for (int i = 0; i < 6; i++) assert_int_equal(rgb[3 * i + 1], want[o][i]);
    }
}

static void test_exif(void **state)
{
    (void)state;
#define ENTRY_LE "\x12\1\3\0\1\0\0\0\6\0\0\0"
    static const wrong cases[] = {
        {BYTES("II*\0\x08\0\0\0\1\0" ENTRY_LE), "6"},
        {BYTES("Exif\0\0II*\0\x08\0\0\0\1\0" ENTRY_LE), "6"},
        {BYTES("MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x08\0\0"), "8"},
        {BYTES("MM\0*\0\0\0\x08\0\1\1\x12\0\4\0\0\0\1\0\0\0\5"), "5"},
        {BYTES("II*\0\x08\0\0\0\xff\xff" ENTRY_LE), "6"},
        {BYTES("II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x09\0\0\0"), "0"},
        {BYTES("II*\0\x08\0\0\0\1\0\x12\1\2\0\1\0\0\0\6\0\0\0"), "0"},
        {BYTES("II*\0\xff\xff\xff\xff\1\0" ENTRY_LE), "0"},
        {BYTES("II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0"), "0"},
        {BYTES("II*\0\x08\0\0\0\1"), "0"},
        {BYTES("II*\0"), "0"},
        {BYTES(""), "0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(um_exif_orientation((const uint8_t *)cases[i].bytes, cases[i].n),
                         cases[i].says[0] - '0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_pillow),   cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_not_read),    cmocka_unit_test(test_limits),
        cmocka_unit_test(test_orientation), cmocka_unit_test(test_turns),
        cmocka_unit_test(test_exif),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
