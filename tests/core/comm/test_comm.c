/* The in-process transport: order, sizes, time limits, the end of a rank, injected faults. The threads of a test count what they
 * find wrong; the test's own thread asserts. */
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/rng.h"
#include "core/comm/comm.h"
#include "core/comm/pool.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { RANKS_MAX = 9, LONG_US = 60000000 };

typedef struct job job;
typedef int (*rank_fn)(um_comm *c, job *j); /* returns how much was wrong */
struct job {
    um_comm *comm[RANKS_MAX];
    int n;
    rank_fn fn;
    int stop;
    int seen[RANKS_MAX];
    char text[RANKS_MAX][256];
};
typedef struct seat {
    job *j;
    int rank, wrong;
} seat;

static void *sit(void *arg)
{
    seat *s = arg;
    s->wrong = s->j->fn(s->j->comm[s->rank], s->j);
    return NULL;
}

static void open_job(job *j, int n)
{
    um_role roles[RANKS_MAX] = {UM_ROLE_ROUTER};
    um_err err = {0};
    *j = (job){.n = n};
    for (int r = 1; r < n; r++) roles[r] = UM_ROLE_EXPERT;
    assert_int_equal(um_comm_inproc_open(j->comm, roles, n, &err), UM_OK);
}

/* Runs fn once per rank, each on its own thread. fn must not close the communicator. */
static void run_job(job *j, rank_fn fn)
{
    pthread_t thread[RANKS_MAX];
    seat seats[RANKS_MAX];
    j->fn = fn;
    for (int r = 0; r < j->n; r++) {
        seats[r] = (seat){.j = j, .rank = r};
        assert_int_equal(pthread_create(&thread[r], NULL, sit, &seats[r]), 0);
    }
    int wrong = 0;
    for (int r = 0; r < j->n; r++) {
        pthread_join(thread[r], NULL);
        if (seats[r].wrong != 0) print_message("rank %d: %d wrong\n", r, seats[r].wrong);
        wrong += seats[r].wrong;
    }
    assert_int_equal(wrong, 0);
}

static void close_job(job *j)
{
    for (int r = 0; r < j->n; r++) um_comm_close(j->comm[r], UM_OK);
}

/* A message whose bytes follow from (from, to, number). */
static size_t size_of(int from, int to, int number)
{
    static const size_t sizes[] = {0, 1, 13, 64, 255, 256, 257, 4096, 70000, 1 << 20};
    return number % 40 == 39 ? (size_t)8 << 20 : sizes[(from * 7 + to * 3 + number) % 10];
}

static uint8_t byte_of(int from, int to, int number, size_t i)
{
    return (uint8_t)(from * 31 + to * 17 + number * 5 + (int)(i % 251));
}

static um_status send_numbered(um_comm *c, int to, int number)
{
    um_msg m = {0};
    size_t n = 8 + size_of(c->rank, to, number);
    um_err err;
    um_status st = um_comm_buffer(c, &m, n, &err);
    if (st != UM_OK) return st;
    if ((uintptr_t)m.data % 64 != 0 || m.size != n || m.cap < n) return UM_E_CORRUPT;
    um_put_u32(m.data, (uint32_t)c->rank);
    um_put_u32(m.data + 4, (uint32_t)number);
    for (size_t i = 8; i < n; i++) m.data[i] = byte_of(c->rank, to, number, i);
    st = um_comm_send(c, to, &m, &err);
    return st == UM_OK && m.data != NULL ? UM_E_CORRUPT : st;
}

/* 1 when msg is not message `number` of its sender to us. */
static int check_numbered(const um_comm *c, const um_msg *m, int number)
{
    if (m->size != 8 + size_of(m->peer, c->rank, number)) return 1;
    if ((int)um_get_u32(m->data) != m->peer || (int)um_get_u32(m->data + 4) != number) return 1;
    for (size_t i = 8; i < m->size; i++)
        if (m->data[i] != byte_of(m->peer, c->rank, number, i)) return 1;
    return 0;
}

enum { EACH = 80 };

static int everybody_to_everybody(um_comm *c, job *j)
{
    int next[RANKS_MAX] = {0}, wrong = 0;
    um_err err;
    for (int i = 0; i < EACH; i++) {
        for (int r = 0; r < j->n; r++) wrong += send_numbered(c, r, i) != UM_OK;
        for (int r = 0; r < j->n; r++) {
            um_msg m;
            if (um_comm_recv(c, &m, LONG_US, &err) != UM_OK) return wrong + 1;
            wrong += check_numbered(c, &m, next[m.peer]++);
            um_comm_release(c, &m);
        }
    }
    for (int r = 0; r < j->n; r++) wrong += next[r] != EACH;
    return wrong;
}

static void messages_of_all_sizes_stay_in_order_per_pair(void **state)
{
    (void)state;
    job j;
    open_job(&j, 4);
    run_job(&j, everybody_to_everybody);
    close_job(&j);
}

static int many_to_one(um_comm *c, job *j)
{
    int next[RANKS_MAX] = {0}, wrong = 0;
    um_err err;
    if (c->rank != 0) {
        for (int i = 0; i < EACH; i++) wrong += send_numbered(c, 0, i) != UM_OK;
        return wrong;
    }
    for (int left = EACH * (j->n - 1); left > 0; left--) {
        um_msg m;
        if (um_comm_recv(c, &m, LONG_US, &err) != UM_OK) return wrong + 1;
        wrong += check_numbered(c, &m, next[m.peer]++);
        um_comm_release(c, &m);
    }
    return wrong;
}

static void many_senders_do_not_mix(void **state)
{
    (void)state;
    job j;
    open_job(&j, RANKS_MAX);
    run_job(&j, many_to_one);
    close_job(&j);
}

static void nothing_comes_before_the_time_is_over(void **state)
{
    (void)state;
    job j;
    um_msg m = {0};
    um_err err = {0};
    open_job(&j, 2);
    for (int64_t us = 0; us <= 120000; us += 60000) {
        int64_t start = um_now_ns();
        assert_int_equal(um_comm_recv(j.comm[1], &m, us, &err), UM_E_TIMEOUT);
        assert_true(um_now_ns() - start >= us * 1000);
        assert_null(m.data);
    }
    close_job(&j);
}

static void a_rank_may_send_to_itself(void **state)
{
    (void)state;
    job j;
    um_msg m;
    um_err err = {0};
    open_job(&j, 1);
    assert_int_equal(send_numbered(j.comm[0], 0, 0), UM_OK);
    assert_int_equal(send_numbered(j.comm[0], 0, 1), UM_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(um_comm_recv(j.comm[0], &m, 0, &err), UM_OK);
        assert_int_equal(check_numbered(j.comm[0], &m, i), 0);
        um_comm_release(j.comm[0], &m);
        assert_null(m.data);
    }
    close_job(&j);
}

static void an_empty_message_arrives(void **state)
{
    (void)state;
    job j;
    um_msg m = {0};
    um_err err = {0};
    open_job(&j, 2);
    assert_int_equal(um_comm_buffer(j.comm[0], &m, 0, &err), UM_OK);
    assert_int_equal(um_comm_send(j.comm[0], 1, &m, &err), UM_OK);
    assert_int_equal(um_comm_recv(j.comm[1], &m, 0, &err), UM_OK);
    assert_int_equal(m.size, 0);
    assert_int_equal(m.peer, 0);
    assert_non_null(m.data);
    um_comm_release(j.comm[1], &m);
    close_job(&j);
}

static void the_buffer_changes_hands_without_a_copy(void **state)
{
    (void)state;
    job j;
    um_msg m = {0}, got = {0};
    um_err err = {0};
    open_job(&j, 2);
    assert_int_equal(um_comm_buffer(j.comm[0], &m, 5000, &err), UM_OK);
    const uint8_t *sent = m.data;
    assert_int_equal(um_comm_send(j.comm[0], 1, &m, &err), UM_OK);
    assert_int_equal(um_comm_recv(j.comm[1], &got, 0, &err), UM_OK);
    assert_ptr_equal(got.data, sent);
    um_comm_release(j.comm[1], &got);
    assert_int_equal(um_comm_buffer(j.comm[1], &m, 5001, &err), UM_OK); /* and is used again */
    assert_ptr_equal(m.data, sent);
    um_comm_release(j.comm[1], &m);
    close_job(&j);
}

/* Rank 1 ends with an error while the others wait; they still receive what it sent before. */
static int wait_for_the_end(um_comm *c, job *j)
{
    um_err err = {0};
    um_msg m = {0};
    if (c->rank == 1) {
        int wrong = 0;
        for (int r = 0; r < j->n; r++) wrong += r != 1 && send_numbered(c, r, 0) != UM_OK;
        um_comm_close(c, UM_E_MODEL);
        j->comm[1] = NULL;
        return wrong;
    }
    if (um_comm_recv(c, &m, LONG_US, &err) != UM_OK) return 1;
    int wrong = check_numbered(c, &m, 0);
    um_comm_release(c, &m);
    um_status st = um_comm_recv(c, &m, LONG_US, &err);
    snprintf(j->text[c->rank], sizeof j->text[0], "%s", err.msg);
    return wrong + (st != UM_E_PEER);
}

static void the_end_of_one_wakes_all_and_is_named(void **state)
{
    (void)state;
    job j;
    open_job(&j, 4);
    char *hostname = j.comm[0]->topo.ranks[1].hostname;
    char want[256];
    snprintf(want, sizeof want, "expert/0 (rank 1, host %s) stopped", hostname);
    run_job(&j, wait_for_the_end);
    for (int r = 0; r < 4; r++)
        if (r != 1) assert_string_equal(j.text[r], want);
    close_job(&j);
}

static void a_rank_that_ends_well_disturbs_nobody(void **state)
{
    (void)state;
    job j;
    um_msg m = {0};
    um_err err = {0};
    open_job(&j, 3);
    assert_int_equal(send_numbered(j.comm[1], 2, 0), UM_OK);
    um_comm_close(j.comm[1], UM_OK);
    j.comm[1] = NULL;
    assert_int_equal(send_numbered(j.comm[0], 1, 0),
                     UM_OK); /* nobody reads it, and it must not leak */
    assert_int_equal(um_comm_recv(j.comm[2], &m, 0, &err), UM_OK);
    assert_int_equal(m.peer, 1);
    um_comm_release(j.comm[2], &m);
    assert_int_equal(um_comm_recv(j.comm[2], &m, 0, &err), UM_E_TIMEOUT);
    close_job(&j);
}

static int wait_or_stop(um_comm *c, job *j)
{
    um_err err;
    um_msg m;
    c->stop = &j->stop;
    if (c->rank == 0) {
        if (um_comm_recv(c, &m, 20000, &err) != UM_E_TIMEOUT) return 1;
        __atomic_store_n(&j->stop, 1, __ATOMIC_RELAXED);
    }
    return um_comm_recv(c, &m, LONG_US, &err) != UM_E_STOPPED;
}

static void a_waiting_rank_can_be_stopped(void **state)
{
    (void)state;
    job j;
    open_job(&j, 3);
    run_job(&j, wait_or_stop);
    close_job(&j);
}

static void *wake_soon(void *comm)
{
    um_sleep_us(20000);
    um_comm_wake(comm);
    return NULL;
}

/* Only a wake can end this wait: nothing is sent, and the time limit is a minute. A wake before the wait counts too, once, and what
 * has come is delivered first. */
static void another_thread_ends_a_wait(void **state)
{
    (void)state;
    job j;
    pthread_t thread;
    um_msg m;
    um_err err = {0};
    open_job(&j, 2);
    um_comm *c = j.comm[0];
    assert_int_equal(pthread_create(&thread, NULL, wake_soon, c), 0);
    assert_int_equal(um_comm_recv(c, &m, LONG_US, &err), UM_E_TIMEOUT);
    assert_true(c->woken);
    pthread_join(thread, NULL);
    c->woken = false;
    um_comm_wake(c);
    um_comm_wake(c);
    assert_int_equal(send_numbered(j.comm[1], 0, 0), UM_OK);
    assert_int_equal(um_comm_recv(c, &m, LONG_US, &err), UM_OK);
    assert_int_equal(check_numbered(c, &m, 0), 0);
    um_comm_release(c, &m);
    assert_false(c->woken);
    assert_int_equal(um_comm_recv(c, &m, LONG_US, &err), UM_E_TIMEOUT);
    assert_true(c->woken);
    c->woken = false;
    assert_int_equal(um_comm_recv(c, &m, 0, &err), UM_E_TIMEOUT);
    assert_false(c->woken);
    close_job(&j);
}

/* What one thread sends itself through two ranks: nothing comes before the delay is over, all of it does afterwards, in order. */
static void messages_can_be_delayed(void **state)
{
    enum { DELAY_US = 30000 };
    (void)state;
    job j;
    um_msg m;
    um_err err = {0};
    open_job(&j, 2);
    um_comm_inproc_delay(j.comm[0], DELAY_US);
    int64_t start = um_now_ns();
    for (int i = 0; i < 3; i++) assert_int_equal(send_numbered(j.comm[0], 1, i), UM_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(um_comm_recv(j.comm[1], &m, LONG_US, &err), UM_OK);
        assert_true(um_now_ns() - start >= DELAY_US * 1000);
        assert_int_equal(check_numbered(j.comm[1], &m, i), 0);
        um_comm_release(j.comm[1], &m);
    }
    assert_int_equal(send_numbered(j.comm[1], 1, 3), UM_OK); /* to itself: at once */
    assert_int_equal(um_comm_recv(j.comm[1], &m, 0, &err), UM_OK);
    um_comm_release(j.comm[1], &m);
    close_job(&j);
}

/* Faults by message number, which is in bytes 4..7: 1 is lost, 2 arrives twice, 3 has a bit flipped, 4 is truncated. */
static int damage(void *ctx, int from, int to, um_msg *m)
{
    int *calls = ctx;
    if (m == NULL) return 1; /* a beat of the pulse */
    (*calls)++;
    if (from != 0 || to != 1) return 1;
    switch (um_get_u32(m->data + 4)) {
    case 1:
        return 0;
    case 2:
        return 2;
    case 3:
        m->data[8] ^= 4;
        return 1;
    case 4:
        m->size = 9;
        return 1;
    default:
        return 1;
    }
}

static void faults_can_be_injected(void **state)
{
    (void)state;
    job j;
    um_msg m;
    um_err err = {0};
    int calls = 0;
    const uint32_t number[] = {0, 2, 2, 3, 4, 5};
    open_job(&j, 2);
    um_comm_inproc_fault(j.comm[1], damage, &calls);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(um_comm_buffer(j.comm[0], &m, 12, &err), UM_OK);
        memset(m.data, 0, 12);
        um_put_u32(m.data + 4, i);
        assert_int_equal(um_comm_send(j.comm[0], 1, &m, &err), UM_OK);
    }
    assert_int_equal(calls, 6);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(um_comm_recv(j.comm[1], &m, 0, &err), UM_OK);
        assert_int_equal(um_get_u32(m.data + 4), number[i]);
        assert_int_equal(m.size, number[i] == 4 ? 9 : 12);
        assert_int_equal(m.data[8], number[i] == 3 ? 4 : 0);
        um_comm_release(j.comm[1], &m);
    }
    assert_int_equal(um_comm_recv(j.comm[1], &m, 0, &err), UM_E_TIMEOUT);
    close_job(&j);
}

static void a_job_without_router_does_not_open(void **state)
{
    (void)state;
    um_comm *comm[2] = {NULL, NULL};
    um_err err = {0};
    const um_role roles[] = {UM_ROLE_EXPERT, UM_ROLE_ENCODER};
    assert_int_equal(um_comm_inproc_open(comm, roles, 2, &err), UM_E_USAGE);
    assert_null(comm[0]);
    um_comm_close(NULL, UM_OK);
}

static void each_rank_may_place_experts_for_itself(void **state)
{
    (void)state;
    job j;
    um_arena place[3];
    um_err err = {0};
    open_job(&j, 3);
    for (int r = 0; r < 3; r++) {
        um_arena_init(&place[r], "place", 4096);
        assert_int_equal(um_placement_blocks(&j.comm[r]->topo.place, 1, 4 + r, 2, &place[r], &err),
                         UM_OK);
    }
    for (int r = 0; r < 3; r++) {
        assert_int_equal(j.comm[r]->topo.place.experts, 4 + r);
        assert_int_equal(j.comm[r]->topo.ranks[r].host, 0);
        um_arena_free(&place[r]);
    }
    close_job(&j);
}

static void pooled_buffers_fit_and_are_bounded(void **state)
{
    (void)state;
    um_pool pool = {0};
    um_err err = {0};
    um_msg kept[40];
    um_rng rng = um_rng_seed(7, 0);
    for (int i = 0; i < 4000; i++) {
        um_msg *m = &kept[i % 40];
        if (i >= 40) um_pool_put(&pool, m);
        size_t bytes = (size_t)um_rng_below(&rng, (uint64_t)1 << (i % 23));
        assert_int_equal(um_pool_get(&pool, m, bytes, &err), UM_OK);
        assert_true(m->size == bytes && m->cap >= bytes &&
                    (bytes < 256 || m->cap <= bytes + bytes / 4 + 64));
        assert_int_equal((uintptr_t)m->data % 64, 0);
        memset(m->data, i, m->cap);
    }
    for (int i = 0; i < 40; i++) um_pool_put(&pool, &kept[i]);
    for (int i = 0; i < 5; i++)
        assert_int_equal(um_pool_get(&pool, &kept[i], (size_t)60 << 20, &err), UM_OK);
    for (int i = 0; i < 5; i++) um_pool_put(&pool, &kept[i]);
    assert_true(pool.held <= (size_t)128 << 20);
    assert_int_equal(um_pool_get(&pool, &kept[0], UM_MSG_MAX, &err), UM_OK);
    um_pool_put(&pool, &kept[0]);
    assert_int_equal(um_pool_get(&pool, &kept[0], UM_MSG_MAX + 1, &err), UM_E_LIMIT);
    um_pool_close(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_of_all_sizes_stay_in_order_per_pair),
        cmocka_unit_test(many_senders_do_not_mix),
        cmocka_unit_test(nothing_comes_before_the_time_is_over),
        cmocka_unit_test(a_rank_may_send_to_itself),
        cmocka_unit_test(an_empty_message_arrives),
        cmocka_unit_test(the_buffer_changes_hands_without_a_copy),
        cmocka_unit_test(the_end_of_one_wakes_all_and_is_named),
        cmocka_unit_test(a_rank_that_ends_well_disturbs_nobody),
        cmocka_unit_test(a_waiting_rank_can_be_stopped),
        cmocka_unit_test(another_thread_ends_a_wait),
        cmocka_unit_test(messages_can_be_delayed),
        cmocka_unit_test(faults_can_be_injected),
        cmocka_unit_test(a_job_without_router_does_not_open),
        cmocka_unit_test(each_rank_may_place_experts_for_itself),
        cmocka_unit_test(pooled_buffers_fit_and_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
