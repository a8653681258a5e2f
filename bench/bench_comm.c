/* What the transport costs: latency of a message there and back by size, time of one layer of a job with one router, and processor
 * time of ranks that wait. Under mpirun with 2 ranks or more; rank 0 prints TSV:
 *
 *   mpirun -np 5 bench_comm [--yield US] [--work US] [--own US] [--bytes N] [--layers N] [--idle S]
 *
 *   ping   rank 0 and rank 1 in turns, the others asleep: time there and back
 *   layer  rank 0 sends a frame to every other rank, each works on it (--work) and answers; rank 0 works itself between layers (--own).
 *          ideal: as many workers at a time as there are cores, moving costs nothing. cores: processor time of all ranks over wall time
 *   idle   everybody waits: the busiest rank's batch of a core */
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct options {
    int64_t yield_us, work_us, own_us, bytes, layers, idle_s;
} options;

/* Order of work: one byte kind, at 8 an i64. */
enum { ECHO = 1, WORK, IDLE, USE, YIELD, QUIT, HEAD = 16 };

static int64_t used_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec +
           u.ru_stime.tv_usec;
}

/* Processor time, not wall time: on a busy machine work takes longer. */
static void work(int64_t us)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    int64_t end = t.tv_sec * 1000000000 + t.tv_nsec + us * 1000;
    while (us > 0 && t.tv_sec * 1000000000 + t.tv_nsec < end)
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
}

static um_status order(um_comm *c, int peer, int kind, int64_t value, size_t bytes, um_err *err)
{
    um_msg m = {0};
    UM_TRY(um_comm_buffer(c, &m, bytes < HEAD ? HEAD : bytes, err));
    memset(m.data, 0, HEAD);
    m.data[0] = (uint8_t)kind;
    um_put_u64(m.data + 8, (uint64_t)value);
    return um_comm_send(c, peer, &m, err);
}

static um_status next(um_comm *c, um_msg *m, um_err *err)
{
    um_status st;
    do st = um_comm_recv(c, m, 200000, err);
    while (st == UM_E_TIMEOUT);
    return st;
}

static um_status answer(um_comm *c, int64_t *value, um_err *err)
{
    um_msg m = {0};
    UM_TRY(next(c, &m, err));
    *value = (int64_t)um_get_u64(m.data + 8);
    um_comm_release(c, &m);
    return UM_OK;
}

/* Processor time, in millionths of a core, used during `seconds` of waiting. */
static um_status idle(um_comm *c, int64_t seconds, int64_t *ppm, um_err *err)
{
    um_msg m = {0};
    int64_t start = um_now_ns(), used = used_us();
    while (um_now_ns() - start < seconds * 1000000000) {
        um_status st = um_comm_recv(c, &m, 200000, err);
        if (st != UM_E_TIMEOUT)
            return st == UM_OK ? UM_FAIL(err, UM_E_CORRUPT, "a message while idle") : st;
    }
    *ppm = (used_us() - used) * 1000 * 1000 / ((um_now_ns() - start) / 1000);
    return UM_OK;
}

static um_status serve(um_comm *c, um_err *err)
{
    for (;;) {
        um_msg m = {0};
        UM_TRY(next(c, &m, err));
        int kind = m.data[0];
        int64_t value = (int64_t)um_get_u64(m.data + 8);
        if (kind == WORK) work(value);
        if (kind == YIELD) c->yield_us = value;
        if (kind == USE) um_put_u64(m.data + 8, (uint64_t)used_us());
        if (kind == IDLE) UM_TRY(idle(c, value, &value, err));
        if (kind == IDLE) um_sleep_us(500000); /* nobody disturbs the others' silence */
        if (kind == IDLE) um_put_u64(m.data + 8, (uint64_t)value);
        if (kind == QUIT) {
            um_comm_release(c, &m);
            return UM_OK;
        }
        UM_TRY(um_comm_send(c, 0, &m, err));
    }
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, int ranks, int64_t bytes, int64_t *ns, int n)
{
    qsort(ns, (size_t)n, sizeof *ns, by_value);
    const int64_t at[] = {ns[n / 2], ns[n / 10], ns[n - 1 - n / 10], ns[n - 1 - n / 100]};
    printf("%s %lld bytes %d ranks\ttime\tus", what, (long long)bytes, ranks);
    for (int i = 0; i < 4; i++) printf("\t%.1f", (double)at[i] / 1e3);
    printf("\n");
}

static void print_one(const char *what, int ranks, const char *metric, const char *unit, double v)
{
    printf("%s %d ranks\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\n", what, ranks, metric, unit, v, v, v, v);
}

static um_status ping(um_comm *c, int64_t *ns, um_err *err)
{
    static const int64_t sizes[] = {64, 1024, 4096, 16384, 65536, 262144, 1 << 20, 8 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int times = sizes[s] > 100000 ? 200 : 3000;
        for (int i = -20; i < times; i++) {
            int64_t start = um_now_ns(), ignored;
            UM_TRY(order(c, 1, ECHO, 0, (size_t)sizes[s], err));
            UM_TRY(answer(c, &ignored, err));
            if (i >= 0) ns[i] = um_now_ns() - start;
        }
        print_times("ping", c->topo.n, sizes[s], ns, times);
    }
    return UM_OK;
}

/* Processor time of all ranks so far. */
static um_status used_by_all(um_comm *c, int64_t *us, um_err *err)
{
    *us = used_us();
    for (int r = 1; r < c->topo.n; r++) {
        int64_t theirs = 0;
        UM_TRY(order(c, r, USE, 0, 0, err));
        UM_TRY(answer(c, &theirs, err));
        *us += theirs;
    }
    return UM_OK;
}

/* The same for each way of waiting: --yield alone, or from sleeping at once to hardly ever. */
static um_status yield_all(um_comm *c, int64_t us, um_err *err)
{
    c->yield_us = us;
    for (int r = 1; r < c->topo.n; r++) {
        int64_t ignored;
        UM_TRY(order(c, r, YIELD, us, 0, err));
        UM_TRY(answer(c, &ignored, err));
    }
    return UM_OK;
}

static um_status layers(um_comm *c, const options *o, int64_t *ns, um_err *err)
{
    char name[64];
    int64_t before = 0, after = 0, workers = c->topo.n - 1, cores = sysconf(_SC_NPROCESSORS_ONLN);
    UM_TRY(used_by_all(c, &before, err));
    int64_t begin = um_now_ns();
    for (int i = 0; i < (int)o->layers; i++) {
        int64_t start = um_now_ns(), ignored;
        work(o->own_us);
        for (int r = 1; r < c->topo.n; r++)
            UM_TRY(order(c, r, WORK, o->work_us, (size_t)o->bytes, err));
        for (int r = 1; r < c->topo.n; r++) UM_TRY(answer(c, &ignored, err));
        ns[i] = um_now_ns() - start;
    }
    int64_t wall = (um_now_ns() - begin) / 1000;
    UM_TRY(used_by_all(c, &after, err));
    snprintf(name, sizeof name, "layer yield %lld us", (long long)c->yield_us);
    print_times(name, c->topo.n, o->bytes, ns, (int)o->layers);
    print_one(name, c->topo.n, "ideal", "us",
              (double)(o->own_us + (workers + cores - 1) / cores * o->work_us));
    print_one(name, c->topo.n, "cores", "cores", (double)(after - before) / (double)wall);
    return UM_OK;
}

static um_status waiting(um_comm *c, int64_t seconds, um_err *err)
{
    int64_t most = 0;
    for (int r = 1; r < c->topo.n; r++) UM_TRY(order(c, r, IDLE, seconds, 0, err));
    UM_TRY(idle(c, seconds, &most, err));
    for (int r = 1; r < c->topo.n; r++) {
        int64_t theirs = 0;
        UM_TRY(answer(c, &theirs, err));
        if (theirs > most) most = theirs;
    }
    print_one("idle", c->topo.n, "busiest rank", "percent of a core", (double)most / 1e4);
    return UM_OK;
}

static um_status lead(um_comm *c, const options *o, um_err *err)
{
    static int64_t ns[100000];
    printf("case\tmetric\tunit\tmedian\tp10\tp90\tp99\n");
    static const int64_t ways[] = {0, 20, 50, 100, 200, 500, 1000, 10000};
    if (o->yield_us >= 0) UM_TRY(yield_all(c, o->yield_us, err));
    UM_TRY(ping(c, ns, err));
    for (size_t w = 0; o->yield_us < 0 && w < sizeof ways / sizeof *ways; w++) {
        UM_TRY(yield_all(c, ways[w], err));
        UM_TRY(layers(c, o, ns, err));
    }
    if (o->yield_us >= 0) UM_TRY(layers(c, o, ns, err));
    fflush(stdout);
    if (o->idle_s > 0) UM_TRY(waiting(c, o->idle_s, err));
    for (int r = 1; r < c->topo.n; r++) UM_TRY(order(c, r, QUIT, 0, 0, err));
    return UM_OK;
}

static um_status options_read(options *o, int argc, char **argv, um_err *err)
{
    struct {
        const char *name;
        int64_t *value, max;
    } known[] = {{"--yield", &o->yield_us, 60000000}, {"--work", &o->work_us, 1000000},
                 {"--own", &o->own_us, 1000000},      {"--bytes", &o->bytes, 1 << 30},
                 {"--layers", &o->layers, 100000},    {"--idle", &o->idle_s, 3600}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        while (k < sizeof known / sizeof *known && strcmp(known[k].name, argv[i]) != 0) k++;
        if (k == sizeof known / sizeof *known || i + 1 == argc)
            return UM_FAIL(err, UM_E_USAGE, "%s: see the head of bench_comm.c", argv[i]);
        *known[k].value = strtoll(argv[i + 1], NULL, 10);
        if (*known[k].value < 0 || *known[k].value > known[k].max)
            return UM_FAIL(err, UM_E_USAGE, "%s %s: allowed 0..%lld", argv[i], argv[i + 1],
                           (long long)known[k].max);
    }
    if (o->layers < 1) return UM_FAIL(err, UM_E_USAGE, "--layers 0: allowed 1..100000");
    return UM_OK;
}

int main(int argc, char **argv)
{
    um_err err = {0};
    um_comm *c = NULL;
    options o = {.yield_us = -1, .work_us = 100, .bytes = 4096, .layers = 2000, .idle_s = 5};
    um_status st = um_comm_mpi_open(&c, &argc, &argv, UM_ROLE_ROUTER, &err);
    if (st == UM_OK) st = options_read(&o, argc, argv, &err);
    if (st == UM_OK && c->topo.n < 2)
        st = UM_FAIL(&err, UM_E_USAGE, "start it with at least 2 ranks");
    if (st == UM_OK) {
        st = c->rank == 0 ? lead(c, &o, &err) : serve(c, &err);
    }
    if (st != UM_OK) fprintf(stderr, "bench_comm: %s\n", err.msg);
    um_comm_close(c, st);
    return um_exit_code(st);
}
