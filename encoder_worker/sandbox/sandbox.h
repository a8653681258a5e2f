/* The walls around a process that reads hostile bytes: no new files, no network, no other program or process, no executable
 * memory, bounded memory and processor time, and death with its parent. */
#pragma once

#include "core/base/status.h"

#include <stdint.h>

/* For the rest of the calling process's life, all its threads. memory_bytes: beyond what it has mapped now. cpu_seconds: of its
 * whole life. Standard input, output and error stay open; anything else open is the caller's to close before.
 * What a library may try in good faith (opening a file, asking for a terminal) is refused with an error; every other system call
 * that decoding does not need ends the process by SIGSYS. UM_E_IO when the kernel lacks seccomp: then nothing may be decoded. */
um_status um_sandbox_enter(int64_t memory_bytes, int64_t cpu_seconds, um_err *err);
