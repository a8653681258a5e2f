/* Result lines in the order of their requests, whatever order they come in. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/arena.h"
#include "core/base/rng.h"
#include "router/result_order.h"

#include <stdio.h>
#include <stdlib.h>

enum { CAP = 7, N = 5000 };

static void test_any_order(void **state)
{
    (void)state;
    um_result_order o;
    um_rng rng = um_rng_seed(3, 0);
    um_err err = {0};
    uint64_t began = 0, waiting[CAP], n = 0;
    int seen = 0;
    um_result_order_open(&o, CAP);
    while (seen < N) {
        while (n < CAP && began < N && um_result_order_room(&o, began)) waiting[n++] = began++;
        assert_true(n > 0);
        uint64_t pick = um_rng_below(&rng, n);
        char text[32];
        snprintf(text, sizeof text, "%d", (int)waiting[pick]);
        assert_int_equal(um_result_order_put(&o, waiting[pick], text, &err), UM_OK);
        waiting[pick] = waiting[--n];
        for (char *line; (line = um_result_order_take(&o)) != NULL; um_free(line))
            assert_int_equal(strtol(line, NULL, 10), seen++);
    }
    um_result_order_close(&o);
}

static void test_unexpected(void **state)
{
    (void)state;
    um_result_order o;
    um_err err = {0};
    um_result_order_open(&o, CAP);
    assert_true(um_result_order_room(&o, CAP - 1));
    assert_false(um_result_order_room(&o, CAP));
    assert_int_equal(um_result_order_put(&o, 1, "b", &err), UM_OK);
    assert_null(um_result_order_take(&o));
    assert_int_equal(um_result_order_put(&o, 1, "b", &err), UM_E_CORRUPT);
    assert_int_equal(um_result_order_put(&o, CAP, "x", &err), UM_E_CORRUPT);
    assert_int_equal(um_result_order_put(&o, 0, "a", &err), UM_OK);
    for (int i = 0; i < 2; i++) {
        char *line = um_result_order_take(&o);
        assert_int_equal(line[0], 'a' + i);
        um_free(line);
    }
    assert_int_equal(um_result_order_put(&o, 0, "a", &err), UM_E_CORRUPT);
    assert_int_equal(um_result_order_put(&o, 5, "held", &err), UM_OK); /* freed by close */
    um_result_order_close(&o);
    um_result_order_close(&(um_result_order){0});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_unexpected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
