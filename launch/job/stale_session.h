/* Session folders that killed MPI jobs leave in the folder for temporary files: ompi.HOST.UID/pid.PID, 8 MiB and more each.
 * mpirun removes its own when it ends by itself. */
#pragma once

#include "core/base/status.h"

/* Counts the session folders in tmp that this user's mpirun made on this host and whose process is gone; with remove it also
 * removes them. A process that has the number of a dead mpirun keeps the folder. */
int um_stale_sessions(const char *tmp, bool remove);
