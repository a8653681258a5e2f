/* Who is who, and the placement of experts. */
#include "core/comm/topology.h"
#include "tests/support/fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

static um_topology built(const um_role *roles, int n)
{
    um_topology t = {0};
    um_err err = {0};
    um_rank *ranks = um_arena_zero(&arena, (size_t)n * sizeof *ranks);
    for (int r = 0; r < n; r++) {
        ranks[r] = (um_rank){
            .role = roles[r], .index = -7, .host = r / 2, .pid = 100 + r, .hostname = "node3"};
    }
    assert_int_equal(um_topology_build(&t, ranks, n, &arena, &err), UM_OK);
    return t;
}

static void roles_are_numbered_in_rank_order(void **state)
{
    (void)state;
    const um_role roles[] = {UM_ROLE_EXPERT,  UM_ROLE_ROUTER, UM_ROLE_EXPERT,
                             UM_ROLE_ENCODER, UM_ROLE_EXPERT, UM_ROLE_ROUTER};
    const int index[] = {0, 0, 1, 0, 2, 1};
    um_topology t = built(roles, 6);
    assert_int_equal(t.n, 6);
    assert_int_equal(t.count[UM_ROLE_ROUTER], 2);
    assert_int_equal(t.count[UM_ROLE_EXPERT], 3);
    assert_int_equal(t.count[UM_ROLE_ENCODER], 1);
    for (int r = 0; r < 6; r++) {
        assert_int_equal(t.ranks[r].role, roles[r]);
        assert_int_equal(t.ranks[r].index, index[r]);
        assert_int_equal(t.of_role[roles[r]][index[r]], r);
        assert_int_equal(t.ranks[r].host, r / 2);
        assert_int_equal(t.ranks[r].pid, 100 + r);
    }
    assert_int_equal(t.place.experts, 0);
}

static void labels_name_role_rank_and_host(void **state)
{
    (void)state;
    const um_role roles[] = {UM_ROLE_ROUTER, UM_ROLE_EXPERT, UM_ROLE_EXPERT, UM_ROLE_ENCODER};
    um_topology t = built(roles, 4);
    char label[128];
    um_topology_label(&t, 2, label);
    assert_string_equal(label, "expert/1 (rank 2, host node3)");
    um_topology_label(&t, 3, label);
    assert_string_equal(label, "encoder/0 (rank 3, host node3)");
    um_topology_label(&t, 4, label);
    assert_non_null(strstr(label, "rank 4"));
    um_topology_label(&t, -1, label);
    assert_non_null(strstr(label, "rank -1"));
}

static void long_hostnames_fit_a_label(void **state)
{
    (void)state;
    um_rank rank = {.role = UM_ROLE_ROUTER};
    um_topology t = {0};
    um_err err = {0};
    char label[128];
    memset(rank.hostname, 'h', sizeof rank.hostname); /* not even ended */
    assert_int_equal(um_topology_build(&t, &rank, 1, &arena, &err), UM_OK);
    assert_int_equal(strlen(t.ranks[0].hostname), sizeof rank.hostname - 1);
    um_topology_label(&t, 0, label);
    assert_int_equal(label[strlen(label) - 1], ')');
}

static void a_job_without_router_is_refused(void **state)
{
    (void)state;
    um_rank ranks[3] = {
        {.role = UM_ROLE_EXPERT}, {.role = UM_ROLE_EXPERT}, {.role = UM_ROLE_ENCODER}};
    um_topology t = {.n = 77};
    um_err err = {0};
    assert_int_equal(um_topology_build(&t, ranks, 3, &arena, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "no router among 3 ranks (2 expert, 1 encoder)"));
    assert_int_equal(um_topology_build(&t, ranks, 0, &arena, &err), UM_E_USAGE);
    ranks[1].role = (um_role)9;
    assert_int_equal(um_topology_build(&t, ranks, 3, &arena, &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "rank 1 has role 9"));
    assert_int_equal(t.n, 77); /* untouched by failures */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roles_are_numbered_in_rank_order),
        cmocka_unit_test(labels_name_role_rank_and_host),
        cmocka_unit_test(long_hostnames_fit_a_label),
        cmocka_unit_test(a_job_without_router_is_refused),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
