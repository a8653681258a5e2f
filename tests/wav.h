/* Reads what the golden sounds are: WAV files of 16-bit samples, one channel, 16 kHz. The programs themselves decode sound with
 * libraries, behind encoder_worker/decoder.h. */
#pragma once

#include "encoder_worker/wave.h"

/* Samples / 32768. Ends the test with a sentence when the file is anything else. */
um_wave wav_read(const char *path, um_arena *arena);
