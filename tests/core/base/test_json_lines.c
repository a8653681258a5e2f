/* Cutting a stream into JSON values: the items do not depend on the pieces in which the bytes arrive. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/json_lines.h"
#include "core/base/json.h"

#include <string.h>

enum { LIMIT = 100000 };

static void note(um_text *seen, const um_json_item *item)
{
    assert_int_equal(item->text[item->n], 0);
    um_text_fmt(seen, "%s%llu=", item->element ? "#" : "", (unsigned long long)item->number);
    if (item->bytes > item->n)
        um_text_fmt(seen, "(%zu)", item->bytes);
    else
        um_text_add(seen, item->text, item->n);
    um_text_add(seen, "|", 1);
}

/* The item stands where it says, so that it can be read again. */
static void note_at(um_text *seen, const um_json_item *item, const char *data, size_t n)
{
    assert_true(item->at <= n && item->n <= n - item->at);
    assert_memory_equal(data + item->at, item->text, item->n);
    note(seen, item);
}

/* The items of data[0..n), which arrives step bytes at a time. */
static void cut(um_text *seen, const char *data, size_t n, size_t step)
{
    um_json_lines l = {.limit = LIMIT};
    um_json_item item;
    seen->n = 0;
    um_text_add(seen, "", 0);
    for (size_t at = 0; at < n;) {
        size_t here = n - at < step ? n - at : step;
        for (size_t used = 0; used < here;) {
            used += um_json_lines_read(&l, &item, data + at + used, here - used);
            assert_true(used <= here);
            if (item.text != NULL) note_at(seen, &item, data, n);
        }
        at += here;
    }
    um_json_lines_end(&l, &item);
    if (item.text != NULL) note_at(seen, &item, data, n);
    um_json_lines_free(&l);
}

static void is_cut(const char *data, size_t n, const char *want)
{
    um_text seen = {0};
    for (size_t step = 1; step < 9; step++) {
        cut(&seen, data, n, step);
        if (strcmp(seen.s, want) != 0) fail_msg("in steps of %zu: %s, want %s", step, seen.s, want);
    }
    cut(&seen, data, n, n + 1);
    assert_string_equal(seen.s, want);
    um_text_free(&seen);
}

static void test_lines(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"", ""},
        {"\n \n\t\r\n", ""},
        {"{}\n{\"a\":1}\n", "1={}|2={\"a\":1}|"},
        {"{}", "1={}|"},
        {"{}\r\n\r\n\n{}\r\n", "1={}\r|4={}\r|"},
        {"\n\n  {}\n[1]\nx", "3={}|4=[1]|5=x|"},
        {"\xEF\xBB\xBF{}\n{}", "1={}|2={}|"},
        {"\xEF\xBB\xBF\n{}", "2={}|"},
        {"\xEF\xBB\xBF", ""},
        {"\xEF\xBBx\n", "1=\xEF\xBBx|"},
        {"\xEF\xBB", "1=\xEF\xBB|"},
        {"{\n{}\n}\n", "1={|2={}|3=}|"},
        {"{}\n\xEF\xBB\xBF{}\n", "1={}|2={}|"}, /* two files joined */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        is_cut(rows[i][0], strlen(rows[i][0]), rows[i][1]);
    is_cut("{\0}\n{}", 6, "1={\0}|"); /* compared up to the 0 */
}

static void test_elements(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"[]", ""},
        {" [ ] \n", ""},
        {"[{}]", "#1={}|"},
        {"\xEF\xBB\xBF[{},\n {\"a\":\"]},\\\"[{\"}]\n", "#1={}|#2={\"a\":\"]},\\\"[{\"}|"},
        {"[{\"a\":[{},[]]},7,\"x,]\", null]", "#1={\"a\":[{},[]]}|#2=7|#3=\"x,]\"|#4=null|"},
        {"[{\n\"a\":\n1}\n]", "#1={\n\"a\":\n1}|"},
        {"[{}{}", "#1={}|#2={}|"},                 /* no comma, no end */
        {"[{\"a\":1]\n", "#1={\"a\":1]|"},         /* brackets that do not match */
        {"[{\"a\":\"x", "#1={\"a\":\"x|"},         /* cut off */
        {"[1,2]\n{}\n{}", "#1=1|#2=2|2={}|3={}|"}, /* lines behind it */
        {"[1][2]", "#1=1|#1=2|"},
        {"[1 2\n3]", "#1=1|#2=2|#3=3|"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        is_cut(rows[i][0], strlen(rows[i][0]), rows[i][1]);
}

/* An item beyond the limit is skipped and the next one is found; only the beginning of the skipped item is kept. */
static void test_too_long(void **state)
{
    (void)state;
    um_text data = {0}, seen = {0};
    for (int array = 0; array < 2; array++) {
        data.n = 0;
        um_text_fmt(&data, array ? "[1,{\"id\":\"long\",\"a\":\"" : "1\n{\"id\":\"long\",\"a\":\"");
        for (int i = 0; i < 400000; i++) um_text_add(&data, "y", 1);
        um_text_fmt(&data, array ? "\"},2]" : "\"}\n2");
        for (size_t step = 1000; step < 1000000; step *= 31) {
            cut(&seen, data.s, data.n, step);
            assert_string_equal(seen.s, array ? "#1=1|#2=(400020)|#3=2|" : "1=1|2=(400020)|3=2|");
        }
    }
    um_json_lines l = {.limit = LIMIT};
    um_json_item item;
    assert_int_equal(um_json_lines_read(&l, &item, data.s, data.n), 2);
    assert_true(um_json_lines_read(&l, &item, data.s + 2, data.n - 2) > 400000);
    assert_true(item.n <= LIMIT && item.bytes == 400020);
    um_arena a;
    um_arena_init(&a, "test", 1024);
    assert_string_equal(um_json_find(item.text, item.n, "id", &a), "long");
    um_arena_free(&a);
    um_json_lines_free(&l);
    um_text_free(&data);
    um_text_free(&seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
