/* Stop texts: where an answer ends, however the stop text is divided into tokens. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/engine/stop_text.h"
#include "tests/support/test_support.h"

#include <string.h>

typedef struct bench {
    um_arena a;
    um_tokenizer *tok;
} bench;

static int open_bench(void **state)
{
    bench *b = um_zalloc(sizeof *b);
    um_err err = {0};
    um_arena_init(&b->a, "test", 1 << 16);
    assert_int_equal(um_tokenizer_open(&b->tok, golden_path(&b->a, "models/s4"), &err), UM_OK);
    *state = b;
    return 0;
}

static int close_bench(void **state)
{
    bench *b = *state;
    um_tokenizer_close(b->tok);
    um_arena_free(&b->a);
    um_free(b);
    return 0;
}

/* Feeds the tokens of text one after another; the answer at the first stop, or NULL. *at: tokens until then. */
static const char *feed(bench *b, const char *text, const char *const *stop, int n_stop, int *at)
{
    int32_t *ids = NULL;
    int n = 0;
    um_err err = {0};
    assert_int_equal(um_tokenizer_encode(b->tok, text, strlen(text), &ids, &n, &b->a, &err), UM_OK);
    for (int i = 1; i < n; i++) { /* BOS first */
        const char *answer = um_stop_text(b->tok, ids + 1, i, stop, n_stop, &b->a);
        *at = i;
        if (answer != NULL) return answer;
    }
    return NULL;
}

static void the_answer_ends_before_the_first_stop_text(void **state)
{
    bench *b = *state;
    const struct {
        const char *text, *stop[3], *answer;
    } cases[] = {
        {"one two three", {"two"}, "one"},
        {"one two three", {"three", "two"}, "one"},
        {"one two three", {"o t"}, "one tw"}, /* over the end of a word */
        {"one two three", {"four"}, NULL},
        {"one two three", {"one"}, ""},
        {"one two three", {" two"}, "one"},
        {"line\n\nnext", {"\n\n"}, "line"}, /* white space alone */
        {"line\nnext", {"\n"}, "line"},
        {"a  b", {"  "}, "a"},
        {"Gr\xc3\xbc\xc3\x9f"
         "e",
         {"\xc3\xbc"},
         "Gr"}, /* a letter of two byte pieces */
        {"\xf0\x9f\x98\x80!", {"\xf0\x9f\x98\x80"}, ""},
        {"wait###done", {"###"}, "wait"},
        {"aaaaab", {"aab"}, "aaa"},
        {"USER: hi", {"ASSISTANT:", "USER:"}, ""},
        {"he said \"stop\" twice: stop", {"stop"}, "he said \""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int n = 0, at = 0;
        while (n < 3 && cases[i].stop[n] != NULL) n++;
        const char *answer = feed(b, cases[i].text, cases[i].stop, n, &at);
        if (cases[i].answer == NULL) {
            assert_null(answer);
            continue;
        }
        if (answer == NULL) print_message("case %zu found nothing\n", i);
        assert_non_null(answer);
        assert_string_equal(answer, cases[i].answer);
    }
}

/* After thousands of tokens, where only the end is searched, and as soon as the stop text is complete. */
static void long_answers_end_too(void **state)
{
    bench *b = *state;
    char text[9001];
    const char *stop[] = {"the end, my friend"};
    int at = 0;
    memset(text, 'x', sizeof text - 1);
    for (size_t i = 5; i < sizeof text - 1; i += 7) text[i] = ' ';
    memcpy(text + 8500, stop[0], strlen(stop[0]));
    text[9000] = '\0';
    const char *answer = feed(b, text, stop, 1, &at);
    assert_non_null(answer);
    text[8500] = '\0';
    size_t n = strlen(text);
    while (text[n - 1] == ' ') n--;
    assert_int_equal(strlen(answer), n);
    assert_int_equal(memcmp(answer, text, n), 0);
}

static void no_stop_texts_never_end(void **state)
{
    bench *b = *state;
    int at = 0;
    assert_null(feed(b, "one two", NULL, 0, &at));
}

/* What um_tokenizer_longest promises: no text has fewer tokens. */
static void a_token_stands_for_so_many_bytes_at_most(void **state)
{
    bench *b = *state;
    size_t longest = um_tokenizer_longest(b->tok);
    const char *texts[] = {"the the the the",
                           "                                        ",
                           "\t\t\n\n\r\n",
                           "\xef\xbc\xa1\xef\xbc\xa2",
                           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                           "</s></s></s><s><unk><unk><unk>",
                           "\xf0\x9f\x98\x80\xf0\x9f\x98\x80",
                           "picture picture",
                           "\x01\x02\x7f",
                           "\xff\xfe\xff"};
    assert_true(longest >= 5);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *ids = NULL;
        int n = 0;
        um_err err = {0};
        assert_int_equal(
            um_tokenizer_encode(b->tok, texts[i], strlen(texts[i]), &ids, &n, &b->a, &err), UM_OK);
        assert_true((size_t)(n - 1) * longest >= strlen(texts[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_ends_before_the_first_stop_text),
        cmocka_unit_test(long_answers_end_too),
        cmocka_unit_test(no_stop_texts_never_end),
        cmocka_unit_test(a_token_stands_for_so_many_bytes_at_most),
    };
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
