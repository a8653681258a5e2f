/* An op table whose memory cannot be touched outside an op: the CPU's ops, on memory that is closed (PROT_NONE) except while one of them
 * runs. A read or write of device memory by anyone else ends the program with SIGSEGV; an op that is given host memory for device
 * memory aborts and names itself. One region for each um_dev: threads with a um_dev each do not disturb one another. */
#pragma once

#include "core/tensor/ops.h"

/* As um_dev_open_cpu; um_err also names what the system refuses. Close it when its arenas are freed. */
um_status um_dev_open_guarded(um_dev *out, um_isa isa, int threads, um_err *err);
void um_dev_close_guarded(um_dev *d);
/* Bytes of device memory that are allocated now. */
size_t um_dev_guarded_bytes(const um_dev *d);
