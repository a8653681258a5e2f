/* Videos of every kind of file: which frames of each of tests/media/video are chosen, and how they are turned (make_video.py). The
 * rule is that of video_read.h; the numbers follow from the frames' times, of which each file's comment in the script tells. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/media_files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const um_media_limits limits = {
    .pixels = 1 << 20, .seconds = 60, .frames = 128, .wait_ms = 60000};

static int setup(void **state) { return decoder_setup(state, &limits); }

static um_image *frames_of(const char *name, media_blob b, int want, int *n)
{
    um_err err = {0};
    um_image *frames = NULL;
    if (um_decode_video(decoder, &frames, n, want, name, b.data, b.n, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    return frames;
}

static media_blob load(const char *file)
{
    char name[128];
    snprintf(name, sizeof name, "media/%s", file);
    return media_load(&arena, name);
}

/* file, frames wanted, how much a colour may be off, the numbers of the frames that must come; -1 ends them. */
static const struct {
    const char *file;
    int want, slack, frames[17];
} table[] = {
    {"video/late-mkv.mkv", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/late-webm.webm", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/late-mp4.mp4", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}}, /* an empty edit in front */
    {"video/late-ts.ts", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/sound-first.mp4", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/sound-first.mkv", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/held-gif.gif", 8, 8, {0, 4, 8, 9, 9, 9, 9, 9, -1}}, /* 3.9 s: every 0.4 s */
    {"video/held-gif.gif", 3, 8, {0, 9, 9, -1}},
    {"video/held-gif.gif", 64, 8, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1}}, /* shorter than 64 frames */
    {"video/held-mkv.mkv", 8, 1, {0, 4, 8, 9, 9, 9, 9, 9, -1}},
    {"video/held-mp4.mp4", 8, 1, {0, 5, 8, 8, 8, 8, 8, 8, -1}}, /* 4 s; frame 8 until 3.9 s */
    {"video/pipe-avi.avi", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/pipe-mkv.mkv", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/pipe-mp4.mp4", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}}, /* in fragments */
    {"video/pipe-mkv.mkv", 15, 1, {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, -1}},
    {"video/mpegts.ts", 10, 1, {0, 3, 6, 9, 12, 15, 18, 21, 24, 27, -1}},
    {"video/open-gop.mp4", 8, 1, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/edited.mp4",
     8,
     1,
     {11, 13, 15, 17, 19, 21, 23, 25, -1}}, /* cut at 1.05 s by its edit list */
    {"video/fast24.gif", 8, 8, {0, 3, 6, 9, 12, 15, 18, 21, -1}},
    {"video/two.gif", 8, 8, {0, 1, -1}},
    {"video/two.mp4", 8, 1, {0, 1, -1}},
    {"video/one.mkv", 8, 1, {0, -1}},
    {"video/one.mp4", 8, 1, {0, -1}},
    {"one.gif", 8, 8, {0, -1}},
    {"three.mkv", 8, 1, {0, 1, 2, -1}},
};

static void test_table(void **state)
{
    int bad = 0;
    (void)state;
    for (size_t r = 0; r < sizeof table / sizeof table[0]; r++) {
        int n = 0, want = 0;
        um_image *p = frames_of(table[r].file, load(table[r].file), table[r].want, &n);
        while (table[r].frames[want] >= 0) want++;
        bool fits = n == want;
        for (int i = 0; i < n && fits; i++)
            fits = media_is_frame(&p[i], table[r].frames[i], table[r].slack);
        if (fits) continue;
        print_error("%s, %d wanted: %d frames, by their red:", table[r].file, table[r].want, n);
        for (int i = 0; i < n; i++) print_error(" %.1f", p[i].rgb[0] / 8.0);
        print_error("\n");
        bad++;
    }
    assert_int_equal(bad, 0);
}

/* The quarters of a frame: mean of each colour, against what ffmpeg shows of the file. */
static void quarters_are(const char *file, int w, int h, const double want[4][3])
{
    int n = 0;
    um_image *p = frames_of(file, load(file), 8, &n);
    assert_int_equal(n, 8);
    assert_true(p->w == w && p->h == h);
    for (int q = 0; q < 4; q++)
        for (int c = 0; c < 3; c++) {
            double sum = 0;
            for (int y = q / 2 * h / 2; y < (q / 2 + 1) * h / 2; y++)
                for (int x = q % 2 * w / 2; x < (q % 2 + 1) * w / 2; x++)
                    sum += p->rgb[(y * w + x) * 3 + c];
            double mean = sum / (w / 2 * (h / 2));
            if (fabs(mean - want[q][c]) > 1.5)
                fail_msg("%s: quarter %d, colour %d: %.1f, want %.1f", file, q, c, mean,
                         want[q][c]);
        }
}

static void test_quarters(void **state)
{
    (void)state;
    static const double mkv[4][3] = {
        {74.2, 61.9, 13.2}, {55.2, 45.8, 64.7}, {157.3, 134.0, 11.8}, {93.0, 49.3, 205.7}};
    static const double flipped[4][3] = {
        {55.2, 45.8, 64.7}, {74.2, 61.9, 13.2}, {93.0, 49.3, 205.7}, {157.3, 134.0, 11.8}};
    static const double gif[4][3] = {
        {69.4, 127.6, 145.6}, {0.0, 80.0, 200.0}, {25.6, 97.5, 179.9}, {0.0, 80.0, 200.0}};
    quarters_are("video/mkv-starts-at-5s.mkv", 96, 64, mkv);
    quarters_are("video/mp4-matrix-hflip.mp4", 96, 64, flipped);
    quarters_are("video/gif-held-last-frame.gif", 64, 48, gif);
}

/* corners.mp4: R red, G green, B blue, W white in the quarters, as stored: R G above B W. */
static char corner(const um_image *p, bool right, bool below)
{
    size_t x = right ? (size_t)p->w - 1 : 0, y = below ? (size_t)p->h - 1 : 0;
    const uint8_t *c = p->rgb + (y * (size_t)p->w + x) * 3;
    int bits = (c[0] > 127) << 2 | (c[1] > 127) << 1 | (c[2] > 127);
    return bits == 4 ? 'R' : bits == 2 ? 'G' : bits == 1 ? 'B' : bits == 7 ? 'W' : '?';
}

static void put_fixed(uint8_t *p, double v)
{
    uint32_t bits = (uint32_t)(int32_t)lround(v * 65536);
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(bits >> (24 - 8 * i));
}

/* The matrix of an MP4's track header: x' = a x + c y, y' = b x + d y, and w, which are as ffmpeg shows the file (all compared). */
static void test_matrices(void **state)
{
    (void)state;
    static const struct {
        double a, b, c, d;
        const char *shown; /* above left, above right, below left, below right */
        bool turned;
    } cases[] = {
        {1, 0, 0, 1, "RGBW", false},   {0, 1, -1, 0, "BRWG", true},
        {-1, 0, 0, -1, "WBGR", false}, {0, -1, 1, 0, "GWRB", true},
        {-1, 0, 0, 1, "GRWB", false},  {1, 0, 0, -1, "BWRG", false},
        {0, 1, 1, 0, "RBGW", true},    {0, -1, -1, 0, "WGBR", true},
        {2, 0, 0, 2, "RGBW", false},   {0.7071, 0.7071, -0.7071, 0.7071, "RGBW", false},
        {0, 0, 0, 0, "RGBW", false},   {0.001, 1, -1, 0.001, "BRWG", true},
    };
    media_blob b = load("video/corners.mp4");
    size_t at = 0;
    while (memcmp(b.data + at, "tkhd", 4) != 0) at++;
    at += 44;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int n = 0;
        put_fixed(b.data + at, cases[i].a);
        put_fixed(b.data + at + 4, cases[i].b);
        put_fixed(b.data + at + 12, cases[i].c);
        put_fixed(b.data + at + 16, cases[i].d);
        um_image *p = frames_of("corners.mp4", b, 1, &n);
        char shown[5] = {corner(p, 0, 0), corner(p, 1, 0), corner(p, 0, 1), corner(p, 1, 1), 0};
        assert_string_equal(shown, cases[i].shown);
        assert_true(cases[i].turned ? p->w == 24 && p->h == 32 : p->w == 32 && p->h == 24);
    }
}

static void refused(const char *file, size_t n, bool sound, const char *word)
{
    um_err err = {0};
    um_image *frames = NULL;
    um_wave w;
    int got = 0;
    media_blob b = load(file);
    um_status st = sound
                       ? um_decode_wave(decoder, &w, "it", b.data, n < b.n ? n : b.n, &arena, &err)
                       : um_decode_video(decoder, &frames, &got, 8, "it", b.data, n < b.n ? n : b.n,
                                         &arena, &err);
    assert_int_equal(st, UM_E_DATA);
    has(&err, word);
}

/* A held last frame is distinguished from a truncated file, whose bytes end before its boxes do. */
static void test_refused(void **state)
{
    (void)state;
    refused("video/held-mkv.mkv", 800, false, "it: cut off: ");
    refused("video/mkv-starts-at-5s.mkv", 10000, false, "it: cut off: ");
    refused("video/mp4-matrix-hflip.mp4", 20000, false, "it: corrupt or cut off mp4");
    refused("video/pipe-avi.avi", 300, false, "it: ");
    refused("sound/padded.m4a", SIZE_MAX, false,
            "no video in it (1 sound streams, 0 cover images)");
    refused("cover.m4a", SIZE_MAX, false, "no video in it (1 sound streams, 1 cover images)");
    refused("video/held-mp4.mp4", SIZE_MAX, true, "no sound in it (1 video streams)");
    refused("video/held-gif.gif", SIZE_MAX, true, "no sound in it (1 video streams)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_quarters),
        cmocka_unit_test(test_matrices),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, setup, decoder_teardown);
}
