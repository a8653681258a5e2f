/* Seconds that media take in an encoder rank, stage by stage, with the towers of a model directory: one image, one window of speech,
 * one of sound. `unimoe init --preset encoders-full` makes a model whose towers have the released sizes. */
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "encoder_worker/frontend/fbank.h"
#include "encoder_worker/frontend/mel.h"
#include "encoder_worker/towers/sound.h"
#include "encoder_worker/towers/speech.h"
#include "encoder_worker/towers/vision.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 101, STAGES = 9 };

static const char usage[] =
    "usage: bench_encoders --model DIR [--rounds N] [--threads N] [--isa "
    "auto|generic|avx2|avx512]\n"
    "                      [--weights auto|f32|bf16] [--only image|speech|sound] [--seconds N] "
    "[--json]\n"
    "  --rounds N       1..101, default 5, after one that is not timed\n"
    "  --threads N      default 1\n"
    "  --seconds N      of audio, 1..30, default 30\n"
    "  --json           a JSON array instead of tab-separated values\n";

typedef struct options {
    const char *model, *weights, *only;
    int rounds, threads, seconds;
    um_isa isa;
    bool json;
} options;

/* Times of one stage, one per round. */
typedef struct stage {
    const char *name;
    double s[ROUNDS];
} stage;

typedef struct bench {
    const options *o;
    um_dev dev;
    um_arena model, scratch, device;
    um_checkpoint ck;
    um_params params;
    stage stage[STAGES];
    int stages;
} bench;

static void keep(bench *b, const char *name, int round, int64_t ns)
{
    int i = 0;
    while (i < b->stages && strcmp(b->stage[i].name, name) != 0) i++;
    if (i == b->stages) b->stage[b->stages++].name = name;
    if (round >= 0) b->stage[i].s[round] = (double)ns * 1e-9;
}

static bool wanted(const bench *b, const char *kind)
{
    return b->o->only[0] == '\0' || strcmp(b->o->only, kind) == 0;
}

static float *noise(bench *b, size_t n, float std)
{
    um_rng rng = um_rng_seed(20240521, n);
    float *x = um_arena_f32(&b->model, 1, n);
    um_rng_normal_f32(&rng, x, n, std);
    return x;
}

static um_status run_image(bench *b, um_err *err)
{
    const um_vision_model *m = &b->ck.model.vision;
    um_vision v;
    UM_TRY(um_vision_load(&v, &b->params, err));
    float *pixels =
        noise(b, (size_t)m->channels * (size_t)m->image_size * (size_t)m->image_size, 1.0f);
    um_vision_acts a = {0};
    um_vision_acts_bind(&a, &b->model, &b->device, m, b->ck.model.dim, UM_AT_INPUT, false);
    float *rows = um_arena_f32(&b->device, (size_t)um_vision_rows(m), (size_t)b->ck.model.dim);
    for (int i = -1; i < b->o->rounds; i++) {
        int64_t t0 = um_now_ns();
        UM_TRY(um_vision_encode(rows, &v, &a, pixels, &b->dev, err));
        keep(b, "image", i, um_now_ns() - t0);
    }
    return UM_OK;
}

/* The encoder is timed by a call in which the aligner has no layers; the aligner is what the whole call takes beyond that. */
static um_status run_speech(bench *b, um_err *err)
{
    um_speech_model *m = &b->ck.model.speech;
    const int layers = m->dec_layers;
    um_speech *s;
    um_speech_acts *a =
        um_speech_acts_bind(&b->model, &b->device, m, b->ck.model.dim, UM_AT_INPUT, false);
    um_mel mel;
    UM_TRY(um_speech_load(&s, &b->params, err));
    um_mel_init(&mel, m->mel_bins, m->n_fft, m->hop, (int64_t)m->rate * m->window_seconds, m->rate,
                &b->model);
    int64_t n = um_min_int(b->o->seconds, m->window_seconds) * (int64_t)m->rate;
    float *wave = noise(b, (size_t)n, 0.1f);
    float *frames = um_arena_f32(&b->model, (size_t)mel.frames, (size_t)mel.bins);
    float *rows = um_arena_f32(&b->device, (size_t)m->queries, (size_t)b->ck.model.dim);
    for (int i = -1; i < b->o->rounds; i++) {
        int64_t t0 = um_now_ns();
        um_mel_frames(frames, &mel, wave, n, &b->scratch);
        int64_t t1 = um_now_ns();
        UM_TRY(um_speech_encode(rows, s, a, wave, n, false, &b->dev, &b->scratch, err));
        int64_t t2 = um_now_ns();
        m->dec_layers = 0;
        um_status st = um_speech_encode(rows, s, a, wave, n, false, &b->dev, &b->scratch, err);
        m->dec_layers = layers;
        UM_TRY(st);
        int64_t encoder = um_now_ns() - t2;
        keep(b, "speech mel", i, t1 - t0);
        keep(b, "speech encoder", i, encoder - (t1 - t0));
        keep(b, "speech aligner", i, t2 - t1 - encoder);
        keep(b, "speech", i, t2 - t1);
    }
    return UM_OK;
}

static um_status run_sound(bench *b, um_err *err)
{
    um_sound_model *m = &b->ck.model.sound;
    const int layers = m->q_layers;
    um_sound *s;
    um_sound_acts *a =
        um_sound_acts_bind(&b->model, &b->device, m, b->ck.model.dim, UM_AT_INPUT, false);
    um_fbank bank;
    UM_TRY(um_sound_load(&s, &b->params, err));
    um_fbank_init(&bank, &b->model);
    int64_t n = (int64_t)b->o->seconds * UM_WAVE_RATE;
    int count = um_fbank_frames(UM_WAVE_WINDOW);
    float *wave = noise(b, (size_t)n, 0.1f);
    float *frames = um_arena_f32(&b->model, (size_t)count, UM_FBANK_BINS);
    float *rows = um_arena_f32(&b->device, (size_t)m->queries, (size_t)b->ck.model.dim);
    for (int i = -1; i < b->o->rounds; i++) {
        int64_t t0 = um_now_ns();
        um_fbank_run(frames, &bank, count, wave, n, &b->scratch);
        int64_t t1 = um_now_ns();
        UM_TRY(um_sound_encode(rows, s, a, wave, n, &b->dev, &b->scratch, err));
        int64_t t2 = um_now_ns();
        m->q_layers = 0;
        um_status st = um_sound_encode(rows, s, a, wave, n, &b->dev, &b->scratch, err);
        m->q_layers = layers;
        UM_TRY(st);
        int64_t encoder = um_now_ns() - t2;
        keep(b, "sound fbank", i, t1 - t0);
        keep(b, "sound encoder", i, encoder - (t1 - t0));
        keep(b, "sound aligner", i, t2 - t1 - encoder);
        keep(b, "sound", i, t2 - t1);
    }
    return UM_OK;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_all(bench *b)
{
    const options *o = b->o;
    const char *form = o->json ? "{\"stage\": \"%s\", \"isa\": \"%s\", \"weights\": \"%s\", "
                                 "\"threads\": %d, \"median_s\": %.5f, \"p10_s\": %.5f, \"p90_s\": "
                                 "%.5f}%s\n"
                               : "%s\t%s\t%s\t%d\t%.5f\t%.5f\t%.5f%s\n";
    puts(o->json ? "[" : "stage\tisa\tweights\tthreads\tmedian_s\tp10_s\tp90_s");
    for (int i = 0; i < b->stages; i++) {
        double *s = b->stage[i].s;
        int n = o->rounds;
        qsort(s, (size_t)n, sizeof *s, by_size);
        printf(form, b->stage[i].name, um_isa_name(b->dev.isa), o->weights, o->threads, s[n / 2],
               s[n / 10], s[n * 9 / 10], o->json && i + 1 < b->stages ? "," : "");
    }
    if (o->json) puts("]");
}

static um_status measure(bench *b, um_err *err)
{
    const um_model *m = &b->ck.model;
    const um_selection sel = {.parts = UM_ALL_PARTS};
    const um_loading how = {.dev = &b->dev,
                            .host = &b->model,
                            .device = &b->model,
                            .keep = um_keep_from_name(b->o->weights)};
    UM_TRY(um_params_open(&b->params, &b->ck, &sel, &how, err));
    if (m->vision.present && wanted(b, "image")) UM_TRY(run_image(b, err));
    if (m->speech.present && wanted(b, "speech")) UM_TRY(run_speech(b, err));
    if (m->sound.present && wanted(b, "sound")) UM_TRY(run_sound(b, err));
    if (b->stages == 0) return UM_FAIL(err, UM_E_USAGE, "%s has no such tower", b->o->model);
    print_all(b);
    return UM_OK;
}

static bool number(int *out, const char *text, int min, int max)
{
    char *end = NULL;
    long v = strtol(text, &end, 10);
    if (end == text || *end != '\0' || v < min || v > max) return false;
    *out = (int)v;
    return true;
}

static bool one_of(const char **out, const char *text, const char *const *choice, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(text, choice[i]) == 0) {
            *out = choice[i];
            return true;
        }
    return false;
}

static bool take_options(options *o, int argc, char **argv)
{
    static const char *const kinds[] = {"image", "speech", "sound"}, *const types[] = {
                                                                         "auto", "f32", "bf16"};
    *o = (options){.weights = "auto", .only = "", .rounds = 5, .threads = 1, .seconds = 30};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        int isa = 0;
        if (strcmp(name, "--json") == 0) {
            o->json = true;
            continue;
        }
        i++;
        if (strcmp(name, "--rounds") == 0 && number(&o->rounds, value, 1, ROUNDS)) continue;
        if (strcmp(name, "--threads") == 0 && number(&o->threads, value, 1, 1024)) continue;
        if (strcmp(name, "--seconds") == 0 && number(&o->seconds, value, 1, 30)) continue;
        if (strcmp(name, "--only") == 0 && one_of(&o->only, value, kinds, 3)) continue;
        if (strcmp(name, "--weights") == 0 && one_of(&o->weights, value, types, 3)) continue;
        if (strcmp(name, "--isa") == 0 && (isa = um_isa_from_name(value)) >= 0) {
            o->isa = (um_isa)isa;
            continue;
        }
        if (strcmp(name, "--model") != 0 || value[0] == '\0') return false;
        o->model = value;
    }
    return o->model != NULL;
}

int main(int argc, char **argv)
{
    bench *b = um_zalloc(sizeof *b);
    options o;
    um_err err = {0};
    if (!take_options(&o, argc, argv)) {
        fputs(usage, stderr);
        um_free(b);
        return um_exit_code(UM_E_USAGE);
    }
    b->o = &o;
    um_arena_init(&b->model, "towers", 64 << 20);
    um_arena_init(&b->scratch, "scratch", 1 << 20);
    um_status st = um_dev_open_cpu(&b->dev, o.isa, o.threads, &err);
    if (st == UM_OK) um_dev_arena(&b->device, &b->dev, "activations", 1 << 20);
    if (st == UM_OK) st = um_checkpoint_open(&b->ck, o.model, NULL, &err);
    if (st == UM_OK) st = measure(b, &err);
    if (st != UM_OK) fprintf(stderr, "bench_encoders: %s\n", err.msg);
    um_checkpoint_close(&b->ck);
    um_arena_free(&b->device);
    um_arena_free(&b->scratch);
    um_arena_free(&b->model);
    um_free(b);
    return um_exit_code(st);
}
