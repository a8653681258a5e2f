/* What a person or a batch system asks of a training job by signals: SIGUSR1 saves a checkpoint, SIGTERM and SIGUSR2 save one and end the
 * job with exit code 75. The launcher sends them to mpirun (SIGUSR2 for SIGTERM), and mpirun to all ranks; router 0 acts on them at the end
 * of a step, the others ignore them. One set of flags for the process. Thread: any. */
#pragma once

#include <stdbool.h>

void um_signals_watch(void);  /* from now on they set flags; a second SIGTERM ends the process */
bool um_signals_save(void);   /* true once for each time that a checkpoint was asked for */
bool um_signals_stop(void);   /* true from the first time that the end was asked for */
void um_signals_forget(void); /* as if nothing had been asked for; for tests */
