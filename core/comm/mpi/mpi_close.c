/* The MPI transport: the end of a rank, after its work or by an error. See mpi_parts.h. */
#include "core/comm/mpi/mpi_parts.h"

#include "core/base/clock.h"
#include "core/base/log.h"

/* How many looks in a row must find a process halted before a rank that ends stops waiting for it. */
enum { HALTED_LOOKS = 3 };

/* FLUSH_NS: how long a failing rank goes on moving its queued sends, with its error report among them, before MPI_Abort.
 * FOLLOW_US: how long every later failing rank delays its own MPI_Abort, so that mpirun reports the exit code of the first. */
enum { FLUSH_NS = 100000000, FOLLOW_US = 200000 };

/* Enters the last barrier once all sends have left, and looks whether it is over. */
static um_status barrier(um_mpi *t, MPI_Request *all, bool *begun, int *done, um_err *err)
{
    um_status st = UM_OK;
    if (!*begun && t->out.open > 0) return UM_OK;
    um_mpi_enter(t);
    if (!*begun) st = um_mpi_checked(MPI_Ibarrier(t->comm, all), "MPI_Ibarrier", err);
    *begun = true;
    if (st == UM_OK)
        st = um_mpi_checked(MPI_Test(all, done, MPI_STATUS_IGNORE), "MPI_Test of the last barrier",
                            err);
    um_mpi_leave(t);
    return st;
}

/* Waits until the own sends have left and then until every rank has come to its end, however long the others take: their pulses go
 * on until then, and nobody is called silent. Messages that still come have no reader any more, but must be received, or their
 * senders would wait for ever. */
static um_status wait_for_all(um_mpi *t, um_err *err)
{
    MPI_Request all = MPI_REQUEST_NULL;
    um_msg msg = {0};
    int done = 0;
    bool begun = false, found = false;
    t->nap_us = UM_MPI_NAP_FIRST_US;
    while (!done) {
        UM_TRY(um_mpi_look(t, &msg, &found, err));
        if (found) um_pool_put(&t->pool, &msg);
        UM_TRY(barrier(t, &all, &begun, &done, err));
        if (done || found) continue;
        int64_t now = um_now_ns();
        bool time = now - t->watched > UM_MPI_WATCH_NS;
        UM_TRY(um_mpi_wait_over(t, now, true, err));
        if (time) UM_TRY(um_watch_stopped(&t->watch, HALTED_LOOKS, err));
        um_mpi_ring_partners(t);
        um_sleep_us(t->nap_us);
        t->nap_us = t->nap_us >= UM_MPI_NAP_REMOTE_US ? UM_MPI_NAP_REMOTE_US : 2 * t->nap_us;
    }
    return UM_OK;
}

/* Ends the job. Neighbours learn of it at their doorbell before their processes are ended. */
static void end_job(um_mpi *t, um_status st)
{
    um_err err;
    int64_t end = um_now_ns() + FLUSH_NS;
    while (t->out.open > 0 && um_now_ns() < end && um_mpi_push(t, &err) == UM_OK) {
        um_mpi_ring_partners(t);
        um_sleep_us(UM_MPI_NAP_FIRST_US);
    }
    um_doorbell *own = t->bell[t->base.rank];
    unsigned others = 0;
    if (own != NULL) {
        atomic_store(&own->ended, (unsigned)st + 1);
        others = atomic_fetch_add(&t->host->ends, 1);
        for (int r = 0; r < t->base.topo.n; r++) um_mpi_ring(t, r);
    }
    if (others > 0 || t->base.follows) um_sleep_us(FOLLOW_US);
    um_mpi_enter(t); /* for good: the pulse calls MPI no more */
    MPI_Abort(MPI_COMM_WORLD, um_exit_code(st));
}

bool um_mpi_claim(um_comm *c)
{
    um_mpi *t = (um_mpi *)c;
    return t->host == NULL || atomic_fetch_add(&t->host->claimed, 1) == 0;
}

void um_mpi_free(um_mpi *t)
{
    um_mpi_requests_free(&t->out);
    um_mpi_requests_free(&t->in);
    um_pool_close(&t->pool);
    um_arena_free(&t->arena);
    pthread_mutex_destroy(&t->lock);
    um_free(t);
}

void um_mpi_close(um_comm *c, um_status st)
{
    um_mpi *t = (um_mpi *)c;
    um_err err = {0};
    if (st == UM_OK) {
        st = wait_for_all(t, &err);
        bool first = st != UM_OK && um_mpi_claim(c) && !c->follows;
        if (st != UM_OK)
            um_log_at(first ? UM_LOG_ERROR : UM_LOG_DEBUG, "waiting for the others to end: %s",
                      err.msg);
    }
    if (st != UM_OK) end_job(t, st);
    um_pulse_close(c->pulse);
    um_mpi_beats_end(t);
    if (t->window != MPI_WIN_NULL) MPI_Win_free(&t->window);
    MPI_Comm_free(&t->node);
    MPI_Comm_free(&t->comm);
    MPI_Finalize();
    um_mpi_free(t);
}
