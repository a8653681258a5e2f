/* Sums over micro-batches: their shape depends on the numbers alone, whatever the order in which they come and the ranges of routers. */
#include "core/base/arena.h"
#include "core/base/rng.h"
#include "core/train/grad_tree.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { VALUES = 37, PARAMS = 3, MOST = 21 };

static um_dev dev;

static void leaf(float out[VALUES], uint32_t b)
{
    um_rng rng = um_rng_seed(9, b);
    um_rng_normal_f32(&rng, out, VALUES, 1.0f);
}

static void add_node(um_grad_tree *t, uint32_t level, uint32_t index, const float *sum,
                     const uint8_t *touched)
{
    um_grad_node n = um_grad_tree_new(t, level, index);
    dev.ops->copy(&dev, n.sum, sum, VALUES * sizeof *sum);
    memcpy(n.touched, touched, PARAMS);
    um_grad_tree_put(t, n);
}

static void add(um_grad_tree *t, uint32_t b)
{
    float g[VALUES];
    const uint8_t touched[PARAMS] = {b == 3, 0, 1};
    leaf(g, b);
    add_node(t, 0, b, g, touched);
}

/* The definition: node i of level l. exists [MOST]. */
static bool node(float out[VALUES], const bool *exists, int l, uint32_t i)
{
    float right[VALUES];
    if ((uint64_t)i << l >= MOST) return false;
    if (l == 0) {
        leaf(out, i);
        return exists[i];
    }
    const bool a = node(out, exists, l - 1, 2 * i), b = node(right, exists, l - 1, 2 * i + 1);
    for (int k = 0; b && k < VALUES; k++) out[k] = a ? out[k] + right[k] : right[k];
    return a || b;
}

static void is_the_sum(um_grad_tree *t, const bool *exists, const char *what)
{
    float want[VALUES];
    const um_grad_node *root = um_grad_tree_root(t);
    const bool any = node(want, exists, 5, 0);
    if (!any) {
        assert_null(root);
        return;
    }
    assert_int_equal(um_grad_tree_nodes(t), 1);
    if (memcmp(root->sum, want, sizeof want) != 0) fail_msg("%s", what);
    assert_int_equal(root->touched[0], exists[3]);
    assert_int_equal(root->touched[1], 0);
    assert_int_equal(root->touched[2], 1);
}

static void any_order_gives_the_same_bits(void **state)
{
    um_grad_tree *t = um_grad_tree_open(&dev, VALUES, PARAMS);
    um_rng rng = um_rng_seed(1, 1);
    (void)state;
    for (int round = 0; round < 200; round++) {
        uint32_t order[MOST];
        bool exists[MOST] = {0};
        char what[64];
        int n = 0;
        um_grad_tree_clear(t);
        for (uint32_t b = 0; b < (uint32_t)(1 + round % MOST); b++) {
            if (round >= 100 && um_rng_below(&rng, 4) == 0) continue; /* it does not exist */
            order[n++] = b;
            exists[b] = true;
        }
        for (int i = n - 1; i > 0 && round % 3 > 0; i--) {
            const int k = (int)um_rng_below(&rng, (uint32_t)i + 1);
            const uint32_t b = order[i];
            order[i] = order[k];
            order[k] = b;
        }
        for (int i = 0; i < n; i++) add(t, order[i]);
        snprintf(what, sizeof what, "round %d, %d micro-batches", round, n);
        is_the_sum(t, exists, what);
    }
    um_grad_tree_close(t);
}

/* As a binary counter: no more nodes than bits. */
static void in_order_few_vectors_are_held(void **state)
{
    um_grad_tree *t = um_grad_tree_open(&dev, VALUES, PARAMS);
    (void)state;
    for (uint32_t b = 0; b < MOST; b++) {
        int bits = 0;
        add(t, b);
        for (uint32_t left = b + 1; left > 0; left >>= 1) bits += left & 1;
        assert_int_equal(um_grad_tree_nodes(t), bits);
    }
    um_grad_tree_close(t);
}

/* A place that has a node, or lies in one, is taken. */
static void taken_places_are_seen(void **state)
{
    um_grad_tree *t = um_grad_tree_open(&dev, VALUES, PARAMS);
    (void)state;
    for (uint32_t b = 4; b < 7; b++) add(t, b); /* 4-5 of level 1, and 6 */
    const struct {
        uint32_t level, index;
        bool fits;
    } place[] = {{0, 4, false}, {0, 5, false}, {1, 2, false}, {0, 6, false},
                 {2, 1, false}, {5, 0, false}, {1, 3, false}, {0, 7, true},
                 {2, 0, true},  {1, 4, true},  {0, 3, true},  {2, 2, true}};
    for (size_t i = 0; i < sizeof place / sizeof *place; i++)
        assert_int_equal(um_grad_tree_fits(t, place[i].level, place[i].index), place[i].fits);
    um_grad_tree_close(t);
}

/* Routers with ranges of their own, whose nodes come together at the first. */
static void ranges_of_routers_join(void **state)
{
    (void)state;
    for (uint32_t B = 0; B <= MOST; B++)
        for (int R = 1; R <= 5; R++) {
            um_grad_tree *all = um_grad_tree_open(&dev, VALUES, PARAMS);
            bool exists[MOST] = {0};
            uint32_t end = 0;
            char what[64];
            for (int r = 0; r < R; r++) {
                um_grad_tree *t = um_grad_tree_open(&dev, VALUES, PARAMS);
                uint32_t from, to;
                um_grad_range(B, R, r, &from, &to);
                assert_int_equal(from, end);
                assert_true(to >= from && to - from <= B / (uint32_t)R + 1);
                end = to;
                for (uint32_t b = from; b < to; b++) {
                    exists[b] = true;
                    add(t, b);
                }
                for (int i = 0; i < um_grad_tree_nodes(t); i++) {
                    const um_grad_node *n = um_grad_tree_node(t, i);
                    add_node(all, n->level, n->index, n->sum, n->touched);
                }
                um_grad_tree_close(t);
            }
            assert_int_equal(end, B);
            snprintf(what, sizeof what, "%u micro-batches, %d routers", B, R);
            is_the_sum(all, exists, what);
            um_grad_tree_close(all);
        }
}

static int open_dev(void **state)
{
    um_err err = {0};
    (void)state;
    return um_dev_open_cpu(&dev, UM_ISA_AUTO, 1, &err) == UM_OK ? 0 : 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_gives_the_same_bits),
        cmocka_unit_test(in_order_few_vectors_are_held),
        cmocka_unit_test(taken_places_are_seen),
        cmocka_unit_test(ranges_of_routers_join),
    };
    return cmocka_run_group_tests(tests, open_dev, NULL);
}
