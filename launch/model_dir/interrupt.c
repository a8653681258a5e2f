/* See interrupt.h. */
#include "launch/model_dir/interrupt.h"

#include <string.h>

static volatile sig_atomic_t signal_seen; /* the number of the last signal, 0 before any */

static const int signals[3] = {SIGINT, SIGTERM, SIGHUP};

static void note(int sig) { signal_seen = sig; }

void um_interrupt_begin(um_interrupt *i)
{
    struct sigaction a = {.sa_handler = note};
    sigemptyset(&a.sa_mask);
    signal_seen = 0;
    for (int k = 0; k < 3; k++) {
        sigaction(signals[k], NULL, &i->old[k]);
        if (i->old[k].sa_handler != SIG_IGN) sigaction(signals[k], &a, NULL); /* not under nohup */
    }
}

void um_interrupt_end(const um_interrupt *i)
{
    for (int k = 0; k < 3; k++) sigaction(signals[k], &i->old[k], NULL);
}

um_status um_interrupt_check(um_err *err)
{
    int sig = signal_seen;
    if (sig == 0) return UM_OK;
    return UM_FAIL(err, UM_E_STOPPED, "stopped by SIG%s", sigabbrev_np(sig));
}
