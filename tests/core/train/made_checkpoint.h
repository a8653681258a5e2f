/* Checkpoints for tests of files: what is in them does not matter, only that it comes back. */
#pragma once

#include <stdint.h>

/* Writes checkpoint-STEP into the test's folder (dir of fixture.h): a file with one value under "master.x", and {"step": 1} as the state.
 * Returns its path, in the test's arena. A failure ends the test. */
const char *made_checkpoint(uint64_t step, float value);
