/* See encoder_fixture.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/encoder_worker/encoder_fixture.h"

#include "core/base/file.h"
#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/guarded_ops.h"
#include "tests/support/made_params.h"

#define GOLDEN UM_TEST_DATA "/golden/"

enum { MIB = 1 << 20 };

int encoder_setup(void **state)
{
    static const um_media_limits limits = {
        .pixels = 1 << 24, .seconds = 60, .frames = 8, .wait_ms = 60000};
    return decoder_setup(state, &limits);
}

void encoder_open(encoder_rank *e, const char *model, bool guarded)
{
    const uint32_t parts = 1u << UM_PART_VISION | 1u << UM_PART_PROJECTOR | 1u << UM_PART_SPEECH |
                           1u << UM_PART_SPEECH_ALIGNER | 1u << UM_PART_SOUND |
                           1u << UM_PART_SOUND_ALIGNER;
    um_err err = {0};
    *e = (encoder_rank){.guarded = guarded};
    um_status st = guarded ? um_dev_open_guarded(&e->dev, UM_ISA_AUTO, 2, &err)
                           : um_dev_open_cpu(&e->dev, UM_ISA_AUTO, 2, &err);
    if (st == UM_OK)
        st = um_checkpoint_open(&e->ck, um_arena_fmt(&arena, GOLDEN "%s", model), NULL, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    um_dev_arena(&e->weights, &e->dev, "weights", MIB);
    um_dev_arena(&e->device, &e->dev, "device", MIB);
    e->params = params_of(&e->ck, parts, "auto", &e->dev, &arena, &e->weights);
    e->encode = (um_encode){.dev = &e->dev,
                            .device = &e->device,
                            .decoder = decoder,
                            .video_frames = 4,
                            .max_values = MIB};
    const um_model *m = &e->ck.model;
    const uint32_t set = UM_READS_VISION | (m->speech.present ? 1u << UM_SPEECH : 0) |
                         (m->sound.present ? 1u << UM_SOUND : 0);
    if (um_encode_load(&e->encode, &e->params, set, &err) != UM_OK) fail_msg("%s", err.msg);
}

void encoder_close(encoder_rank *e)
{
    assert_int_equal(e->device.used, 0);
    um_checkpoint_close(&e->ck);
    um_arena_free(&e->device);
    um_arena_free(&e->weights);
    if (e->guarded) um_dev_close_guarded(&e->dev);
}

Um__EncodeRequest encoder_request(um_modality modality, const char *const *files, int n)
{
    um_err err = {0};
    Um__EncodeRequest req = UM__ENCODE_REQUEST__INIT;
    req.media = um_arena_zero(&arena, (size_t)n * sizeof *req.media);
    for (int i = 0; i < n; i++) {
        um_status st =
            um_file_read(&req.media[i].data, &req.media[i].len,
                         um_arena_fmt(&arena, GOLDEN "media/%s", files[i]), 1 << 22, &arena, &err);
        if (st != UM_OK) fail_msg("%s", err.msg);
    }
    req.modality = (Um__Modality)modality;
    req.name = (char *)(uintptr_t)files[0];
    req.key = um_arena_fmt(&arena, "%d %s", (int)modality, files[0]);
    req.n_media = (size_t)n;
    req.frames = modality == UM_VIDEO;
    return req;
}
