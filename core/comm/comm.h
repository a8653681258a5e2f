/* Transport: whole messages between ranks, in order per pair, nothing lost, nothing interpreted. A table with two
 * implementations: threads of one process (comm_inproc.c, for tests, gdb, ASan, TSan) and MPI point-to-point (core/comm/mpi, the
 * only folder that includes mpi.h).
 *
 * Threads: all functions here but um_comm_wake are for the rank's main thread, the one that opened the transport. Beside it runs the
 * pulse (pulse.h), which the transport serves through its table: it calls MPI too when peers are on other hosts, so MPI runs with
 * MPI_THREAD_SERIALIZED and one lock. Nothing here is collective after open.
 *
 * Waiting: a receiver that finds nothing spins for microseconds, then yields its core for up to yield_us, then sleeps on a doorbell
 * that every sender of its host rings. The drawing is in core/comm/mpi/mpi_wait.c. A sleeping rank costs well under 2 % of a core. */
#pragma once

#include "core/base/status.h"
#include "core/comm/alive.h"
#include "core/comm/pulse.h"
#include "core/comm/topology.h"
#include "core/tensor/ops.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct um_msg {
    uint8_t *data; /* 64-byte aligned */
    size_t size;
    size_t cap;
    int peer; /* recv: who sent it */
} um_msg;

typedef struct um_comm um_comm;

typedef struct um_comm_vt {
    const char *name; /* "inproc" or "mpi" */
    um_status (*buffer)(um_comm *c, um_msg *out, size_t bytes, um_err *err);
    um_status (*send)(um_comm *c, int peer, um_msg *msg, um_err *err);
    um_status (*recv)(um_comm *c, um_msg *out, int64_t timeout_us, um_err *err);
    void (*release)(um_comm *c, um_msg *msg);
    void (*wake)(um_comm *c); /* thread: any */
    um_pulse_turn beat;       /* ctx is the um_comm; thread: the pulse's */
    um_alive (*process)(um_comm *c, int peer);
    bool (*claim)(um_comm *c);
    void (*close)(um_comm *c, um_status st);
} um_comm_vt;

/* As um_dev_open_cpu. */
typedef um_status (*um_dev_opener)(um_dev *out, um_isa isa, int threads, um_err *err);

struct um_comm {
    const um_comm_vt *vt;
    um_topology topo; /* same on every rank */
    int rank;
    int64_t yield_us; /* may be set after open */
    um_dev_opener
        dev_open; /* how this rank opens its device, NULL: um_dev_open_cpu; may be set after open */
    void (*dev_close)(um_dev *d); /* NULL: nothing to close */
    volatile int *stop; /* a signal flag, or NULL: when set, a waiting recv returns UM_E_STOPPED */
    um_pulse *pulse;    /* NULL until um_comm_watch */
    atomic_bool wake;   /* um_comm_wake was called and no recv has seen it yet */
    bool woken;         /* a recv ended early because of it; whoever waits for that clears it */
    bool
        follows; /* another rank ended the job and reports why: what this one says merely follows */
};

/* A buffer for bytes; size is set to bytes, contents undefined. It goes back by send or release. */
static inline um_status um_comm_buffer(um_comm *c, um_msg *out, size_t bytes, um_err *err)
{
    return c->vt->buffer(c, out, bytes, err);
}
/* Hands msg (a buffer of this comm, size <= cap) to peer; never blocks for the peer; msg is empty afterwards, also on error.
 * peer may be this rank itself. */
static inline um_status um_comm_send(um_comm *c, int peer, um_msg *msg, um_err *err)
{
    return c->vt->send(c, peer, msg, err);
}
/* The next message of any peer, lent until um_comm_release. UM_E_TIMEOUT after timeout_us without one (0 = only look), or
 * earlier, with c->woken set, when um_comm_wake was called since the last recv that found nothing;
 * UM_E_STOPPED when asked to stop, UM_E_PEER when the transport knows that a peer is gone. */
static inline um_status um_comm_recv(um_comm *c, um_msg *out, int64_t timeout_us, um_err *err)
{
    return c->vt->recv(c, out, timeout_us, err);
}
static inline void um_comm_release(um_comm *c, um_msg *msg) { c->vt->release(c, msg); }
/* Makes the rank's own recv return early, the one that waits now or else the next one that finds no message: something happened
 * that no message tells of, for example input to read. Thread: any, between open and close. */
static inline void um_comm_wake(um_comm *c)
{
    atomic_store(&c->wake, true);
    c->vt->wake(c);
}
/* For transports, by the rank that finds no message: was it woken? */
static inline bool um_comm_take_wake(um_comm *c)
{
    if (!atomic_load_explicit(&c->wake, memory_order_relaxed) || !atomic_exchange(&c->wake, false))
        return false;
    c->woken = true;
    return true;
}
/* Starts the pulse, or changes its period. From then on the peers learn that this rank lives, and it counts their silence. */
static inline um_status um_comm_watch(um_comm *c, int64_t period_us, um_err *err)
{
    if (c->pulse == NULL)
        return um_pulse_open(&c->pulse, c->topo.n, period_us * 1000, c->vt->beat, c, err);
    um_pulse_set_period(c->pulse, period_us * 1000);
    return UM_OK;
}
/* For how long peer has shown no sign of life; 0 before um_comm_watch. */
static inline int64_t um_comm_silent_ns(const um_comm *c, int peer)
{
    return c->pulse == NULL ? 0 : um_pulse_silent_ns(c->pulse, peer);
}
/* What the system says of the process of peer, UM_ALIVE_RUNS where it cannot be seen (another host, another container). */
static inline um_alive um_comm_process(um_comm *c, int peer) { return c->vt->process(c, peer); }
/* Before a rank that fails reports: true for the first rank of its host that asks. The others followed, or saw the same thing later:
 * so a dead rank is named once. */
static inline bool um_comm_claim(um_comm *c) { return c->vt->claim(c); }
/* Ends it. With UM_OK: waits for own sends to leave (MPI: MPI_Finalize, collective over all ranks). Else ends the whole job, so
 * that no peer is left waiting (MPI: MPI_Abort). Accepts NULL. */
static inline void um_comm_close(um_comm *c, um_status st)
{
    if (c != NULL) c->vt->close(c, st);
}

/* When a wait that begins now is over; a very long one has no end. */
static inline int64_t um_comm_end_ns(int64_t now_ns, int64_t timeout_us)
{
    return timeout_us > (INT64_MAX - now_ns) / 1000 ? INT64_MAX : now_ns + timeout_us * 1000;
}

/* MPI. Collective over MPI_COMM_WORLD at open: exchanges role, host and pid. */
um_status um_comm_mpi_open(um_comm **out, int *argc, char ***argv, um_role role, um_err *err);

/* Threads: opens n comms at once, one for each entry of roles; hosts all 0. Each is then used, and closed, by its own thread.
 * When one closes with a status that is not UM_OK, every other one's recv returns UM_E_PEER naming it. */
um_status um_comm_inproc_open(um_comm **out, const um_role *roles, int n, um_err *err);
/* Fault hook for tests: called for each message as it is sent, may change its bytes or size. Returns how often it is delivered:
 * 1 as usual, 0 lost, 2 twice. For a beat of the pulse msg is NULL, and 0 loses it. Thread: the sender's main thread or its pulse.
 * Set before the threads start, on any of the n comms. */
typedef int (*um_comm_fault)(void *ctx, int from, int to, um_msg *msg);
void um_comm_inproc_fault(um_comm *c, um_comm_fault fn, void *ctx);
/* For tests and benchmarks: every message between two ranks is delivered us microseconds after it was sent, and not before. Set before
 * the threads start, on any of the n comms. */
void um_comm_inproc_delay(um_comm *c, int64_t us);
