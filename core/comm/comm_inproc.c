/* Transport between threads of one process: a mailbox for each rank, under its own lock. A message is not copied, its buffer changes
 * hands. See comm.h; this is also where tests inject lost, repeated and damaged messages. */
#include "core/comm/comm.h"

#include "core/base/arena.h"
#include "core/base/clock.h"
#include "core/comm/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { STOP_LOOK_US = 50000 }; /* how often a waiting rank looks at its stop flag */

typedef struct letter {
    um_msg msg;
    int64_t due_ns; /* not delivered before: see um_comm_inproc_delay */
} letter;

typedef struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t ready;
    letter *ring; /* n messages from head on, in order of arrival */
    int head, n, cap;
    bool closed; /* its rank is gone: nothing is kept for it */
} mailbox;

/* Beats of one rank's pulse, for each reader, so that tests can lose those of one pair. */
typedef struct beats {
    atomic_uint *to; /* [n] */
} beats;

/* What the n ranks share. Freed by the last one that closes. */
typedef struct hub {
    mailbox *box; /* [n] */
    beats *beat;  /* [n] */
    int n;
    atomic_int open;     /* ranks that are not closed yet */
    atomic_int failed;   /* 1 + the first rank that closed with an error, else 0 */
    atomic_bool claimed; /* a rank has said that it reports the error */
    um_comm_fault fault;
    void *fault_ctx;
    int64_t delay_ns;
} hub;

typedef struct inproc {
    um_comm base; /* first, so that a um_comm of this table is one of these */
    hub *hub;
    unsigned *seen; /* [n] beats of each rank at the last turn; the pulse's */
    um_pool pool;
    um_arena arena;
} inproc;

static inproc *self(um_comm *c) { return (inproc *)c; }

static void mailbox_init(mailbox *b)
{
    pthread_condattr_t attr;
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->ready, &attr);
    pthread_condattr_destroy(&attr);
}

/* Caller holds the lock. */
static void mailbox_push(mailbox *b, const um_msg *msg, int64_t due_ns)
{
    if (b->n == b->cap) {
        int cap = b->cap == 0 ? 16 : 2 * b->cap;
        letter *ring = um_zalloc((size_t)cap * sizeof *ring);
        for (int i = 0; i < b->n; i++) ring[i] = b->ring[(b->head + i) % b->cap];
        um_free(b->ring);
        b->ring = ring;
        b->cap = cap;
        b->head = 0;
    }
    b->ring[(b->head + b->n++) % b->cap] = (letter){*msg, due_ns};
}

/* Caller holds the lock; n > 0. */
static um_msg mailbox_pop(mailbox *b)
{
    um_msg msg = b->ring[b->head].msg;
    b->head = (b->head + 1) % b->cap;
    b->n--;
    return msg;
}

static void mailbox_free(mailbox *b)
{
    while (b->n > 0) um_free(mailbox_pop(b).data);
    um_free(b->ring);
    pthread_cond_destroy(&b->ready);
    pthread_mutex_destroy(&b->lock);
}

static um_status inproc_buffer(um_comm *c, um_msg *out, size_t bytes, um_err *err)
{
    return um_pool_get(&self(c)->pool, out, bytes, err);
}

static void inproc_release(um_comm *c, um_msg *msg) { um_pool_put(&self(c)->pool, msg); }

/* Puts msg in the box of peer, or back into our pool when peer has closed. */
static void deliver(inproc *t, int peer, um_msg *msg)
{
    mailbox *b = &t->hub->box[peer];
    int64_t delay = peer == t->base.rank ? 0 : t->hub->delay_ns;
    msg->peer = t->base.rank;
    pthread_mutex_lock(&b->lock);
    bool kept = !b->closed;
    if (kept) {
        mailbox_push(b, msg, delay == 0 ? 0 : um_now_ns() + delay);
        pthread_cond_signal(&b->ready);
    }
    pthread_mutex_unlock(&b->lock);
    if (kept)
        *msg = (um_msg){0};
    else
        um_pool_put(&t->pool, msg);
}

static um_status inproc_send(um_comm *c, int peer, um_msg *msg, um_err *err)
{
    inproc *t = self(c);
    UM_ASSERT(peer >= 0 && peer < c->topo.n && msg->data != NULL && msg->size <= msg->cap);
    int times = t->hub->fault == NULL ? 1 : t->hub->fault(t->hub->fault_ctx, c->rank, peer, msg);
    UM_ASSERT(msg->size <= msg->cap);
    um_status st = UM_OK;
    for (; st == UM_OK && times > 1; times--) {
        um_msg copy = {0};
        st = um_pool_get(&t->pool, &copy, msg->size, err);
        if (st != UM_OK) break;
        memcpy(copy.data, msg->data, msg->size);
        deliver(t, peer, &copy);
    }
    if (st == UM_OK && times == 1)
        deliver(t, peer, msg);
    else
        um_pool_put(&t->pool, msg);
    return st;
}

/* What ends a wait without a message; UM_OK: nothing does. */
static um_status wait_over(inproc *t, int64_t left_ns, int64_t timeout_us, um_err *err)
{
    char label[128];
    int failed = atomic_load(&t->hub->failed);
    if (failed != 0) {
        um_topology_label(&t->base.topo, failed - 1, label);
        t->base.follows = true;
        return UM_FAIL(err, UM_E_PEER, "%s stopped", label);
    }
    if (t->base.stop != NULL && __atomic_load_n(t->base.stop, __ATOMIC_RELAXED) != 0)
        return UM_FAIL(err, UM_E_STOPPED, "asked to stop while waiting for a message");
    if (um_comm_take_wake(&t->base))
        return UM_FAIL(err, UM_E_TIMEOUT, "woken while waiting for a message");
    if (left_ns <= 0)
        return UM_FAIL(err, UM_E_TIMEOUT, "no message within %lld us", (long long)timeout_us);
    return UM_OK;
}

static um_status inproc_recv(um_comm *c, um_msg *out, int64_t timeout_us, um_err *err)
{
    inproc *t = self(c);
    mailbox *b = &t->hub->box[c->rank];
    int64_t end = um_comm_end_ns(um_now_ns(), timeout_us);
    um_status st = UM_OK;
    pthread_mutex_lock(&b->lock);
    for (;;) {
        int64_t now = um_now_ns();
        if (b->n > 0 && b->ring[b->head].due_ns <= now) break;
        st = wait_over(t, end - now, timeout_us, err);
        if (st != UM_OK) break;
        int64_t wake = now + (int64_t)STOP_LOOK_US * 1000;
        if (wake > end) wake = end;
        if (b->n > 0 && wake > b->ring[b->head].due_ns) wake = b->ring[b->head].due_ns;
        struct timespec until = {wake / 1000000000, wake % 1000000000};
        pthread_cond_timedwait(&b->ready, &b->lock, &until);
    }
    if (st == UM_OK) *out = mailbox_pop(b);
    pthread_mutex_unlock(&b->lock);
    return st;
}

static void inproc_wake(um_comm *c)
{
    mailbox *b = &self(c)->hub->box[c->rank];
    pthread_mutex_lock(&b->lock); /* so that the rank is not between looking and waiting */
    pthread_cond_signal(&b->ready);
    pthread_mutex_unlock(&b->lock);
}

/* Every waiting rank looks again. Its lock is taken so that none is between looking and waiting. */
static void wake_all(hub *h)
{
    for (int r = 0; r < h->n; r++) {
        pthread_mutex_lock(&h->box[r].lock);
        pthread_cond_signal(&h->box[r].ready);
        pthread_mutex_unlock(&h->box[r].lock);
    }
}

static void hub_leave(hub *h)
{
    if (atomic_fetch_sub(&h->open, 1) > 1) return;
    for (int r = 0; r < h->n; r++) {
        mailbox_free(&h->box[r]);
        um_free(h->beat[r].to);
    }
    um_free(h->beat);
    um_free(h->box);
    um_free(h);
}

static void inproc_beat(void *ctx, bool *heard)
{
    inproc *t = ctx;
    hub *h = t->hub;
    int me = t->base.rank;
    for (int r = 0; r < h->n; r++) {
        if (h->fault == NULL || h->fault(h->fault_ctx, me, r, NULL) > 0)
            atomic_fetch_add(&h->beat[me].to[r], 1);
        unsigned now = atomic_load(&h->beat[r].to[me]);
        heard[r] = now != t->seen[r];
        t->seen[r] = now;
    }
}

/* All are threads of this process. */
static um_alive inproc_process(um_comm *c, int peer)
{
    (void)c;
    (void)peer;
    return UM_ALIVE_RUNS;
}

static bool inproc_claim(um_comm *c) { return !atomic_exchange(&self(c)->hub->claimed, true); }

static void inproc_close(um_comm *c, um_status st)
{
    inproc *t = self(c);
    hub *h = t->hub;
    mailbox *b = &h->box[c->rank];
    int none = 0;
    um_pulse_close(c->pulse);
    pthread_mutex_lock(&b->lock);
    b->closed = true;
    while (b->n > 0) um_free(mailbox_pop(b).data);
    pthread_mutex_unlock(&b->lock);
    if (st != UM_OK && atomic_compare_exchange_strong(&h->failed, &none, c->rank + 1)) wake_all(h);
    um_pool_close(&t->pool);
    um_arena_free(&t->arena);
    um_free(t->seen);
    um_free(t);
    hub_leave(h);
}

static const um_comm_vt inproc_table = {
    .name = "inproc",
    .buffer = inproc_buffer,
    .send = inproc_send,
    .recv = inproc_recv,
    .release = inproc_release,
    .wake = inproc_wake,
    .beat = inproc_beat,
    .process = inproc_process,
    .claim = inproc_claim,
    .close = inproc_close,
};

static hub *hub_open(int n)
{
    hub *h = um_zalloc(sizeof *h);
    h->n = n;
    h->box = um_zalloc((size_t)n * sizeof *h->box);
    atomic_init(&h->open, n);
    atomic_init(&h->failed, 0);
    atomic_init(&h->claimed, false);
    h->beat = um_zalloc((size_t)n * sizeof *h->beat);
    for (int r = 0; r < n; r++) {
        mailbox_init(&h->box[r]);
        h->beat[r].to = um_zalloc((size_t)n * sizeof *h->beat[r].to);
    }
    return h;
}

um_status um_comm_inproc_open(um_comm **out, const um_role *roles, int n, um_err *err)
{
    um_arena arena;
    um_topology topo;
    um_arena_init(&arena, "ranks", 4096);
    um_rank *ranks = um_arena_zero(&arena, (size_t)(n > 0 ? n : 0) * sizeof *ranks);
    char hostname[64] = "";
    gethostname(hostname, sizeof hostname - 1);
    for (int r = 0; r < n; r++) {
        ranks[r] = (um_rank){.role = roles[r], .pid = (int)getpid()};
        snprintf(ranks[r].hostname, sizeof ranks[r].hostname, "%s", hostname);
    }
    um_status st = um_topology_build(&topo, ranks, n, &arena, err);
    hub *h = st == UM_OK ? hub_open(n) : NULL;
    for (int r = 0; st == UM_OK && r < n; r++) {
        inproc *t = um_zalloc(sizeof *t);
        um_arena_init(&t->arena, "topology", 4096);
        t->base = (um_comm){.vt = &inproc_table, .rank = r};
        t->hub = h;
        t->seen = um_zalloc((size_t)n * sizeof *t->seen);
        st = um_topology_build(&t->base.topo, ranks, n, &t->arena, err);
        UM_ASSERT(st == UM_OK); /* the same ranks as above */
        out[r] = &t->base;
    }
    um_arena_free(&arena);
    return st;
}

void um_comm_inproc_fault(um_comm *c, um_comm_fault fn, void *ctx)
{
    self(c)->hub->fault = fn;
    self(c)->hub->fault_ctx = ctx;
}

void um_comm_inproc_delay(um_comm *c, int64_t us) { self(c)->hub->delay_ns = us * 1000; }
