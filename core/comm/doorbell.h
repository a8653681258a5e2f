/* A doorbell: a word that one rank sleeps on and others ring, in memory that the ranks of one host share (a futex).
 *
 * The sleeper says that it is about to sleep, looks once more whether there is work, and only then sleeps. A ringer first makes the
 * work visible and then looks whether anybody sleeps. So either the sleeper sees the work or the ringer sees the sleeper, and ringing
 * somebody who is awake costs one read. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One for each rank, on cache lines of its own. All zero at first. */
typedef struct um_doorbell {
    _Alignas(128) atomic_uint rung; /* counts up: the futex word */
    atomic_uint asleep;             /* 1 from um_doorbell_arm to um_doorbell_disarm */
    atomic_uint ended;              /* 1 + um_status with which the rank ended the job, else 0 */
    atomic_uint beats;              /* counts up while the rank lives: its pulse (pulse.h) */
} um_doorbell;

/* Sleeper: from now on rings count. The ticket goes to um_doorbell_sleep. Look for work between the two. */
uint32_t um_doorbell_arm(um_doorbell *own);
/* Sleeps until rung since the ticket, for at most timeout_us. A signal ends it too. True when rung. */
bool um_doorbell_sleep(um_doorbell *own, uint32_t ticket, int64_t timeout_us);
void um_doorbell_disarm(um_doorbell *own);

/* Ringer, after its work is visible. True when somebody slept. */
bool um_doorbell_ring(um_doorbell *other);
