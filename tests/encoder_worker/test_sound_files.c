/* Sound of every kind of file: each of tests/media/sound must decode to what its judge made of it (make_sound.py, expected.tsv). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "encoder_worker/sandbox/sound_chunk.h"
#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/media_files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBES = 8, FILES_LEAST = 60 };

typedef struct row {
    char file[64], judge[32];
    double tolerance, rms, probes[PROBES];
    long n;
} row;

static const um_media_limits limits = {
    .pixels = 1 << 20, .seconds = 60, .frames = 16, .wait_ms = 60000};

static int setup(void **state) { return decoder_setup(state, &limits); }

static media_blob load(const char *file)
{
    char name[128];
    snprintf(name, sizeof name, "media/sound/%s", file);
    return media_load(&arena, name);
}

/* One line of the table: fields between tabs. */
static bool row_of(row *r, char *line)
{
    char *field[5 + PROBES], *rest = line;
    for (int i = 0; i < 5 + PROBES; i++)
        if ((field[i] = strsep(&rest, "\t\n")) == NULL) return false;
    *r = (row){.tolerance = strtod(field[2], NULL),
               .n = strtol(field[3], NULL, 10),
               .rms = strtod(field[4], NULL)};
    snprintf(r->file, sizeof r->file, "%s", field[0]);
    snprintf(r->judge, sizeof r->judge, "%s", field[1]);
    for (int i = 0; i < PROBES; i++) r->probes[i] = strtod(field[5 + i], NULL);
    return r->n > 0 && r->tolerance > 0;
}

/* Prints what differs; returns false if anything does. */
static bool agrees(const row *r)
{
    um_err err = {0};
    um_wave w = {0};
    media_blob b = load(r->file);
    if (um_decode_wave(decoder, &w, r->file, b.data, b.n, &arena, &err) != UM_OK) {
        print_error("%s\n", err.msg);
        return false;
    }
    double sum = 0, off = 0;
    for (int64_t i = 0; i < w.n; i++) sum += (double)w.samples[i] * (double)w.samples[i];
    for (int k = 0; k < PROBES && w.n == r->n; k++)
        off = fmax(off, fabs((double)w.samples[k * w.n / PROBES] - r->probes[k]));
    double rms_off = fabs(sqrt(sum / (double)w.n) - r->rms);
    if (w.n == r->n && off <= r->tolerance && rms_off <= r->tolerance) return true;
    print_error("%s (judge %s): %ld samples, want %ld; a sample off by %g, the mean square by %g\n",
                r->file, r->judge, (long)w.n, r->n, off, rms_off);
    return false;
}

static void test_table(void **state)
{
    char path[600], line[512];
    int rows = 0, bad = 0;
    (void)state;
    snprintf(path, sizeof path, "%s/media/sound/expected.tsv", UM_TEST_DATA);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        row r;
        assert_true(row_of(&r, line));
        bad += !agrees(&r);
        rows++;
    }
    fclose(f);
    assert_true(rows >= FILES_LEAST);
    assert_int_equal(bad, 0);
}

static void refused(const char *file, const char *word)
{
    um_err err = {0};
    um_wave w = {.n = -7};
    media_blob b = load(file);
    assert_int_equal(um_decode_wave(decoder, &w, file, b.data, b.n, &arena, &err), UM_E_DATA);
    assert_int_equal(w.n, -7);
    has(&err, word);
}

static void test_refused(void **state)
{
    (void)state;
    refused("bad-shorten.sph", "bad-shorten.sph: NIST SPHERE file whose samples are compressed");
    refused("bad-codec.rifx", "corrupt or cut off RIFX (big-endian WAV)");
    refused("bad-cut.aiff", "cut off: 0.123 s of 0.200 s are there");
    refused("bad-cut.au", "cut off: 0.093 s of 0.200 s are there");
    refused("bad-cut.w64", "cut off: 0.121 s of 0.200 s are there");
    refused("bad-cut.caf", "cut off: 0.118 s of 0.199 s are there");
}

/* Truncated anywhere: the result is an answer or a message, and the decoder stays alive. */
static void test_cut_anywhere(void **state)
{
    static const char *const files[] = {"rifx24.wav",    "alac.caf",  "g721.wav",   "wide.rf64",
                                        "ulaw.sph",      "brief.ogg", "old.voc",    "chain.opus",
                                        "id3-both.flac", "flac.oga",  "12kbit.opus"};
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        media_blob b = load(files[f]);
        for (int part = 0; part < 40; part++) {
            um_err err = {0};
            um_wave w;
            um_mark mark = um_arena_mark(&arena);
            um_status st =
                um_decode_wave(decoder, &w, "it", b.data, b.n * (size_t)part / 40, &arena, &err);
            if (st != UM_OK && (st != UM_E_DATA || strstr(err.msg, "the decoder") != NULL))
                fail_msg("%s, %d/40: %s", files[f], part, err.msg);
            um_arena_reset(&arena, mark);
        }
    }
}

/* The position of the samples, and headers that do not declare it. */
static void test_chunks(void **state)
{
    um_sound_chunk c = {0};
    (void)state;
    media_blob b = load("odd-chunks.wav");
    assert_true(um_sound_chunk_find(&c, b.data, b.n));
    assert_true(!c.open && c.size == 3200 && c.at == 12 + 8 + 28 + 8 + 16 + 8 + 6 + 8);
    b = load("pipe-0.wav");
    assert_true(um_sound_chunk_find(&c, b.data, b.n) && c.open);
    b = load("pipe-max.wav");
    assert_true(um_sound_chunk_find(&c, b.data, b.n) && c.open);
    b = load("wide.w64");
    assert_true(um_sound_chunk_find(&c, b.data, b.n) && c.size == 6400 && c.at + c.size <= b.n);
    b = load("double.au");
    assert_true(um_sound_chunk_find(&c, b.data, b.n) && c.size == 12800 && c.at + c.size == b.n);
    for (size_t n = 0; n < b.n; n += 7) um_sound_chunk_find(&c, b.data, n);
    assert_false(um_sound_chunk_find(&c, (const uint8_t *)"RIFF\4\0\0\0WAVE", 12));
    assert_false(um_sound_chunk_find(&c, (const uint8_t *)"OggS", 4));
    b = load("chain.opus");
    assert_int_equal(um_ogg_stream_bytes(b.data, b.n), b.n / 2);
    assert_int_equal(um_ogg_stream_bytes(b.data, b.n / 2), b.n / 2);
    assert_false(um_ogg_opus_late(b.data, b.n));
    b = load("late.opus");
    assert_true(um_ogg_opus_late(b.data, b.n));
    for (size_t n = 0; n < b.n; n++) um_ogg_opus_late(b.data, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_chunks),
    };
    return cmocka_run_group_tests(tests, setup, decoder_teardown);
}
