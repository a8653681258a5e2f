/* Pixels: equal to those of the reference for the golden images and for synthetic ones of awkward sizes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/nn/safetensors.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "encoder_worker/frontend/preprocess.h"
#include "tests/support/fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* CLIP's processor for a tower of S x S pixels. */
static um_vision_model tower(int S)
{
    return (um_vision_model){.present = true,
                             .channels = 3,
                             .image_size = S,
                             .resize = true,
                             .crop = true,
                             .resize_short = S,
                             .crop_w = S,
                             .crop_h = S,
                             .mean = {0.48145466f, 0.4578275f, 0.40821073f},
                             .fill = {0.48145466f, 0.4578275f, 0.40821073f},
                             .std = {0.26862954f, 0.26130258f, 0.27577711f},
                             .rescale = 0.00392156862745098f};
}

static um_tensors *open_set(const char *path)
{
    um_tensors *set = NULL;
    um_err err = {0};
    if (um_tensors_open(&set, path, &err) != UM_OK) fail_msg("%s", err.msg);
    return set;
}

static void compare(const char *name, const float *got, const um_tensor *want, float tolerance)
{
    float *w = um_arena_f32(&arena, 1, want->bytes / 4);
    um_tensor_to_f32(w, want);
    for (size_t i = 0; i < want->bytes / 4; i++)
        if (!(fabsf(got[i] - w[i]) <= tolerance))
            fail_msg("%s: value %zu is %.8g, want %.8g", name, i, (double)got[i], (double)w[i]);
}

static void golden_pixels(const um_tensor *t, int S, const char *file)
{
    char path[512];
    uint8_t *bytes = NULL;
    size_t n = 0;
    um_err err = {0};
    um_image p = {0};
    um_vision_model v = tower(S);
    float *got = um_arena_f32(&arena, 3, (size_t)S * (size_t)S);
    snprintf(path, sizeof path, "%s/golden/media/%s", UM_TEST_DATA, file);
    um_status st = um_file_read(&bytes, &n, path, 1 << 20, &arena, &err);
    if (st == UM_OK) st = um_image_decode(&p, file, bytes, n, 1 << 20, &arena, &err);
    if (st == UM_OK) st = um_image_pixels(got, &p, &v, &arena, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    bool jpeg = strstr(file, ".jpg") != NULL; /* another libjpeg: one grey level */
    compare(t->name, got, t, jpeg ? 1.0f / 255 / 0.26f : 1e-5f);
}

static void test_golden(void **state)
{
    (void)state;
    um_tensors *set = open_set(UM_TEST_DATA "/golden/frontends/expected.safetensors");
    int seen = 0;
    for (size_t i = 0; i < um_tensors_count(set); i++) {
        const um_tensor *t = um_tensors_at(set, i);
        int S = 0, head = 0;
        if (sscanf(t->name, "pixels_%d.%n", &S, &head) != 1) continue;
        golden_pixels(t, S, t->name + head);
        seen++;
    }
    um_tensors_close(set);
    assert_int_equal(seen, 9);
}

/* The synthetic image that images/make.py makes. */
static um_image made_up(int w, int h)
{
    um_image p = {.w = w, .h = h};
    uint32_t n = (uint32_t)w * (uint32_t)h * 3;
    p.rgb = um_arena_alloc(&arena, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = i * 2654435761u >> 24;
        p.rgb[i] = (uint8_t)((int)(i / 3 % (uint32_t)w) < w / 2 ? v | 224 : v & 31);
    }
    return p;
}

/* Every step is integer arithmetic or a single rounded operation, so the floats are equal. */
static void test_awkward_sizes(void **state)
{
    (void)state;
    um_tensors *set = open_set(UM_TEST_DATA "/images/expected.safetensors");
    int seen = 0;
    for (size_t i = 0; i < um_tensors_count(set); i++) {
        const um_tensor *t = um_tensors_at(set, i);
        int w = 0, h = 0, S = 0, shorter = 0, resize = 0, pad = 0;
        um_err err = {0};
        if (sscanf(t->name, "pixels.%d.%d.%d.%d.%d.%d", &w, &h, &S, &shorter, &resize, &pad) != 6)
            continue;
        um_vision_model v = tower(S);
        v.resize_short = shorter;
        v.resize = resize != 0;
        v.pad_square = pad != 0;
        um_image p = made_up(w, h);
        float *got = um_arena_f32(&arena, 3, (size_t)S * (size_t)S);
        if (um_image_pixels(got, &p, &v, &arena, &err) != UM_OK)
            fail_msg("%s: %s", t->name, err.msg);
        compare(t->name, got, t, 0.0f);
        seen++;
    }
    um_tensors_close(set);
    assert_int_equal(seen, 19);
}

/* A size for each side instead of one for the shorter side: a flat image stays flat however it is stretched. */
static void test_fixed_size(void **state)
{
    (void)state;
    um_err err = {0};
    um_vision_model v = tower(10);
    float got[300];
    v.resize_w = v.resize_h = 10;
    v.resize_short = 0;
    v.crop = false;
    um_image p = made_up(37, 5);
    memset(p.rgb, 200, 37 * 5 * 3);
    assert_int_equal(um_image_pixels(got, &p, &v, &arena, &err), UM_OK);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 100; i++)
            assert_float_equal(got[100 * c + i], (200.0f / 255 - v.mean[c]) / v.std[c], 1e-6f);
}

/* 65535 x 1 resized to a height of 336 would have 22 million columns; only the crop window is computed. */
static void test_long_strip(void **state)
{
    (void)state;
    um_err err = {0};
    um_vision_model v = tower(336);
    um_arena scratch;
    um_arena_init(&scratch, "strip", 1 << 12);
    float *got = um_arena_f32(&arena, 3, (size_t)336 * 336);
    for (int tall = 0; tall < 2; tall++) {
        um_image p = made_up(tall ? 1 : 65535, tall ? 65535 : 1);
        assert_int_equal(um_image_pixels(got, &p, &v, &scratch, &err), UM_OK);
        assert_true(scratch.peak < (size_t)4 << 20);
        assert_int_equal(scratch.used, 0);
    }
    v.pad_square = true;
    um_image p = made_up(65535, 1);
    assert_int_equal(um_image_pixels(got, &p, &v, &scratch, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "square of 65535 x 65535"));
    um_arena_free(&scratch);
}

static void test_steps_that_do_not_fit(void **state)
{
    (void)state;
    um_err err = {0};
    float got[300];
    um_image p = made_up(20, 30);
    um_vision_model v = tower(10);
    v.crop_w = 8;
    assert_int_equal(um_image_pixels(got, &p, &v, &arena, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "8 x 10 pixels"));
    assert_non_null(strstr(err.msg, "the tower wants 10 x 10"));
    v = tower(10);
    v.crop = false; /* 10 x 15 */
    assert_int_equal(um_image_pixels(got, &p, &v, &arena, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "10 x 15 pixels"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_awkward_sizes),
        cmocka_unit_test(test_fixed_size),
        cmocka_unit_test(test_long_strip),
        cmocka_unit_test(test_steps_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
