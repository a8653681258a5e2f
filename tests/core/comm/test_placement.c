/* Which rank computes which expert: the blocks that router 0 uses by itself, and any other placement. */
#include "core/comm/placement.h"
#include "tests/support/fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

/* Every expert has one owner, blocks are contiguous and in order, and the counts of two ranks differ by at most one. */
static void check_blocks(int E, int X)
{
    um_mark mark = um_arena_mark(&arena);
    um_placement p;
    um_err err = {0};
    const uint8_t moe[] = {1, 0, 1};
    assert_int_equal(um_placement_blocks(&p, 3, E, X, &arena, &err), UM_OK);
    assert_int_equal(um_placement_check(&p, 3, E, X, moe, &err), UM_OK);
    int least = E, most = 0, before = 0, n[20] = {0};
    for (int e = 0; e < E; e++) {
        int x = um_placement_owner(&p, e % 3, e, e);
        assert_true(x >= before && x < X);
        assert_true(E > 100 || um_placement_owns(&p, x, 2, e));
        before = x;
        n[x]++;
    }
    for (int x = 0; x < X; x++) {
        assert_true(E > 100 || um_placement_owned(&p, x, 1) == n[x]);
        least = n[x] < least ? n[x] : least;
        most = n[x] > most ? n[x] : most;
    }
    assert_true(most - least <= 1);
    um_arena_reset(&arena, mark);
}

static void experts_are_assigned_in_even_blocks(void **state)
{
    (void)state;
    for (int E = 0; E <= 17; E++)
        for (int X = 1; X <= 19; X++) check_blocks(E, X);
    check_blocks(65536, 7);
    check_blocks(1048576, 3);
}

static void the_formula_of_the_header_holds(void **state)
{
    (void)state;
    const int owner[] = {0, 0, 1, 1, 1, 2, 2, 2}; /* floors of 8/3 and 16/3 */
    um_placement p;
    um_err err = {0};
    assert_int_equal(um_placement_blocks(&p, 1, 8, 3, &arena, &err), UM_OK);
    for (int e = 0; e < 8; e++) assert_int_equal(um_placement_owner(&p, 0, e, 5), owner[e]);
}

static void experts_without_expert_rank_are_refused(void **state)
{
    (void)state;
    um_placement p = {.experts = 77};
    um_err err = {0};
    assert_int_equal(um_placement_blocks(&p, 1, 4, 0, &arena, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "4 experts"));
    assert_int_equal(um_placement_blocks(&p, 1, -1, 1, &arena, &err), UM_E_USAGE);
    assert_int_equal(p.experts, 77); /* untouched by failures */
    assert_int_equal(um_placement_blocks(&p, 1, 0, 0, &arena, &err), UM_OK);
    assert_int_equal(p.experts, 0);
}

/* Two layers with lists of their own and a dense one between them; expert 1 of layer 2 is on both ranks, which take turns by row. */
static void layers_may_differ_and_experts_be_on_several_ranks(void **state)
{
    (void)state;
    int32_t at[] = {0, 1, 2, 2, 2, 2, 2, 3, 5}, owner[] = {1, 0, 1, 0, 1};
    const uint8_t moe[] = {1, 0, 1};
    um_placement p = {.experts = 2, .ranks = 2, .layers = 3, .at = at, .owner = owner};
    um_err err = {0};
    assert_int_equal(um_placement_check(&p, 3, 2, 2, moe, &err), UM_OK);
    assert_int_equal(um_placement_owner(&p, 0, 0, 3), 1);
    assert_int_equal(um_placement_owner(&p, 0, 1, 3), 0);
    assert_int_equal(um_placement_owner(&p, 2, 0, 8), 1);
    for (int row = 0; row < 6; row++) assert_int_equal(um_placement_owner(&p, 2, 1, row), row % 2);
    assert_true(um_placement_owns(&p, 0, 2, 1) && um_placement_owns(&p, 1, 2, 1));
    assert_false(um_placement_owns(&p, 0, 2, 0));
    assert_int_equal(um_placement_owned(&p, 0, 0), 1);
    assert_int_equal(um_placement_owned(&p, 1, 0), 1);
    assert_int_equal(um_placement_owned(&p, 0, 1), 0);
    assert_int_equal(um_placement_owned(&p, 0, 2), 1);
    assert_int_equal(um_placement_owned(&p, 1, 2), 2);
}

static void faulty(um_placement p, int E, int ranks, const char *words)
{
    const uint8_t moe[] = {1, 0, 1};
    um_err err = {0};
    assert_int_equal(um_placement_check(&p, 3, E, ranks, moe, &err), UM_E_CORRUPT);
    if (strstr(err.msg, words) == NULL) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static void placements_that_do_not_fit_the_job_are_refused(void **state)
{
    (void)state;
    int32_t at[] = {0, 1, 2, 2, 2, 2, 2, 3, 5}, owner[] = {1, 0, 1, 0, 1};
    um_placement p = {.experts = 2, .ranks = 2, .layers = 3, .at = at, .owner = owner};
    faulty(p, 3, 2, "want 3 experts on 2 ranks");
    faulty(p, 2, 3, "want 2 experts on 3 ranks");
    p.layers = 2;
    faulty(p, 2, 2, "lists of 2 layers, want 3 or 1");
    p.layers = 3;
    owner[0] = 2;
    faulty(p, 2, 2, "expert 0 of layer 0 is on expert rank 2 of 2");
    owner[0] = -1;
    faulty(p, 2, 2, "expert rank -1 of 2");
    owner[0] = 1;
    owner[4] = 0;
    faulty(p, 2, 2, "the ranks of expert 1 of layer 2 do not ascend");
    owner[4] = 1;
    at[7] = 2;
    faulty(p, 2, 2, "expert 0 of layer 2 has no owner");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_assigned_in_even_blocks),
        cmocka_unit_test(the_formula_of_the_header_holds),
        cmocka_unit_test(experts_without_expert_rank_are_refused),
        cmocka_unit_test(layers_may_differ_and_experts_be_on_several_ranks),
        cmocka_unit_test(placements_that_do_not_fit_the_job_are_refused),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
