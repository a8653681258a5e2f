/* The gate's choices and weights. */
#include "core/nn/gate.h"

#include "core/base/bytes.h"
#include "core/base/rng.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static um_dev dev;

/* Spec 13: logits (1, 3, 2, 0) -> experts 1 and 2 with weights 0.731059, 0.268941 in both styles. */
static void gate_gives_the_numbers_of_the_specification(void **state)
{
    (void)state;
    for (int style = 0; style < 2; style++) {
        um_arena a;
        um_route r;
        um_arena_init(&a, "test", 4096);
        um_route_bind(&r, &a, 1, 2, 4);
        memcpy(r.logits, (float[]){1, 3, 2, 0}, 16);
        um_gate_choose(&dev, &r, (um_gate_style)style, 0, NULL);
        assert_int_equal(r.experts[0], 1);
        assert_int_equal(r.experts[1], 2);
        assert_float_equal(r.weights[0], 0.731059f, 2e-6f);
        assert_float_equal(r.weights[1], 0.268941f, 2e-6f);
        um_arena_free(&a);
    }
}

static void gate_breaks_ties_to_the_lowest_index(void **state)
{
    (void)state;
    um_arena a;
    um_route r;
    um_arena_init(&a, "test", 4096);
    um_route_bind(&r, &a, 1, 3, 5);
    memcpy(r.logits, (float[]){0, 2, 2, 1, 2}, 20);
    um_gate_choose(&dev, &r, UM_GATE_MIXTRAL, 0, NULL);
    assert_int_equal(r.experts[0], 1);
    assert_int_equal(r.experts[1], 2);
    assert_int_equal(r.experts[2], 4);
    um_arena_free(&a);
}

/* With noise the first choice stays, the second is drawn by the Gumbel-max rule (by softmax over the others), and the draw is
 * repeatable. */
static void gate_noise_draws_the_second_expert_by_softmax(void **state)
{
    (void)state;
    enum { N = 20000 };
    um_arena a;
    um_route r, again;
    int second[4] = {0};
    um_arena_init(&a, "test", 1 << 20);
    um_route_bind(&r, &a, N, 2, 4);
    um_route_bind(&again, &a, N, 2, 4);
    uint64_t *noise = um_arena_alloc(&a, N * sizeof *noise);
    for (int t = 0; t < N; t++) {
        memcpy(r.logits + t * 4, (float[]){1, 3, 2, 0}, 16);
        noise[t] = (uint64_t)t;
    }
    memcpy(again.logits, r.logits, N * 16);
    um_gate_choose(&dev, &r, UM_GATE_GSHARD, 5, noise);
    um_gate_choose(&dev, &again, UM_GATE_GSHARD, 5, noise);
    assert_memory_equal(r.experts, again.experts, N * 8);
    for (int t = 0; t < N; t++) {
        assert_int_equal(r.experts[2 * t], 1);
        second[r.experts[2 * t + 1]]++;
    }
    /* softmax(1, 2, 0) = 0.2447, 0.6652, 0.0900; five standard deviations at N = 20000 are below 0.017 */
    assert_float_equal((float)second[0] / N, 0.2447f, 0.017f);
    assert_float_equal((float)second[2] / N, 0.6652f, 0.017f);
    assert_float_equal((float)second[3] / N, 0.0900f, 0.017f);
    um_arena_free(&a);
}

/* Central differences of sum(c * weights) against um_gate_bwd, choice held. */
static void gate_backward_matches_central_differences(void **state)
{
    (void)state;
    enum { T = 5, K = 2, E = 6 };
    um_arena a;
    um_route r;
    um_rng rng = um_rng_seed(11, 0);
    um_arena_init(&a, "test", 4096);
    um_route_bind(&r, &a, T, K, E);
    float z[T * E], c[T * K], grad[T * E] = {0};
    um_rng_normal_f32(&rng, z, T * E, 2.0f);
    um_rng_normal_f32(&rng, c, T * K, 1.0f);
    memcpy(r.logits, z, sizeof z);
    um_gate_choose(&dev, &r, UM_GATE_GSHARD, 0, NULL);
    um_gate_bwd(&dev, grad, c, &r);
    for (int i = 0; i < T * E; i++) {
        double sum[2];
        for (int side = 0; side < 2; side++) {
            memcpy(r.logits, z, sizeof z);
            r.logits[i] += side == 0 ? 1e-2f : -1e-2f;
            um_gate_choose(&dev, &r, UM_GATE_GSHARD, 0, NULL);
            sum[side] = 0;
            for (int j = 0; j < T * K; j++) sum[side] += (double)c[j] * (double)r.weights[j];
        }
        assert_float_equal((float)((sum[0] - sum[1]) / 2e-2), grad[i], 2e-3f);
    }
    um_arena_free(&a);
}

/* The choice one after another: the first that is left, unless a later one is larger. */
static void want_choice(int32_t *experts, const float *z, int E, int K)
{
    for (int k = 0; k < K; k++) {
        int best = -1;
        for (int e = 0; e < E; e++) {
            bool before = false;
            for (int j = 0; j < k; j++) before = before || experts[j] == e;
            if (!before && (best < 0 || z[e] > z[best])) best = e;
        }
        experts[k] = best;
    }
}

/* Ties, rows of NaN and rows with some, as many experts as there are, on several threads. */
static void the_choice_is_that_of_one_after_another(void **state)
{
    (void)state;
    static const struct {
        int T, E, K;
    } cases[] = {{50, 1, 1}, {50, 2, 2}, {50, 7, 3}, {50, 64, 8}, {9, 33, 33}, {40, 4096, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int threads = 1; threads <= 3; threads++) {
            const int T = cases[i].T, E = cases[i].E, K = cases[i].K;
            um_arena a;
            um_route r;
            um_rng rng = um_rng_seed(3, i);
            int32_t *want;
            um_arena_init(&a, "test", 4096);
            um_route_bind(&r, &a, T, K, E);
            want = um_arena_i32(&a, (size_t)K);
            for (int j = 0; j < T * E; j++)
                r.logits[j] = (float)((int)(um_rng_uniform(&rng) * 40) - 20) * 0.25f;
            for (int j = 0; j < 3 * E; j++) r.logits[j] = NAN;
            for (int j = 0; j < 12; j++)
                r.logits[(int)(um_rng_uniform(&rng) * (T * E))] = j % 2 ? NAN : -INFINITY;
            dev.threads = threads;
            um_gate_choose(&dev, &r, UM_GATE_GSHARD, 0, NULL);
            for (int t = 0; t < T; t++) {
                want_choice(want, r.logits + t * E, E, K);
                assert_memory_equal(want, r.experts + t * K, (size_t)K * sizeof *want);
            }
            um_arena_free(&a);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gate_gives_the_numbers_of_the_specification),
        cmocka_unit_test(gate_breaks_ties_to_the_lowest_index),
        cmocka_unit_test(gate_noise_draws_the_second_expert_by_softmax),
        cmocka_unit_test(gate_backward_matches_central_differences),
        cmocka_unit_test(the_choice_is_that_of_one_after_another),
    };
    um_err err = {0};
    if (um_dev_open_cpu(&dev, UM_ISA_AUTO, 2, &err) != UM_OK) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
