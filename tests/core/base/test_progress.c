/* core/base/progress.h and text.h: what a waiting user sees, and amounts in words. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/arena.h"
#include "core/base/progress.h"
#include "core/base/text.h"

#include <string.h>

#define SECOND INT64_C(1000000000)

static char *text;
static size_t size;
static FILE *to;

static int setup(void **state)
{
    (void)state;
    to = open_memstream(&text, &size);
    return to == NULL;
}

static int teardown(void **state)
{
    (void)state;
    fclose(to);
    um_free(text); /* the stream's buffer */
    return 0;
}

static const char *shown(void)
{
    fflush(to);
    return text;
}

static void test_short_work_is_silent(void **state)
{
    (void)state;
    um_progress p;
    um_progress_begin(&p, to, "copying", UM_PROGRESS_COUNT, 10);
    for (int i = 0; i < 10; i++) um_progress_add_at(&p, 1, p.line.begun + i * SECOND / 10);
    um_progress_end_at(&p, p.line.begun + SECOND);
    assert_string_equal(shown(), "");
}

static void test_lines(void **state)
{
    (void)state;
    um_progress p;
    um_progress_begin(&p, to, "writing weights", UM_PROGRESS_BYTES, 4 << 20);
    int64_t t = p.line.begun;
    um_progress_add_at(&p, 1 << 20, t + SECOND);
    um_progress_add_at(&p, 0, t + 3 * SECOND);
    um_progress_add_at(&p, 1 << 20, t + 4 * SECOND); /* two lines are at least five seconds apart */
    um_progress_add_at(&p, 1 << 20, t + 9 * SECOND);
    um_progress_add_at(&p, 1 << 20, t + 10 * SECOND);
    um_progress_end_at(&p, t + 10 * SECOND);
    um_progress_end_at(&p, t + 11 * SECOND); /* a second time: nothing */
    assert_string_equal(shown(), "writing weights: 1.0 MiB of 4.0 MiB, 25 %, 9 s left\n"
                                 "writing weights: 3.0 MiB of 4.0 MiB, 75 %, 3 s left\n"
                                 "writing weights: 4.0 MiB of 4.0 MiB, 100 %\n");
}

static void test_bar(void **state)
{
    (void)state;
    um_progress p;
    um_progress_begin(&p, to, "loading", UM_PROGRESS_COUNT, 4);
    p.line.terminal = true;
    um_progress_add_at(&p, 2, p.line.begun + 2 * SECOND);
    um_progress_end_at(&p, p.line.begun + 3 * SECOND);
    assert_string_equal(shown(), "\rloading [###############               ] 2 of 4, 50 %, 2 s left"
                                 "\033[K\r\033[K");
}

static void test_unknown_total_and_silence(void **state)
{
    (void)state;
    um_progress p;
    um_progress_begin(&p, to, "reading", UM_PROGRESS_COUNT, 0);
    um_progress_add_at(&p, 7, p.line.begun + 3 * SECOND);
    um_progress_end_at(&p, p.line.begun + 3 * SECOND);
    assert_string_equal(shown(), "reading: 7\nreading: 7\n");
    um_progress_begin(&p, NULL, "reading", UM_PROGRESS_COUNT, 0);
    um_progress_add_at(&p, 7, p.line.begun + 3 * SECOND);
    um_progress_end_at(&p, p.line.begun + 3 * SECOND);
    /* more than the announced total, and hours */
    um_progress_begin(&p, to, "drawing", UM_PROGRESS_COUNT, 100);
    um_progress_add_at(&p, 1, p.line.begun + 90 * SECOND);
    um_progress_add_at(
        &p, 0, p.line.begun + 119 * SECOND); /* half a minute apart after the first minute */
    um_progress_add_at(&p, 500, p.line.begun + 120 * SECOND);
    assert_non_null(strstr(shown(), "drawing: 1 of 100, 1 %, 2 h 28 min left\n"
                                    "drawing: 100 of 100, 100 %\n"));
}

static void test_strings(void **state)
{
    (void)state;
    char out[32];
    assert_true(um_starts_with("model.layers", "model.") && um_starts_with("a", ""));
    assert_false(um_starts_with("mod", "model."));
    assert_true(um_ends_with("run.svg", ".svg") && um_ends_with("a", ""));
    assert_false(um_ends_with("svg", ".svg"));
    um_bytes_text(out, 1023);
    assert_string_equal(out, "1023 B");
    um_bytes_text(out, INT64_C(3) << 29);
    assert_string_equal(out, "1.5 GiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_short_work_is_silent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bar, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_total_and_silence, setup, teardown),
        cmocka_unit_test(test_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
