/* Training media on an encoder rank, without messages: the rows of inference, gradients that depend on neither order nor cache nor memory,
 * media that cannot be used, and towers that learn. Model: tests/golden/towers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/train/optimizer.h"
#include "encoder_worker/encoder_train.h"
#include "encoder_worker/tower_cache.h"
#include "tests/encoder_worker/encoder_fixture.h"
#include "tests/support/decoder_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MEDIA = 3, MIB = 1 << 20 };

/* An encoder rank that trains what a predicate names. */
typedef struct worker {
    encoder_rank rank;
    um_encoder_train *train;
} worker;

static bool nothing(const void *ctx, const um_spec *s)
{
    (void)ctx;
    (void)s;
    return false;
}
static bool projectors(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->at.slot == UM_SLOT_PROJECTOR;
}
static bool connectors(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->at.part == UM_PART_PROJECTOR || s->at.part == UM_PART_SPEECH_ALIGNER ||
           s->at.part == UM_PART_SOUND_ALIGNER;
}

static const um_encoder_settings usual = {.tower_cache = 64 * MIB};

static void worker_open(worker *w, um_trained_fn trained, const um_encoder_settings *how,
                        bool guarded)
{
    encoder_open(&w->rank, "towers", guarded);
    train(&w->rank.params, trained, NULL);
    w->train = um_encoder_train_open(&w->rank.encode, &w->rank.params, NULL, how);
}

static void worker_close(worker *w)
{
    um_encoder_train_close(w->train);
    encoder_close(&w->rank);
}

/* A medium of the golden folder. */
typedef struct medium {
    um_modality modality;
    const char *files[MEDIA];
    int n;
} medium;
static const medium image = {UM_IMAGE, {"tall.png"}, 1},
                    video = {UM_VIDEO, {"tall.png", "wide.png", "small.png"}, 3},
                    speech = {UM_SPEECH, {"speech.wav"}, 1}, sound = {UM_SOUND, {"siren.wav"}, 1};
static const medium *const all[] = {&image, &video, &speech, &sound};
enum { KINDS = sizeof all / sizeof *all };

/* The request for a medium; train may be NULL. */
static Um__EncodeRequest request(const medium *m, Um__EncodeTraining *train)
{
    Um__EncodeRequest req = encoder_request(m->modality, m->files, m->n);
    req.train = train;
    return req;
}

/* The rows of a medium in training. */
static const float *rows_of(worker *w, const medium *m, um_item_key key, bool keep, int *n)
{
    um_err err = {0}, why = {0};
    float *rows = NULL;
    um_status item = UM_OK;
    Um__EncodeTraining train = UM__ENCODE_TRAINING__INIT;
    train.step = key.step;
    train.batch = key.batch;
    train.item = key.item;
    train.keep = keep;
    const Um__EncodeRequest req = request(m, &train);
    if (um_encoder_train_rows(w->train, &rows, n, &item, &why, &req, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    if (item != UM_OK) fail_msg("%s", why.msg);
    return rows;
}

/* A gradient for n rows that depends on the key alone. */
static void send_grad(worker *w, um_item_key key, int n)
{
    um_err err = {0};
    float *to = NULL;
    const size_t values = (size_t)n * (size_t)w->rank.ck.model.dim;
    um_rng rng = um_rng_seed(key.step, key.batch * 100 + key.item);
    float *grad = um_arena_f32(&arena, 1, values);
    um_rng_normal_f32(&rng, grad, values, 1.0f);
    um_status st = um_encoder_train_room(w->train, &to, key, n, &err);
    if (st == UM_OK && n > 0) w->rank.dev.ops->put(&w->rank.dev, to, grad, values * sizeof *grad);
    if (st == UM_OK) st = um_encoder_train_grad(w->train, key, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* The gradients of the step, on the host. */
static const float *summed(worker *w)
{
    um_encoder_train_sum(w->train);
    float *grads = um_arena_f32(&arena, 1, w->rank.params.n_grads);
    w->rank.dev.ops->get(&w->rank.dev, grads, w->rank.params.grads,
                         w->rank.params.n_grads * sizeof *grads);
    return grads;
}

static const um_trained_fn chosen[] = {trains_all, connectors, projectors, nothing};

/* Rows have the bits of inference wherever training begins, from the cache too; nothing is left in the device's memory. */
static void test_rows(void **state)
{
    (void)state;
    um_err err = {0};
    for (size_t c = 0; c < sizeof chosen / sizeof *chosen; c++) {
        worker w;
        worker_open(&w, chosen[c], &usual, c % 2 == 1);
        for (uint32_t i = 0; i < KINDS; i++) {
            float *want = NULL;
            int n, want_n;
            const Um__EncodeRequest req = request(all[i], NULL);
            if (um_encode_item(&w.rank.encode, &want, &want_n, &req, &arena, &err) != UM_OK)
                fail_msg("%s", err.msg);
            const size_t bytes = (size_t)want_n * (size_t)w.rank.ck.model.dim * sizeof *want;
            for (uint32_t again = 0; again < 3; again++) {
                const um_item_key key = {1, again, i};
                const float *rows = rows_of(&w, all[i], key, again > 0, &n);
                assert_int_equal(n, want_n);
                assert_memory_equal(rows, want, bytes);
            }
        }
        const um_encoder_counts counts = um_encoder_train_counts(w.train);
        assert_true(counts.computed == KINDS && counts.cached == 2 * KINDS && counts.kept > 0);
        assert_int_equal(um_encoder_train_open_items(w.train), 2 * KINDS);
        worker_close(&w);
    }
}

/* One step of three micro-batches. order: how frames come. */
static const float *step(worker *w, const int order[3], bool late, bool backwards)
{
    int n[3][KINDS];
    for (int i = 0; i < 3; i++) {
        const uint32_t b = (uint32_t)order[i];
        for (uint32_t k = 0; k < KINDS; k++) {
            const um_item_key key = {1, b, backwards ? KINDS - 1 - k : k};
            rows_of(w, all[key.item], key, true, &n[b][key.item]);
        }
        for (uint32_t k = 0; !late && k < KINDS; k++) send_grad(w, (um_item_key){1, b, k}, n[b][k]);
    }
    for (uint32_t k = 0; late && k < KINDS; k++)
        for (int i = 0; i < 3; i++) {
            const um_item_key key = {1, (uint32_t)order[i], backwards ? KINDS - 1 - k : k};
            send_grad(w, key, n[key.batch][key.item]);
        }
    assert_int_equal(um_encoder_train_open_items(w->train), 0);
    assert_int_equal(um_encoder_train_counts(w->train).kept, 0);
    return summed(w);
}

/* The sums have the same bits in whatever order frames come, with activations kept or computed again, with a cache or without, and on
 * memory that nothing but ops may touch. */
static void test_order(void **state)
{
    (void)state;
    static const struct {
        int order[3];
        bool late, backwards, recompute, guarded;
        size_t cache;
    } ways[] = {
        {{0, 1, 2}, false, false, false, false, 64 * MIB}, {{2, 0, 1}, true, true, false, false, 0},
        {{1, 2, 0}, true, false, true, false, 64 * MIB},   {{0, 2, 1}, false, true, true, true, 0},
        {{2, 1, 0}, true, true, false, true, 1 * MIB},
    };
    const um_trained_fn trained[] = {trains_all, connectors};
    for (int c = 0; c < 2; c++) {
        const float *first = NULL;
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            worker w;
            const um_encoder_settings how = {.tower_cache = ways[i].cache,
                                             .recompute = ways[i].recompute};
            worker_open(&w, trained[c], &how, ways[i].guarded);
            const float *grads = step(&w, ways[i].order, ways[i].late, ways[i].backwards);
            if (first == NULL) first = grads;
            assert_memory_equal(grads, first, w.rank.params.n_grads * sizeof *grads);
            worker_close(&w);
        }
    }
}

/* The gradient of a projector's last bias, in double, is the sum over rows: each row of a frame has its share of the mean's. */
static void want_bias(worker *w, um_part part, const um_item_key *key, const int *n, int items)
{
    const um_param *p =
        um_params_find(&w->rank.params, um_place_of(part, UM_SLOT_PROJECTOR, -1, 1), UM_LEAF_BIAS);
    const int D = w->rank.ck.model.dim;
    double want[64] = {0};
    float got[64];
    assert_true(D <= 64 && p->trained && p->touched);
    for (int i = 0; i < items; i++) {
        um_rng rng = um_rng_seed(key[i].step, key[i].batch * 100 + key[i].item);
        float *grad = um_arena_f32(&arena, (size_t)n[i], (size_t)D);
        um_rng_normal_f32(&rng, grad, (size_t)n[i] * (size_t)D, 1.0f);
        for (int k = 0; k < n[i] * D; k++) want[k % D] += (double)grad[k];
    }
    um_param_fetch(p, got, p->grad);
    for (int k = 0; k < D; k++) assert_true(fabs(want[k] - (double)got[k]) < 1e-3);
}

/* A medium without rows in the gradient took no part; media of one modality are added; another modality is not touched. */
static void test_bias(void **state)
{
    (void)state;
    worker w;
    int n[3];
    worker_open(&w, projectors, &usual, false);
    const um_item_key pictures[] = {{1, 0, 0}, {1, 0, 1}}, waves[] = {{1, 1, 3}}, lost = {1, 1, 2};
    rows_of(&w, &image, pictures[0], true, &n[0]);
    rows_of(&w, &video, pictures[1], true, &n[1]);
    rows_of(&w, &speech, lost, true, &n[2]);
    rows_of(&w, &sound, waves[0], true, &n[2]);
    for (int i = 0; i < 2; i++) send_grad(&w, pictures[i], n[i]);
    send_grad(&w, lost, 0);
    assert_int_equal(um_encoder_train_open_items(w.train), 1);
    send_grad(&w, waves[0], n[2]);
    summed(&w);
    want_bias(&w, UM_PART_PROJECTOR, pictures, n, 2);
    want_bias(&w, UM_PART_SOUND_ALIGNER, waves, &n[2], 1);
    for (size_t i = 0; i < w.rank.params.n; i++)
        if (w.rank.params.list[i].spec.at.part == UM_PART_SPEECH_ALIGNER)
            assert_false(w.rank.params.list[i].touched);
    worker_close(&w);
}

/* A medium that cannot be decoded is an answer with its reason; nothing of it is kept, and the rank goes on. */
static void test_bad_medium(void **state)
{
    (void)state;
    worker w;
    um_err err = {0}, why = {0};
    float *rows = NULL;
    int n = 0;
    um_status item = UM_OK;
    Um__EncodeTraining train = UM__ENCODE_TRAINING__INIT;
    worker_open(&w, trains_all, &usual, false);
    train.step = 1;
    train.keep = true;
    Um__EncodeRequest req = request(&image, &train);
    req.media[0].len = 100;
    assert_int_equal(um_encoder_train_rows(w.train, &rows, &n, &item, &why, &req, &arena, &err),
                     UM_OK);
    assert_int_equal(item, UM_E_DATA);
    assert_non_null(strstr(why.msg, "tall.png"));
    um_encoder_train_ahead(w.train, &req, &arena);
    assert_int_equal(um_encoder_train_open_items(w.train), 0);
    assert_int_equal(um_encoder_train_room(w.train, &rows, (um_item_key){1, 0, 0}, 1, &err),
                     UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "is not kept"));
    rows_of(&w, &image, (um_item_key){1, 0, 0}, true, &n);
    assert_int_equal(um_encoder_train_room(w.train, &rows, (um_item_key){1, 0, 0}, n + 1, &err),
                     UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "another number of rows"));
    train.item = 0;
    req = request(&image, &train);
    assert_int_equal(um_encoder_train_rows(w.train, &rows, &n, &item, &why, &req, &arena, &err),
                     UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "is kept already"));
    worker_close(&w);
}

/* What is computed ahead is there when its step comes. */
static void test_ahead(void **state)
{
    (void)state;
    worker w;
    int n;
    worker_open(&w, connectors, &usual, false);
    const Um__EncodeRequest req = request(&speech, NULL);
    um_encoder_train_ahead(w.train, &req, &arena);
    rows_of(&w, &speech, (um_item_key){2, 0, 0}, true, &n);
    const um_encoder_counts counts = um_encoder_train_counts(w.train);
    assert_true(counts.computed == 1 && counts.cached == 1);
    worker_close(&w);
}

static void test_memory(void **state)
{
    (void)state;
    worker w;
    um_err err = {0}, why = {0};
    float *rows = NULL;
    int n = 0;
    um_status item = UM_OK;
    const um_encoder_settings how = {.activation_memory = 200000};
    Um__EncodeTraining train = UM__ENCODE_TRAINING__INIT;
    worker_open(&w, trains_all, &how, false);
    train.step = 1;
    train.keep = true;
    um_status st = UM_OK;
    for (uint32_t i = 0; i < 100 && st == UM_OK; i++) {
        train.item = i;
        const Um__EncodeRequest req = request(&image, &train);
        st = um_encoder_train_rows(w.train, &rows, &n, &item, &why, &req, &arena, &err);
        if (st == UM_OK) assert_true(um_encoder_train_counts(w.train).kept <= 2 * 200000);
    }
    assert_int_equal(st, UM_E_LIMIT);
    assert_true(train.item > 0);
    assert_non_null(strstr(err.msg, "--activation-memory"));
    assert_non_null(strstr(err.msg, "--recompute layer"));
    um_encoder_train_close(w.train);
    w.train = NULL;
    worker_close(&w);
}

/* Steps of AdamW bring the rows of every kind to rows that are wanted: forward uses what the optimiser has changed, also where it is
 * computed from weights. */
static void test_learns(void **state)
{
    (void)state;
    static const um_optimizer_settings settings = {
        .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.0};
    worker w;
    um_err err = {0};
    double before = 0.0, loss = 0.0;
    worker_open(&w, trains_all, &usual, false);
    um_optimizer *o = um_optimizer_open(&w.rank.params, &settings);
    for (uint64_t s = 1; s <= 30; s++) {
        loss = 0.0;
        for (uint32_t i = 0; i < KINDS; i++) {
            const um_item_key key = {s, 0, i};
            int n;
            float *to = NULL;
            const float *rows = rows_of(&w, all[i], key, true, &n);
            const size_t values = (size_t)n * (size_t)w.rank.ck.model.dim;
            float *grad = um_arena_f32(&arena, 1, values);
            for (size_t k = 0; k < values; k++) {
                grad[k] = rows[k] - (k % 7 < 3 ? 1.0f : -0.5f);
                loss += 0.5 * (double)grad[k] * (double)grad[k] / (double)values;
            }
            um_status st = um_encoder_train_room(w.train, &to, key, n, &err);
            if (st != UM_OK) fail_msg("%s", err.msg);
            w.rank.dev.ops->put(&w.rank.dev, to, grad, values * sizeof *grad);
        }
        for (uint32_t i = 0; i < KINDS; i++)
            if (um_encoder_train_grad(w.train, (um_item_key){s, 0, i}, &err) != UM_OK)
                fail_msg("%s", err.msg);
        um_encoder_train_sum(w.train);
        um_optimizer_step(o, 1e-2, 1.0);
        um_params_zero_grads(&w.rank.params);
        if (um_encoder_train_next(w.train, &err) != UM_OK) fail_msg("%s", err.msg);
        if (s == 1) before = loss;
    }
    if (!(loss < before / 4)) fail_msg("the loss went from %g to %g", before, loss);
    um_optimizer_close(o);
    worker_close(&w);
}

/* The cache holds what was used last, within its bytes. */
static void test_cache(void **state)
{
    (void)state;
    float values[256];
    for (int i = 0; i < 256; i++) values[i] = (float)i;
    um_medium_part part = {.real = 3, .values = 256, .value = values};
    const um_medium m = {
        .modality = UM_SOUND, .at = UM_AT_TOWER, .rows = 5, .parts = 1, .part = &part};
    const size_t one = um_medium_bytes(&m) + 200;
    um_tower_cache *c = um_tower_cache_open(100 * one);
    for (int i = 0; i < 300; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        assert_null(um_tower_cache_get(c, key));
        um_tower_cache_put(c, key, &m);
        assert_true(um_tower_cache_used(c) <= 100 * one);
        const um_medium *got = um_tower_cache_get(c, key);
        assert_true(got != NULL && got->rows == 5 && got->part[0].real == 3);
        assert_memory_equal(got->part[0].value, values, sizeof values);
        if (i >= 50) assert_non_null(um_tower_cache_get(c, "k0")); /* used all the time */
    }
    assert_null(um_tower_cache_get(c, "k1"));
    assert_non_null(um_tower_cache_get(c, "k299"));
    um_tower_cache_close(c);
    c = um_tower_cache_open(0);
    um_tower_cache_put(c, "k", &m);
    assert_null(um_tower_cache_get(c, "k"));
    um_tower_cache_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_order, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_bias, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_bad_medium, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_ahead, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_memory, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_learns, encoder_setup, decoder_teardown),
        cmocka_unit_test_setup_teardown(test_cache, encoder_setup, decoder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
