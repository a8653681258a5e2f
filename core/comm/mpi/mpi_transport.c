/* The MPI transport: requests under way. See mpi_parts.h and comm.h.
 *
 * Sends are MPI_Isend straight from the message's buffer; those that are not complete wait in a list, and their buffers go back to
 * the pool when they are. Receives are MPI_Improbe and MPI_Imrecv, never blocking: a large message comes by a handshake with its
 * sender, and a sender that dies in it must not take this rank along. Such messages wait in a list too, and messages behind them from
 * the same sender wait with them, so that order per pair holds. */
#include "core/comm/mpi/mpi_parts.h"

#include "core/base/clock.h"

#include <string.h>

/* A receive that has just begun is polled without naps for so long: data is flowing. */
enum { PULL_NS = 20000000 };

/* Bytes being received at one time; another message is begun below this. */
enum { PULLED_MAX = 256 << 20 };

um_status um_mpi_checked(int code, const char *what, um_err *err)
{
    if (code == MPI_SUCCESS) return UM_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return UM_FAIL(err, UM_E_IO, "%s: %s", what, text);
}

/* ---- messages under way ---- */

static void requests_add(um_mpi_requests *f, const um_msg *msg, MPI_Request req)
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
static um_status requests_test(um_mpi_requests *f, const char *what, um_err *err)
{
    int done = 0;
    if (f->open == 0) return UM_OK;
    UM_TRY(um_mpi_checked(MPI_Testsome(f->n, f->req, &done, f->which, MPI_STATUSES_IGNORE), what,
                          err));
    if (done != MPI_UNDEFINED) f->open -= done;
    return UM_OK;
}

static void requests_remove(um_mpi_requests *f, int i)
{
    size_t behind = (size_t)(--f->n - i);
    memmove(f->req + i, f->req + i + 1, behind * sizeof *f->req);
    memmove(f->msg + i, f->msg + i + 1, behind * sizeof *f->msg);
}

void um_mpi_requests_free(um_mpi_requests *f)
{
    um_free(f->req);
    um_free(f->msg);
    um_free(f->which);
}

/* The caller holds the lock. */
static um_status push(um_mpi *t, um_err *err)
{
    um_mpi_requests *f = &t->out;
    int kept = 0, open = f->open;
    UM_TRY(requests_test(f, "MPI_Testsome of sends", err));
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
static bool pop(um_mpi *t, um_msg *out)
{
    um_mpi_requests *f = &t->in;
    t->round++;
    for (int i = 0; i < f->n; i++) {
        int peer = f->msg[i].peer;
        if (f->req[i] != MPI_REQUEST_NULL) t->late[peer] = t->round;
        if (t->late[peer] == t->round) continue;
        *out = f->msg[i];
        requests_remove(f, i);
        return true;
    }
    return false;
}

void um_mpi_ring(const um_mpi *t, int peer)
{
    if (t->bell[peer] != NULL && peer != t->base.rank) um_doorbell_ring(t->bell[peer]);
}

void um_mpi_ring_partners(const um_mpi *t)
{
    const um_mpi_requests *both[] = {&t->out, &t->in};
    for (int k = 0; k < 2; k++)
        for (int i = 0; both[k]->open > 0 && i < both[k]->n; i++)
            if (both[k]->req[i] != MPI_REQUEST_NULL) um_mpi_ring(t, both[k]->msg[i].peer);
}

/* Begins to receive the next message that MPI knows of, if there is one. */
static um_status pull(um_mpi *t, bool *any, um_err *err)
{
    MPI_Message handle;
    MPI_Status status;
    MPI_Request req;
    um_msg msg;
    int found = 0, bytes = 0, done = 0;
    *any = false;
    if (t->pulled >= PULLED_MAX) return UM_OK;
    UM_TRY(
        um_mpi_checked(MPI_Improbe(MPI_ANY_SOURCE, UM_MPI_TAG, t->comm, &found, &handle, &status),
                       "MPI_Improbe", err));
    if (!found) return UM_OK;
    UM_TRY(um_mpi_checked(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count", err));
    if (bytes < 0)
        return UM_FAIL(err, UM_E_LIMIT,
                       "rank %d sent a message whose size is over the limit of %zu bytes",
                       status.MPI_SOURCE, UM_MSG_MAX);
    UM_TRY(um_wrap(err, um_pool_get(&t->pool, &msg, (size_t)bytes, err), "from rank %d",
                   status.MPI_SOURCE));
    msg.peer = status.MPI_SOURCE;
    UM_TRY(um_mpi_checked(MPI_Imrecv(msg.data, bytes, MPI_BYTE, &handle, &req), "MPI_Imrecv", err));
    UM_TRY(um_mpi_checked(MPI_Test(&req, &done, MPI_STATUS_IGNORE), "MPI_Test of a receive", err));
    requests_add(&t->in, &msg, req);
    if (!done) {
        t->pulled += bytes;
        t->lively = um_now_ns() + PULL_NS;
    }
    *any = true;
    return UM_OK;
}

/* The caller holds the lock. */
static um_status look_once(um_mpi *t, um_msg *out, bool *found, um_err *err)
{
    const um_mpi_requests *f = &t->in;
    bool any = true;
    UM_TRY(requests_test(&t->in, "MPI_Testsome of receives", err));
    t->pulled = 0;
    for (int i = 0; f->open > 0 && i < f->n; i++)
        if (f->req[i] != MPI_REQUEST_NULL) t->pulled += (int64_t)f->msg[i].size;
    *found = pop(t, out);
    while (!*found && any) {
        UM_TRY(pull(t, &any, err));
        if (any) *found = pop(t, out);
    }
    return UM_OK;
}

um_status um_mpi_look(um_mpi *t, um_msg *out, bool *found, um_err *err)
{
    um_mpi_enter(t);
    um_status st = push(t, err);
    if (st == UM_OK) st = look_once(t, out, found, err);
    if (st == UM_OK && !*found) st = look_once(t, out, found, err);
    um_mpi_leave(t);
    return st;
}

um_status um_mpi_push(um_mpi *t, um_err *err)
{
    um_mpi_enter(t);
    um_status st = push(t, err);
    um_mpi_leave(t);
    return st;
}

/* ---- sending ---- */

static um_status mpi_buffer(um_comm *c, um_msg *out, size_t bytes, um_err *err)
{
    return um_pool_get(&((um_mpi *)c)->pool, out, bytes, err);
}

static void mpi_release(um_comm *c, um_msg *msg) { um_pool_put(&((um_mpi *)c)->pool, msg); }

static um_status mpi_send(um_comm *c, int peer, um_msg *msg, um_err *err)
{
    um_mpi *t = (um_mpi *)c;
    um_msg m = *msg;
    MPI_Request req = MPI_REQUEST_NULL;
    int done = 0;
    UM_ASSERT(peer >= 0 && peer < c->topo.n && m.data != NULL && m.size <= m.cap);
    *msg = (um_msg){0};
    m.peer = peer;
    if (peer == c->rank) { /* it is here already */
        requests_add(&t->in, &m, MPI_REQUEST_NULL);
        return UM_OK;
    }
    um_mpi_enter(t);
    um_status st =
        um_mpi_checked(MPI_Isend(m.data, (int)m.size, MPI_BYTE, peer, UM_MPI_TAG, t->comm, &req),
                       "MPI_Isend", err);
    if (st == UM_OK) {
        um_mpi_ring(t, peer);
        st = um_mpi_checked(MPI_Test(&req, &done, MPI_STATUS_IGNORE), "MPI_Test of a send", err);
    }
    um_mpi_leave(t);
    if (st == UM_OK && !done)
        requests_add(&t->out, &m, req);
    else
        um_pool_put(&t->pool, &m);
    if (st == UM_OK) return UM_OK;
    char label[128];
    um_topology_label(&c->topo, peer, label);
    return um_wrap(err, st, "sending to %s", label);
}

/* ---- the table ---- */

static um_alive mpi_process(um_comm *c, int peer)
{
    const um_watch *w = &((um_mpi *)c)->watch;
    for (int i = 0; i < w->n; i++)
        if (w->near[i].rank == peer && w->near[i].started != 0)
            return um_alive_look(c->topo.ranks[peer].pid, w->near[i].started);
    return UM_ALIVE_RUNS;
}

const um_comm_vt um_mpi_table = {
    .name = "mpi",
    .buffer = mpi_buffer,
    .send = mpi_send,
    .recv = um_mpi_recv,
    .release = mpi_release,
    .wake = um_mpi_wake,
    .beat = um_mpi_beat,
    .process = mpi_process,
    .claim = um_mpi_claim,
    .close = um_mpi_close,
};
