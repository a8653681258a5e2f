/* The exchange plan as pure data, and the gate: properties on random routings of many shapes. */
#include "core/comm/exchange.h"
#include "core/nn/gate.h"

#include "core/base/bytes.h"
#include "core/base/rng.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void topology_of(um_topology *t, int experts_ranks, int E, um_arena *a)
{
    um_rank ranks[70];
    um_err err = {0};
    memset(ranks, 0, sizeof ranks);
    ranks[0].role = UM_ROLE_ROUTER;
    for (int i = 0; i < experts_ranks; i++) ranks[1 + i].role = UM_ROLE_EXPERT;
    assert_int_equal(um_topology_build(t, ranks, 1 + experts_ranks, a, &err), UM_OK);
    assert_int_equal(um_topology_place(t, E, a, &err), UM_OK);
}

/* K distinct experts for each of T rows. */
static int32_t *random_routes(um_rng *rng, int T, int K, int E, um_arena *a)
{
    int32_t *r = um_arena_i32(a, (size_t)T * (size_t)K);
    for (int t = 0; t < T; t++) {
        for (int k = 0; k < K; k++) {
            bool again = true;
            while (again) {
                r[t * K + k] = (int32_t)um_rng_below(rng, (uint64_t)E);
                again = false;
                for (int j = 0; j < k; j++) again |= r[t * K + j] == r[t * K + k];
            }
        }
    }
    return r;
}

static void plan_is_a_permutation_with_each_row_once_per_peer(void **state)
{
    (void)state;
    const int shapes[][4] = {{0, 2, 4, 1},  {1, 1, 1, 1}, {7, 2, 4, 3},       {33, 2, 8, 5},
                             {64, 4, 9, 7}, {5, 3, 3, 8}, {100, 2, 1000, 60}, {257, 8, 64, 64}};
    um_rng rng = um_rng_seed(3, 0);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int T = shapes[i][0], K = shapes[i][1], E = shapes[i][2], X = shapes[i][3];
        um_arena a;
        um_err err = {0};
        um_topology topo;
        um_dispatch_plan p;
        um_arena_init(&a, "test", 4096);
        topology_of(&topo, X, E, &a);
        int32_t *routes = random_routes(&rng, T, K, E, &a);
        assert_int_equal(um_dispatch_plan_build(&p, &topo, routes, T, K, &a, &err), UM_OK);
        assert_true(um_dispatch_plan_is_permutation(&p));
        for (int x = 0; x < X; x++) {
            for (int r = p.row_at[x]; r + 1 < p.row_at[x + 1]; r++)
                assert_true(p.row[r] < p.row[r + 1]);
            for (int pair = p.pair_at[x]; pair < p.pair_at[x + 1]; pair++) {
                uint32_t e = um_get_u32(p.meta + (size_t)pair * 8 + 4);
                assert_int_equal(topo.owner[e], x);
                if (pair > p.pair_at[x])
                    assert_true(e >= um_get_u32(p.meta + (size_t)(pair - 1) * 8 + 4));
            }
        }
        for (int s = 0; s < T * K; s++)
            assert_int_equal(um_get_u32(p.meta + (size_t)p.slot[s] * 8 + 4), routes[s]);
        um_arena_free(&a);
    }
}

static int distinct_of(const int32_t *routes, int T, int K, const um_topology *topo, int peer)
{
    int rows = 0;
    for (int t = 0; t < T; t++) {
        bool here = false;
        for (int k = 0; k < K; k++) {
            int32_t e = routes[t * K + k];
            here = here || (e >= 0 && topo->owner[e] == peer);
        }
        rows += here;
    }
    return rows;
}

/* Slots and whole tokens without an expert use no pair and no row; the others are as if the holes did not exist. */
static void plan_leaves_out_slots_without_an_expert(void **state)
{
    (void)state;
    const int shapes[][4] = {
        {1, 1, 1, 1}, {7, 3, 4, 3}, {33, 4, 8, 5}, {100, 8, 8, 1}, {64, 5, 9, 7}};
    um_rng rng = um_rng_seed(4, 0);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int T = shapes[i][0], K = shapes[i][1], E = shapes[i][2], X = shapes[i][3], pairs = 0;
        um_arena a;
        um_err err = {0};
        um_topology topo;
        um_dispatch_plan p;
        um_arena_init(&a, "test", 4096);
        topology_of(&topo, X, E, &a);
        int32_t *routes = random_routes(&rng, T, K, E, &a);
        for (int s = 0; s < T * K; s++) {
            if (s / K % 5 == 0 || um_rng_below(&rng, 3) == 0) routes[s] = UM_NO_EXPERT;
            pairs += routes[s] >= 0;
        }
        assert_int_equal(um_dispatch_plan_build(&p, &topo, routes, T, K, &a, &err), UM_OK);
        assert_true(um_dispatch_plan_is_permutation(&p));
        assert_int_equal(p.pair_at[X], pairs);
        for (int s = 0; s < T * K; s++) {
            if (routes[s] < 0)
                assert_int_equal(p.slot[s], -1);
            else
                assert_int_equal(um_get_u32(p.meta + (size_t)p.slot[s] * 8 + 4), routes[s]);
        }
        for (int x = 0; x < X; x++)
            assert_int_equal(p.rows_n[x], distinct_of(routes, T, K, &topo, x));
        if (pairs > 1) { /* a plan that lacks a pair or has one twice is not valid */
            int first = 0;
            while (p.slot[first] < 0) first++;
            int32_t kept = p.slot[first];
            p.slot[first] = -1;
            assert_false(um_dispatch_plan_is_permutation(&p));
            p.slot[first] = kept;
        }
        um_arena_free(&a);
    }
}

static void plan_refuses_an_expert_that_is_not_there(void **state)
{
    (void)state;
    um_arena a;
    um_err err = {0};
    um_topology topo;
    um_dispatch_plan p;
    int32_t bad[2] = {1, 4};
    um_arena_init(&a, "test", 4096);
    topology_of(&topo, 2, 4, &a);
    assert_int_equal(um_dispatch_plan_build(&p, &topo, bad, 1, 2, &a, &err), UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "expert 4 of 4"));
    bad[1] = -2; /* -1 is a slot without an expert */
    assert_int_equal(um_dispatch_plan_build(&p, &topo, bad, 1, 2, &a, &err), UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "expert -2 of 4"));
    um_arena_free(&a);
}

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
        um_gate_choose(&r, (um_gate_style)style, 0, NULL);
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
    um_gate_choose(&r, UM_GATE_MIXTRAL, 0, NULL);
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
    um_gate_choose(&r, UM_GATE_GSHARD, 5, noise);
    um_gate_choose(&again, UM_GATE_GSHARD, 5, noise);
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
    um_gate_choose(&r, UM_GATE_GSHARD, 0, NULL);
    um_gate_bwd(grad, c, &r);
    for (int i = 0; i < T * E; i++) {
        double sum[2];
        for (int side = 0; side < 2; side++) {
            memcpy(r.logits, z, sizeof z);
            r.logits[i] += side == 0 ? 1e-2f : -1e-2f;
            um_gate_choose(&r, UM_GATE_GSHARD, 0, NULL);
            sum[side] = 0;
            for (int j = 0; j < T * K; j++) sum[side] += (double)c[j] * (double)r.weights[j];
        }
        assert_float_equal((float)((sum[0] - sum[1]) / 2e-2), grad[i], 2e-3f);
    }
    um_arena_free(&a);
}

/* Spec 13: 1 for uniform p and uniform first choices, E for all on one expert. */
static void balance_value_has_its_two_ends(void **state)
{
    (void)state;
    enum { T = 4, E = 4 };
    um_arena a;
    um_route r;
    um_arena_init(&a, "test", 4096);
    um_route_bind(&r, &a, T, 1, E);
    for (int t = 0; t < T; t++)
        for (int e = 0; e < E; e++) r.logits[t * E + e] = e == 0 ? 100.0f : 0.0f;
    assert_float_equal((float)um_gate_balance(&r), (float)E, 1e-5f);
    for (int t = 0; t < T; t++)
        for (int e = 0; e < E; e++) r.logits[t * E + e] = e == t ? 1e-4f : 0.0f;
    assert_float_equal((float)um_gate_balance(&r), 1.0f, 1e-3f);
    um_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_a_permutation_with_each_row_once_per_peer),
        cmocka_unit_test(plan_leaves_out_slots_without_an_expert),
        cmocka_unit_test(plan_refuses_an_expert_that_is_not_there),
        cmocka_unit_test(gate_gives_the_numbers_of_the_specification),
        cmocka_unit_test(gate_breaks_ties_to_the_lowest_index),
        cmocka_unit_test(gate_noise_draws_the_second_expert_by_softmax),
        cmocka_unit_test(gate_backward_matches_central_differences),
        cmocka_unit_test(balance_value_has_its_two_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
