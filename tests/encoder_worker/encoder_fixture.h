/* An encoder rank without messages, with a decoder of the build's own (decoder_fixture.h): towers of a golden model and media of
 * tests/golden/media. */
#pragma once

#include "encoder_worker/encode.h"

typedef struct encoder_rank {
    bool guarded; /* its device memory is one that nothing but ops may touch */
    um_dev dev;
    um_arena weights, device;
    um_checkpoint ck;
    um_params params;
    um_encode encode; /* what the model reads; its device arena is `device` */
} encoder_rank;

/* decoder_setup with limits that all these media keep to; decoder_teardown ends it. */
int encoder_setup(void **state);
/* model: below tests/golden. */
void encoder_open(encoder_rank *e, const char *model, bool guarded);
/* Nothing may be left in its device arena. */
void encoder_close(encoder_rank *e);

/* The request for n files of a modality, in the fixture's arena; those of a video are its frames. */
Um__EncodeRequest encoder_request(um_modality modality, const char *const *files, int n);
