/* One exchange layer, dispatch and combine, between one router rank and the expert ranks, beside MPI_Alltoallv of the same rows.
 *
 *   mpirun -np 5 bench_exchange [--dim 1024] [--top-k 2] [--iterations 200] [--json]
 *
 * Rank 0 routes T rows of Gaussian values (every row with its own scale) to random experts, one per expert rank; the experts
 * answer every pair with its row, so that no compute is timed and the sum can be checked. The MPI way moves the same rows without
 * header, checksum, codec or liveness: counts by MPI_Alltoall, rows by MPI_Alltoallv, there and back.
 * Columns: rows, expert ranks, wire, codec, us_p50, us_p99, raw_bytes and wire_bytes of one layer, GB_s (raw bytes over the median),
 * alltoallv_us_p50, ratio (alltoallv over ours: above 1 ours is faster). */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "core/comm/exchange.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    int D, K, iterations;
    bool json;
} options;

typedef struct bench {
    options opt;
    um_link link;
    um_exchange *exchange; /* router */
    um_dev dev;
    um_arena arena, device;
    um_rng rng;
    um_dispatch_plan plan;
    float *x, *y, *weights, *rows;
    int32_t *experts;
    int T;
} bench;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void rows_make(bench *b, int T, int E)
{
    size_t D = (size_t)b->opt.D, K = (size_t)b->opt.K;
    b->T = T;
    b->x = um_arena_f32(&b->arena, (size_t)T, D);
    b->y = um_arena_f32(&b->arena, (size_t)T, D);
    b->weights = um_arena_f32(&b->arena, (size_t)T, K);
    b->experts = um_arena_i32(&b->arena, (size_t)T * K);
    for (size_t t = 0; t < (size_t)T; t++) {
        float std = (float)(1 << um_rng_below(&b->rng, 5));
        int first = (int)um_rng_below(&b->rng, (uint64_t)E);
        um_rng_normal_f32(&b->rng, b->x + t * D, D, std);
        for (size_t k = 0; k < K; k++) {
            b->experts[t * K + k] = (first + (int)k) % E;
            b->weights[t * K + k] = 1.0f / (float)K;
        }
    }
}

/* Router: one layer. */
static um_status layer_once(bench *b, uint64_t step, um_err *err)
{
    um_exchange_key key = {.step = step};
    UM_TRY(um_exchange_dispatch(b->exchange, &b->plan, b->rows, b->x, key, err));
    return um_exchange_combine(b->exchange, b->y, b->weights, key, err);
}

/* Expert: answers one frame, every pair with its own row. */
static um_status answer_once(bench *b, um_err *err)
{
    um_inbound in = {0};
    um_dispatch_batch batch = {0};
    um_mark mark = um_arena_mark(&b->arena), device = um_arena_mark(&b->device);
    UM_TRY(um_link_next(&b->link, &in, -1, err));
    um_status st = um_dispatch_batch_read(&batch, &b->link, &in, b->opt.D, &b->dev, &b->arena,
                                          &b->device, err);
    if (st == UM_OK) {
        float *y = um_arena_f32(&b->device, (size_t)batch.pairs, (size_t)batch.D);
        b->dev.ops->gather(&b->dev, y, batch.x, batch.pair_row, batch.pairs, batch.D);
        st = um_dispatch_batch_answer(&b->link, in.msg.peer, &batch, y, &b->dev, &b->arena, err);
    }
    um_link_release(&b->link, &in);
    um_arena_reset(&b->device, device);
    um_arena_reset(&b->arena, mark);
    return st;
}

/* Every row comes back as itself: the weights of a row add up to 1. */
static bool sum_is_right(const bench *b)
{
    size_t n = (size_t)b->T * (size_t)b->opt.D;
    double limit = b->link.wire == UM_F32 ? 1e-5 : 1.0 / 128;
    for (size_t i = 0; i < n; i++)
        if (fabs((double)b->y[i] - (double)b->x[i]) > limit * (1e-3 + fabs((double)b->x[i])))
            return false;
    return true;
}

/* The same rows by collectives: rank 0 has all, every other rank gets its part and sends one row per pair back. */
static double alltoallv_once(const bench *b, int ranks, const int *rows_of, const int *pairs_of,
                             float *buf, MPI_Datatype row)
{
    int rank, got = 0;
    int *send = um_zalloc((size_t)ranks * 6 * sizeof(int)), *send_at = send + ranks,
        *recv = send + 2 * ranks, *recv_at = send + 3 * ranks;
    int *counts = send + 4 * ranks, *theirs = send + 5 * ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    int64_t start = um_now_ns();
    for (int back = 0; back < 2; back++) {
        for (int r = 0; r < ranks; r++) {
            counts[r] = 0;
            if (rank == 0 && r > 0 && back == 0) counts[r] = rows_of[r - 1];
            if (rank > 0 && r == 0 && back == 1) counts[r] = pairs_of[rank - 1];
        }
        MPI_Alltoall(counts, 1, MPI_INT, theirs, 1, MPI_INT, MPI_COMM_WORLD);
        got = 0;
        for (int r = 0, out = 0; r < ranks; r++) {
            send[r] = counts[r];
            send_at[r] = out;
            recv[r] = theirs[r];
            recv_at[r] = got;
            out += counts[r];
            got += theirs[r];
        }
        float *from = back == 0 ? buf : buf + (size_t)b->T * (size_t)b->opt.D * (size_t)b->opt.K;
        float *to = back == 0 ? buf + (size_t)b->T * (size_t)b->opt.D * (size_t)b->opt.K : buf;
        MPI_Alltoallv(from, send, send_at, row, to, recv, recv_at, row, MPI_COMM_WORLD);
    }
    double us = (double)(um_now_ns() - start) * 1e-3;
    um_free(send);
    return us;
}

static double alltoallv_median(bench *b, int E)
{
    int ranks = E + 1, n = b->opt.iterations;
    double *us = um_zalloc((size_t)n * sizeof *us), median;
    float *buf = um_alloc_aligned((size_t)b->T * (size_t)b->opt.D * (size_t)b->opt.K * 8);
    MPI_Datatype row;
    memset(buf, 0, (size_t)b->T * (size_t)b->opt.D * (size_t)b->opt.K * 8);
    MPI_Type_contiguous(b->opt.D, MPI_FLOAT, &row);
    MPI_Type_commit(&row);
    for (int i = -3; i < n; i++) {
        double t = alltoallv_once(b, ranks, b->plan.rows_n, b->plan.pairs_n, buf, row);
        if (i >= 0) us[i] = t;
    }
    qsort(us, (size_t)n, sizeof *us, by_value);
    median = us[n / 2];
    MPI_Type_free(&row);
    um_free(buf);
    um_free(us);
    return median;
}

static void line_print(const bench *b, int E, const char *codec, const double *us, double theirs,
                       uint64_t raw, uint64_t wire)
{
    int n = b->opt.iterations;
    double p50 = us[n / 2], p99 = us[n - 1 - n / 100];
    const char *form =
        b->opt.json
            ? "{\"rows\":%d,\"experts\":%d,\"wire\":\"%s\",\"codec\":\"%s\",\"us_p50\":%.1f,\"us_"
              "p99\":%.1f,\"raw_bytes\":%llu,"
              "\"wire_bytes\":%llu,\"GB_s\":%.3f,\"alltoallv_us_p50\":%.1f,\"ratio\":%.2f}\n"
            : "%d\t%d\t%s\t%s\t%.1f\t%.1f\t%llu\t%llu\t%.3f\t%.1f\t%.2f\n";
    printf(form, b->T, E, um_dtype_lower(b->link.wire), codec, p50, p99, (unsigned long long)raw,
           (unsigned long long)wire, (double)raw * 1e-3 / p50, theirs, theirs / p50);
    fflush(stdout);
}

static um_status one_case(bench *b, int T, um_dtype wire, um_codec_id codec, int E, uint64_t *step,
                          um_err *err)
{
    um_mark mark = um_arena_mark(&b->arena), device = um_arena_mark(&b->device);
    bool router = b->link.comm->rank == 0;
    int n = b->opt.iterations;
    um_codec_close(b->link.codec);
    UM_TRY(um_link_agree(&b->link, wire, codec, 0, UM_FRAME_MAX, 60000, 1, err));
    rows_make(b, T, E);
    um_dispatch_plan_bind(&b->plan, &b->arena, &b->device, T, b->opt.K, E);
    UM_TRY(um_dispatch_plan_build(&b->plan, &b->link.comm->topo.place, 0, b->experts, T, &b->dev,
                                  &b->arena, err));
    b->rows = um_arena_f32(&b->device, (size_t)um_dispatch_plan_pairs(&b->plan), (size_t)b->opt.D);
    double *us = um_arena_alloc(&b->arena, (size_t)n * sizeof *us);
    um_link_stats before = {0};
    for (int i = -5; i < n; i++) {
        if (!router) {
            UM_TRY(answer_once(b, err));
            continue;
        }
        if (i == 0) before = b->link.stats;
        int64_t start = um_now_ns();
        UM_TRY(layer_once(b, ++*step, err));
        if (i >= 0) us[i] = (double)(um_now_ns() - start) * 1e-3;
    }
    if (router && !sum_is_right(b))
        return UM_FAIL(err, UM_E_CORRUPT, "%d rows: wrong sums came back", T);
    double theirs = alltoallv_median(b, E);
    if (router) {
        qsort(us, (size_t)n, sizeof *us, by_value);
        line_print(b, E, um_codec_name(codec), us, theirs,
                   (b->link.stats.raw_bytes - before.raw_bytes) / (uint64_t)n,
                   (b->link.stats.wire_bytes - before.wire_bytes) / (uint64_t)n);
    }
    um_arena_reset(&b->device, device);
    um_arena_reset(&b->arena, mark);
    return UM_OK;
}

static um_status all_cases(bench *b, um_err *err)
{
    static const int rows[] = {1, 4, 16, 64, 256, 1024};
    int E = b->link.comm->topo.count[UM_ROLE_EXPERT];
    uint64_t step = 0;
    UM_TRY(um_placement_blocks(&b->link.comm->topo.place, 1, E, E, &b->arena, err));
    if (b->opt.K > E) b->opt.K = E;
    if (b->link.comm->rank == 0 && !b->opt.json)
        printf("rows\texperts\twire\tcodec\tus_p50\tus_p99\traw_bytes\twire_bytes\tGB_s\talltoallv_"
               "us_p50\tratio\n");
    for (int wire = 0; wire < 2; wire++)
        for (int codec = 0; codec < UM_CODECS; codec++)
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
                UM_TRY(one_case(b, rows[i], wire == 0 ? UM_F32 : UM_BF16, (um_codec_id)codec, E,
                                &step, err));
    return UM_OK;
}

static bool options_read(options *o, int argc, char **argv)
{
    *o = (options){.D = 1024, .K = 2, .iterations = 200};
    for (int i = 1; i < argc; i++) {
        int *value = strcmp(argv[i], "--dim") == 0          ? &o->D
                     : strcmp(argv[i], "--top-k") == 0      ? &o->K
                     : strcmp(argv[i], "--iterations") == 0 ? &o->iterations
                                                            : NULL;
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (value == NULL || i + 1 == argc || (*value = (int)strtol(argv[++i], NULL, 10)) <= 0)
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    bench b = {0};
    um_err err = {0};
    um_comm *comm = NULL;
    /* The role must be known before MPI is up. The second is what Open MPI 5 sets in any case. */
    const char *number = getenv("OMPI_COMM_WORLD_RANK");
    if (number == NULL) number = getenv("PMIX_RANK");
    if (!options_read(&b.opt, argc, argv)) {
        fprintf(
            stderr,
            "usage: mpirun -np N bench_exchange [--dim D] [--top-k K] [--iterations N] [--json]\n");
        return 2;
    }
    um_arena_init(&b.arena, "bench", 1 << 20);
    b.rng = um_rng_seed(1, 0);
    um_status st = um_comm_mpi_open(
        &comm, &argc, &argv,
        number == NULL || strcmp(number, "0") == 0 ? UM_ROLE_ROUTER : UM_ROLE_EXPERT, &err);
    if (st == UM_OK && comm->topo.count[UM_ROLE_EXPERT] == 0)
        st = UM_FAIL(&err, UM_E_USAGE,
                     "start it with at least two ranks: mpirun -np 5 bench_exchange");
    if (st == UM_OK) st = um_dev_open_cpu(&b.dev, UM_ISA_AUTO, 1, &err);
    if (st == UM_OK) {
        comm->yield_us = 500;
        um_link_open(&b.link, comm);
        um_dev_arena(&b.device, &b.dev, "rows", 1 << 20);
        if (comm->rank == 0) b.exchange = um_exchange_open(&b.link, &b.dev, b.opt.D);
        st = all_cases(&b, &err);
        um_exchange_close(b.exchange);
        um_link_close(&b.link);
        um_arena_free(&b.device);
    }
    if (st != UM_OK) fprintf(stderr, "bench_exchange: %s\n", err.msg);
    um_arena_free(&b.arena);
    um_comm_close(comm, st);
    return um_exit_code(st);
}
