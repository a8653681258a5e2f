/* See signals.h. */
#include "core/base/signals.h"

#include <signal.h>

static volatile sig_atomic_t save_asked, stop_asked; /* written by the handler: see signals.h */

static void on_signal(int sig)
{
    if (sig == SIGUSR1)
        save_asked = 1;
    else
        stop_asked = 1;
}

void um_signals_watch(void)
{
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGUSR2, &a, NULL);
    a.sa_flags = (int)(SA_RESTART | SA_RESETHAND);
    sigaction(SIGTERM, &a, NULL);
}

bool um_signals_save(void)
{
    bool asked = save_asked != 0;
    if (asked) save_asked = 0;
    return asked;
}

bool um_signals_stop(void) { return stop_asked != 0; }

void um_signals_forget(void) { save_asked = stop_asked = 0; }
