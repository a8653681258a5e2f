/* The MPI transport, under mpirun (see comm.cmake).
 *
 *   mpi_comm traffic   all kinds of messages between all ranks
 *   mpi_comm killed    the last rank is killed: the others must say so
 *   mpi_comm failing   the last rank ends with an error: the others must say so
 *   mpi_comm stopped    the last rank is stopped at the end: the job must not wait for it for ever */
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "core/comm/comm.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { LONG_US = 30000000, ROUNDS = 12, EACH = 25, HEAD = 24 };

static volatile sig_atomic_t stop_flag;

static void on_signal(int sig)
{
    (void)sig;
    stop_flag = 1;
}

static uint64_t sum_of(const uint8_t *p, size_t n)
{
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) sum = (sum ^ p[i]) * 1099511628211u;
    return sum;
}

/* Ranks do not go from one part to the next together, so every message says which part it belongs to. Those of a later part wait. */
typedef struct inbox {
    um_comm *c;
    um_msg early[4096];
    int n_early;
} inbox;

static um_status next_of(inbox *b, uint32_t part, um_msg *out, um_err *err)
{
    for (int i = 0; i < b->n_early; i++) {
        if (um_get_u32(b->early[i].data) != part) continue;
        *out = b->early[i];
        memmove(b->early + i, b->early + i + 1, (size_t)(--b->n_early - i) * sizeof *b->early);
        return UM_OK;
    }
    for (;;) {
        UM_TRY(um_comm_recv(b->c, out, LONG_US, err));
        if (out->size < 8 || (uintptr_t)out->data % 64 != 0)
            return UM_FAIL(err, UM_E_CORRUPT, "message of %zu bytes", out->size);
        if (um_get_u32(out->data) == part) return UM_OK;
        if (b->n_early == 4096)
            return UM_FAIL(err, UM_E_CORRUPT, "message of part %u in part %u",
                           um_get_u32(out->data), part);
        b->early[b->n_early++] = *out;
    }
}

/* u32 part, u32 number, u32 receiver, u32 0, u64 sum of the rest, then random bytes. */
static um_status send_random(um_comm *c, um_rng *rng, int peer, uint32_t part, uint32_t number,
                             size_t bytes, um_err *err)
{
    um_msg m = {0};
    UM_TRY(um_comm_buffer(c, &m, HEAD + bytes, err));
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = um_rng_u64(rng);
        memcpy(m.data + HEAD + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
    memset(m.data, 0, HEAD);
    um_put_u32(m.data, part);
    um_put_u32(m.data + 4, number);
    um_put_u32(m.data + 8, (uint32_t)peer);
    um_put_u64(m.data + 16, sum_of(m.data + HEAD, bytes));
    return um_comm_send(c, peer, &m, err);
}

static um_status take_random(inbox *b, uint32_t part, uint32_t *next, um_err *err)
{
    um_msg m = {0};
    UM_TRY(next_of(b, part, &m, err));
    bool fits = m.size >= HEAD && (int)um_get_u32(m.data + 8) == b->c->rank;
    uint32_t number = fits ? um_get_u32(m.data + 4) : 0;
    bool sum = fits && um_get_u64(m.data + 16) == sum_of(m.data + HEAD, m.size - HEAD);
    int peer = m.peer;
    um_comm_release(b->c, &m);
    if (!fits || !sum || number != next[peer])
        return UM_FAIL(err, UM_E_CORRUPT, "message %u of rank %d (want %u): %s", number, peer,
                       next[peer], sum ? "order" : "bytes");
    next[peer]++;
    return UM_OK;
}

/* Small, around the eager limits, and now and then large. */
static size_t random_size(um_rng *rng)
{
    static const size_t top[] = {1, 64, 300, 4096, 4200, 66000, 300000};
    if (um_rng_below(rng, 60) == 0) return (size_t)8 << 20;
    return (size_t)um_rng_below(rng, top[um_rng_below(rng, 7)]);
}

/* Every rank sends to random ranks, itself included, and computes from the seeds how many messages it will receive. */
static um_status all_to_all(inbox *b, uint32_t part, um_err *err)
{
    um_comm *c = b->c;
    uint32_t next[64] = {0}, sent[64] = {0};
    int n = c->topo.n, owed = 0;
    for (int r = 0; r < n; r++) {
        um_rng rng = um_rng_seed(11, (uint64_t)r);
        for (int i = 0; i < ROUNDS * EACH; i++)
            owed += (int)um_rng_below(&rng, (uint64_t)n) == c->rank;
    }
    um_rng whither = um_rng_seed(11, (uint64_t)c->rank), rng = um_rng_seed(12, (uint64_t)c->rank);
    for (int i = 0; i < ROUNDS * EACH; i++) {
        int peer = (int)um_rng_below(&whither, (uint64_t)n);
        UM_TRY(send_random(c, &rng, peer, part, sent[peer]++, random_size(&rng), err));
        if (i % EACH != EACH - 1) continue;
        for (int k = 0; k < EACH / 2 && owed > 0; k++, owed--)
            UM_TRY(take_random(b, part, next, err));
    }
    for (; owed > 0; owed--) UM_TRY(take_random(b, part, next, err));
    return UM_OK;
}

/* A token goes round while the others sleep. u32 part, u32 number of ranks that have had it. */
static um_status ring(inbox *b, uint32_t part, um_err *err)
{
    um_comm *c = b->c;
    int n = c->topo.n, before = (c->rank + n - 1) % n;
    um_msg m = {0};
    for (uint32_t lap = 0; lap < 200; lap++) {
        if (c->rank == 0) {
            UM_TRY(um_comm_buffer(c, &m, 8, err));
            um_put_u32(m.data, part);
            um_put_u32(m.data + 4, lap * (uint32_t)n);
            UM_TRY(um_comm_send(c, 1 % n, &m, err));
        }
        UM_TRY(next_of(b, part, &m, err));
        uint32_t want = lap * (uint32_t)n + (uint32_t)before, got = um_get_u32(m.data + 4);
        if (got != want || m.peer != before)
            return UM_FAIL(err, UM_E_CORRUPT, "%u from rank %d, want %u", got, m.peer, want);
        um_put_u32(m.data + 4, want + 1);
        if (c->rank != 0)
            UM_TRY(um_comm_send(c, (c->rank + 1) % n, &m, err));
        else
            um_comm_release(c, &m);
    }
    return UM_OK;
}

static void *wake_later(void *comm)
{
    um_sleep_us(50000);
    um_comm_wake(comm);
    return NULL;
}

/* Another thread ends a wait, whether this rank sleeps on its doorbell or still yields. */
static um_status woken_by_a_thread(um_comm *c, um_err *err)
{
    um_msg m = {0};
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        int64_t yield_us = c->yield_us;
        c->yield_us = i == 0 ? 0 : LONG_US;
        if (pthread_create(&thread, NULL, wake_later, c) != 0)
            return UM_FAIL(err, UM_E_MEMORY, "no thread");
        um_status st = um_comm_recv(c, &m, LONG_US, err);
        pthread_join(thread, NULL);
        c->yield_us = yield_us;
        if (st != UM_E_TIMEOUT || !c->woken)
            return UM_FAIL(err, UM_E_CORRUPT, "not woken: status %d", (int)st);
        c->woken = false;
    }
    return UM_OK;
}

/* For rank 0 alone: nobody sends anything before it starts the ring, so nothing disturbs it. */
static um_status small_things(um_comm *c, um_err *err)
{
    um_msg m = {0};
    for (int64_t us = 0; us <= 150000; us += 75000) {
        int64_t start = um_now_ns();
        um_status st = um_comm_recv(c, &m, us, err);
        if (st != UM_E_TIMEOUT || um_now_ns() - start < us * 1000)
            return UM_FAIL(err, UM_E_CORRUPT, "no time-out of %lld us", (long long)us);
    }
    UM_TRY(woken_by_a_thread(c, err));
    for (size_t bytes = 0; bytes < 3; bytes++) { /* to itself: in order, without anybody else */
        UM_TRY(um_comm_buffer(c, &m, bytes, err));
        UM_TRY(um_comm_send(c, c->rank, &m, err));
    }
    for (size_t bytes = 0; bytes < 3; bytes++) {
        UM_TRY(um_comm_recv(c, &m, 0, err));
        if (m.size != bytes || m.peer != c->rank)
            return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes from %d, want %zu", m.size, m.peer, bytes);
        um_comm_release(c, &m);
    }
    if (um_comm_buffer(c, &m, ((size_t)1 << 30) + 1, err) != UM_E_LIMIT)
        return UM_FAIL(err, UM_E_CORRUPT, "a buffer over the limit");
    return UM_OK;
}

static um_status topology_ok(um_comm *c, um_err *err)
{
    const um_topology *t = &c->topo;
    for (int r = 0; r < t->n; r++)
        if (t->ranks[r].role != UM_ROLE_ROUTER || t->ranks[r].index != r || t->ranks[r].pid <= 0 ||
            t->ranks[r].hostname[0] == '\0')
            return UM_FAIL(err, UM_E_CORRUPT, "topology of rank %d", r);
    return UM_OK;
}

static um_status traffic(um_comm *c, um_err *err)
{
    static inbox b;
    b.c = c;
    UM_TRY(topology_ok(c, err));
    if (c->rank == 0) UM_TRY(um_wrap(err, small_things(c, err), "small things"));
    UM_TRY(um_wrap(err, ring(&b, 1, err), "ring"));
    UM_TRY(um_wrap(err, all_to_all(&b, 2, err), "all to all"));
    c->yield_us = 0; /* the same again with everybody asleep when there is nothing */
    UM_TRY(um_wrap(err, ring(&b, 3, err), "ring, sleeping"));
    UM_TRY(um_wrap(err, all_to_all(&b, 4, err), "all to all, sleeping"));
    if (b.n_early > 0) return UM_FAIL(err, UM_E_CORRUPT, "%d messages nobody expects", b.n_early);
    return UM_OK;
}

/* The others wait for a message that does not come. */
static um_status wait_for_nothing(um_comm *c, um_err *err)
{
    um_msg m = {0};
    um_status st = um_comm_recv(c, &m, LONG_US, err);
    return st == UM_OK ? UM_FAIL(err, UM_E_CORRUPT, "a message came") : st;
}

static um_status killed(um_comm *c, um_err *err)
{
    if (c->rank == c->topo.n - 1) {
        um_sleep_us(100000);
        raise(SIGKILL);
    }
    return wait_for_nothing(c, err);
}

static um_status failing(um_comm *c, um_err *err)
{
    int last = c->topo.n - 1;
    um_msg m = {0};
    if (c->rank != last) {
        UM_TRY(um_comm_recv(c, &m, LONG_US, err)); /* its last words come first */
        if (m.peer != last) return UM_FAIL(err, UM_E_CORRUPT, "last words of rank %d", m.peer);
        um_comm_release(c, &m);
        return wait_for_nothing(c, err);
    }
    um_sleep_us(100000);
    for (int r = 0; r < last; r++) {
        UM_TRY(um_comm_buffer(c, &m, 10, err));
        UM_TRY(um_comm_send(c, r, &m, err));
    }
    return UM_FAIL(err, UM_E_MODEL, "out of paper");
}

static um_status stopped(um_comm *c, um_err *err)
{
    (void)err;
    if (c->rank == c->topo.n - 1) raise(SIGSTOP);
    return UM_OK;
}

int main(int argc, char **argv)
{
    um_err err = {0};
    um_comm *c = NULL;
    const char *what = argc > 1 ? argv[1] : "traffic";
    um_status st = um_comm_mpi_open(&c, &argc, &argv, UM_ROLE_ROUTER, &err);
    if (st == UM_OK) {
        signal(SIGTERM, on_signal);
        c->stop = &stop_flag;
        if (strcmp(what, "killed") == 0)
            st = killed(c, &err);
        else if (strcmp(what, "failing") == 0)
            st = failing(c, &err);
        else if (strcmp(what, "stopped") == 0)
            st = stopped(c, &err);
        else
            st = traffic(c, &err);
    }
    if (st != UM_OK) fprintf(stderr, "rank %d: %s\n", c == NULL ? -1 : c->rank, err.msg);
    um_comm_close(c, st);
    return um_exit_code(st);
}
