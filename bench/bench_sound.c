/* Seconds that a window of sound takes in an encoder rank: fbank (the filter bank alone), beats (with its filter bank), qformer
 * (with the projector). The tower has the shape of BEATs iter3+ with a Q-Former of twelve layers before a 7 B language model unless
 * flags say otherwise, and random weights, each layer its own, so that memory is read as in real use. bench_sound.py compares it
 * with PyTorch. */
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "encoder_worker/beats.h"
#include "encoder_worker/qformer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 101, DIM_OUT = 4096 };

static const char usage[] =
    "usage: bench_sound [--rounds N] [--threads N] [--isa auto|generic|avx2|avx512] [--weights "
    "f32|bf16]\n"
    "                   [--layers N] [--seconds N] [--json]\n"
    "  --rounds N            windows timed, 1..101, default 5, after one that is not\n"
    "  --threads N           default 1\n"
    "  --weights f32|bf16    default f32\n"
    "  --layers N            layers of BEATs and of the Q-Former, 1..64, default 12\n"
    "  --seconds N           of sound in the window before its padding, 1..30, default 30\n"
    "  --json                a JSON array instead of tab-separated values\n";

typedef struct options {
    int rounds, threads, layers, seconds;
    um_isa isa;
    um_dtype weights;
    bool json;
} options;

typedef struct bench {
    um_dev dev;
    um_arena model, scratch;
    um_sound_model m;
    um_beats beats;
    um_qformer qformer;
    um_linear projector;
    um_dtype weights;
    um_rng rng;
} bench;

static float *random_floats(um_arena *a, um_rng *r, size_t n, float std)
{
    float *x = um_arena_f32(a, 1, n);
    um_rng_normal_f32(r, x, n, std);
    return x;
}

static um_matrix matrix(bench *b, um_dtype dtype, const float *values, int N, int K)
{
    um_matrix w = {.dtype = dtype, .N = N, .K = K};
    w.data = um_arena_alloc(&b->model, um_matrix_bytes(dtype, N, K));
    b->dev.ops->pack(&b->dev, &w, values, UM_F32, K, false);
    return w;
}

/* The same random numbers serve every layer, each has them in memory of its own. */
static um_linear linear(bench *b, const float *values, int N, int K)
{
    um_linear l = {.w = matrix(b, b->weights, values, N, K)};
    l.bias = random_floats(&b->model, &b->rng, (size_t)N, 0.02f);
    return l;
}

static void set_sizes(um_sound_model *m, int layers)
{
    *m = (um_sound_model){.present = true,
                          .dim = 768,
                          .layers = layers,
                          .heads = 12,
                          .ffn_dim = 3072,
                          .patch = 16,
                          .patch_dim = 512,
                          .conv_pos = 128,
                          .conv_groups = 16,
                          .buckets = 320,
                          .max_distance = 800,
                          .gated = true,
                          .q_dim = 768,
                          .q_layers = layers,
                          .q_heads = 12,
                          .q_ffn_dim = 3072,
                          .q_cross = 2,
                          .queries = 50,
                          .q_eps = 1e-12f,
                          .proj = UM_PROJ_LINEAR,
                          .proj_layers = 1};
}

static void make_beats(bench *b, const float *w, um_norm norm)
{
    const um_sound_model *m = &b->m;
    const int D = m->dim, F = m->ffn_dim, C = D / m->conv_groups, frames = 2998;
    um_beats *t = &b->beats;
    *t = (um_beats){.model = m, .frames = frames, .patch_norm = norm, .norm = norm};
    t->rows = frames / m->patch * (UM_FBANK_BINS / m->patch);
    t->reach = 778; /* of these buckets and this distance */
    um_fbank_init(&t->fbank, &b->model);
    t->patch = linear(b, w, m->patch_dim, m->patch * m->patch);
    t->project = linear(b, w, D, m->patch_dim);
    um_matrix *conv = um_arena_zero(&b->model, (size_t)m->conv_groups * sizeof *conv);
    for (int q = 0; q < m->conv_groups; q++) conv[q] = matrix(b, UM_F32, w, C, C * m->conv_pos);
    t->conv = conv;
    t->conv_bias = random_floats(&b->model, &b->rng, (size_t)D, 0.02f);
    t->table =
        random_floats(&b->model, &b->rng, (size_t)m->heads * (2 * (size_t)t->rows - 1), 1.0f);
    t->layers = um_arena_zero(&b->model, (size_t)m->layers * sizeof *t->layers);
    for (int i = 0; i < m->layers; i++) {
        um_beats_layer *l = &t->layers[i];
        l->attn_norm = l->end_norm = norm;
        l->q = linear(b, w, D, D);
        l->kv = linear(b, w, 2 * D, D);
        l->out = linear(b, w, D, D);
        l->fc1 = linear(b, w, F, D);
        l->fc2 = linear(b, w, D, F);
        l->grep = linear(b, w, 8, D / m->heads);
        l->grep_a = random_floats(&b->model, &b->rng, (size_t)m->heads, 1.0f);
    }
}

static um_qformer_attention attention(bench *b, const float *w, um_norm norm, int from)
{
    const int Q = b->m.q_dim;
    return (um_qformer_attention){.q = linear(b, w, Q, Q),
                                  .kv = linear(b, w, 2 * Q, from),
                                  .out = linear(b, w, Q, Q),
                                  .norm = norm};
}

static void make_qformer(bench *b, const float *w, um_norm norm)
{
    const um_sound_model *m = &b->m;
    um_qformer *f = &b->qformer;
    f->model = m;
    f->queries = random_floats(&b->model, &b->rng, (size_t)m->queries * (size_t)m->q_dim, 1.0f);
    f->layers = um_arena_zero(&b->model, (size_t)m->q_layers * sizeof *f->layers);
    for (int i = 0; i < m->q_layers; i++) {
        um_qformer_layer *l = &f->layers[i];
        l->self = attention(b, w, norm, m->q_dim);
        if (i % m->q_cross == 0) l->cross = attention(b, w, norm, m->dim);
        l->fc1 = linear(b, w, m->q_ffn_dim, m->q_dim);
        l->fc2 = linear(b, w, m->q_dim, m->q_ffn_dim);
        l->norm = norm;
    }
    b->projector = linear(b, w, DIM_OUT, m->q_dim);
}

static void make_tower(bench *b, const options *o)
{
    set_sizes(&b->m, o->layers);
    um_mark mark = um_arena_mark(&b->scratch);
    const float *w = random_floats(&b->scratch, &b->rng, (size_t)DIM_OUT * 1024, 0.02f);
    const float *ones = random_floats(&b->model, &b->rng, (size_t)b->m.ffn_dim, 1.0f);
    make_beats(b, w, (um_norm){ones, ones});
    make_qformer(b, w, (um_norm){ones, ones});
    um_arena_reset(&b->scratch, mark);
}

enum { FBANK, BEATS, QFORMER, STAGES };
static const char *const stage_name[STAGES] = {"fbank", "beats", "qformer"};

/* Multiplications and additions of one window, all of its keys real. */
static double flops(const bench *b, int stage)
{
    const um_sound_model *m = &b->m;
    double T = b->beats.rows, D = m->dim, F = m->ffn_dim, E = m->patch_dim, n = m->queries,
           Q = m->q_dim, cross = (m->q_layers + m->q_cross - 1) / m->q_cross;
    if (stage == BEATS)
        return 2 * T * (E * m->patch * m->patch + E * D + D * D / m->conv_groups * m->conv_pos) +
               m->layers * (2 * T * (4 * D * D + 2 * D * F) + 4 * T * T * D);
    if (stage == QFORMER)
        return m->q_layers * (2 * n * (4 * Q * Q + 2 * Q * m->q_ffn_dim) + 4 * n * n * Q) +
               cross * (4 * n * Q * Q + 4 * T * D * Q + 4 * n * T * Q) + 2 * n * Q * DIM_OUT;
    return 0;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_line(const options *o, const bench *b, int stage, double *seconds)
{
    int n = o->rounds;
    qsort(seconds, (size_t)n, sizeof *seconds, by_size);
    double median = seconds[n / 2], p10 = seconds[n / 10], p90 = seconds[n * 9 / 10];
    const char *form = o->json ? "{\"stage\": \"%s\", \"isa\": \"%s\", \"weights\": \"%s\", "
                                 "\"threads\": %d, \"seconds\": %d, \"layers\": %d, \"median_s\": "
                                 "%.5f, \"p10_s\": %.5f, \"p90_s\": %.5f, \"gflops\": %.2f}%s\n"
                               : "%s\t%s\t%s\t%d\t%d\t%d\t%.5f\t%.5f\t%.5f\t%.2f%s\n";
    printf(form, stage_name[stage], um_isa_name(b->dev.isa), um_dtype_lower(o->weights), o->threads,
           o->seconds, o->layers, median, p10, p90, flops(b, stage) / median * 1e-9,
           o->json && stage + 1 < STAGES ? "," : "");
}

static void measure(bench *b, const options *o)
{
    double seconds[STAGES][ROUNDS];
    const um_beats *t = &b->beats;
    const int64_t n = (int64_t)o->seconds * UM_WAVE_RATE;
    const float *wave = random_floats(&b->model, &b->rng, (size_t)n, 0.1f);
    float *bank = um_arena_f32(&b->model, (size_t)t->frames, UM_FBANK_BINS);
    float *x = um_arena_f32(&b->model, (size_t)t->rows, (size_t)b->m.dim);
    float *y = um_arena_f32(&b->model, (size_t)b->m.queries, (size_t)b->m.q_dim);
    float *rows = um_arena_f32(&b->model, (size_t)b->m.queries, DIM_OUT);
    for (int i = -1; i < o->rounds; i++) {
        int64_t at[STAGES + 1] = {um_now_ns()};
        um_fbank_run(bank, &t->fbank, t->frames, wave, n, &b->scratch);
        at[1] = um_now_ns();
        um_beats_encode(x, t, wave, n, &b->dev, &b->scratch, NULL, NULL);
        at[2] = um_now_ns();
        um_qformer_encode(y, &b->qformer, x, t->rows, &b->dev, &b->scratch, NULL, NULL);
        um_linear_fwd(&b->dev, rows, y, b->m.queries, &b->projector);
        at[3] = um_now_ns();
        for (int s = 0; s < STAGES && i >= 0; s++)
            seconds[s][i] = (double)(at[s + 1] - at[s]) * 1e-9;
    }
    puts(o->json ? "["
                 : "stage\tisa\tweights\tthreads\tseconds\tlayers\tmedian_s\tp10_s\tp90_s\tgflops");
    for (int s = 0; s < STAGES; s++) print_line(o, b, s, seconds[s]);
    if (o->json) puts("]");
}

static bool number(int *out, const char *text, int min, int max)
{
    char *end = NULL;
    long v = strtol(text, &end, 10);
    if (end == text || *end != '\0' || v < min || v > max) return false;
    *out = (int)v;
    return true;
}

static bool take_options(options *o, int argc, char **argv)
{
    *o = (options){.rounds = 5, .threads = 1, .layers = 12, .seconds = 30};
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
        if (strcmp(name, "--layers") == 0 && number(&o->layers, value, 1, 64)) continue;
        if (strcmp(name, "--seconds") == 0 && number(&o->seconds, value, 1, 30)) continue;
        if (strcmp(name, "--isa") == 0 && (isa = um_isa_from_name(value)) >= 0) {
            o->isa = (um_isa)isa;
            continue;
        }
        bool bf16 = strcmp(value, "bf16") == 0;
        if (strcmp(name, "--weights") != 0 || (!bf16 && strcmp(value, "f32") != 0)) return false;
        o->weights = bf16 ? UM_BF16 : UM_F32;
    }
    return true;
}

int main(int argc, char **argv)
{
    options o;
    bench b = {.rng = um_rng_seed(20240521, 0)};
    um_err err = {0};
    if (!take_options(&o, argc, argv)) {
        fputs(usage, stderr);
        return um_exit_code(UM_E_USAGE);
    }
    b.weights = o.weights;
    um_arena_init(&b.model, "tower", 64 << 20);
    um_arena_init(&b.scratch, "scratch", 1 << 20);
    um_status st = um_dev_open_cpu(&b.dev, o.isa, o.threads, &err);
    if (st == UM_OK) {
        make_tower(&b, &o);
        measure(&b, &o);
    } else {
        fprintf(stderr, "bench_sound: %s\n", err.msg);
    }
    um_arena_free(&b.scratch);
    um_arena_free(&b.model);
    return um_exit_code(st);
}
