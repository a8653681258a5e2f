/* The dispatch plan: properties on random routings of many shapes. */
#include "core/comm/dispatch_plan.h"

#include "core/base/bytes.h"
#include "core/base/rng.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static um_dev dev;

static void placement_of(um_placement *p, int ranks, int E, um_arena *a)
{
    um_err err = {0};
    assert_int_equal(um_placement_blocks(p, 1, E, ranks, a, &err), UM_OK);
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
        um_placement place;
        um_dispatch_plan p;
        um_arena_init(&a, "test", 4096);
        placement_of(&place, X, E, &a);
        int32_t *routes = random_routes(&rng, T, K, E, &a);
        um_dispatch_plan_bind(&p, &a, &a, T, K, X);
        assert_int_equal(um_dispatch_plan_build(&p, &place, 0, routes, T, &dev, &a, &err), UM_OK);
        assert_memory_equal(p.device_slot, p.slot, (size_t)(T * K) * sizeof *p.slot);
        assert_memory_equal(p.device_row, p.row, (size_t)p.row_at[X] * sizeof *p.row);
        assert_true(um_dispatch_plan_is_permutation(&p));
        for (int x = 0; x < X; x++) {
            for (int r = p.row_at[x]; r + 1 < p.row_at[x + 1]; r++)
                assert_true(p.row[r] < p.row[r + 1]);
            for (int pair = p.pair_at[x]; pair < p.pair_at[x + 1]; pair++) {
                uint32_t e = um_get_u32(p.meta + (size_t)pair * 8 + 4);
                assert_true(um_placement_owns(&place, x, 0, (int)e));
                if (pair > p.pair_at[x])
                    assert_true(e >= um_get_u32(p.meta + (size_t)(pair - 1) * 8 + 4));
            }
        }
        for (int s = 0; s < T * K; s++)
            assert_int_equal(um_get_u32(p.meta + (size_t)p.slot[s] * 8 + 4), routes[s]);
        um_arena_free(&a);
    }
}

static int distinct_of(const int32_t *routes, int T, int K, const um_placement *place, int peer)
{
    int rows = 0;
    for (int t = 0; t < T; t++) {
        bool here = false;
        for (int k = 0; k < K; k++) {
            int32_t e = routes[t * K + k];
            here = here || (e >= 0 && um_placement_owns(place, peer, 0, e));
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
        um_placement place;
        um_dispatch_plan p;
        um_arena_init(&a, "test", 4096);
        placement_of(&place, X, E, &a);
        int32_t *routes = random_routes(&rng, T, K, E, &a);
        for (int s = 0; s < T * K; s++) {
            if (s / K % 5 == 0 || um_rng_below(&rng, 3) == 0) routes[s] = UM_NO_EXPERT;
            pairs += routes[s] >= 0;
        }
        um_dispatch_plan_bind(&p, &a, &a, T, K, X);
        assert_int_equal(um_dispatch_plan_build(&p, &place, 0, routes, T, &dev, &a, &err), UM_OK);
        assert_memory_equal(p.device_slot, p.slot, (size_t)(T * K) * sizeof *p.slot);
        assert_memory_equal(p.device_row, p.row, (size_t)p.row_at[X] * sizeof *p.row);
        assert_true(um_dispatch_plan_is_permutation(&p));
        assert_int_equal(p.pair_at[X], pairs);
        for (int s = 0; s < T * K; s++) {
            if (routes[s] < 0)
                assert_int_equal(p.slot[s], -1);
            else
                assert_int_equal(um_get_u32(p.meta + (size_t)p.slot[s] * 8 + 4), routes[s]);
        }
        for (int x = 0; x < X; x++)
            assert_int_equal(p.rows_n[x], distinct_of(routes, T, K, &place, x));
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
    um_placement place;
    um_dispatch_plan p;
    int32_t bad[2] = {1, 4};
    um_arena_init(&a, "test", 4096);
    placement_of(&place, 2, 4, &a);
    um_dispatch_plan_bind(&p, &a, &a, 1, 2, 2);
    assert_int_equal(um_dispatch_plan_build(&p, &place, 0, bad, 1, &dev, &a, &err), UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "expert 4 of 4"));
    bad[1] = -2; /* -1 is a slot without an expert */
    assert_int_equal(um_dispatch_plan_build(&p, &place, 0, bad, 1, &dev, &a, &err), UM_E_CORRUPT);
    assert_non_null(strstr(err.msg, "expert -2 of 4"));
    um_arena_free(&a);
}

static int setup(void **state)
{
    um_err err = {0};
    (void)state;
    return um_dev_open_cpu(&dev, UM_ISA_AUTO, 1, &err) == UM_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_a_permutation_with_each_row_once_per_peer),
        cmocka_unit_test(plan_leaves_out_slots_without_an_expert),
        cmocka_unit_test(plan_refuses_an_expert_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
