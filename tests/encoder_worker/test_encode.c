/* An encoder rank's work on one request, with a decoder of its own: media files in, rows on the host out, the same bits on memory that
 * nothing but ops may touch, and nothing left in the device's memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "encoder_worker/encode.h"
#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/guarded_ops.h"
#include "tests/support/made_params.h"

#include <string.h>

#define GOLDEN UM_TEST_DATA "/golden/"

enum { MEDIA = 3 };

static int setup(void **state)
{
    static const um_media_limits limits = {
        .pixels = 1 << 24, .seconds = 60, .frames = 8, .wait_ms = 60000};
    return decoder_setup(state, &limits);
}

/* An encoder rank without messages. */
typedef struct worker {
    bool guarded;
    um_dev dev;
    um_arena weights, device;
    um_checkpoint ck;
    um_params params;
    um_encode encode;
} worker;

static void worker_open(worker *w, const char *model, bool guarded)
{
    um_err err = {0};
    *w = (worker){.guarded = guarded};
    um_status st = guarded ? um_dev_open_guarded(&w->dev, UM_ISA_AUTO, 2, &err)
                           : um_dev_open_cpu(&w->dev, UM_ISA_AUTO, 2, &err);
    if (st == UM_OK)
        st =
            um_checkpoint_open(&w->ck, um_arena_fmt(&arena, GOLDEN "models/%s", model), NULL, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    um_dev_arena(&w->weights, &w->dev, "weights", 1 << 20);
    um_dev_arena(&w->device, &w->dev, "device", 1 << 20);
    w->params = params_of(&w->ck, UM_ALL_PARTS, "auto", &w->dev, &arena, &w->weights);
    w->encode = (um_encode){.dev = &w->dev,
                            .device = &w->device,
                            .decoder = decoder,
                            .video_frames = 4,
                            .max_values = 1 << 20};
    const uint32_t set = UM_READS_VISION | (w->ck.model.speech.present ? 1u << UM_SPEECH : 0) |
                         (w->ck.model.sound.present ? 1u << UM_SOUND : 0);
    if (um_encode_load(&w->encode, &w->params, set, &err) != UM_OK) fail_msg("%s", err.msg);
}

static void worker_close(worker *w)
{
    um_checkpoint_close(&w->ck);
    um_arena_free(&w->device);
    um_arena_free(&w->weights);
    if (w->guarded) um_dev_close_guarded(&w->dev);
}

/* The rows of a request of n files. */
static const float *encode(worker *w, um_modality modality, const char *const *files, int n,
                           int *rows)
{
    um_err err = {0};
    ProtobufCBinaryData media[MEDIA];
    Um__EncodeRequest req = UM__ENCODE_REQUEST__INIT;
    float *out = NULL;
    for (int i = 0; i < n; i++) {
        um_status st =
            um_file_read(&media[i].data, &media[i].len,
                         um_arena_fmt(&arena, GOLDEN "media/%s", files[i]), 1 << 22, &arena, &err);
        if (st != UM_OK) fail_msg("%s", err.msg);
    }
    req.modality = (Um__Modality)modality;
    req.name = (char *)(uintptr_t)files[0];
    req.media = media;
    req.n_media = (size_t)n;
    req.frames = modality == UM_VIDEO;
    if (um_encode_item(&w->encode, &out, rows, &req, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(w->device.used, 0);
    return out;
}

/* Every kind of medium that a model reads. */
static void test_guarded(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        um_modality modality;
        const char *files[MEDIA];
        int n;
    } cases[] = {
        {"s4", UM_IMAGE, {"tall.png"}, 1},
        {"s4", UM_VIDEO, {"tall.png", "wide.png", "small.png"}, 3},
        {"s4", UM_SPEECH, {"speech.wav"}, 1},
        {"a4", UM_SOUND, {"siren.wav"}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const float *rows[2];
        int n[2], dim = 0;
        for (int guarded = 0; guarded < 2; guarded++) {
            worker w;
            worker_open(&w, cases[i].model, guarded != 0);
            dim = w.ck.model.dim;
            rows[guarded] = encode(&w, cases[i].modality, cases[i].files, cases[i].n, &n[guarded]);
            worker_close(&w);
        }
        assert_true(n[0] > 0 && n[0] == n[1]);
        assert_memory_equal(rows[0], rows[1], (size_t)n[0] * (size_t)dim * sizeof(float));
    }
}

/* A video is the mean of its frames. */
static void test_mean_of_frames(void **state)
{
    (void)state;
    static const char *const files[] = {"tall.png", "wide.png", "small.png"};
    worker w;
    const float *one[MEDIA];
    int n;
    worker_open(&w, "s4", true);
    const float *mean = encode(&w, UM_VIDEO, files, MEDIA, &n);
    for (int i = 0; i < MEDIA; i++) one[i] = encode(&w, UM_IMAGE, &files[i], 1, &n);
    for (int i = 0; i < n * w.ck.model.dim; i++)
        assert_true(mean[i] == (one[0][i] + one[1][i] + one[2][i]) / 3.0f);
    worker_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_guarded, setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_mean_of_frames, setup, decoder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
