/* See pulse.h. */
#include "core/comm/pulse.h"

#include "core/base/arena.h"
#include "core/base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

struct um_pulse {
    pthread_t thread;
    pthread_mutex_t lock; /* of stop and period_ns */
    pthread_cond_t wake;
    bool stop;
    int64_t period_ns;
    int ranks;
    um_pulse_turn turn;
    void *ctx;
    bool *heard;             /* [ranks] of one turn */
    _Atomic int64_t *silent; /* [ranks] observed ns since the peer was last heard of */
};

/* Sleeps one period. False: it is time to end. */
static bool next_turn(um_pulse *p, int64_t *period_ns)
{
    pthread_mutex_lock(&p->lock);
    int64_t end = um_now_ns() + p->period_ns;
    struct timespec until = {end / 1000000000, end % 1000000000};
    int rc = 0;
    while (!p->stop && rc == 0) rc = pthread_cond_timedwait(&p->wake, &p->lock, &until);
    bool on = !p->stop;
    *period_ns = p->period_ns;
    pthread_mutex_unlock(&p->lock);
    return on;
}

static void *pulse_main(void *arg)
{
    um_pulse *p = arg;
    int64_t period_ns = 0, last = um_now_ns();
    do {
        memset(p->heard, 0, (size_t)p->ranks * sizeof *p->heard);
        p->turn(p->ctx, p->heard);
        int64_t now = um_now_ns(), observed = now - last;
        if (observed > 2 * period_ns) observed = 2 * period_ns;
        last = now;
        for (int r = 0; r < p->ranks; r++) {
            int64_t before = atomic_load_explicit(&p->silent[r], memory_order_relaxed);
            atomic_store_explicit(&p->silent[r], p->heard[r] ? 0 : before + observed,
                                  memory_order_relaxed);
        }
    } while (next_turn(p, &period_ns));
    return NULL;
}

static void pulse_free(um_pulse *p)
{
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    um_free(p->heard);
    um_free(p->silent);
    um_free(p);
}

um_status um_pulse_open(um_pulse **out, int ranks, int64_t period_ns, um_pulse_turn turn, void *ctx,
                        um_err *err)
{
    um_pulse *p = um_zalloc(sizeof *p);
    pthread_condattr_t attr;
    sigset_t all, before;
    UM_ASSERT(ranks > 0 && period_ns > 0);
    *p = (um_pulse){.ranks = ranks, .period_ns = period_ns, .turn = turn, .ctx = ctx};
    p->heard = um_zalloc((size_t)ranks * sizeof *p->heard);
    p->silent = um_zalloc((size_t)ranks * sizeof *p->silent);
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
    /* signals are for the main thread: its sleep ends with them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&p->thread, NULL, pulse_main, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        pulse_free(p);
        return UM_FAIL(err, UM_E_IO,
                       "the thread that shows that this rank lives cannot be started: %s; see "
                       "ulimit -u",
                       strerror(rc));
    }
    *out = p;
    return UM_OK;
}

void um_pulse_set_period(um_pulse *p, int64_t period_ns)
{
    UM_ASSERT(period_ns > 0);
    pthread_mutex_lock(&p->lock);
    p->period_ns = period_ns;
    pthread_mutex_unlock(&p->lock);
}

int64_t um_pulse_silent_ns(const um_pulse *p, int peer)
{
    UM_ASSERT(peer >= 0 && peer < p->ranks);
    return atomic_load_explicit(&p->silent[peer], memory_order_relaxed);
}

void um_pulse_close(um_pulse *p)
{
    if (p == NULL) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pulse_free(p);
}
