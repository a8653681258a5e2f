/* core/base/json.h: strict reading, messages of the typed readers, and writing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "core/base/rng.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <stdio.h>
#include <string.h>

static um_json *parse(const char *s)
{
    um_err err = {0};
    um_json *j = NULL;
    if (um_json_parse(&j, s, strlen(s), &err) != UM_OK) fail_msg("%s: %s", s, err.msg);
    return j;
}

static void test_kinds(void **state)
{
    (void)state;
    um_json *j =
        parse("{\"o\":{},\"a\":[1,2,3],\"s\":\"x\",\"i\":-7,\"r\":2.5,\"b\":true,\"n\":null}");
    assert_int_equal(um_json_kind_of(j), UM_JSON_OBJECT);
    assert_int_equal(um_json_kind_of(um_json_get(j, "o")), UM_JSON_OBJECT);
    assert_int_equal(um_json_kind_of(um_json_get(j, "a")), UM_JSON_ARRAY);
    assert_int_equal(um_json_kind_of(um_json_get(j, "s")), UM_JSON_STRING);
    assert_int_equal(um_json_kind_of(um_json_get(j, "i")), UM_JSON_INT);
    assert_int_equal(um_json_kind_of(um_json_get(j, "r")), UM_JSON_REAL);
    assert_int_equal(um_json_kind_of(um_json_get(j, "b")), UM_JSON_BOOL);
    assert_int_equal(um_json_kind_of(um_json_get(j, "n")), UM_JSON_NULL);
    assert_int_equal(um_json_kind_of(um_json_get(j, "none")), UM_JSON_NONE);
    assert_int_equal(um_json_size(j), 7);
    assert_int_equal(um_json_size(um_json_get(j, "a")), 3);
    assert_int_equal(um_json_int(um_json_at(um_json_get(j, "a"), 2), 0), 3);
    assert_null(um_json_at(um_json_get(j, "a"), 3));
    assert_int_equal(um_json_int(um_json_get(j, "i"), 0), -7);
    assert_true(um_json_num(um_json_get(j, "i"), 0) == -7.0);
    assert_true(um_json_num(um_json_get(j, "r"), 0) == 2.5);
    assert_true(um_json_bool(um_json_get(j, "b"), false));
    assert_string_equal(um_json_str(um_json_get(j, "s"), ""), "x");
    um_json_free(j);
}

static void test_fallbacks(void **state)
{
    (void)state;
    um_json *j = parse("{\"s\":\"x\",\"i\":1}");
    const um_json *s = um_json_get(j, "s"), *i = um_json_get(j, "i");
    assert_int_equal(um_json_int(s, 5), 5);
    assert_int_equal(um_json_int(NULL, 5), 5);
    assert_true(um_json_num(s, 1.5) == 1.5);
    assert_true(um_json_bool(i, true));
    assert_false(um_json_bool(i, false));
    assert_string_equal(um_json_str(i, "f"), "f");
    assert_string_equal(um_json_str(NULL, "f"), "f");
    assert_null(um_json_get(s, "k"));
    assert_null(um_json_get(NULL, "k"));
    assert_null(um_json_at(j, 0));
    assert_int_equal(um_json_size(s), 0);
    assert_int_equal(um_json_size(NULL), 0);
    um_json_free(j);
    um_json_free(NULL);
}

static void test_strict(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\":1,\"a\":2}",
        "{a:1}",
        "{'a':1}",
        "NaN",
        "[NaN]",
        "Infinity",
        "nul",
        "tru",
        "01",
        "+1",
        "1 2",
        "{} x",
        "\"\xff\"",
        "\"\xC0\x80\"",
        "\"\xED\xA0\x80\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"a\nb\"",
        "1e999",
        "99999999999999999999",
        "[1 2]",
        "// c\n1",
        "{\"a\" 1}",
        "\"open",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        um_json *j = NULL;
        um_err err = {0};
        if (um_json_parse(&j, bad[i], strlen(bad[i]), &err) != UM_E_CORRUPT)
            fail_msg("taken: %s", bad[i]);
        has(&err, "not JSON, ");
        assert_null(strstr(err.msg, "JSON_")); /* no flag of the library */
        assert_null(j);
    }
    um_json *j = NULL; /* a zero byte does not end the text */
    assert_int_equal(um_json_parse(&j, "[1]\0[2]", 7, NULL), UM_E_CORRUPT);
}

static um_status nested(size_t depth)
{
    um_text t = {0};
    um_json *j = NULL;
    um_err err = {0};
    for (size_t i = 0; i < depth; i++) um_text_add(&t, "[", 1);
    for (size_t i = 0; i < depth; i++) um_text_add(&t, "]", 1);
    um_status st = um_json_parse(&j, t.s, t.n, &err);
    if (st != UM_OK) has(&err, "depth");
    um_json_free(j);
    um_text_free(&t);
    return st;
}

static void test_nesting(void **state)
{
    (void)state;
    assert_int_equal(nested(2000), UM_OK);
    assert_int_equal(nested(2049), UM_E_CORRUPT);
    assert_int_equal(nested(1000000), UM_E_CORRUPT);
}

static void test_members(void **state)
{
    (void)state;
    um_json *j = parse("{\"z\":0,\"a\":1,\"m\":2}");
    const char *key = NULL;
    static const char *const order[] = {"z", "a", "m"};
    void *iter = NULL;
    size_t n = 0;
    for (const um_json *v; (v = um_json_next(j, &iter, &key)) != NULL; n++) {
        assert_int_equal(um_json_int(v, -1), n);
        assert_string_equal(key, order[n]);
    }
    assert_int_equal(n, 3);
    um_json_free(j);
}

static void test_load(void **state)
{
    (void)state;
    char *folder = folder_make(), path[512];
    um_err err = {0};
    um_json *j = NULL;
    snprintf(path, sizeof path, "%s/none.json", folder);
    assert_int_equal(um_json_load(&j, path, 100, &err), UM_E_IO);
    has(&err, "none.json");
    folder_text(folder, "bad.json", "{\"a\":\n 1,,}");
    snprintf(path, sizeof path, "%s/bad.json", folder);
    assert_int_equal(um_json_load(&j, path, 100, &err), UM_E_CORRUPT);
    has(&err, "bad.json: not JSON, line 2");
    assert_int_equal(um_json_load(&j, path, 5, &err), UM_E_LIMIT);
    folder_text(folder, "good.json", "{\"a\": 4}\n");
    snprintf(path, sizeof path, "%s/good.json", folder);
    assert_int_equal(um_json_load(&j, path, 100, &err), UM_OK);
    assert_int_equal(um_json_int(um_json_get(j, "a"), 0), 4);
    um_json_free(j);
    folder_remove(folder);
    um_free(folder);
}

static void test_read_int(void **state)
{
    (void)state;
    um_json *j = parse("{\"seven\":7,\"null\":null,\"text\":\"seven\",\"real\":7.0,\"half\":7.5,"
                       "\"huge\":1e300,\"hundred\":1e2,\"big\":"
                       "9223372036854775807,\"list\":[1,2]}");
    int64_t v = 3;
    um_err err = {0};
    assert_int_equal(um_json_read_int(j, "seven", true, 1, 7, &v, &err), UM_OK);
    assert_int_equal(v, 7);
    assert_int_equal(um_json_read_int(j, "none", false, 1, 4, &v, &err), UM_OK);
    assert_int_equal(um_json_read_int(j, "null", false, 1, 4, &v, &err), UM_OK);
    assert_int_equal(v, 7);
    assert_int_equal(um_json_read_int(j, "none", true, 1, 4, &v, &err), UM_E_MODEL);
    has(&err, "none: missing");
    assert_int_equal(um_json_read_int(j, "null", true, 1, 4, &v, &err), UM_E_MODEL);
    assert_int_equal(um_json_read_int(j, "seven", true, 1, 4, &v, &err), UM_E_MODEL);
    assert_string_equal(err.msg, "seven: 7, allowed 1..4");
    assert_int_equal(um_json_read_int(j, "text", false, 1, 4, &v, &err), UM_E_MODEL);
    assert_string_equal(err.msg, "text: \"seven\", allowed an integer 1..4");
    assert_int_equal(um_json_read_int(j, "half", false, 1, 9, &v, &err), UM_E_MODEL);
    has(&err, "7.5, allowed an integer 1..9");
    assert_int_equal(um_json_read_int(j, "huge", false, 1, INT64_MAX, &v, &err), UM_E_MODEL);
    assert_int_equal(um_json_read_int(j, "list", false, 1, 9, &v, &err), UM_E_MODEL);
    has(&err, "[1,2]");
    assert_int_equal(v, 7);
    assert_int_equal(um_json_read_int(j, "real", false, 1, 9, &v, &err), UM_E_MODEL);
    assert_int_equal(um_json_read_whole(j, "real", 1, 9, &v, &err), UM_OK);
    assert_int_equal(v, 7);
    assert_int_equal(um_json_read_whole(j, "hundred", 1, 100, &v, &err), UM_OK);
    assert_int_equal(v, 100);
    assert_int_equal(um_json_read_whole(j, "half", 1, 9, &v, &err), UM_E_MODEL);
    has(&err, "half: 7.5, allowed an integer 1..9");
    assert_int_equal(um_json_read_whole(j, "huge", 1, 9, &v, &err), UM_E_MODEL);
    assert_int_equal(um_json_read_whole(j, "hundred", 1, 99, &v, &err), UM_E_MODEL);
    has(&err, "allowed 1..99");
    assert_int_equal(v, 100);
    assert_int_equal(um_json_read_int(j, "big", false, 1, INT64_MAX, &v, &err), UM_OK);
    assert_true(v == INT64_MAX);
    um_json_free(j);
}

static void test_read_others(void **state)
{
    (void)state;
    um_json *j = parse("{\"x\":0.5,\"i\":2,\"s\":\"word\",\"b\":true}");
    um_arena a;
    um_arena_init(&a, "test", 1024);
    double x = 9;
    const char *s = "before";
    um_err err = {0};
    assert_int_equal(um_json_read_num(j, "x", true, 0, 1, &x, &err), UM_OK);
    assert_true(x == 0.5);
    assert_int_equal(um_json_read_num(j, "i", true, 0, 2, &x, &err), UM_OK);
    assert_true(x == 2.0);
    assert_int_equal(um_json_read_num(j, "i", true, 0, 1, &x, &err), UM_E_MODEL);
    assert_string_equal(err.msg, "i: 2, allowed 0..1");
    assert_int_equal(um_json_read_num(j, "s", true, 0, 1, &x, &err), UM_E_MODEL);
    has(&err, "\"word\", allowed a number 0..1");
    assert_true(x == 2.0);
    assert_int_equal(um_json_read_str(j, "b", false, &s, &a, &err), UM_E_MODEL);
    assert_string_equal(err.msg, "b: true, allowed a string");
    assert_string_equal(s, "before");
    assert_int_equal(um_json_read_str(j, "s", true, &s, &a, &err), UM_OK);
    um_json_free(j);
    assert_string_equal(s, "word"); /* a copy */
    um_arena_free(&a);
}

/* Numbers beyond int64 and double keep their digits; in strings nothing changes. */
static void test_large_numbers(void **state)
{
    (void)state;
    static const char text[] =
        "{\"seed\":18446744073709551615,\"id\":123456789012345678901234567890,"
        "\"x\":-1e999,\"ok\":[9223372036854775807,-9223372036854775808,0.5],"
        "\"s\":\"\\\"99999999999999999999\",\"over\":18446744073709551616}";
    um_json *j = NULL;
    um_err err = {0};
    uint64_t seed = 0;
    bool given = false;
    assert_int_equal(um_json_parse(&j, text, strlen(text), &err), UM_E_CORRUPT);
    has(&err, "a number is too large: whole numbers may go from -9223372036854775808 to");
    assert_int_equal(um_json_parse_large(&j, text, strlen(text), &err), UM_OK);
    assert_int_equal(um_json_read_u64(j, "seed", &seed, &given, &err), UM_OK);
    assert_true(given && seed == UINT64_MAX);
    assert_string_equal(um_json_str(um_json_get(j, "id"), ""), "123456789012345678901234567890");
    assert_string_equal(um_json_str(um_json_get(j, "x"), ""), "-1e999");
    assert_true(um_json_int(um_json_at(um_json_get(j, "ok"), 1), 0) == INT64_MIN);
    assert_string_equal(um_json_str(um_json_get(j, "s"), ""), "\"99999999999999999999");
    assert_int_equal(um_json_read_u64(j, "over", &seed, &given, &err), UM_E_MODEL);
    has(&err, "over: \"18446744073709551616\", allowed an integer 0..18446744073709551615");
    assert_int_equal(um_json_read_u64(j, "x", &seed, &given, &err), UM_E_MODEL);
    assert_int_equal(um_json_read_u64(j, "none", &seed, &given, &err), UM_OK);
    assert_false(given);
    um_json_free(j);
    assert_int_equal(um_json_parse_large(&j, "\xEF\xBB\xBF{}", 5, &err), UM_OK);
    um_json_free(j);
    assert_int_equal(um_json_parse_large(&j, "{\"a\":99999999999999999999,}", 26, &err),
                     UM_E_CORRUPT);
}

/* A member of a text that does not parse. */
static void test_find(void **state)
{
    (void)state;
    static const struct {
        const char *text, *id;
    } rows[] = {
        {"{\"id\":\"a\"}", "a"},
        {" {\"x\":{\"id\":\"no\"},\"id\" : \"b\\n\\u00e9\",", "b\n\xC3\xA9"},
        {"{\"prompt\":\"\\u0000 \\\"id\\\":\\\"no\\\"\",\"id\":7}", "7"},
        {"{\"id\":123456789012345678901234567890}", "123456789012345678901234567890"},
        {"{\"id\":-3,\"id\":4}", "-3"},
        {"{\"id\":\"cut", NULL},
        {"{\"id\":1.5}", NULL},
        {"{\"id\":null}", NULL},
        {"{\"id\":\"a\\u0000b\"}", NULL},
        {"{\"prompt\":\"id\"}", NULL},
        {"[{\"id\":1}]", NULL},
        {"{\"id\"", NULL},
        {"", NULL},
        {"nonsense", NULL},
    };
    um_arena a;
    um_arena_init(&a, "test", 1024);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *id = um_json_find(rows[i].text, strlen(rows[i].text), "id", &a);
        if ((id == NULL) != (rows[i].id == NULL) || (id != NULL && strcmp(id, rows[i].id) != 0))
            fail_msg("%s: %s", rows[i].text, id == NULL ? "none" : id);
    }
    um_arena_free(&a);
}

static void writes(const char *in, const char *want)
{
    um_text t = {0};
    um_text_json(&t, in);
    assert_string_equal(t.s, want);
    um_text_free(&t);
}

static void test_text(void **state)
{
    (void)state;
    writes("", "\"\"");
    writes("a\"b\\c/\b\f\n\r\t\x01\x1f\x7f", "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\"");
    writes("h\xC3\xA9 \xE6\xBC\xA2 \xF0\x9F\x98\x80",
           "\"h\xC3\xA9 \xE6\xBC\xA2 \xF0\x9F\x98\x80\"");
    writes("\xFFz\xC3", "\"\xEF\xBF\xBDz\xEF\xBF\xBD\"");
    writes("\xC0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");                 /* overlong 0 */
    writes("\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""); /* surrogate */
    writes("\xF4\x90\x80\x80",
           "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""); /* past U+10FFFF */
    um_text t = {0};
    for (int i = 0; i < 1000; i++) um_text_fmt(&t, "%d,", i);
    um_text_add(&t, "end", 3);
    assert_int_equal(t.n, 3890 + 3);
    assert_string_equal(t.s + t.n - 7, "999,end");
    assert_memory_equal(t.s, "0,1,2,", 6);
    um_text_free(&t);
    assert_null(t.s);
}

/* Whatever the input bytes, the written text parses again; valid text comes back unchanged. */
static void test_round_trip(void **state)
{
    (void)state;
    um_rng rng = um_rng_seed(7, 0);
    for (int round = 0; round < 2000; round++) {
        char s[33];
        size_t n = (size_t)um_rng_below(&rng, 32);
        bool ascii = round % 2 == 0;
        for (size_t i = 0; i < n; i++) s[i] = (char)(1 + um_rng_below(&rng, ascii ? 127 : 255));
        s[n] = '\0';
        um_text t = {0};
        um_text_json(&t, s);
        um_json *j = parse(t.s);
        assert_int_equal(um_json_kind_of(j), UM_JSON_STRING);
        if (ascii) assert_string_equal(um_json_str(j, ""), s);
        um_json_free(j);
        um_text_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),         cmocka_unit_test(test_fallbacks),
        cmocka_unit_test(test_strict),        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_members),       cmocka_unit_test(test_load),
        cmocka_unit_test(test_read_int),      cmocka_unit_test(test_read_others),
        cmocka_unit_test(test_large_numbers), cmocka_unit_test(test_find),
        cmocka_unit_test(test_text),          cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
