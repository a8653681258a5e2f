/* Shared memory that killed MPI jobs leave in /dev/shm: Open MPI removes its segments only when a rank ends by itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Counts this user's Open MPI segments that were written to at `since` (seconds of the real-time clock) or later and that no
 * process has mapped, looked at twice (a job that is just starting has not mapped its own yet); with remove it also removes
 * them. */
int um_stale_shm(int64_t since, bool remove);
