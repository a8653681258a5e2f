/* The pulse of a rank: a thread of its own that does nothing but say "this process lives" and count how long each peer has been
 * silent. So liveness does not depend on work: a rank that loads for minutes, computes for minutes or reads a large input keeps its
 * pulse; one that was killed, stopped (SIGSTOP stops the thread too) or cut off loses it. docs/adr/0009.
 *
 * Silence is counted in time that this thread itself observed: one turn adds at most two periods, however late the turn comes. A
 * process that was itself stopped, or starved by a busy machine, therefore does not accuse the others when it wakes up. */
#pragma once

#include "core/base/status.h"

#include <stdint.h>

typedef struct um_pulse um_pulse;

/* One turn: tells the peers that this rank lives, and sets heard[peer] for each peer [ranks] that has been heard of since the last
 * turn. Never blocks. Thread: the pulse's own. */
typedef void (*um_pulse_turn)(void *ctx, bool *heard);

/* Starts the thread, with the first turn at once. */
um_status um_pulse_open(um_pulse **out, int ranks, int64_t period_ns, um_pulse_turn turn, void *ctx,
                        um_err *err);
void um_pulse_set_period(um_pulse *p, int64_t period_ns);
/* For how long peer has been silent, in observed time. Thread: any. */
int64_t um_pulse_silent_ns(const um_pulse *p, int peer);
/* Stops the thread and waits for its end. Accepts NULL. */
void um_pulse_close(um_pulse *p);
