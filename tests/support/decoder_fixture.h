/* The fixture of tests that have media decoded: the arena of fixture.h and a unimoe-decoder of the build (UM_DECODER). */
#pragma once

#include "encoder_worker/decode/decoder.h"

extern um_decoder *decoder;

/* limits stay the caller's until decoder_teardown. */
int decoder_setup(void **state, const um_media_limits *limits);
int decoder_teardown(void **state);
