/* Arenas: marks, the three kinds, and the gaps that a sanitizer watches. */
#include "core/base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

/* Buffers as a forward pass binds them: some stay, some end before others begin. */
static void bind(um_arena *a)
{
    um_mark mark;
    um_arena_f32(a, 3, 5);
    mark = um_arena_mark(a);
    um_arena_i32(a, 1000);
    um_arena_alloc(a, 1);
    um_arena_reset(a, mark);
    um_arena_f32(a, 7, 11);
    um_arena_alloc(a, 0);
}

static void measures_what_binding_takes(void **state)
{
    um_arena measure, host;
    (void)state;
    um_arena_init_measure(&measure, "measure");
    um_arena_init(&host, "host", 1 << 20);
    bind(&measure);
    bind(&host);
    assert_int_equal(measure.used, host.used);
    assert_int_equal(measure.peak, host.peak);
    assert_true(measure.peak >= 4000 + 60);
    assert_null(measure.block);
    um_arena_free(&measure);
    um_arena_free(&host);
}

static void measuring_allocates_nothing(void **state)
{
    um_arena a;
    (void)state;
    um_arena_init_measure(&a, "measure");
    assert_true(um_arena_reserve(&a, (size_t)1 << 60));
    assert_non_null(um_arena_f32(&a, 1 << 20, 1 << 20));
    assert_non_null(um_arena_zero(&a, (size_t)1 << 50));
    assert_true(a.used > (size_t)1 << 50);
    um_arena_free(&a);
}

typedef struct source {
    int blocks;  /* that are out */
    int taken;   /* in all */
    size_t last; /* bytes of the last one */
    bool empty;
} source;

static void *source_alloc(void *ctx, size_t bytes)
{
    source *s = ctx;
    if (s->empty) return NULL;
    s->blocks++;
    s->taken++;
    s->last = bytes;
    return um_alloc_aligned(bytes);
}

static void source_free(void *ctx, void *p)
{
    ((source *)ctx)->blocks--;
    um_free(p);
}

static void a_device_arena_takes_its_blocks_from_the_device(void **state)
{
    source s = {0};
    um_arena a;
    (void)state;
    um_arena_init_device(&a, "device", 4096, (um_memory){source_alloc, source_free, &s});
    float *first = um_arena_f32(&a, 1, 10), *second = um_arena_f32(&a, 1, 5000);
    assert_true((uintptr_t)first % 64 == 0 && (uintptr_t)second % 64 == 0);
    assert_int_equal(s.blocks, 2);
    s.empty = true;
    assert_false(um_arena_reserve(&a, 1 << 20));
    um_arena_free(&a);
    assert_int_equal(s.blocks, 0);
}

/* Rounds of any sizes leave one block that holds the largest of them, and then no block is taken any more. */
static void an_arena_comes_to_one_block_of_its_peak(void **state)
{
    (void)state;
    source s = {0};
    um_arena a;
    int taken = 0;
    um_arena_init_device(&a, "rounds", 4096, (um_memory){source_alloc, source_free, &s});
    for (int round = 0; round < 6; round++) {
        const size_t one = round == 0 ? 5000 : round == 1 ? 20000 : 12000;
        assert_true(um_arena_reserve(&a, one));
        um_arena_alloc(&a, one);
        um_arena_alloc(&a, 30000);
        if (round == 3) taken = s.taken;
        um_arena_reset(&a, (um_mark){0});
    }
    assert_int_equal(s.taken, taken);
    assert_int_equal(s.blocks, 1);
    assert_int_equal(s.last, a.peak);
    um_arena_free(&a);
    assert_int_equal(s.blocks, 0);
}

static void a_reset_keeps_what_was_allocated_before(void **state)
{
    um_arena a;
    (void)state;
    um_arena_init(&a, "host", 4096);
    char *kept = um_arena_str(&a, "kept");
    um_mark mark = um_arena_mark(&a);
    for (int i = 0; i < 100; i++) {
        memset(um_arena_alloc(&a, 10000), i, 10000);
        um_arena_reset(&a, mark);
    }
    assert_string_equal(kept, "kept");
    assert_int_equal(a.used, mark.used);
    um_arena_free(&a);
}

#if defined(__SANITIZE_ADDRESS__)
int __asan_address_is_poisoned(void const volatile *p);

static void free_memory_and_gaps_are_poisoned(void **state)
{
    um_arena a;
    (void)state;
    um_arena_init(&a, "host", 1 << 16);
    char *p = um_arena_alloc(&a, 100), *q = um_arena_alloc(&a, 8);
    assert_false(__asan_address_is_poisoned(p + 99));
    assert_true(__asan_address_is_poisoned(p + 100));
    assert_false(__asan_address_is_poisoned(q));
    um_mark mark = um_arena_mark(&a);
    char *r = um_arena_alloc(&a, 64);
    assert_false(__asan_address_is_poisoned(r));
    um_arena_reset(&a, mark);
    assert_true(__asan_address_is_poisoned(r));
    um_arena_free(&a);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures_what_binding_takes),
        cmocka_unit_test(measuring_allocates_nothing),
        cmocka_unit_test(a_device_arena_takes_its_blocks_from_the_device),
        cmocka_unit_test(an_arena_comes_to_one_block_of_its_peak),
        cmocka_unit_test(a_reset_keeps_what_was_allocated_before),
#if defined(__SANITIZE_ADDRESS__)
        cmocka_unit_test(free_memory_and_gaps_are_poisoned),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
