/* The numerics of an expert rank: all experts of a frame at once give each row the bits that it has alone. */
#include "core/base/arena.h"
#include "core/base/rng.h"
#include "expert_worker/expert.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { D = 24, F = 40, E = 5, LAYERS = 2 };

/* Two MoE layers; expert 3 is on another rank, expert 4 has matrices of another type. */
typedef struct fixture {
    um_dev dev;
    um_arena host, device;
    um_model model;
    um_experts experts;
    um_ffn ffn[LAYERS * E];
    int32_t at[LAYERS * E];
    int moe_index[LAYERS];
} fixture;

static void matrix_make(fixture *t, um_linear *l, um_rng *rng, int N, int K, um_dtype type)
{
    float w[F * F];
    float bias[F];
    um_rng_normal_f32(rng, w, (size_t)(N * K), 0.3f);
    um_rng_normal_f32(rng, bias, (size_t)N, 1.0f);
    l->w = (um_matrix){.dtype = type, .N = N, .K = K};
    l->w.data = um_arena_alloc(&t->device, um_matrix_bytes(type, N, K));
    t->dev.ops->pack(&t->dev, &l->w, w, UM_F32, K, false);
    l->bias = um_dev_put_f32(&t->dev, &t->device, bias, (size_t)N);
}

static int setup(void **state)
{
    um_err err = {0};
    um_rng rng = um_rng_seed(1, 2);
    fixture *t = um_zalloc(sizeof *t);
    assert_int_equal(um_dev_open_cpu(&t->dev, UM_ISA_AUTO, 1, &err), UM_OK);
    um_arena_init(&t->host, "host", 1 << 16);
    um_dev_arena(&t->device, &t->dev, "device", 1 << 16);
    t->model = (um_model){.layers = LAYERS, .experts = E, .dim = D, .expert_dim = F};
    int n = 0;
    for (int l = 0; l < LAYERS; l++)
        for (int e = 0; e < E; e++) {
            um_ffn *f = &t->ffn[n];
            um_dtype type = e == 4 ? UM_BF16 : UM_F32;
            t->at[l * E + e] = e == 3 ? -1 : n++;
            if (e == 3) continue;
            matrix_make(t, &f->gate, &rng, F, D, type);
            matrix_make(t, &f->up, &rng, F, D, type);
            matrix_make(t, &f->down, &rng, D, F, type);
        }
    t->moe_index[1] = 1;
    t->experts = (um_experts){
        .model = &t->model, .owned = n, .ffn = t->ffn, .at = t->at, .moe_index = t->moe_index};
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    fixture *t = *state;
    um_arena_free(&t->device);
    um_arena_free(&t->host);
    um_free(t);
    return 0;
}

/* A frame of rows, each with one pair for every expert that `takes` says, by rising expert. */
static um_dispatch_batch batch_make(fixture *t, int rows, int layer, bool (*takes)(int row, int e))
{
    um_rng rng = um_rng_seed(3, (uint64_t)rows);
    int32_t *expert = um_arena_i32(&t->host, (size_t)(rows * E)),
            *row = um_arena_i32(&t->host, (size_t)(rows * E));
    float *x = um_arena_f32(&t->host, (size_t)rows, D);
    um_dispatch_batch b = {.rows = rows, .D = D, .expert = expert};
    b.key.layer = (uint32_t)layer;
    um_rng_normal_f32(&rng, x, (size_t)(rows * D), 1.0f);
    for (int e = 0; e < E; e++)
        for (int r = 0; r < rows; r++)
            if (takes(r, e)) {
                expert[b.pairs] = e;
                row[b.pairs++] = r;
            }
    b.x = um_dev_put_f32(&t->dev, &t->device, x, (size_t)(rows * D));
    b.pair_row = um_dev_put_i32(&t->dev, &t->device, row, (size_t)b.pairs);
    return b;
}

static bool some(int row, int e) { return e != 3 && (row * 7 + e * 3) % 5 < 2; }
static bool mixed(int row, int e) { return e == row % 3 * 2; }
static bool none(int row, int e) { return row < 0 && e < 0; }
static bool one(int row, int e) { return row >= 0 && e == 1; }

static void check(fixture *t, int rows, int layer, bool (*takes)(int row, int e), bool keep)
{
    um_err err = {0};
    um_dispatch_batch b = batch_make(t, rows, layer, takes);
    um_expert_acts acts;
    um_ffn_acts alone;
    float *y = um_arena_f32(&t->device, (size_t)b.pairs, D), *want = um_arena_f32(&t->device, 1, D);
    um_expert_acts_bind(&acts, &t->device, b.pairs, D, F, keep);
    assert_true(acts.most == b.pairs || (!keep && acts.most == UM_EXPERT_ROWS));
    um_ffn_acts_bind(&alone, &t->device, 1, F);
    assert_int_equal(um_experts_run(&t->experts, y, &b, &acts, &t->dev, &t->host, &err), UM_OK);
    for (int p = 0; p < b.pairs; p++) {
        const um_ffn *f = &t->ffn[t->at[layer * E + b.expert[p]]];
        um_ffn_fwd(&t->dev, want, &alone, f, b.x + b.pair_row[p] * D, 1);
        assert_memory_equal(y + p * D, want, D * sizeof(float));
    }
}

static void every_row_has_the_bits_that_it_has_alone(void **state)
{
    fixture *t = *state;
    for (int layer = 0; layer < LAYERS; layer++) {
        check(t, 0, layer, none, false);
        check(t, 9, layer, none, false);
        check(t, 1, layer, one, false);
        check(t, 33, layer, some, false);
        check(t, 33, layer, mixed, true);
    }
}

/* Frames of more pairs than fit at once: an expert's rows are cut where a slice ends. */
static void long_frames_are_run_in_slices(void **state)
{
    fixture *t = *state;
    check(t, UM_EXPERT_ROWS + 300, 0, one, false);
    check(t, 1500, 1, some, false);
    check(t, 1500, 1, some, true);
}

static void a_layer_without_experts_is_refused(void **state)
{
    fixture *t = *state;
    um_err err = {0};
    um_dispatch_batch b = batch_make(t, 1, LAYERS, one);
    um_expert_acts acts;
    float y[D];
    um_expert_acts_bind(&acts, &t->device, 1, D, F, false);
    assert_int_equal(um_experts_run(&t->experts, y, &b, &acts, &t->dev, &t->host, &err),
                     UM_E_CORRUPT);
    b.key.layer = 0;
    t->moe_index[0] = -1;
    assert_int_equal(um_experts_run(&t->experts, y, &b, &acts, &t->dev, &t->host, &err),
                     UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "layer 0 has no experts"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_row_has_the_bits_that_it_has_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(long_frames_are_run_in_slices, setup, teardown),
        cmocka_unit_test_setup_teardown(a_layer_without_experts_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
