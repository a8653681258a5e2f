/* Seconds an image takes in an encoder rank: pixels (resize, crop, normalise a 12 megapixel image) and encode (tower and
 * projector). The tower has the shape of CLIP ViT-L/14-336 before a 7 B language model unless flags say otherwise, and random
 * weights, each layer its own, so that memory is read as in real use. */
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "encoder_worker/frontend/preprocess.h"
#include "encoder_worker/towers/vision.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 101, BIG_W = 4000, BIG_H = 3000 };

static const char usage[] =
    "usage: bench_vision [--rounds N] [--threads N] [--isa auto|generic|avx2|avx512] [--weights "
    "f32|bf16]\n"
    "                    [--layers N] [--image-size PIXELS] [--json]\n"
    "  --rounds N            images timed, 1..101, default 5, after one that is not\n"
    "  --threads N           default 1\n"
    "  --weights f32|bf16    default f32\n"
    "  --layers N            layers that run, 1..64, default 23\n"
    "  --image-size PIXELS   14..1400, default 336\n"
    "  --json                a JSON array instead of tab-separated values\n";

typedef struct options {
    int rounds, threads, layers, image_size;
    um_isa isa;
    um_dtype weights;
    bool json;
} options;

typedef struct bench {
    um_dev dev;
    um_arena model, scratch, device;
    um_vision_model m;
    um_vision v;
    um_dtype weights;
    um_rng rng;
} bench;

static float *random_floats(um_arena *a, um_rng *r, size_t n, float std)
{
    float *x = um_arena_f32(a, 1, n);
    um_rng_normal_f32(r, x, n, std);
    return x;
}

/* Every layer has the same random numbers, each in its own memory. */
static um_linear linear(bench *b, const float *values, int N, int K)
{
    um_linear l = {.w = {.dtype = b->weights, .N = N, .K = K}};
    l.w.data = um_arena_alloc(&b->model, um_matrix_bytes(b->weights, N, K));
    b->dev.ops->pack(&b->dev, &l.w, values, UM_F32, K, false);
    l.bias = random_floats(&b->model, &b->rng, (size_t)N, 0.02f);
    return l;
}

static void make_tower(bench *b, const options *o)
{
    b->m = (um_vision_model){.present = true,
                             .dim = 1024,
                             .layers = o->layers + 1,
                             .heads = 16,
                             .ffn_dim = 4096,
                             .image_size = o->image_size,
                             .patch = 14,
                             .channels = 3,
                             .run_layers = o->layers,
                             .quick_gelu = true,
                             .eps = 1e-5f,
                             .resize = true,
                             .crop = true,
                             .resize_short = o->image_size,
                             .crop_w = o->image_size,
                             .crop_h = o->image_size,
                             .mean = {0.48f, 0.46f, 0.41f},
                             .std = {0.27f, 0.26f, 0.28f},
                             .rescale = 1.0f / 255,
                             .proj = UM_PROJ_MLP,
                             .proj_layers = 2};
    const um_vision_model *m = &b->m;
    int D = m->dim, F = m->ffn_dim, out = 4096;
    um_vision *v = &b->v;
    *v = (um_vision){.model = m, .dim_out = out};
    um_mark mark = um_arena_mark(&b->scratch);
    const float *w = random_floats(&b->scratch, &b->rng, (size_t)out * (size_t)out, 0.02f);
    v->patch = linear(b, w, D, m->channels * m->patch * m->patch);
    v->class_row = random_floats(&b->model, &b->rng, (size_t)D, 0.02f);
    v->positions =
        random_floats(&b->model, &b->rng, (size_t)(um_vision_rows(m) + 1) * (size_t)D, 0.02f);
    const float *norm = random_floats(&b->model, &b->rng, (size_t)D, 1.0f);
    v->pre = (um_norm){.w = norm, .b = norm};
    v->blocks = um_arena_zero(&b->model, (size_t)m->run_layers * sizeof *v->blocks);
    for (int i = 0; i < m->run_layers; i++) {
        um_vision_block *k = &v->blocks[i];
        k->norm1 = k->norm2 = v->pre;
        k->attention = (um_attention){.shape = um_vision_attention(m),
                                      .q = linear(b, w, D, D),
                                      .k = linear(b, w, D, D),
                                      .v = linear(b, w, D, D),
                                      .out = linear(b, w, D, D)};
        k->mlp = (um_mlp){linear(b, w, F, D), linear(b, w, D, F), UM_MLP_QUICK_GELU};
    }
    v->projector = um_arena_zero(&b->model, 2 * sizeof *v->projector);
    v->projector[0] = linear(b, w, out, D);
    v->projector[1] = linear(b, w, out, out);
    um_arena_reset(&b->scratch, mark);
}

/* Multiplications and additions of one image. */
static double flops(const um_vision_model *m, int out)
{
    double n = um_vision_rows(m), T = n + 1, D = m->dim, F = m->ffn_dim;
    double layer = 2 * T * (4 * D * D + 2 * D * F) + 4 * T * T * D;
    return 2 * n * D * m->channels * m->patch * m->patch + m->run_layers * layer +
           2 * n * (D * out + (double)out * out);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_line(const options *o, const bench *b, const char *stage, double *seconds,
                       double work, bool last)
{
    int n = o->rounds;
    qsort(seconds, (size_t)n, sizeof *seconds, by_size);
    double median = seconds[n / 2], p10 = seconds[n / 10], p90 = seconds[n * 9 / 10];
    const char *form = o->json ? "{\"stage\": \"%s\", \"isa\": \"%s\", \"weights\": \"%s\", "
                                 "\"threads\": %d, \"image_size\": %d, "
                                 "\"layers\": %d, \"median_s\": %.5f, \"p10_s\": %.5f, \"p90_s\": "
                                 "%.5f, \"gflops\": %.2f}%s\n"
                               : "%s\t%s\t%s\t%d\t%d\t%d\t%.5f\t%.5f\t%.5f\t%.2f%s\n";
    printf(form, stage, um_isa_name(b->dev.isa), um_dtype_lower(o->weights), o->threads,
           o->image_size, o->layers, median, p10, p90, work / median * 1e-9,
           o->json && !last ? "," : "");
}

static um_status measure(bench *b, const options *o, um_err *err)
{
    double pixels_s[ROUNDS], encode_s[ROUNDS];
    um_image p = {
        .w = BIG_W, .h = BIG_H, .rgb = um_arena_alloc(&b->model, (size_t)BIG_W * BIG_H * 3)};
    for (size_t i = 0; i < (size_t)BIG_W * BIG_H * 3; i++) p.rgb[i] = (uint8_t)um_rng_u64(&b->rng);
    float *pixels = um_arena_f32(&b->model, 3, (size_t)o->image_size * (size_t)o->image_size);
    float *rows = um_arena_f32(&b->device, (size_t)um_vision_rows(&b->m), (size_t)b->v.dim_out);
    um_vision_acts a = {0};
    um_vision_acts_bind(&a, &b->model, &b->device, &b->m, b->v.dim_out, UM_AT_INPUT, false);
    for (int i = -1; i < o->rounds; i++) {
        int64_t t0 = um_now_ns();
        UM_TRY(um_image_pixels(pixels, &p, &b->m, &b->scratch, err));
        int64_t t1 = um_now_ns();
        UM_TRY(um_vision_encode(rows, &b->v, &a, pixels, &b->dev, err));
        if (i < 0) continue;
        encode_s[i] = (double)(um_now_ns() - t1) * 1e-9;
        pixels_s[i] = (double)(t1 - t0) * 1e-9;
    }
    puts(o->json
             ? "["
             : "stage\tisa\tweights\tthreads\timage_size\tlayers\tmedian_s\tp10_s\tp90_s\tgflops");
    print_line(o, b, "pixels", pixels_s, 0, false);
    print_line(o, b, "encode", encode_s, flops(&b->m, b->v.dim_out), true);
    if (o->json) puts("]");
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

static bool take_options(options *o, int argc, char **argv)
{
    *o = (options){.rounds = 5, .threads = 1, .layers = 23, .image_size = 336};
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
        if (strcmp(name, "--image-size") == 0 && number(&o->image_size, value, 14, 1400)) continue;
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
        um_dev_arena(&b.device, &b.dev, "activations", 1 << 20);
        make_tower(&b, &o);
        st = measure(&b, &o, &err);
    }
    if (st != UM_OK) fprintf(stderr, "bench_vision: %s\n", err.msg);
    um_arena_free(&b.device);
    um_arena_free(&b.scratch);
    um_arena_free(&b.model);
    return um_exit_code(st);
}
