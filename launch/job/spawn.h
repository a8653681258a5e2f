/* Starts a program in a process group of its own, with pipes to its standard input, output and error. It gets SIGTERM when we are
 * gone, whatever ended us. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <signal.h>
#include <sys/types.h>

typedef struct um_spawned {
    pid_t pid;
    int in, out, log; /* our ends of its standard input, output and error; they do not block */
} um_spawned;

/* argv[0] without a slash is looked for in PATH. mask: the signals that are blocked in the program. Its environment is ours
 * without UNIMOE_*, with a TMPDIR that is set and absolute, and with a PATH. UM_E_IO names the program that cannot be started. */
um_status um_spawn(um_spawned *out, const char *const *argv, const sigset_t *mask, um_err *err);

/* The path of a program as PATH finds it, or NULL. */
const char *um_program_find(const char *name, um_arena *arena);
