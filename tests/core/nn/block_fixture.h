/* What the tests of blocks have in common: the folder and the arena of fixture.h, and a device with two arenas, on memory that only ops
 * may touch (guarded_ops.h) when main says so. It belongs to the one test program that links this file. */
#pragma once

#include "core/nn/params.h"
#include "tests/support/fixture.h"

#include <stdbool.h>

extern bool guarded; /* set before the setup */
/* Usable between setup and teardown. */
extern um_dev dev;
extern um_arena device, scratch; /* device memory */
extern um_lora lora;             /* runs in scratch */

int block_setup(void **state);
int block_teardown(void **state);

/* The test fails with the message of the error unless st is UM_OK. */
void ok(um_status st, const um_err *err);
/* n zeros in device memory. */
float *zeroed(size_t n);
