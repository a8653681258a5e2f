/* The MPI transport: how a rank waits for a message.
 *
 * Eight ranks on two cores are an ordinary day, so a waiting rank must not keep a core from one that computes; and yet the answer of
 * an expert rank comes within microseconds, so it must not be asleep too soon. Hence three stages, counted from the moment when
 * nothing was there. A message that comes ends any of them, and the next wait begins at the left again:
 *
 *   0          5 us                  yield_us                                            time ->
 *   |  SPIN    |        YIELD        |                    SLEEP
 *   |  look,   |  look, sched_yield: |  who can wake this rank?
 *   |  look,   |  whoever wants the  |  - every peer rings (same host) ........ doorbell, at most 50 ms
 *   |  look    |  core gets it       |  - some peer is on another host ........ naps 20 us, 40, 80 ... 5 ms
 *   |          |                     |  - a large message is under way ........ naps 20 us, 40, 80 ... 1 ms
 *   |          |                     |      (its handshake moves only when both sides look; a receive that has just begun,
 *   |          |                     |       or a partner that has just rung, prolongs YIELD: "lively")
 *
 * Naps and doorbell are one call: the doorbell's sleep with a time limit. The order "arm the bell, look once more, sleep" loses no
 * message (doorbell.h). The link sets yield_us to 0 when no work has come for 50 ms: an idle rank sleeps at once.
 *
 * The numbers, measured with one router and four expert ranks on two cores (docs/adr/0003): yielding costs 199 us a layer with both
 * cores busy, the doorbell 269 us with 1.35 cores. 5 us of spinning is about one answer of a rank on a core of its own. */
#include "core/comm/mpi/mpi_parts.h"

#include "core/base/clock.h"

#include <sched.h>

enum { SPIN_NS = 5000 };

/* With the doorbell the only reason to wake is the stop flag. NAP_PENDING_US: while a send or receive is under way, which moves on
 * only when this rank looks. */
enum { SLEEP_US = 50000, NAP_PENDING_US = 1000 };

/* A partner of a handshake who has just rung: it is yielded for, not napped, for so long. */
enum { RUNG_NS = 200000 };

static bool stop_asked(const um_mpi *t)
{
    return t->base.stop != NULL && __atomic_load_n(t->base.stop, __ATOMIC_RELAXED) != 0;
}

um_status um_mpi_wait_over(um_mpi *t, int64_t now, bool asleep, um_err *err)
{
    bool stop = stop_asked(t);
    bool ends = t->host != NULL && atomic_load(&t->host->ends) > 0;
    if (ends && !t->warned) { /* it may have sent its reason: look for a message once more */
        t->warned = true;
        return UM_OK;
    }
    if (stop || ends || (asleep && now - t->watched > UM_MPI_WATCH_NS)) {
        t->watched = now;
        um_status st = um_watch_look(&t->watch, err);
        t->base.follows |= st != UM_OK && t->watch.reported;
        if (st != UM_OK) return st;
    }
    return stop ? UM_FAIL(err, UM_E_STOPPED, "asked to stop while waiting for a message") : UM_OK;
}

/* One nap or sleep of at most most_us, shorter when a message may come that nobody rings for. Looks once more after saying that this
 * rank sleeps, and finds what came in between. */
static um_status sleep_once(um_mpi *t, um_msg *out, bool *found, int64_t most_us, um_err *err)
{
    bool busy = t->out.open + t->in.open > 0;
    int64_t us = busy ? NAP_PENDING_US : t->remote ? UM_MPI_NAP_REMOTE_US : SLEEP_US;
    if (us < SLEEP_US) {
        if (t->nap_us < us) us = t->nap_us;
        t->nap_us = 2 * us;
    }
    if (us > most_us) us = most_us;
    if (busy) um_mpi_ring_partners(t);
    uint32_t ticket = um_doorbell_arm(t->own);
    um_status st = um_mpi_look(t, out, found, err);
    bool awake = *found || atomic_load(&t->base.wake);
    if (st == UM_OK && !awake && um_doorbell_sleep(t->own, ticket, us) && busy)
        t->lively = um_now_ns() + RUNG_NS;
    um_doorbell_disarm(t->own);
    return st;
}

void um_mpi_wake(um_comm *c) { um_doorbell_ring(((um_mpi *)c)->own); }

static void yield(const um_mpi *t, bool busy)
{
    if (busy) um_mpi_ring_partners(t);
    sched_yield();
}

um_status um_mpi_recv(um_comm *c, um_msg *out, int64_t timeout_us, um_err *err)
{
    um_mpi *t = (um_mpi *)c;
    um_msg msg = {0};
    int64_t end = 0;
    bool found = false;
    for (;;) {
        UM_TRY(um_mpi_look(t, &msg, &found, err));
        if (found) break;
        int64_t now = um_now_ns();
        if (end == 0) end = um_comm_end_ns(now, timeout_us);
        if (t->waiting == 0) {
            t->waiting = now;
            t->nap_us = UM_MPI_NAP_FIRST_US;
        }
        int64_t waited = now - t->waiting;
        bool busy = t->out.open + t->in.open > 0;
        bool asleep =
            waited >= SPIN_NS && waited >= c->yield_us * 1000 && !(busy && now < t->lively);
        UM_TRY(um_mpi_wait_over(t, now, asleep, err));
        if (um_comm_take_wake(c))
            return UM_FAIL(err, UM_E_TIMEOUT, "woken while waiting for a message");
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
