/* Processes of this machine, as proc(5) shows them, the processors that this one may use, and the signals that a training job obeys. */
#pragma once

#include "core/base/status.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct um_process {
    char state; /* the letter of proc(5): R, S, D, T (stopped by a signal), t (traced), Z, X ... */
    int parent;
    uint64_t started; /* clock ticks after boot: with the pid it names a process for good */
} um_process;

/* False when pid has no entry in /proc (any more). A zombie has one. */
bool um_process_read(um_process *out, int pid);
/* The process exists and runs or may run again: neither a zombie nor dead. */
bool um_process_lives(int pid);
/* The path of the running program, at most size - 1 characters. */
um_status um_process_program(char *out, size_t size, um_err *err);

/* Processors that this process may run on, by its affinity; at least 1. Hosts with more than a cpu_set_t holds (1,024) count too. */
int um_cpus_allowed(void);
/* The same with another sched_getaffinity, for tests. */
int um_cpus_allowed_by(int (*get)(pid_t pid, size_t bytes, cpu_set_t *set));

/* What a person or a batch system asks of a training job by signals: SIGUSR1 saves a checkpoint, SIGTERM and SIGUSR2 save one and end the
 * job with exit code 75. The launcher sends them to mpirun (SIGUSR2 for SIGTERM), and mpirun to all ranks; router 0 acts on them at the end
 * of a step, the others ignore them. One set of flags for the process. Thread: any. */
/* from now on they set flags; a second SIGTERM ends the process. A file over ulimit -f is an error of write(), no signal */
void um_signals_watch(void);
bool um_signals_save(void);   /* true once for each time that a checkpoint was asked for */
bool um_signals_stop(void);   /* true from the first time that the end was asked for */
void um_signals_forget(void); /* as if nothing had been asked for; for tests */
