/* unimoe-decoder: every format, what the frames and samples must be, and bad files. Faults of the process: test_decoder_faults. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "core/nn/safetensors.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/media_files.h"
#include "tests/support/tiny_png.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const um_media_limits limits = {
    .pixels = 1 << 20, .seconds = 60, .frames = 16, .wait_ms = 60000};

static int setup(void **state) { return decoder_setup(state, &limits); }

static um_wave wave_of(const char *name, media_blob b)
{
    um_err err = {0};
    um_wave w = {0};
    if (um_decode_wave(decoder, &w, name, b.data, b.n, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    return w;
}

static um_wave wave_file(const char *name) { return wave_of(name, media_load(&arena, name)); }

static um_wave wave_made(const media_wav *w, const void *samples, size_t n)
{
    return wave_of("made.wav", media_wav_make(&arena, w, samples, n));
}

/* A call with bad input: returns UM_E_DATA with a message that begins with the name, sets nothing and keeps nothing. */
enum kind { IMAGE, WAVE, VIDEO };

static void refused(enum kind kind, media_blob b, const char *word)
{
    um_err err = {0};
    um_image p = {.w = -7}, *frames = NULL;
    um_wave w = {.n = -7};
    int n = -7;
    size_t used = arena.used;
    um_status st = kind == IMAGE ? um_decode_image(decoder, &p, "it", b.data, b.n, &arena, &err)
                   : kind == WAVE
                       ? um_decode_wave(decoder, &w, "it", b.data, b.n, &arena, &err)
                       : um_decode_video(decoder, &frames, &n, 8, "it", b.data, b.n, &arena, &err);
    if (st != UM_E_DATA) fail_msg("status %d instead of \"%s\"", (int)st, word);
    assert_true(strncmp(err.msg, "it: ", 4) == 0);
    assert_true(p.w == -7 && w.n == -7 && n == -7 && frames == NULL);
    assert_int_equal(arena.used, used);
    if (strstr(err.msg, "crashed") != NULL) fail_msg("%s", err.msg);
    has(&err, word);
}

/* ---- sound ---- */

static void test_golden_waves(void **state)
{
    (void)state;
    static const char *const files[] = {"speech22k.wav", "stereo11k.wav"};
    um_err err = {0};
    um_tensors *set = NULL;
    if (um_tensors_open(&set, UM_TEST_DATA "/golden/frontends/expected.safetensors", &err) != UM_OK)
        fail_msg("%s", err.msg);
    for (int f = 0; f < 2; f++) {
        char name[64];
        snprintf(name, sizeof name, "wave.%s", files[f]);
        const um_tensor *t = um_tensors_find(set, name);
        snprintf(name, sizeof name, "golden/media/%s", files[f]);
        um_wave w = wave_file(name);
        assert_non_null(t);
        assert_int_equal(w.n * 4, t->bytes);
        for (int64_t i = 0; i < w.n; i++) {
            float want = um_bits_f32(um_get_u32(t->data + 4 * i));
            if (fabsf(w.samples[i] - want) > 1e-5f)
                fail_msg("%s: sample %d is %g, want %g", name, (int)i, (double)w.samples[i],
                         (double)want);
        }
    }
    um_tensors_close(set);
}

static void test_golden_lengths(void **state)
{
    (void)state;
    assert_int_equal(wave_file("golden/media/long.flac").n, 499200); /* 31.2 s */
    assert_int_equal(wave_file("golden/media/speech.wav").n, 27669);
    assert_int_equal(wave_file("golden/media/siren.wav").n, 32000);
}

/* At 16 kHz nothing is resampled: the result is the samples of the file, scaled. */
static void test_16k_as_it_is(void **state)
{
    (void)state;
    media_blob b = media_load(&arena, "golden/media/siren.wav");
    um_wave w = wave_of("siren.wav", b);
    for (int64_t i = 0; i < w.n; i++) {
        int16_t s = (int16_t)um_get_u16(b.data + 44 + 2 * i);
        assert_true(w.samples[i] == (float)s / 32768.0f);
    }
}

static void test_lossless_formats(void **state)
{
    (void)state;
    um_wave first = wave_file("media/tones.flac"), alac = wave_file("media/alac.m4a");
    assert_int_equal(first.n, 4001); /* ceil(5513 * 16000 / 22050) */
    assert_true(media_tones_off(&first, 300, 3700) < 2e-3);
    assert_int_equal(alac.n, first.n);
    assert_memory_equal(alac.samples, first.samples, (size_t)first.n * sizeof(float));
    um_wave fine = wave_file("media/tones24.flac");
    assert_int_equal(fine.n, first.n);
    assert_true(media_tones_off(&fine, 300, 3700) < 2e-3);
}

/* Lossy codecs: the sound is the same to the ear and begins where it began. */
static void test_lossy_formats(void **state)
{
    (void)state;
    static const char *const files[] = {"media/tones.mp3", "media/tones.ogg",  "media/tones.opus",
                                        "media/tones.m4a", "media/tones.webm", "media/av.mp4"};
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        um_wave w = wave_file(files[f]);
        double off = media_tones_off(&w, 1200, 3200);
        if (off > 0.05) fail_msg("%s: %g off", files[f], off);
    }
    assert_true(wave_file("media/tones.aac").n >=
                4001); /* ADTS does not record the padding at the beginning */
}

/* The same bytes decode to the same bits, whatever the process decoded before. */
static void test_same_bits(void **state)
{
    (void)state;
    static const char *const files[] = {"media/tones.mp3", "media/tones.ogg", "media/av.mp4"};
    for (int f = 0; f < 3; f++) {
        media_blob b = media_load(&arena, "media/av.mp4");
        um_err err = {0};
        um_image *frames = NULL;
        int n = 0;
        um_wave first = wave_file(files[f]);
        assert_int_equal(um_decode_video(decoder, &frames, &n, 4, "it", b.data, b.n, &arena, &err),
                         UM_OK);
        um_wave again = wave_file(files[f]);
        assert_int_equal(first.n, again.n);
        assert_memory_equal(first.samples, again.samples, (size_t)first.n * sizeof(float));
    }
}

static void test_scaling(void **state)
{
    (void)state;
    static const uint8_t u8[] = {0, 128, 255, 64};
    static const uint8_t s16[] = {0x00, 0x80, 0, 0, 0xff, 0x7f, 0, 0x40};
    static const uint8_t s24[] = {0, 0, 0x80, 0, 0, 0, 0xff, 0xff, 0x7f, 1, 0, 0};
    static const uint8_t s32[] = {0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 1, 0, 0};
    static const float f32[] = {-1.5f, 0, 0.1f, 1e-30f};
    static const double f64[] = {-1.5, 0, 0.1, 1e-3};
    const struct {
        media_wav wav;
        const void *samples;
        size_t n;
        float want[4];
    } cases[] = {
        {{1, 8, 1, 16000, 0}, u8, sizeof u8, {-1, 0, 127 / 128.0f, -0.5f}},
        {{1, 16, 1, 16000, 0}, s16, sizeof s16, {-1, 0, 32767 / 32768.0f, 0.5f}},
        {{1, 24, 1, 16000, 0}, s24, sizeof s24, {-1, 0, 8388607 / 8388608.0f, 1 / 8388608.0f}},
        {{1, 32, 1, 16000, 0}, s32, sizeof s32, {-1, 0, 0.5f, 256 / 2147483648.0f}},
        {{3, 32, 1, 16000, 0}, f32, sizeof f32, {-1.5f, 0, 0.1f, 1e-30f}},
        {{3, 64, 1, 16000, 0}, f64, sizeof f64, {-1.5f, 0, (float)0.1, (float)1e-3}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        um_wave w = wave_made(&cases[c].wav, cases[c].samples, cases[c].n);
        assert_int_equal(w.n, 4);
        for (int i = 0; i < 4; i++)
            if (w.samples[i] != cases[c].want[i])
                fail_msg("case %zu, sample %d: %.9g", c, i, (double)w.samples[i]);
    }
}

static void test_channels_and_rates(void **state)
{
    (void)state;
    static const int rates[] = {1000, 8000, 11025, 44100, 48000, 96000, 192000, 768000};
    float six[6] = {0.5f, -0.25f, 0.125f, 0, 0.25f, -1};
    um_wave w = wave_made(&(media_wav){3, 32, 6, 16000, 0}, six, sizeof six);
    assert_int_equal(w.n, 1);
    assert_true(w.samples[0] == (0.5f - 0.25f + 0.125f + 0.25f - 1) / 6);
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++) {
        int64_t n = rates[r] / 10 + 7;
        float *tone = um_arena_f32(&arena, 1, (size_t)n);
        for (int64_t i = 0; i < n; i++)
            tone[i] = 0.5f * sinf(2 * acosf(-1) * 200 * (float)i / (float)rates[r]);
        w = wave_made(&(media_wav){3, 32, 1, rates[r], 0}, tone, (size_t)n * sizeof *tone);
        assert_int_equal(w.n, (n * 16000 + rates[r] - 1) / rates[r]);
        for (int64_t i = w.n / 2 - 80; i < w.n / 2 + 80; i++)
            if (fabsf(w.samples[i] - 0.5f * sinf(2 * acosf(-1) * 200 * (float)i / 16000)) > 5e-3f)
                fail_msg("%d Hz: sample %d is %g", rates[r], (int)i, (double)w.samples[i]);
    }
}

/* Programs that write to a pipe leave their largest number as the length. */
static void test_open_lengths(void **state)
{
    (void)state;
    static const uint32_t open[] = {0xffffffff, 0x7fffffff - 36, 0x7ffff000, 0x80000000};
    int16_t s[100] = {1, 2, 3};
    for (int i = 0; i < 4; i++)
        assert_int_equal(wave_made(&(media_wav){1, 16, 1, 16000, open[i]}, s, sizeof s).n, 100);
}

static void test_bad_sound(void **state)
{
    (void)state;
    float s[64] = {0};
    media_wav fine = {3, 32, 1, 16000, 0};
    refused(WAVE, media_wav_make(&arena, &(media_wav){3, 32, 1, 1, 0}, s, sizeof s),
            "1 samples a second");
    refused(WAVE, media_wav_make(&arena, &(media_wav){3, 32, 1, 2000000, 0}, s, sizeof s),
            "2000000 samples a second");
    refused(WAVE, media_wav_make(&arena, &(media_wav){3, 32, 1, 0, 0}, s, sizeof s), "corrupt");
    refused(WAVE, media_wav_make(&arena, &(media_wav){3, 32, 0, 16000, 0}, s, sizeof s), "");
    refused(WAVE, media_wav_make(&arena, &fine, s, 0), "no sample");
    refused(WAVE,
            media_wav_make(&arena, &(media_wav){1, 16, 1, 16000, 36000u * 32000}, s, sizeof s),
            "36000.0 s long by its header, limit 60 s");
    refused(WAVE, media_wav_make(&arena, &(media_wav){1, 16, 1, 16000, 64000}, s, sizeof s),
            "cut off: 0.008 s of 2.000 s are there");
    s[33] = NAN;
    refused(WAVE, media_wav_make(&arena, &fine, s, sizeof s),
            "the sample at 0.002 s is not a finite number");
    s[33] = INFINITY;
    refused(WAVE, media_wav_make(&arena, &fine, s, sizeof s), "is not a finite number");
    for (int i = 0; i < 64; i++) s[i] = i % 2 == 0 ? 3e38f : -3e38f;
    refused(WAVE, media_wav_make(&arena, &(media_wav){3, 32, 2, 44100, 0}, s, 0), "no sample");
    refused(WAVE, media_load(&arena, "media/count.mkv"), "no sound in it");
    refused(WAVE, media_load(&arena, "golden/media/photo.jpg"), "JPEG image");
    refused(WAVE, media_load(&arena, "golden/media/small.png"), "PNG image");
}

/* An hour of silence in a few kB: refused by its header, or when its samples become too many. */
static void test_long_sound(void **state)
{
    (void)state;
    media_blob b = media_load(&arena, "media/silence.flac");
    refused(WAVE, b, "3600.0 s long by its header, limit 60 s");
    b.data[21] &= 0xf0; /* STREAMINFO: number of samples unknown */
    memset(b.data + 22, 0, 4);
    refused(WAVE, b, "longer than 60 s, the limit");
}

static void test_cut_off_sound(void **state)
{
    (void)state;
    static const char *const files[] = {"golden/media/long.flac", "media/tones.flac",
                                        "media/tones.m4a", "media/alac.m4a",
                                        "golden/media/stereo11k.wav"};
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        media_blob b = media_load(&arena, files[f]);
        refused(WAVE, (media_blob){b.data, b.n * 2 / 3}, "");
        refused(WAVE, (media_blob){b.data, 20}, "");
    }
    media_blob b = media_load(&arena, "media/tones.flac");
    b.data[b.n - 500] ^= 0x40; /* under a checksum; in front of it are 8 kB of padding */
    refused(WAVE, b, "");
}

/* ---- videos ---- */

static um_image *video_of(const char *name, int want, int *n)
{
    media_blob b = media_load(&arena, name);
    um_err err = {0};
    um_image *frames = NULL;
    if (um_decode_video(decoder, &frames, n, want, name, b.data, b.n, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    return frames;
}

static void test_video_frames(void **state)
{
    (void)state;
    static const char *const files[] = {"media/count.mkv", "media/count.mov",  "media/count.avi",
                                        "media/count.mp4", "media/count.webm", "media/count.apng",
                                        "media/live.webm", "media/av.mp4"};
    static const int wants[] = {1, 2, 7, 8, 10, 15, 16};
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++)
        for (size_t w = 0; w < sizeof wants / sizeof wants[0]; w++) {
            int n = 0, step = 30 / wants[w];
            um_image *p = video_of(files[f], wants[w], &n);
            assert_int_equal(n, wants[w]);
            for (int i = 0; i < n; i++)
                if (!media_is_frame(&p[i], i * step, 1))
                    fail_msg("%s, %d frames: number %d has the colour %d %d %d", files[f], n, i,
                             p[i].rgb[0], p[i].rgb[1], p[i].rgb[2]);
        }
}

static void test_gif_video(void **state)
{
    (void)state;
    int n = 0;
    um_image *p = video_of("media/count.gif", 8, &n);
    assert_int_equal(n, 8);
    for (int i = 0; i < n; i++) assert_true(media_is_frame(&p[i], 3 * i, 8)); /* a palette */
    assert_int_equal((video_of("media/one.gif", 8, &n), n), 1);
}

static void test_short_video(void **state)
{
    (void)state;
    int n = 0;
    um_image *p = video_of("media/three.mkv", 8, &n);
    assert_int_equal(n, 3);
    for (int i = 0; i < n; i++) assert_true(media_is_frame(&p[i], i, 0));
    p = video_of("media/three.mkv", 2, &n);
    assert_int_equal(n, 2);
    assert_true(media_is_frame(&p[0], 0, 0) && media_is_frame(&p[1], 1, 0));
}

static void test_turned_video(void **state)
{
    (void)state;
    int n = 0;
    um_image *p = video_of("media/turned.mp4", 2, &n);
    assert_int_equal(n, 2);
    assert_true(p->w == 24 && p->h == 32);
    for (int y = 0; y < 32; y++) /* as ffmpeg shows it: white on the left */
        assert_true(p->rgb[(size_t)y * 72] == 255 && p->rgb[(size_t)y * 72 + 69] == 0);
}

static void test_bad_videos(void **state)
{
    (void)state;
    refused(VIDEO, media_load(&arena, "media/tones.m4a"),
            "no video in it (1 sound streams, 0 cover images)");
    refused(VIDEO, media_load(&arena, "media/cover.m4a"),
            "no video in it (1 sound streams, 1 cover images)");
    refused(VIDEO, media_load(&arena, "golden/media/siren.wav"), "no video in it");
    refused(VIDEO, media_load(&arena, "golden/media/photo.jpg"), "JPEG image");
    refused(VIDEO, media_load(&arena, "media/animated.webp"), "WebP image");
    media_blob b = media_load(&arena, "media/count.mp4");
    refused(VIDEO, (media_blob){b.data, b.n / 2}, "corrupt");
    b = media_load(&arena, "media/count.avi");
    refused(VIDEO, (media_blob){b.data, 600}, "");
    um_put_u32(b.data + 0x80, 3600); /* scale and rate: an hour for a frame */
    um_put_u32(b.data + 0x84, 1);
    refused(VIDEO, b, "108000.0 s long by its header, limit 60 s");
}

static void test_video_limits(void **state)
{
    (void)state;
    um_err err = {0};
    um_decoder *strict = NULL;
    um_image *p = NULL;
    int n = 0;
    media_blob b = media_load(&arena, "media/count.mp4");
    const um_media_limits few = {.pixels = 767, .seconds = 2, .frames = 4, .wait_ms = 60000};
    assert_int_equal(um_decoder_open(&strict, UM_DECODER, &few, &err), UM_OK);
    assert_int_equal(um_decode_video(strict, &p, &n, 5, "it", b.data, b.n, &arena, &err),
                     UM_E_DATA);
    has(&err, "it: 5 frames wanted, limit 4");
    assert_int_equal(um_decode_video(strict, &p, &n, 4, "it", b.data, b.n, &arena, &err),
                     UM_E_DATA);
    has(&err, "it: 32 x 24 = 768 pixels, limit 767");
    um_decoder_close(strict);
    const um_media_limits brief = {.pixels = 768, .seconds = 2, .frames = 4, .wait_ms = 60000};
    assert_int_equal(um_decoder_open(&strict, UM_DECODER, &brief, &err), UM_OK);
    assert_int_equal(um_decode_video(strict, &p, &n, 4, "it", b.data, b.n, &arena, &err),
                     UM_E_DATA);
    has(&err, "it: 3.0 s long");
    b = media_load(&arena, "media/live.webm"); /* no length in its header */
    assert_int_equal(um_decode_video(strict, &p, &n, 4, "it", b.data, b.n, &arena, &err),
                     UM_E_DATA);
    has(&err, "limit 2 s");
    um_decoder_close(strict);
}

/* ---- images ---- */

static void test_images(void **state)
{
    (void)state;
    static const char *const files[] = {"golden/media/tall.png",  "golden/media/rgba.png",
                                        "golden/media/gray.png",  "golden/media/palette.png",
                                        "golden/media/photo.jpg", "images/cmyk.jpg",
                                        "images/progressive.jpg", "media/lossy.webp"};
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        media_blob b = media_load(&arena, files[f]);
        um_err err = {0};
        um_image here = {0}, there = {0};
        assert_int_equal(um_image_read(&here, b.data, b.n, 1 << 20, &arena, &err), UM_OK);
        if (um_decode_image(decoder, &there, files[f], b.data, b.n, &arena, &err) != UM_OK)
            fail_msg("%s", err.msg);
        assert_true(here.w == there.w && here.h == there.h);
        assert_memory_equal(here.rgb, there.rgb, (size_t)here.w * (size_t)here.h * 3);
    }
}

/* Equal to Pillow's convert("RGB"): alpha is dropped. */
static void test_webp(void **state)
{
    (void)state;
    static const char *const files[] = {"lossless.webp", "lossy.webp", "alpha.webp",
                                        "lossy-alpha.webp"};
    um_err err = {0};
    um_tensors *set = NULL;
    if (um_tensors_open(&set, UM_TEST_DATA "/media/webp.safetensors", &err) != UM_OK)
        fail_msg("%s", err.msg);
    for (int f = 0; f < 4; f++) {
        char name[64];
        um_image p = {0};
        snprintf(name, sizeof name, "media/%s", files[f]);
        media_blob b = media_load(&arena, name);
        snprintf(name, sizeof name, "rgb.%s", files[f]);
        const um_tensor *t = um_tensors_find(set, name);
        assert_non_null(t);
        if (um_decode_image(decoder, &p, name, b.data, b.n, &arena, &err) != UM_OK)
            fail_msg("%s", err.msg);
        assert_true(p.h == t->shape[0] && p.w == t->shape[1]);
        assert_memory_equal(p.rgb, t->data, t->bytes);
        refused(IMAGE, (media_blob){b.data, b.n - 30}, "");
    }
    um_tensors_close(set);
}

static void test_image_limits(void **state)
{
    (void)state;
    tiny_png png;
    um_err err = {0};
    um_image p = {0};
    tiny_png_begin(&png, 1, 1, 8, 2, false);
    tiny_png_rows(&png, (const uint8_t *)"abc", 3, 3);
    tiny_png_end(&png);
    assert_int_equal(um_decode_image(decoder, &p, "it", png.bytes, png.n, &arena, &err), UM_OK);
    assert_true(p.w == 1 && p.h == 1);
    assert_memory_equal(p.rgb, "abc", 3);
    tiny_png_begin(&png, 60000, 60000, 8, 2, false);
    tiny_png_rows(&png, (const uint8_t *)"abc", 3, 3);
    tiny_png_end(&png);
    refused(IMAGE, (media_blob){png.bytes, png.n},
            "60000 x 60000 = 3600000000 pixels, limit 1048576");
    tiny_png_begin(&png, 1024, 1024, 8, 2, false); /* within the limit, and then nearly empty */
    tiny_png_rows(&png, (const uint8_t *)"abc", 3, 3);
    tiny_png_end(&png);
    refused(IMAGE, (media_blob){png.bytes, png.n}, "corrupt PNG");
}

static um_image image_file(const char *name)
{
    um_err err = {0};
    um_image p = {0};
    media_blob b = media_load(&arena, name);
    if (um_decode_image(decoder, &p, name, b.data, b.n, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    return p;
}

/* Every library that reads images runs inside the sandbox. */
static void test_image_formats(void **state)
{
    (void)state;
    static const char *const files[] = {
        "palette.gif", "8.bmp",         "tiles.tif",  "strips.tif", "tiff_lzw.tif", "group4.tif",
        "jpeg.tif",    "frames.apng",   "rgba.avif",  "rgba.tga",   "rgb.ppm",      "rgb.pcx",
        "rgb.sgi",     "animated.webp", "rgb.qoi",    "rgb.jp2",    "png.ico",      "bmp.ico",
        "window.png",  "gif-named.jpg", "no-end.png",
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char name[64];
        um_err err = {0};
        um_image here = {0};
        snprintf(name, sizeof name, "images/formats/%s", files[i]);
        media_blob b = media_load(&arena, name);
        assert_int_equal(um_image_read(&here, b.data, b.n, 1 << 20, &arena, &err), UM_OK);
        um_image there = image_file(name);
        assert_true(here.w == there.w && here.h == there.h);
        assert_memory_equal(here.rgb, there.rgb, (size_t)here.w * (size_t)here.h * 3);
    }
}

/* An animation gives its first frame; an image is rotated only on request. */
static void test_animated_images(void **state)
{
    (void)state;
    const char *const animated[] = {"media/count.apng", "media/count.gif", "media/one.gif"};
    for (size_t i = 0; i < sizeof animated / sizeof animated[0]; i++) {
        um_image p = image_file(animated[i]);
        assert_true(media_is_frame(&p, 0, 3));
    }
    um_image p = image_file("media/animated.webp");
    assert_true(p.w > 0);
    p = image_file("images/exif-orientation-6.jpg");
    assert_int_equal(p.w, 61);
    um_decoder_orient(decoder, true);
    p = image_file("images/exif-orientation-6.jpg");
    um_decoder_orient(decoder, false);
    assert_int_equal(p.w, 47);
    assert_int_equal(p.h, 61);
}

/* ---- bytes of all kinds ---- */

static void test_not_media(void **state)
{
    (void)state;
    um_rng rng = um_rng_seed(5, 0);
    media_blob noise = {um_arena_alloc(&arena, 5000), 5000};
    for (size_t i = 0; i < noise.n; i++) noise.data[i] = (uint8_t)um_rng_u64(&rng);
    const media_blob cases[] = {
        {NULL, 0},
        {(uint8_t *)(uintptr_t) "\x1f\x8b\x08\0\0\0\0\0\0\3\3\0\0\0\0\0\0\0\0\0", 20},
        {(uint8_t *)(uintptr_t) "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 22},
        {(uint8_t *)(uintptr_t) "#EXTM3U\nfile:///etc/passwd\n", 27},
        {(uint8_t *)(uintptr_t) "ffconcat version 1.0\nfile /etc/passwd\n", 38},
        {(uint8_t *)(uintptr_t) "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 1 RTP/AVP 0\r\n", 53},
        noise,
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (int kind = IMAGE; kind <= VIDEO; kind++) refused((enum kind)kind, cases[c], "");
    refused(WAVE, cases[0], "empty");
    refused(WAVE, cases[3], "");
}

/* Wrong bytes at many places: the result is an answer or an error, and the decoder stays alive. */
static void test_wrong_bytes(void **state)
{
    (void)state;
    static const char *const files[] = {"media/tones.mp3",  "media/tones.ogg", "media/tones.m4a",
                                        "media/count.mkv",  "media/count.mp4", "media/count.gif",
                                        "media/lossy.webp", "media/count.avi"};
    um_rng rng = um_rng_seed(7, 0);
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        media_blob b = media_load(&arena, files[f]);
        for (int round = 0; round < 24; round++) {
            um_err err = {0};
            um_wave w;
            um_image p, *frames;
            int n;
            um_mark mark = um_arena_mark(&arena);
            uint8_t *bad = um_arena_alloc(&arena, b.n);
            memcpy(bad, b.data, b.n);
            for (int k = 0; k <= round % 3; k++)
                bad[um_rng_below(&rng, b.n)] = (uint8_t)um_rng_u64(&rng);
            um_status st =
                round % 3 == 0 ? um_decode_wave(decoder, &w, "it", bad, b.n, &arena, &err)
                : round % 3 == 1
                    ? um_decode_video(decoder, &frames, &n, 8, "it", bad, b.n, &arena, &err)
                    : um_decode_image(decoder, &p, "it", bad, b.n, &arena, &err);
            if (st != UM_OK && (st != UM_E_DATA || strstr(err.msg, "the decoder") != NULL))
                fail_msg("%s, round %d: %s", files[f], round, err.msg);
            um_arena_reset(&arena, mark);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_waves),  cmocka_unit_test(test_golden_lengths),
        cmocka_unit_test(test_16k_as_it_is),  cmocka_unit_test(test_lossless_formats),
        cmocka_unit_test(test_lossy_formats), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_scaling),       cmocka_unit_test(test_channels_and_rates),
        cmocka_unit_test(test_open_lengths),  cmocka_unit_test(test_bad_sound),
        cmocka_unit_test(test_long_sound),    cmocka_unit_test(test_cut_off_sound),
        cmocka_unit_test(test_video_frames),  cmocka_unit_test(test_gif_video),
        cmocka_unit_test(test_short_video),   cmocka_unit_test(test_turned_video),
        cmocka_unit_test(test_bad_videos),    cmocka_unit_test(test_video_limits),
        cmocka_unit_test(test_images),        cmocka_unit_test(test_webp),
        cmocka_unit_test(test_image_limits),  cmocka_unit_test(test_animated_images),
        cmocka_unit_test(test_image_formats), cmocka_unit_test(test_not_media),
        cmocka_unit_test(test_wrong_bytes),
    };
    return cmocka_run_group_tests(tests, setup, decoder_teardown);
}
