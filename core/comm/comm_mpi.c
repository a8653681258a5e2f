/* Transport over MPI point-to-point: the only file that includes mpi.h. See comm.h.
 *
 * Sends are MPI_Isend straight from the message's buffer; those not done yet wait in a list, and their buffers go back to the pool
 * when they are. Receives are MPI_Improbe and MPI_Imrecv, never blocking: a large message is pulled by a handshake with its sender,
 * and a sender that dies in it must not take us along. Such messages wait in a list too, and messages behind them from the same
 * sender wait with them, so that order per pair holds.
 *
 * Open MPI looks first and makes progress afterwards (MPI_Test*, MPI_Improbe), so one look after a sleep would always miss: every
 * look here is a double one. */
#include "core/comm/comm.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/comm/alive.h"
#include "core/comm/doorbell.h"
#include "core/comm/pool.h"
#include "core/comm/watch.h"

#include <mpi.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { TAG = 1 };

/* A wait begins with looking only, then yields for um_comm.yield_us, then sleeps. */
enum { SPIN_NS = 5000, YIELD_US = 500 };

/* Asleep. When every peer can ring, the only reason to wake is the stop flag. Naps, shorter and doubling, when nobody rings: while a
 * send or receive of ours is under way, which only our looking moves on, or when a message may come from another host. */
enum { SLEEP_US = 50000, NAP_FIRST_US = 20, NAP_PENDING_US = 1000, NAP_REMOTE_US = 5000 };

/* A receive that has just begun, or a partner who has just rung, is yielded for so long before naps: data is flowing. */
enum { PULL_NS = 20000000, RUNG_NS = 200000 };

/* Between two looks at the neighbours' processes while waiting; how many looks in a row a halted one is waited for at close. */
enum { WATCH_NS = 1000000000, HALTED_LOOKS = 3 };

/* A failing rank gives its last words so long to leave. One that is not the first to end the job waits so long with it, so that the
 * first one's exit code counts. */
enum { FLUSH_NS = 100000000, FOLLOW_US = 200000 };

/* Bytes being pulled at one time; another message is begun below this. */
enum { PULLED_MAX = 256 << 20 };

/* Messages under way, oldest first. req is MPI_REQUEST_NULL for one that is complete. */
typedef struct flights {
    MPI_Request *req;
    um_msg *msg;
    int *which; /* room for MPI_Testsome */
    int n, cap;
    int open; /* not complete */
} flights;

typedef struct mpi {
    um_comm base;  /* first, so that a um_comm of this table is one of these */
    MPI_Comm comm; /* all ranks, ours alone */
    MPI_Comm node; /* the ranks of this host */
    MPI_Win window;
    um_doorbell **bell; /* [ranks] NULL: cannot be rung, on another host or without shared memory */
    atomic_uint *ends;  /* how many ranks of this host have ended the job, or NULL */
    bool warned;        /* has seen *ends rise */
    bool remote;        /* some peer cannot ring us */
    um_watch watch;
    int64_t watched; /* when um_watch_look was called last */
    flights out, in;
    int64_t pulled; /* bytes of open receives */
    unsigned *late; /* [ranks] == round: an earlier message of that rank is not complete */
    unsigned round;
    int64_t waiting; /* since when nothing came, over several recv; 0: something did */
    int64_t lively;  /* until then a handshake under way goes on fast */
    int64_t nap_us;
    um_pool pool;
    um_arena arena;
} mpi;

static mpi *self(um_comm *c) { return (mpi *)c; }

static um_status checked(int code, const char *what, um_err *err)
{
    if (code == MPI_SUCCESS) return UM_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return UM_FAIL(err, UM_E_IO, "%s: %s", what, text);
}

/* ---- messages under way ---- */

static void flights_add(flights *f, const um_msg *msg, MPI_Request req)
{
    if (f->n == f->cap) {
        f->cap = f->cap == 0 ? 32 : 2 * f->cap;
        f->req = um_realloc(f->req, (size_t)f->cap * sizeof *f->req);
        f->msg = um_realloc(f->msg, (size_t)f->cap * sizeof *f->msg);
        f->which = um_realloc(f->which, (size_t)f->cap * sizeof *f->which);
    }
    f->req[f->n] = req;
    f->msg[f->n++] = *msg;
    f->open += req != MPI_REQUEST_NULL;
}

/* Finds out which have completed; their req becomes MPI_REQUEST_NULL. */
static um_status flights_test(flights *f, const char *what, um_err *err)
{
    int done = 0;
    if (f->open == 0) return UM_OK;
    UM_TRY(checked(MPI_Testsome(f->n, f->req, &done, f->which, MPI_STATUSES_IGNORE), what, err));
    if (done != MPI_UNDEFINED) f->open -= done;
    return UM_OK;
}

static void flights_remove(flights *f, int i)
{
    size_t behind = (size_t)(--f->n - i);
    memmove(f->req + i, f->req + i + 1, behind * sizeof *f->req);
    memmove(f->msg + i, f->msg + i + 1, behind * sizeof *f->msg);
}

static void flights_close(flights *f)
{
    um_free(f->req);
    um_free(f->msg);
    um_free(f->which);
}

static um_status push_sends(mpi *t, um_err *err)
{
    flights *f = &t->out;
    int kept = 0, open = f->open;
    UM_TRY(flights_test(f, "MPI_Testsome of sends", err));
    if (f->open == open) return UM_OK;
    for (int i = 0; i < f->n; i++) {
        if (f->req[i] == MPI_REQUEST_NULL) {
            um_pool_put(&t->pool, &f->msg[i]);
            continue;
        }
        f->req[kept] = f->req[i];
        f->msg[kept++] = f->msg[i];
    }
    f->n = kept;
    return UM_OK;
}

/* The oldest complete message with no incomplete one of the same sender before it. */
static bool take(mpi *t, um_msg *out)
{
    flights *f = &t->in;
    t->round++;
    for (int i = 0; i < f->n; i++) {
        int peer = f->msg[i].peer;
        if (f->req[i] != MPI_REQUEST_NULL) t->late[peer] = t->round;
        if (t->late[peer] == t->round) continue;
        *out = f->msg[i];
        flights_remove(f, i);
        return true;
    }
    return false;
}

static void ring(const mpi *t, int peer)
{
    if (t->bell[peer] != NULL && peer != t->base.rank) um_doorbell_ring(t->bell[peer]);
}

/* A handshake under way goes on only when the other side looks too. */
static void ring_partners(const mpi *t)
{
    const flights *both[] = {&t->out, &t->in};
    for (int k = 0; k < 2; k++)
        for (int i = 0; both[k]->open > 0 && i < both[k]->n; i++)
            if (both[k]->req[i] != MPI_REQUEST_NULL) ring(t, both[k]->msg[i].peer);
}

/* Begins to receive the next message that MPI knows of, if there is one. */
static um_status pull(mpi *t, bool *any, um_err *err)
{
    MPI_Message handle;
    MPI_Status status;
    MPI_Request req;
    um_msg msg;
    int found = 0, bytes = 0, done = 0;
    *any = false;
    if (t->pulled >= PULLED_MAX) return UM_OK;
    UM_TRY(checked(MPI_Improbe(MPI_ANY_SOURCE, TAG, t->comm, &found, &handle, &status),
                   "MPI_Improbe", err));
    if (!found) return UM_OK;
    UM_TRY(checked(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count", err));
    if (bytes < 0)
        return UM_FAIL(err, UM_E_LIMIT,
                       "rank %d sent a message whose size is over the limit of %zu bytes",
                       status.MPI_SOURCE, UM_MSG_MAX);
    UM_TRY(um_wrap(err, um_pool_get(&t->pool, &msg, (size_t)bytes, err), "from rank %d",
                   status.MPI_SOURCE));
    msg.peer = status.MPI_SOURCE;
    UM_TRY(checked(MPI_Imrecv(msg.data, bytes, MPI_BYTE, &handle, &req), "MPI_Imrecv", err));
    UM_TRY(checked(MPI_Test(&req, &done, MPI_STATUS_IGNORE), "MPI_Test of a receive", err));
    flights_add(&t->in, &msg, req);
    if (!done) {
        t->pulled += bytes;
        t->lively = um_now_ns() + PULL_NS;
    }
    *any = true;
    return UM_OK;
}

static um_status look_once(mpi *t, um_msg *out, bool *found, um_err *err)
{
    const flights *f = &t->in;
    bool any = true;
    UM_TRY(flights_test(&t->in, "MPI_Testsome of receives", err));
    t->pulled = 0;
    for (int i = 0; f->open > 0 && i < f->n; i++)
        if (f->req[i] != MPI_REQUEST_NULL) t->pulled += (int64_t)f->msg[i].size;
    *found = take(t, out);
    while (!*found && any) {
        UM_TRY(pull(t, &any, err));
        if (any) *found = take(t, out);
    }
    return UM_OK;
}

/* Twice: see the head of this file. */
static um_status look(mpi *t, um_msg *out, bool *found, um_err *err)
{
    UM_TRY(look_once(t, out, found, err));
    return *found ? UM_OK : look_once(t, out, found, err);
}

/* ---- waiting ---- */

static bool stop_asked(const mpi *t)
{
    return t->base.stop != NULL && __atomic_load_n(t->base.stop, __ATOMIC_RELAXED) != 0;
}

/* What ends a wait without a message; UM_OK: nothing does. asleep: it has lasted so long that looking around costs nothing. */
static um_status wait_over(mpi *t, int64_t now, bool asleep, um_err *err)
{
    bool stop = stop_asked(t);
    bool ends = t->ends != NULL && atomic_load(t->ends) > 0;
    if (ends && !t->warned) { /* it may have sent its reason: look for a message once more */
        t->warned = true;
        return UM_OK;
    }
    if (stop || ends || (asleep && now - t->watched > WATCH_NS)) {
        t->watched = now;
        UM_TRY(um_watch_look(&t->watch, err));
    }
    return stop ? UM_FAIL(err, UM_E_STOPPED, "asked to stop while waiting for a message") : UM_OK;
}

/* One nap or sleep of at most most_us, shorter when a message may come that nobody rings for. Looks once more after saying that this
 * rank sleeps, and finds what came in between. */
static um_status sleep_once(mpi *t, um_msg *out, bool *found, int64_t most_us, um_err *err)
{
    um_doorbell *own = t->bell[t->base.rank];
    bool busy = t->out.open + t->in.open > 0;
    int64_t us = busy ? NAP_PENDING_US : t->remote ? NAP_REMOTE_US : SLEEP_US;
    if (us < SLEEP_US) {
        if (t->nap_us < us) us = t->nap_us;
        t->nap_us = 2 * us;
    }
    if (us > most_us) us = most_us;
    if (busy) ring_partners(t);
    if (own == NULL) {
        um_sleep_us(us);
        return UM_OK;
    }
    uint32_t ticket = um_doorbell_arm(own);
    um_status st = look(t, out, found, err);
    if (st == UM_OK && !*found && um_doorbell_sleep(own, ticket, us) && busy)
        t->lively = um_now_ns() + RUNG_NS;
    um_doorbell_disarm(own);
    return st;
}

static void yield(const mpi *t, bool busy)
{
    if (busy) ring_partners(t);
    sched_yield();
}

static um_status mpi_recv(um_comm *c, um_msg *out, int64_t timeout_us, um_err *err)
{
    mpi *t = self(c);
    um_msg msg = {0};
    int64_t end = 0;
    bool found = false;
    for (;;) {
        UM_TRY(push_sends(t, err));
        UM_TRY(look(t, &msg, &found, err));
        if (found) break;
        int64_t now = um_now_ns();
        if (end == 0) end = um_comm_end_ns(now, timeout_us);
        if (t->waiting == 0) {
            t->waiting = now;
            t->nap_us = NAP_FIRST_US;
        }
        int64_t waited = now - t->waiting;
        bool busy = t->out.open + t->in.open > 0;
        bool asleep =
            waited >= SPIN_NS && waited >= c->yield_us * 1000 && !(busy && now < t->lively);
        UM_TRY(wait_over(t, now, asleep, err));
        if (now >= end)
            return UM_FAIL(err, UM_E_TIMEOUT, "no message within %lld us", (long long)timeout_us);
        if (asleep)
            UM_TRY(sleep_once(t, &msg, &found, (end - now + 999) / 1000, err));
        else if (waited >= SPIN_NS)
            yield(t, busy);
        if (found) break;
    }
    t->waiting = 0;
    *out = msg;
    return UM_OK;
}

/* ---- sending ---- */

static um_status mpi_buffer(um_comm *c, um_msg *out, size_t bytes, um_err *err)
{
    return um_pool_get(&self(c)->pool, out, bytes, err);
}

static void mpi_release(um_comm *c, um_msg *msg) { um_pool_put(&self(c)->pool, msg); }

static um_status mpi_send(um_comm *c, int peer, um_msg *msg, um_err *err)
{
    mpi *t = self(c);
    um_msg m = *msg;
    MPI_Request req = MPI_REQUEST_NULL;
    int done = 0;
    UM_ASSERT(peer >= 0 && peer < c->topo.n && m.data != NULL && m.size <= m.cap);
    *msg = (um_msg){0};
    m.peer = peer;
    if (peer == c->rank) { /* it is here already */
        flights_add(&t->in, &m, MPI_REQUEST_NULL);
        return UM_OK;
    }
    um_status st = checked(MPI_Isend(m.data, (int)m.size, MPI_BYTE, peer, TAG, t->comm, &req),
                           "MPI_Isend", err);
    if (st == UM_OK) {
        ring(t, peer);
        st = checked(MPI_Test(&req, &done, MPI_STATUS_IGNORE), "MPI_Test of a send", err);
    }
    if (st == UM_OK && !done)
        flights_add(&t->out, &m, req);
    else
        um_pool_put(&t->pool, &m);
    if (st == UM_OK) return UM_OK;
    char label[128];
    um_topology_label(&c->topo, peer, label);
    return um_wrap(err, st, "sending to %s", label);
}

/* ---- the end ---- */

/* Waits until the own sends have left and then until every rank has come to its end. What still comes in is nobody's any more, but
 * must be taken, or its sender would wait for us. */
static um_status settle(mpi *t, um_err *err)
{
    MPI_Request all = MPI_REQUEST_NULL;
    um_msg msg = {0};
    int done = 0;
    bool begun = false, found = false;
    t->nap_us = NAP_FIRST_US;
    while (!done) {
        UM_TRY(push_sends(t, err));
        UM_TRY(look(t, &msg, &found, err));
        if (found) um_pool_put(&t->pool, &msg);
        if (!begun && t->out.open == 0) {
            UM_TRY(checked(MPI_Ibarrier(t->comm, &all), "MPI_Ibarrier", err));
            begun = true;
        }
        if (begun)
            UM_TRY(checked(MPI_Test(&all, &done, MPI_STATUS_IGNORE), "MPI_Test of the last barrier",
                           err));
        if (done || found) continue;
        int64_t now = um_now_ns();
        bool time = now - t->watched > WATCH_NS;
        UM_TRY(wait_over(t, now, true, err));
        if (time) UM_TRY(um_watch_stopped(&t->watch, HALTED_LOOKS, err));
        ring_partners(t);
        um_sleep_us(t->nap_us);
        t->nap_us = t->nap_us >= NAP_REMOTE_US ? NAP_REMOTE_US : 2 * t->nap_us;
    }
    return UM_OK;
}

/* Ends the job. Neighbours learn of it at their doorbell before their processes are ended. */
static void end_job(mpi *t, um_status st)
{
    um_err err;
    int64_t end = um_now_ns() + FLUSH_NS;
    while (t->out.open > 0 && um_now_ns() < end && push_sends(t, &err) == UM_OK) {
        ring_partners(t);
        um_sleep_us(NAP_FIRST_US);
    }
    um_doorbell *own = t->bell[t->base.rank];
    unsigned others = 0;
    if (own != NULL) {
        atomic_store(&own->ended, (unsigned)st + 1);
        others = atomic_fetch_add(t->ends, 1);
        for (int i = 0; i < t->watch.n; i++) ring(t, t->watch.near[i].rank);
    }
    if (others > 0) um_sleep_us(FOLLOW_US);
    MPI_Abort(MPI_COMM_WORLD, um_exit_code(st));
}

static void free_all(mpi *t)
{
    flights_close(&t->out);
    flights_close(&t->in);
    um_pool_close(&t->pool);
    um_arena_free(&t->arena);
    um_free(t);
}

static void mpi_close(um_comm *c, um_status st)
{
    mpi *t = self(c);
    um_err err = {0};
    if (st == UM_OK) {
        st = settle(t, &err);
        if (st != UM_OK) um_log_error("waiting for the others to end: %s", err.msg);
    }
    if (st != UM_OK) end_job(t, st);
    if (t->window != MPI_WIN_NULL) MPI_Win_free(&t->window);
    MPI_Comm_free(&t->node);
    MPI_Comm_free(&t->comm);
    MPI_Finalize();
    free_all(t);
}

static const um_comm_vt mpi_table = {
    .name = "mpi",
    .buffer = mpi_buffer,
    .send = mpi_send,
    .recv = mpi_recv,
    .release = mpi_release,
    .close = mpi_close,
};

/* ---- the beginning ---- */

/* What a rank tells of itself:
 *   off size field
 *     0   4  role
 *     4   4  pid
 *     8   4  lowest rank of its host
 *    12   4  0
 *    16   8  when its process was started (alive.h)
 *    24  64  host name, padded with 0 */
enum { RECORD = 88, RECORD_NAME = 24 };

static void record_put(uint8_t *p, um_role role, int lowest)
{
    memset(p, 0, RECORD);
    um_put_u32(p, (uint32_t)role);
    um_put_u32(p + 4, (uint32_t)getpid());
    um_put_u32(p + 8, (uint32_t)lowest);
    um_put_u64(p + 16, um_alive_started((int)getpid()));
    gethostname((char *)p + RECORD_NAME, RECORD - RECORD_NAME - 1);
}

/* Hosts are numbered in the order of their lowest ranks. */
static um_status topology_read(mpi *t, const uint8_t *records, int n, um_err *err)
{
    um_rank *ranks = um_arena_zero(&t->arena, (size_t)n * sizeof *ranks);
    int hosts = 0;
    for (int r = 0; r < n; r++) {
        const uint8_t *p = records + um_at((size_t)r, 0, RECORD);
        int lowest = (int)um_get_u32(p + 8);
        if (lowest < 0 || lowest > r)
            return UM_FAIL(err, UM_E_CORRUPT, "rank %d says that its host begins with rank %d", r,
                           lowest);
        ranks[r].role = (um_role)um_get_u32(p);
        ranks[r].pid = (int)um_get_u32(p + 4);
        ranks[r].host = lowest == r ? hosts++ : ranks[lowest].host;
        memcpy(ranks[r].hostname, p + RECORD_NAME, sizeof ranks[r].hostname);
    }
    t->remote = hosts > 1;
    return um_topology_build(&t->base.topo, ranks, n, &t->arena, err);
}

/* A neighbour is watched when we see the process it means: not so across containers that number their processes themselves. */
static void neighbours_find(mpi *t, const uint8_t *records)
{
    const um_topology *topo = &t->base.topo;
    const um_rank *me = &topo->ranks[t->base.rank];
    t->watch = (um_watch){.topo = topo,
                          .near = um_arena_zero(&t->arena, (size_t)topo->n * sizeof(um_neighbour))};
    for (int r = 0; r < topo->n; r++) {
        if (r == t->base.rank || topo->ranks[r].host != me->host) continue;
        uint64_t started = um_get_u64(records + um_at((size_t)r, 16, RECORD));
        if (um_alive_look(topo->ranks[r].pid, started) == UM_ALIVE_GONE) started = 0;
        t->watch.near[t->watch.n++] =
            (um_neighbour){.rank = r, .started = started, .bell = t->bell[r]};
    }
}

/* One doorbell for each rank of this host, and one whose first word counts the ranks that ended the job. Without shared memory we
 * nap instead of sleeping: not an error. */
static um_status doorbells_open(mpi *t, um_err *err)
{
    const um_topology *topo = &t->base.topo;
    int host = topo->ranks[t->base.rank].host, n = 0, place = 0, unit = 0;
    uint8_t *base = NULL;
    MPI_Aint bytes = 0;
    MPI_Comm_rank(t->node, &place);
    MPI_Comm_size(t->node, &n);
    t->bell = um_arena_zero(&t->arena, (size_t)topo->n * sizeof(um_doorbell *));
    t->window = MPI_WIN_NULL;
    if (n == 1) return UM_OK;
    bytes = place == 0 ? (MPI_Aint)((size_t)(n + 2) * sizeof(um_doorbell)) : 0;
    int code = MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, t->node, &base, &t->window);
    if (code != MPI_SUCCESS) {
        um_err why;
        checked(code, "MPI_Win_allocate_shared", &why);
        um_log_warn("no shared memory for doorbells, waiting ranks take naps instead: %s", why.msg);
        t->window = MPI_WIN_NULL;
        t->remote = true;
        return UM_OK;
    }
    UM_TRY(checked(MPI_Win_shared_query(t->window, 0, &bytes, &unit, &base), "MPI_Win_shared_query",
                   err));
    um_doorbell *bells = (um_doorbell *)(void *)(base + (-(uintptr_t)base & (sizeof *bells - 1)));
    if (place == 0) memset(bells, 0, (size_t)(n + 1) * sizeof *bells);
    t->ends = &bells[0].rung;
    for (int r = 0, at = 1; r < topo->n; r++)
        if (topo->ranks[r].host == host) t->bell[r] = &bells[at++];
    return checked(MPI_Barrier(t->node), "MPI_Barrier", err);
}

/* Collective. What everybody knows of everybody. */
static um_status meet(mpi *t, um_role role, um_err *err)
{
    int n = 0, lowest = t->base.rank;
    uint8_t own[RECORD];
    MPI_Comm_size(t->comm, &n);
    UM_TRY(checked(
        MPI_Comm_split_type(t->comm, MPI_COMM_TYPE_SHARED, t->base.rank, MPI_INFO_NULL, &t->node),
        "MPI_Comm_split_type", err));
    UM_TRY(checked(MPI_Bcast(&lowest, 1, MPI_INT, 0, t->node), "MPI_Bcast", err));
    record_put(own, role, lowest);
    uint8_t *records = um_arena_alloc(&t->arena, (size_t)n * RECORD);
    UM_TRY(checked(MPI_Allgather(own, RECORD, MPI_BYTE, records, RECORD, MPI_BYTE, t->comm),
                   "MPI_Allgather", err));
    UM_TRY(topology_read(t, records, n, err));
    UM_TRY(doorbells_open(t, err));
    neighbours_find(t, records);
    t->late = um_arena_zero(&t->arena, (size_t)n * sizeof *t->late);
    return UM_OK;
}

/* Open MPI sends up to 4 KiB at once between ranks of one host and asks the receiver first above that. A frame of a few rows is a
 * little larger, and asking costs it more than half of its time: 11 us there and back at 4 KiB, 4 us at once. Open MPI takes its
 * settings from the environment; one that was given (mpirun --mca) stays. The name is vader in Open MPI 4, sm in 5. */
static void tune(void)
{
    setenv("OMPI_MCA_btl_vader_eager_limit", "32768", 0);
    setenv("OMPI_MCA_btl_sm_eager_limit", "32768", 0);
}

um_status um_comm_mpi_open(um_comm **out, int *argc, char ***argv, um_role role, um_err *err)
{
    int level = 0;
    tune();
    UM_TRY(
        checked(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread", err));
    if (level < MPI_THREAD_FUNNELED)
        return UM_FAIL(err, UM_E_USAGE,
                       "this MPI library allows no threads (level %d): build it with "
                       "MPI_THREAD_FUNNELED or better",
                       level);
    mpi *t = um_zalloc(sizeof *t);
    um_arena_init(&t->arena, "transport", 1 << 14);
    t->base = (um_comm){.vt = &mpi_table, .yield_us = YIELD_US};
    MPI_Comm_rank(MPI_COMM_WORLD, &t->base.rank);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    /* the copy inherits the error handler */
    um_status st = checked(MPI_Comm_dup(MPI_COMM_WORLD, &t->comm), "MPI_Comm_dup", err);
    if (st == UM_OK) st = meet(t, role, err);
    if (st == UM_E_USAGE) MPI_Finalize(); /* a wrong mix of roles: all ranks see the same */
    if (st != UM_OK) {
        free_all(t);
        return um_wrap(err, st, "starting MPI");
    }
    /* nanoseconds: naps of 20 us would else last 70 */
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    *out = &t->base;
    return UM_OK;
}
