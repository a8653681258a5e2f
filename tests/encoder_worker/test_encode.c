/* An encoder rank's work on one request, with a decoder of its own: media files in, rows on the host out, the same bits on memory that
 * nothing but ops may touch, and nothing left in the device's memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/encoder_worker/encoder_fixture.h"
#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"

enum { MEDIA = 3 };

/* The rows of a request of n files. */
static const float *encode(encoder_rank *e, um_modality modality, const char *const *files, int n,
                           int *rows)
{
    um_err err = {0};
    float *out = NULL;
    const Um__EncodeRequest req = encoder_request(modality, files, n);
    if (um_encode_item(&e->encode, &out, rows, &req, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(e->device.used, 0);
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
        {"models/s4", UM_IMAGE, {"tall.png"}, 1},
        {"models/s4", UM_VIDEO, {"tall.png", "wide.png", "small.png"}, 3},
        {"models/s4", UM_SPEECH, {"speech.wav"}, 1},
        {"models/a4", UM_SOUND, {"siren.wav"}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const float *rows[2];
        int n[2], dim = 0;
        for (int guarded = 0; guarded < 2; guarded++) {
            encoder_rank e;
            encoder_open(&e, cases[i].model, guarded != 0);
            dim = e.ck.model.dim;
            rows[guarded] = encode(&e, cases[i].modality, cases[i].files, cases[i].n, &n[guarded]);
            encoder_close(&e);
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
    encoder_rank e;
    const float *one[MEDIA];
    int n;
    encoder_open(&e, "models/s4", true);
    const float *mean = encode(&e, UM_VIDEO, files, MEDIA, &n);
    for (int i = 0; i < MEDIA; i++) one[i] = encode(&e, UM_IMAGE, &files[i], 1, &n);
    for (int i = 0; i < n * e.ck.model.dim; i++)
        assert_true(mean[i] == (one[0][i] + one[1][i] + one[2][i]) / 3.0f);
    encoder_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_guarded, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_mean_of_frames, encoder_setup, decoder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
