/* Backward of the towers and their connectors: rows and gradients of PyTorch in float64 (tests/ref/make_towers.py) for windows of one
 * second, down to wherever something is trained; and slopes measured along random directions. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "encoder_worker/towers/tower.h"
#include "tests/support/made_params.h"
#include "tests/support/test_support.h"
#include "tests/support/tower_fixture.h"

#include <math.h>
#include <string.h>

/* Whether the device's memory is one that nothing but ops may touch. */
static bool guarded;

static const char *const kinds[] = {"vision", "speech", "sound"};
enum { VISION, SPEECH, SOUND, MAX_PARTS = 2 };

/* One model, one of its towers, and what PyTorch says. */
typedef struct bench {
    um_arena host, device, scratch;
    um_dev dev;
    um_checkpoint ck;
    um_params params;
    um_vision vision;
    um_tower tower;
    um_tensors *expected;
    int kind, parts, real[MAX_PARTS];
    um_tower_acts acts[MAX_PARTS];
} bench;

static const float *known(bench *b, const char *name, size_t *n)
{
    const um_tensor *t = um_tensors_find(b->expected, name);
    if (t == NULL) fail_msg("%s: not there", name);
    *n = um_tensor_values(t);
    float *x = um_arena_f32(&b->host, 1, *n);
    um_tensor_to_f32(x, t);
    return x;
}

/* What is trained: everything from a point on. */
typedef struct wanted {
    int kind;
    um_tower_point from;
} wanted;

static bool is_trained(const void *ctx, const um_spec *s)
{
    static const um_part towers[] = {UM_PART_VISION, UM_PART_SPEECH, UM_PART_SOUND},
                         connectors[] = {UM_PART_PROJECTOR, UM_PART_SPEECH_ALIGNER,
                                         UM_PART_SOUND_ALIGNER};
    const wanted *w = ctx;
    if (s->at.part == towers[w->kind]) return w->from == UM_AT_INPUT;
    if (s->at.part != connectors[w->kind]) return false;
    return w->from <= UM_AT_TOWER || s->at.slot == UM_SLOT_PROJECTOR;
}

static void open_tower(bench *b, int kind, um_tower_point from, int threads, um_isa isa)
{
    um_err err = {0};
    const wanted w = {kind, from};
    *b = (bench){.kind = kind};
    tower_open(&b->host, &b->device, &b->dev, &b->ck, "../towers", isa, threads, guarded);
    um_dev_arena(&b->scratch, &b->dev, "scratch", 1 << 20);
    b->params = params_of(&b->ck, UM_ALL_PARTS, "auto", &b->dev, &b->host, &b->device);
    b->tower.model = &b->ck.model;
    um_status st =
        um_tensors_open(&b->expected, golden_path(&b->host, "towers/expected.safetensors"), &err);
    if (st == UM_OK && kind == VISION) st = um_vision_load(&b->vision, &b->params, &err);
    if (st == UM_OK && kind == SPEECH) {
        um_speech *s = NULL;
        st = um_speech_load(&s, &b->params, &err);
        b->tower.speech = s;
    }
    if (st == UM_OK && kind == SOUND) st = um_sound_load(&b->tower.sound, &b->params, &err);
    if (kind == VISION) b->tower.vision = &b->vision;
    if (st == UM_OK) st = um_params_train(&b->params, is_trained, &w, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_tower_lowest(&b->tower, &b->params), from);
}

static void close_tower(bench *b)
{
    um_tensors_close(b->expected);
    um_arena_free(&b->scratch);
    tower_close(&b->host, &b->device, &b->dev, &b->ck, guarded);
}

/* The front end's part: images, or windows of the wave, into b->acts bound for backward from UM_AT_INPUT. */
static void inputs(bench *b)
{
    um_err err = {0};
    size_t n;
    um_status st = UM_OK;
    const um_model *m = &b->ck.model;
    const float *x = known(b, b->kind == VISION ? "pixels" : "wave", &n);
    const size_t image = 3 * (size_t)m->vision.image_size * (size_t)m->vision.image_size;
    const int64_t most = 16000, step = b->kind == SPEECH ? 16001 : 16000;
    b->parts = 0;
    for (int64_t at = 0; at < (int64_t)n && st == UM_OK;
         at += b->kind == VISION ? (int64_t)image : step) {
        um_tower_acts *a = &b->acts[b->parts];
        const int64_t left = (int64_t)n - at < most ? (int64_t)n - at : most;
        assert_true(b->parts < MAX_PARTS);
        um_tower_acts_bind(a, &b->tower, &b->host, &b->device, UM_AT_INPUT, true);
        if (b->kind == VISION)
            st = um_vision_input(&a->vision, &m->vision, x + at, &err);
        else
            b->real[b->parts] = um_tower_wave_input(a, &b->tower, x + at, left, &b->host);
        b->parts++;
    }
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(b->parts, MAX_PARTS);
}

/* The rows of all parts, one after another, on the host. */
static float *forward(bench *b)
{
    const size_t one = (size_t)um_tower_rows(&b->tower) * (size_t)b->ck.model.dim;
    float *rows = um_arena_f32(&b->device, MAX_PARTS, one),
          *host = um_arena_f32(&b->host, MAX_PARTS, one);
    for (int i = 0; i < b->parts; i++)
        um_tower_fwd(rows + (size_t)i * one, &b->tower, &b->acts[i], UM_AT_INPUT, UM_AT_ROWS,
                     b->real[i], &b->dev);
    b->dev.ops->get(&b->dev, host, rows, MAX_PARTS * one * sizeof *host);
    return host;
}

/* Keeps the values at a point of every part, and begins there again, with nothing before it bound. */
static void begin_at(bench *b, um_tower_point from)
{
    const size_t one = (size_t)um_tower_rows(&b->tower) * (size_t)b->ck.model.dim;
    for (int i = 0; i < b->parts; i++) {
        const um_tower_acts was = b->acts[i];
        const size_t n = um_tower_values(&b->tower, from, b->real[i]);
        um_tower_acts_bind(&b->acts[i], &b->tower, &b->host, &b->device, from, true);
        b->dev.ops->copy(&b->dev, um_tower_at(&b->acts[i], &b->tower, from),
                         um_tower_at(&was, &b->tower, from), n * sizeof(float));
        um_tower_fwd(um_arena_f32(&b->device, 1, one), &b->tower, &b->acts[i], from, UM_AT_ROWS,
                     b->real[i], &b->dev);
    }
}

static void backward(bench *b, um_tower_point from)
{
    um_err err = {0};
    size_t n;
    const size_t one = (size_t)um_tower_rows(&b->tower) * (size_t)b->ck.model.dim;
    const float *grad = known(b, um_arena_fmt(&b->host, "%s.grad", kinds[b->kind]), &n);
    assert_int_equal(n, MAX_PARTS * one);
    const float *drows = um_dev_put_f32(&b->dev, &b->device, grad, n);
    for (int i = 0; i < b->parts; i++)
        um_tower_bwd(&b->tower, &b->acts[i], from, b->real[i], drows + (size_t)i * one, &b->dev,
                     &b->scratch);
    um_status st = b->kind == SOUND ? um_sound_grads(b->tower.sound, &err) : UM_OK;
    if (st == UM_OK) st = um_dev_sync(&b->dev, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(b->scratch.used, 0);
}

/* The largest gradient of all that is trained. */
static float largest(bench *b)
{
    float most = 0.0f;
    const um_mark mark = um_arena_mark(&b->host);
    float *x = um_arena_f32(&b->host, 1, b->params.n_grads);
    b->dev.ops->get(&b->dev, x, b->params.grads, b->params.n_grads * sizeof *x);
    for (size_t i = 0; i < b->params.n_grads; i++) most = fmaxf(most, fabsf(x[i]));
    um_arena_reset(&b->host, mark);
    return most;
}

/* Every trained parameter has PyTorch's gradient. That of a key's bias is zero but for rounding, since it changes no attention. */
static void want_grads(bench *b)
{
    int trained = 0;
    const float most = largest(b);
    for (size_t i = 0; i < b->params.n; i++) {
        um_param *p = &b->params.list[i];
        if (!p->trained) continue;
        size_t n;
        const um_mark mark = um_arena_mark(&b->host);
        const float *want = known(b, um_arena_fmt(&b->host, "grad.%s", p->spec.name), &n);
        assert_int_equal(n, um_spec_values(&p->spec));
        float *got = um_arena_f32(&b->host, 1, n);
        um_param_fetch(p, got, p->grad);
        assert_true(p->touched);
        const bool key_bias = p->spec.leaf == UM_LEAF_BIAS &&
                              (p->spec.at.slot == UM_SLOT_K || p->spec.at.slot == UM_SLOT_CROSS_K);
        float off = distance(got, want, n);
        if (key_bias) {
            off = 0.0f;
            for (size_t k = 0; k < n; k++) off = fmaxf(off, fabsf(got[k]) / most);
        }
        if (!(off < (key_bias ? 1e-6f : 1e-4f)))
            fail_msg("%s: gradient off by %g of the largest", p->spec.name, (double)off);
        um_arena_reset(&b->host, mark);
        trained++;
    }
    assert_true(trained >= 4);
}

static void check_from(int kind, um_tower_point from)
{
    bench b;
    size_t n;
    open_tower(&b, kind, from, 2, UM_ISA_AUTO);
    inputs(&b);
    const float *rows = forward(&b),
                *want = known(&b, um_arena_fmt(&b.host, "%s.rows", kinds[kind]), &n);
    const float off = distance(rows, want, n);
    if (!(off < 2e-5f)) fail_msg("%s: rows off by %g of the largest", kinds[kind], (double)off);
    if (from != UM_AT_INPUT) begin_at(&b, from);
    backward(&b, from);
    want_grads(&b);
    close_tower(&b);
}

static void test_whole(void **state)
{
    (void)state;
    for (int kind = VISION; kind <= SOUND; kind++) check_from(kind, UM_AT_INPUT);
}

static void test_connectors(void **state)
{
    (void)state;
    check_from(SPEECH, UM_AT_TOWER);
    check_from(SOUND, UM_AT_TOWER);
}

static void test_projectors(void **state)
{
    (void)state;
    for (int kind = VISION; kind <= SOUND; kind++) check_from(kind, UM_AT_CONNECTOR);
}

/* Images that go through the tower together have the rows that each has alone, and the gradients are those of all. */
static void check_together(um_tower_point from)
{
    bench b;
    size_t n;
    um_err err = {0};
    um_tower_acts all;
    open_tower(&b, VISION, from, 2, UM_ISA_AUTO);
    inputs(&b);
    const float *alone = forward(&b);
    const size_t one = (size_t)um_tower_rows(&b.tower) * (size_t)b.ck.model.dim,
                 values = um_tower_values(&b.tower, from, 0);
    assert_true(um_tower_at_once(&b.tower) >= MAX_PARTS);
    um_tower_acts_bind_parts(&all, MAX_PARTS, &b.tower, &b.host, &b.device, from, true);
    for (size_t i = 0; i < MAX_PARTS; i++) {
        float *to = um_tower_at(&all, &b.tower, from) + i * values;
        const float *value = um_tower_at(&b.acts[i], &b.tower, from);
        if (from == UM_AT_INPUT)
            memcpy(to, value, values * sizeof *to);
        else
            b.dev.ops->copy(&b.dev, to, value, values * sizeof *to);
    }
    float *rows = um_arena_f32(&b.device, MAX_PARTS, one),
          *host = um_arena_f32(&b.host, MAX_PARTS, one);
    um_tower_fwd(rows, &b.tower, &all, from, UM_AT_ROWS, 0, &b.dev);
    b.dev.ops->get(&b.dev, host, rows, MAX_PARTS * one * sizeof *host);
    assert_memory_equal(host, alone, MAX_PARTS * one * sizeof *host);
    const float *grad = known(&b, "vision.grad", &n);
    um_tower_bwd(&b.tower, &all, from, 0, um_dev_put_f32(&b.dev, &b.device, grad, n), &b.dev,
                 &b.scratch);
    if (um_dev_sync(&b.dev, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(b.scratch.used, 0);
    want_grads(&b);
    close_tower(&b);
}

static void test_together(void **state)
{
    (void)state;
    check_together(UM_AT_INPUT);
    check_together(UM_AT_CONNECTOR);
}

/* The gradients of a pass are added to those that are there; those of another pass with the same values have the same bits, whatever the
 * threads and the instruction set. */
static void test_same_bits(void **state)
{
    (void)state;
    for (int kind = VISION; kind <= SOUND; kind++) {
        float *first = NULL;
        um_arena all;
        um_arena_init(&all, "gradients", 1 << 20);
        for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
            um_dev probe;
            bench b;
            if (um_dev_open_cpu(&probe, isa, 1, NULL) != UM_OK) continue;
            open_tower(&b, kind, UM_AT_INPUT, isa == UM_ISA_GENERIC ? 1 : 2, isa);
            inputs(&b);
            forward(&b);
            backward(&b, UM_AT_INPUT);
            const size_t n = b.params.n_grads;
            float *grads = um_arena_f32(&all, 1, n);
            b.dev.ops->get(&b.dev, grads, b.params.grads, n * sizeof *grads);
            if (first == NULL) first = grads;
            assert_memory_equal(grads, first, n * sizeof *grads);
            backward(&b, UM_AT_INPUT);
            float *twice = um_arena_f32(&all, 1, n);
            b.dev.ops->get(&b.dev, twice, b.params.grads, n * sizeof *twice);
            assert_true(distance(twice, grads, n) > 0.5f);
            close_tower(&b);
        }
        um_arena_free(&all);
    }
}

/* The sum over the rows of rows * gradient, in double: what the gradients are of. */
static double loss_of(bench *b)
{
    size_t n;
    double sum = 0.0;
    const um_mark host = um_arena_mark(&b->host), device = um_arena_mark(&b->device);
    const float *rows = forward(b),
                *grad = known(b, um_arena_fmt(&b->host, "%s.grad", kinds[b->kind]), &n);
    for (size_t i = 0; i < n; i++) sum += (double)rows[i] * (double)grad[i];
    um_arena_reset(&b->device, device);
    um_arena_reset(&b->host, host);
    return sum;
}

/* Moves all trained parameters by a times a direction that depends on their names; returns its product with the gradients. */
static double moved(bench *b, double a)
{
    double slope = 0.0;
    um_err err = {0};
    for (size_t i = 0; i < b->params.n; i++) {
        um_param *p = &b->params.list[i];
        if (!p->trained) continue;
        const um_mark mark = um_arena_mark(&b->host);
        const size_t n = um_spec_values(&p->spec);
        um_rng rng = um_rng_seed(3, i);
        float *x = um_arena_f32(&b->host, 1, n), *way = um_arena_f32(&b->host, 1, n),
              *grad = um_arena_f32(&b->host, 1, n);
        um_rng_normal_f32(&rng, way, n, 1.0f);
        um_param_read(p, x);
        um_param_fetch(p, grad, p->grad);
        for (size_t k = 0; k < n; k++) {
            slope += (double)way[k] * (double)grad[k];
            x[k] = (float)((double)x[k] + a * (double)way[k]);
        }
        um_param_write(p, x);
        um_arena_reset(&b->host, mark);
    }
    um_params_repack(&b->params);
    if (b->kind == SOUND && um_sound_prepare(b->tower.sound, &err) != UM_OK)
        fail_msg("%s", err.msg);
    return slope;
}

static void test_slopes(void **state)
{
    (void)state;
    const double by = 2e-3;
    for (int kind = VISION; kind <= SOUND; kind++) {
        bench b;
        open_tower(&b, kind, UM_AT_INPUT, 2, UM_ISA_AUTO);
        inputs(&b);
        forward(&b);
        backward(&b, UM_AT_INPUT);
        const double slope = moved(&b, by), up = loss_of(&b);
        moved(&b, -2 * by);
        const double measured = (up - loss_of(&b)) / (2 * by);
        if (!(fabs(measured - slope) < 2e-2 * fabs(slope)))
            fail_msg("%s: slope %g, measured %g", kinds[kind], slope, measured);
        close_tower(&b);
    }
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),      cmocka_unit_test(test_connectors),
        cmocka_unit_test(test_projectors), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_slopes),     cmocka_unit_test(test_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
