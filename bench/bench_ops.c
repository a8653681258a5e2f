/* Speed of gemm and attention beside oneDNN and OpenBLAS, in one run and in turns.
 *   bench_ops [--isa auto|generic|avx2|avx512] [--threads 1,2] [--quick] [--shape N,K] [--rows 1,8] [--rounds 7] [--no-attention]
 *             [--train] [--json]
 * TSV (or JSON) to standard output; median, p10 and p90 are GFLOP/s of our kernel over the rounds, "ratio" is ours over the better
 * peer, "best_ratio" the same of each one's fastest tenth of rounds (for a machine that others use too), "over_f32" ours over our
 * own f32. --train: what a training step does besides; of the cross-entropy, values a nanosecond. */
#include "bench/bench_ops.h"

#include "core/base/clock.h"
#include "core/base/openmp.h"
#include "core/base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 16, PAUSE_US = 40000 };

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One thread: its processor time, which other processes do not lengthen. More threads: wall time. */
static int64_t now_ns(const bench *b)
{
    struct timespec t;
    if (b->dev.threads > 1) return um_now_ns();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One turn: pause so that other libraries' threads have stopped spinning, one run to warm up, then as many as fill the turn. */
static double turn(const bench *b, const contestant *c, void *ctx)
{
    if (b->dev.threads > 1) um_sleep_us(PAUSE_US);
    int64_t from = now_ns(b);
    c->run(ctx, c);
    const double once = (double)(now_ns(b) - from) * 1e-9;
    const int runs = once >= b->turn_s ? 1 : (int)(b->turn_s / once) + 1;
    from = now_ns(b);
    for (int i = 0; i < runs; i++) c->run(ctx, c);
    return (double)(now_ns(b) - from) * 1e-9 / runs;
}

void bench_turns(const bench *b, contestant *c, int n, void *ctx)
{
    for (int round = 0; round < b->rounds; round++)
        for (int i = 0; i < n; i++) {
            contestant *now = &c[(i + round) % n];
            now->seconds[round] = turn(b, now, ctx);
        }
    for (int i = 0; i < n; i++)
        qsort(c[i].seconds, (size_t)b->rounds, sizeof *c[i].seconds, by_value);
}

double bench_quantile(const contestant *c, int rounds, double part)
{
    return c->seconds[(int)((rounds - 1) * part + 0.5)];
}

float *bench_values(bench *b, size_t n, uint64_t stream)
{
    float *x = um_arena_f32(&b->arena, 1, n);
    um_rng rng = um_rng_seed(1, stream);
    for (size_t i = 0; i < n; i++) x[i] = (float)(um_rng_uniform(&rng) - 0.5);
    return x;
}

typedef struct options {
    um_isa isa;
    int threads[MAX_LIST], n_threads, rows[MAX_LIST], n_rows, shape[2], rounds[MAX_LIST];
    bool quick, json, attention, train;
} options;

static int read_list(const char *text, int *out)
{
    int n = 0;
    for (char *end; n < MAX_LIST && *text != '\0'; text = *end == ',' ? end + 1 : end) {
        out[n] = (int)strtol(text, &end, 10);
        if (end == text || out[n++] < 1 || (*end != ',' && *end != '\0')) return 0;
    }
    return n;
}

static const char usage[] =
    "usage: bench_ops [--isa auto|generic|avx2|avx512] [--threads 1,2] [--quick] [--shape N,K]\n"
    "                 [--rows 1,8,64] [--rounds 7] [--no-attention] [--train] [--json]\n";

static bool read_options(options *o, int argc, char **argv)
{
    *o = (options){.isa = UM_ISA_AUTO, .threads = {1, 2}, .n_threads = 2, .attention = true};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        bool ok = true;
        if (strcmp(a, "--quick") == 0) {
            o->quick = true;
            continue;
        }
        if (strcmp(a, "--json") == 0) {
            o->json = true;
            continue;
        }
        if (strcmp(a, "--train") == 0) {
            o->train = true;
            continue;
        }
        if (strcmp(a, "--no-attention") == 0) {
            o->attention = false;
            continue;
        }
        if (strcmp(a, "--isa") == 0)
            ok = um_isa_from_name(value) >= 0, o->isa = (um_isa)um_isa_from_name(value);
        else if (strcmp(a, "--threads") == 0)
            ok = (o->n_threads = read_list(value, o->threads)) > 0;
        else if (strcmp(a, "--rows") == 0)
            ok = (o->n_rows = read_list(value, o->rows)) > 0;
        else if (strcmp(a, "--shape") == 0)
            ok = read_list(value, o->shape) == 2;
        else if (strcmp(a, "--rounds") == 0)
            ok = read_list(value, o->rounds) == 1 && o->rounds[0] <= MAX_ROUNDS;
        else
            ok = false;
        if (!ok) {
            fputs(usage, stderr);
            return false;
        }
        i++;
    }
    return true;
}

static void cpu_name(char *out, size_t size)
{
    snprintf(out, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f != NULL) fclose(f);
}

static void print_head(const options *o, const char *isa)
{
    char cpu[128];
    cpu_name(cpu, sizeof cpu);
    if (o->json)
        printf("{\"bench\": \"ops\", \"cpu\": \"%s\", \"isa\": \"%s\", \"rows\": [", cpu, isa);
    else
        printf(
            "# cpu %s, isa "
            "%s\ncase\tunit\tmedian\tp10\tp90\tGB/s\tdnnl\topenblas\tratio\tbest_ratio\tover_f32\n",
            cpu, isa);
}

static void print_result(const options *o, const char *isa, const result *r, bool first)
{
    char name[128];
    snprintf(name, sizeof name, "%s %s %dx%dx%d t%d %s", r->op, r->dtype, r->M, r->N, r->K,
             r->threads, isa);
    if (o->json)
        printf("%s\n{\"case\": \"%s\", \"op\": \"%s\", \"dtype\": \"%s\", \"M\": %d, \"N\": %d, "
               "\"K\": %d, \"threads\": %d, "
               "\"metrics\": {\"%s\": {\"median\": %.3f, \"p10\": %.3f, \"p90\": %.3f}}, "
               "\"gb_per_s\": %.2f, "
               "\"dnnl\": %.3f, \"openblas\": %.3f, \"ratio\": %.3f, \"best_ratio\": %.3f, "
               "\"over_f32\": %.3f}",
               first ? "" : ",", name, r->op, r->dtype, r->M, r->N, r->K, r->threads,
               r->values ? "values_per_ns" : "gflops", r->median, r->p10, r->p90, r->gbs,
               r->peer[UM_PEER_DNNL], r->peer[UM_PEER_OPENBLAS], r->ratio, r->best, r->f32);
    else
        printf("%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.3f\t%.3f\t%.3f\n", name,
               r->values ? "values/ns" : "GFLOP/s", r->median, r->p10, r->p90, r->gbs,
               r->peer[UM_PEER_DNNL], r->peer[UM_PEER_OPENBLAS], r->ratio, r->best, r->f32);
    fflush(stdout);
}

static void run_train(bench *b, const options *o, bool *first)
{
    static const int shapes[][2] = {{256, 256}, {1024, 256}, {1024, 1024}, {4096, 1024}};
    static const int attention[][2] = {{8, 32}, {4, 64}, {16, 64}, {8, 128}};
    const char *isa = um_isa_name(b->dev.isa);
    const int rows = o->n_rows > 0 ? o->rows[0] : 512, n = o->quick ? 2 : 4;
    result r[3];
    for (int s = 0; s < n; s++) {
        bench_train_layer(b, rows, shapes[s][0], shapes[s][1], r);
        for (int i = 0; i < 3; i++, *first = false) print_result(o, isa, &r[i], *first);
    }
    for (int s = 0; s < n; s++, *first = false) {
        bench_train_attention(b, rows, attention[s][0], attention[s][1], r);
        print_result(o, isa, r, *first);
    }
    bench_train_loss(b, rows, o->quick ? 2000 : 32000, r);
    print_result(o, isa, r, *first);
}

static bool run_all(bench *b, const options *o, bool *first)
{
    static const int shapes[][2] = {
        {1024, 1024}, {2816, 1024}, {1024, 2816}, {4096, 4096}, {32000, 1024}};
    static const int all_rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}, few_rows[] = {1, 8, 64};
    static const attention_shape attention[] = {
        {"attention", 1, 64, 0, 16, 16, 64},       {"attention", 1, 256, 0, 16, 16, 64},
        {"attention", 1, 577, 0, 16, 16, 64},      {"attention", 1, 1024, 0, 8, 8, 128},
        {"attention gqa", 1, 256, 512, 16, 4, 64}, {"decode", 1, 1, 1023, 16, 16, 64},
        {"decode gqa", 1, 1, 4095, 32, 8, 128},    {"decode 16", 16, 1, 511, 16, 16, 64},
    };
    enum { ATTENTION = sizeof attention / sizeof *attention };
    const int *rows = o->n_rows > 0 ? o->rows : o->quick ? few_rows : all_rows;
    const int n_rows = o->n_rows > 0 ? o->n_rows : o->quick ? 3 : 10;
    const int n_shapes = o->shape[0] > 0 ? 1 : o->quick ? 3 : 5;
    const char *isa = um_isa_name(b->dev.isa);
    for (int s = 0; s < n_shapes; s++)
        for (int m = 0; m < n_rows; m++) {
            const int *shape = o->shape[0] > 0 ? o->shape : shapes[s];
            result r[2];
            if (!bench_gemm(b, rows[m], shape[0], shape[1], r)) return false;
            for (int i = 0; i < 2; i++, *first = false) print_result(o, isa, &r[i], *first);
        }
    for (int s = 0; s < (o->quick ? 2 : ATTENTION) && o->attention; s++) {
        result r;
        if (!bench_attention(b, &attention[s], &r)) return false;
        print_result(o, isa, &r, *first);
        *first = false;
    }
    return true;
}

int main(int argc, char **argv)
{
    um_openmp_init(argv); /* as the ranks do; oneDNN's threads are OpenMP's too */
    options o;
    um_err err = {0};
    bench b = {0};
    if (!read_options(&o, argc, argv)) return 2;
    if (um_dev_open_cpu(&b.dev, o.isa, 1, &err) != UM_OK) {
        fprintf(stderr, "bench_ops: %s\n", err.msg);
        return 2;
    }
    b.rounds = o.rounds[0] > 0 ? o.rounds[0] : o.quick ? 3 : 7;
    b.turn_s = o.quick ? 0.003 : 0.03;
    b.peers = um_peers_open(b.dev.isa);
    um_arena_init(&b.arena, "bench", 64 << 20);
    print_head(&o, um_isa_name(b.dev.isa));
    bool ok = true, first = true;
    for (int t = 0; t < o.n_threads && ok; t++) {
        b.dev.threads = o.threads[t];
        um_peers_threads(b.peers, o.threads[t]);
        if (o.train)
            run_train(&b, &o, &first);
        else
            ok = run_all(&b, &o, &first);
    }
    if (o.json) puts("\n]}");
    um_arena_free(&b.arena);
    um_peers_close(b.peers);
    return ok ? 0 : 1;
}
