/* The tower and projector: the golden image features of every model, the same bits on every way of computing, and towers that do
 * not fit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "encoder_worker/frontend/preprocess.h"
#include "encoder_worker/towers/vision.h"
#include "tests/support/made_params.h"
#include "tests/support/test_support.h"
#include "tests/support/tower_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Whether the device's memory is one that nothing but ops may touch. */
static bool guarded;

/* One model with its tower loaded, and an image's pixels. */
typedef struct bench {
    um_arena arena, device;
    um_dev dev;
    um_checkpoint ck;
    um_params params;
    um_vision vision;
    float *pixels;
    int rows;
} bench;

static void open_model(bench *b, const char *model, um_isa isa, int threads)
{
    *b = (bench){0};
    tower_open(&b->arena, &b->device, &b->dev, &b->ck, model, isa, threads, guarded);
    b->rows = um_vision_rows(&b->ck.model.vision);
}

static void load_tower(bench *b, const char *weights)
{
    um_err err = {0};
    b->params = params_of(&b->ck, UM_ALL_PARTS, weights, &b->dev, &b->arena, &b->device);
    if (um_vision_load(&b->vision, &b->params, &err) != UM_OK) fail_msg("%s", err.msg);
}

static void load_image(bench *b, const char *file)
{
    const um_vision_model *v = &b->ck.model.vision;
    um_err err = {0};
    um_image p = {0};
    uint8_t *bytes = NULL;
    size_t n = 0;
    char path[512];
    snprintf(path, sizeof path, "%s/golden/media/%s", UM_TEST_DATA, file);
    b->pixels = um_arena_f32(&b->arena, 3, (size_t)v->image_size * (size_t)v->image_size);
    um_status st = um_file_read(&bytes, &n, path, 1 << 20, &b->arena, &err);
    if (st == UM_OK) st = um_image_decode(&p, file, bytes, n, 1 << 20, &b->arena, &err);
    if (st == UM_OK) st = um_image_pixels(b->pixels, &p, v, &b->arena, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* The rows, brought to the host. keep: every layer has activations of its own. */
static const float *encode_with(bench *b, bool keep)
{
    um_err err = {0};
    um_vision_acts a = {0};
    const size_t n = (size_t)b->rows * (size_t)b->ck.model.dim;
    float *rows = um_arena_f32(&b->arena, 1, n);
    um_mark mark = um_arena_mark(&b->device);
    float *out = um_arena_f32(&b->device, 1, n);
    um_vision_acts_bind(&a, &b->arena, &b->device, &b->ck.model.vision, b->ck.model.dim,
                        UM_AT_INPUT, keep);
    um_status st = um_vision_encode(out, &b->vision, &a, b->pixels, &b->dev, &err);
    b->dev.ops->get(&b->dev, rows, out, n * sizeof *rows);
    if (st == UM_OK) st = um_dev_sync(&b->dev, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    um_arena_reset(&b->device, mark);
    return rows;
}

static const float *encode(bench *b) { return encode_with(b, false); }

static void close_model(bench *b) { tower_close(&b->arena, &b->device, &b->dev, &b->ck, guarded); }

typedef struct golden_case {
    const char *model, *name, *image;
} golden_case;
static const golden_case cases[] = {
    {"s4", "image", "tall.png"},   {"s4", "turns", "wide.png"}, {"s4i", "image", "tall.png"},
    {"s8", "image", "tall.png"},   {"s8", "turns", "wide.png"}, {"s8fm", "image", "tall.png"},
    {"s8fm", "turns", "wide.png"},
};

static void test_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const golden_case *c = &cases[i];
        bench b;
        char path[512];
        um_err err = {0};
        um_tensors *set = NULL;
        const um_tensor *t = NULL;
        open_model(&b, c->model, UM_ISA_AUTO, 2);
        load_tower(&b, "auto");
        load_image(&b, c->image);
        snprintf(path, sizeof path, "%s/golden/cases/%s/%s/expected.safetensors", UM_TEST_DATA,
                 c->model, c->name);
        int64_t shape[3] = {1, b.rows, b.ck.model.dim};
        um_status st = um_tensors_open(&set, path, &err);
        if (st == UM_OK) st = um_tensors_want(set, &t, "image_features", 3, shape, &err);
        if (st != UM_OK) fail_msg("%s", err.msg);
        float *want = um_arena_f32(&b.arena, (size_t)b.rows, (size_t)b.ck.model.dim);
        um_tensor_to_f32(want, t);
        float off = distance(encode(&b), want, t->bytes / 4);
        if (!(off < 1e-4f))
            fail_msg("%s/%s: image_features differ by %g of the largest", c->model, c->name,
                     (double)off);
        um_tensors_close(set);
        close_model(&b);
    }
}

static void test_same_bits(void **state)
{
    (void)state;
    static const um_isa isas[] = {UM_ISA_GENERIC, UM_ISA_AVX2, UM_ISA_AVX512};
    bench first;
    open_model(&first, "s4i", UM_ISA_GENERIC, 1); /* 577 rows: threads share them */
    load_tower(&first, "auto");
    load_image(&first, "tall.png");
    const float *want = encode(&first);
    size_t bytes = (size_t)first.rows * (size_t)first.ck.model.dim * sizeof *want;
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        for (int threads = 1; threads <= 3; threads++) {
            um_dev probe;
            bench b;
            if (um_dev_open_cpu(&probe, isas[i], 1, NULL) != UM_OK)
                continue; /* this machine has it not */
            open_model(&b, "s4i", isas[i], threads);
            load_tower(&b, "auto");
            load_image(&b, "tall.png");
            const float *got = encode(&b);
            if (memcmp(got, want, bytes) != 0)
                fail_msg("%s, %d threads: other bits", um_isa_name(isas[i]), threads);
            close_model(&b);
        }
    }
    close_model(&first);
}

/* "cls_patch" puts the class row first and leaves the others as they are. */
static void test_class_row(void **state)
{
    (void)state;
    bench b;
    open_model(&b, "s4", UM_ISA_AUTO, 1);
    load_tower(&b, "f32");
    load_image(&b, "wide.png");
    const float *without = encode(&b);
    b.ck.model.vision.keep_class = true;
    b.rows = um_vision_rows(&b.ck.model.vision);
    assert_int_equal(b.rows, 17);
    const float *with = encode(&b);
    size_t D = (size_t)b.ck.model.dim;
    assert_memory_equal(with + D, without, 16 * D * sizeof *with);
    assert_memory_not_equal(with, without, D * sizeof *with);
    close_model(&b);
}

static void test_bf16_weights(void **state)
{
    (void)state;
    bench b;
    open_model(&b, "s8", UM_ISA_AUTO, 1);
    load_image(&b, "tall.png");
    load_tower(&b, "f32");
    const float *exact = encode(&b);
    load_tower(&b, "bf16");
    assert_int_equal(b.vision.blocks[0].mlp.fc1.w.dtype, UM_BF16);
    float off = distance(encode(&b), exact, (size_t)b.rows * (size_t)b.ck.model.dim);
    assert_true(off > 1e-6f && off < 2e-2f);
    close_model(&b);
}

/* With the sizes that the model has now. */
static um_status load_again(bench *b, um_err *err)
{
    b->params = params_of(&b->ck, UM_ALL_PARTS, "auto", &b->dev, &b->arena, &b->device);
    return um_vision_load(&b->vision, &b->params, err);
}

/* A tower whose tensors do not have the sizes that its config says: the tensor and both shapes are named. */
static void test_misfits(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    open_model(&b, "s4", UM_ISA_AUTO, 1);
    um_vision_model was = b.ck.model.vision, *m = &b.ck.model.vision;

    m->image_size = 70;
    assert_int_equal(load_again(&b, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "position_embedding.weight"));
    assert_non_null(strstr(err.msg, "[17,32], want [26,32]"));
    assert_non_null(strstr(err.msg, "a 70 pixel image in patches of 14 has 26 rows"));

    *m = was;
    m->patch = 7;
    assert_int_equal(load_again(&b, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "[32,3,14,14], want [32,3,7,7]"));

    *m = was;
    m->run_layers = m->layers = 4;
    assert_int_equal(load_again(&b, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "vision_model.encoder.layers.3."));
    assert_non_null(strstr(err.msg, "missing"));

    *m = was;
    m->channels = 1;
    assert_int_equal(load_again(&b, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "num_channels 1"));

    *m = was;
    b.ck.model.dim = 128;
    assert_int_equal(load_again(&b, &err), UM_E_MODEL);
    assert_non_null(strstr(err.msg, "model.mm_projector.0."));
    assert_null(b.vision.model); /* set on success only */
    close_model(&b);
}

/* A config whose std is near zero makes pixels that are not finite; rows of NaN would go unnoticed into the language model. */
static void test_pixels_not_finite(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    um_vision_acts a = {0};
    open_model(&b, "s4", UM_ISA_AUTO, 1);
    load_tower(&b, "auto");
    load_image(&b, "wide.png");
    b.pixels[77] = NAN;
    um_vision_acts_bind(&a, &b.arena, &b.device, &b.ck.model.vision, b.ck.model.dim, UM_AT_INPUT,
                        false);
    float *rows = um_arena_f32(&b.device, (size_t)b.rows, (size_t)b.ck.model.dim);
    assert_int_equal(um_vision_encode(rows, &b.vision, &a, b.pixels, &b.dev, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "pixel 77"));
    close_model(&b);
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_class_row), cmocka_unit_test(test_bf16_weights),
        cmocka_unit_test(test_misfits),   cmocka_unit_test(test_pixels_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
