/* Micro-batches in flight over a slow network: a whole cluster of threads, one router and four expert ranks, every message delayed. The
 * same requests with one micro-batch under way, with two, and with one that is twice as large.
 *
 *   bench_pingpong --model DIR [--delay-us 1000] [--rounds 3]
 *
 * Columns: workload, micro_batches, max_batch, prefill_chunk, tokens_s (median over rounds: prompt rows for prefill, new tokens for
 * decode, over the whole run), ratio to the first line of the workload. The rounds of all lines alternate. Answers are compared: a line
 * whose ids differ ends the program with 1. */
#include "core/base/arena.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/text.h"
#include "tests/cluster/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINES = 3, ROUNDS_MAX = 20, BATCH = 8, CHUNK = 64 };

typedef struct workload {
    const char *name;
    int requests, prompt, answer; /* words, tokens */
} workload;

static const workload workloads[] = {{"prefill", 16, 512, 1}, {"decode", 64, 8, 16}};

typedef struct line {
    int micro_batches, max_batch, chunk;
    double tokens_s[ROUNDS_MAX];
} line;

typedef struct bench {
    const char *model;
    int64_t delay_us;
    int rounds;
    um_arena arena;
    char folder[64];
} bench;

static const char *requests_write(bench *b, const workload *w)
{
    um_text t = {0};
    um_err err = {0};
    for (int i = 0; i < w->requests; i++) {
        um_text_fmt(&t, "{\"id\":\"r%d\",\"prompt\":\"", i);
        for (int k = 0; k < w->prompt; k++) um_text_fmt(&t, "%c ", 'a' + (i + k) % 26);
        um_text_fmt(&t, "\",\"max_new_tokens\":%d,\"temperature\":0,\"ignore_eos\":true}\n",
                    w->answer);
    }
    const char *path = um_path_join(&b->arena, b->folder, w->name);
    if (um_file_write(path, t.s, t.n, &err) != UM_OK) {
        fprintf(stderr, "bench_pingpong: %s\n", err.msg);
        exit(1);
    }
    um_text_free(&t);
    return path;
}

static double number(const char *text, const char *key)
{
    um_json *j = NULL;
    um_err err = {0};
    if (text == NULL || um_json_parse(&j, text, strlen(text), &err) != UM_OK) return 0;
    double v = um_json_num(um_json_get(j, key), 0);
    um_json_free(j);
    return v;
}

/* Appends the ids of every answer, in the order of the requests. */
static void answers_add(um_text *to, const cluster *c, const workload *w)
{
    for (int i = 0; i < w->requests; i++) {
        char key[32];
        snprintf(key, sizeof key, "\"id\":\"r%d\"", i);
        const char *text = cluster_line(c, key);
        const char *ids = text == NULL ? NULL : strstr(text, "\"ids\":");
        if (ids != NULL) um_text_add(to, ids, strcspn(ids, "]"));
    }
}

static double run_once(bench *b, const workload *w, const line *l, const char *requests,
                       um_text *answers)
{
    cluster c;
    cluster_init(&c, b->model);
    c.delay_us = b->delay_us;
    c.cfg.experts = 4;
    c.cfg.requests = requests;
    c.cfg.max_batch = l->max_batch;
    c.cfg.prefill_chunk = l->chunk;
    c.cfg.micro_batches = l->micro_batches;
    c.cfg.prefix_cache = 0;
    if (cluster_run(&c) != UM_OK) {
        for (int r = 0; r < c.ranks; r++) fprintf(stderr, "rank %d: %s\n", r, c.err[r].msg);
        exit(1);
    }
    const char *summary = cluster_line(&c, "\"kind\":\"summary\"");
    double tokens = number(summary, w->answer == 1 ? "prompt_tokens" : "new_tokens");
    double rate = tokens / number(summary, "seconds");
    answers_add(answers, &c, w);
    cluster_free(&c);
    return rate;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int run_workload(bench *b, const workload *w)
{
    line lines[LINES] = {
        {1, BATCH, CHUNK, {0}}, {2, BATCH, CHUNK, {0}}, {1, 2 * BATCH, 2 * CHUNK, {0}}};
    const char *requests = requests_write(b, w);
    um_text first = {0};
    int differs = 0;
    for (int r = 0; r < b->rounds; r++)
        for (int i = 0; i < LINES; i++) {
            um_text got = {0};
            lines[i].tokens_s[r] = run_once(b, w, &lines[i], requests, &got);
            if (first.n == 0) um_text_add(&first, got.s, got.n);
            differs |= got.n != first.n || memcmp(got.s, first.s, got.n) != 0;
            um_text_free(&got);
        }
    double base = 0;
    for (int i = 0; i < LINES; i++) {
        qsort(lines[i].tokens_s, (size_t)b->rounds, sizeof(double), by_value);
        double median = lines[i].tokens_s[b->rounds / 2];
        if (i == 0) base = median;
        printf("%s\t%d\t%d\t%d\t%.1f\t%.2f\n", w->name, lines[i].micro_batches, lines[i].max_batch,
               lines[i].chunk, median, median / base);
    }
    um_text_free(&first);
    if (differs) fprintf(stderr, "bench_pingpong: %s: the answers differ\n", w->name);
    return differs;
}

int main(int argc, char **argv)
{
    bench b = {.delay_us = 1000, .rounds = 3, .folder = "/tmp/bench_pingpong.XXXXXX"};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--model") == 0) b.model = argv[i + 1];
        if (strcmp(argv[i], "--delay-us") == 0) b.delay_us = strtoll(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--rounds") == 0) b.rounds = (int)strtol(argv[i + 1], NULL, 10);
    }
    if (b.model == NULL || b.rounds < 1 || b.rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: bench_pingpong --model DIR [--delay-us 1000] [--rounds 1..%d]\n",
                ROUNDS_MAX);
        return 2;
    }
    int differs = 0;
    if (mkdtemp(b.folder) == NULL) return 1;
    um_arena_init(&b.arena, "bench", 1 << 16);
    printf("workload\tmicro_batches\tmax_batch\tprefill_chunk\ttokens_s\tratio\n");
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
        differs |= run_workload(&b, &workloads[i]);
        unlink(um_path_join(&b.arena, b.folder, workloads[i].name));
    }
    rmdir(b.folder);
    um_arena_free(&b.arena);
    return differs;
}
