/* Router 0's record of unfinished requests, against a plain list. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "router/unfinished.h"

#include <stdio.h>
#include <string.h>

enum { HELD = 500, IDS = 40, STEPS = 20000 };

static void as_a_list(void **state)
{
    (void)state;
    um_unfinished u = {0};
    um_rng rng = um_rng_seed(11, 0);
    uint64_t number[HELD], next = 0;
    int n = 0;
    for (int step = 0; step < STEPS; step++) {
        if (n == HELD || (n > 0 && um_rng_below(&rng, 2) == 0)) {
            int i = (int)um_rng_below(&rng, (uint64_t)n);
            um_unfinished_request *r = um_unfinished_find(&u, number[i]);
            assert_non_null(r);
            assert_int_equal(r->number, number[i]);
            assert_int_equal(r->router, number[i] % 3);
            um_unfinished_remove(&u, r);
            assert_null(um_unfinished_find(&u, number[i]));
            number[i] = number[--n];
        } else {
            char id[16];
            um_request_source from = {"{}", 2, 2, ".", next + 7, .element = false};
            snprintf(id, sizeof id, "id%d", (int)(next % IDS));
            um_unfinished_add(&u, next, (int)(next % 3), &from, next % 5 == 0 ? NULL : id);
            number[n++] = next++;
        }
        assert_int_equal(u.n, n);
        if (step % 100 != 0) continue;
        for (int k = 0; k < IDS; k++) {
            char id[16];
            int want = 0, got = 0;
            snprintf(id, sizeof id, "id%d", k);
            for (int i = 0; i < n; i++)
                want += number[i] % 5 != 0 && number[i] % IDS == (uint64_t)k;
            for (um_unfinished_request *r = NULL; (r = um_unfinished_named(&u, id, r)) != NULL;
                 got++)
                assert_string_equal(r->from.id, id);
            assert_int_equal(got, want);
        }
    }
    um_unfinished_request *unnamed = um_unfinished_named(&u, "7", NULL); /* by its line */
    assert_true(unnamed == NULL || unnamed->number == 0);
    um_unfinished_free(&u);
    assert_int_equal(u.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
