/* Reads the golden waves: 16-bit PCM, one channel. For tests only; the decoder reads the files of users. */
#pragma once

#include "encoder_worker/frontend/wave.h"

/* The file of tests/golden/media called name, as the original reads it (sample / 32768). Fails the test when it is anything else. */
um_wave tiny_wav(const char *name, um_arena *arena);
