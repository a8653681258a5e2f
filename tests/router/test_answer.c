/* The text of an answer while its tokens come: where a stop text ends it, however it is divided into tokens, and what is shown of it
 * meanwhile. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "router/engine/answer.h"
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

static bool is_utf8(const char *s)
{
    um_text json = {0};
    um_text_json(&json, s); /* bytes that are not UTF-8 would become U+FFFD */
    bool same = strstr(s, "\xef\xbf\xbd") != NULL || strstr(json.s, "\xef\xbf\xbd") == NULL;
    um_text_free(&json);
    return same;
}

/* Gives it ids[n] one after another and checks what is shown: whole characters that never change, and all of them together are the
 * answer. Returns the answer; *at: tokens until a stop text ended it, or n. */
static const char *feed_ids(bench *b, const int32_t *ids, int n, const char *const *stop,
                            int n_stop, int *at, bool *stopped)
{
    um_answer answer;
    um_text shown = {0};
    um_answer_open(&answer, b->tok, stop, n_stop);
    *stopped = false;
    for (*at = 0; *at < n && !*stopped; ++*at) {
        *stopped = um_answer_add(&answer, ids[*at]);
        if (*at == n - 1) um_answer_end(&answer); /* the last token comes with the end */
        const char *text = um_answer_show(&answer, &b->a);
        assert_true(is_utf8(text));
        um_text_add(&shown, text, strlen(text));
    }
    um_answer_end(&answer);
    const char *rest = um_answer_show(&answer, &b->a);
    um_text_add(&shown, rest, strlen(rest));
    const char *text = um_arena_str(&b->a, um_answer_text(&answer));
    assert_string_equal(shown.s, text);
    if (!*stopped) assert_string_equal(text, um_tokenizer_decode(b->tok, ids, n, &b->a));
    um_text_free(&shown);
    um_answer_close(&answer);
    return text;
}

/* Feeds the tokens of a text; the answer at the first stop, or NULL. */
static const char *feed(bench *b, const char *text, const char *const *stop, int n_stop, int *at)
{
    int32_t *ids = NULL;
    int n = 0;
    bool stopped = false;
    um_err err = {0};
    assert_int_equal(um_tokenizer_encode(b->tok, text, strlen(text), &ids, &n, &b->a, &err), UM_OK);
    const char *answer = feed_ids(b, ids + 1, n - 1, stop, n_stop, at, &stopped); /* BOS first */
    return stopped ? answer : NULL;
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

/* Tokens in any order, as no text has them: halves of characters, bytes that are none, spaces in front, special and unknown ids. What
 * is shown is what decoding all of them at once gives (feed_ids). */
static void any_tokens_give_the_text_of_all_of_them(void **state)
{
    bench *b = *state;
    um_rng rng = um_rng_seed(8, 1);
    int vocab = um_tokenizer_vocab(b->tok), bytes[256], at = 0;
    bool stopped = false;
    int32_t space = -1;
    for (int32_t id = 0; id < vocab; id++) {
        int byte = um_tokenizer_byte(b->tok, id);
        if (byte >= 0) bytes[byte] = id;
        char *text = um_tokenizer_decode_next(b->tok, &id, 1, &b->a);
        if (strcmp(text, " ") == 0 && byte < 0) space = id;
    }
    assert_true(space >= 0);
    for (int round = 0; round < 4000; round++) {
        int32_t ids[24];
        int n = 1 + (int)um_rng_below(&rng, 24);
        um_mark mark = um_arena_mark(&b->a);
        for (int i = 0; i < n; i++) {
            uint64_t kind = um_rng_below(&rng, 8);
            ids[i] = kind < 3   ? bytes[0x80 + um_rng_below(&rng, 128)]
                     : kind < 4 ? bytes[um_rng_below(&rng, 256)]
                     : kind < 5 ? space
                     : kind < 6 ? (int32_t)um_rng_below(&rng, 4) - 1
                                : (int32_t)um_rng_below(&rng, (uint64_t)vocab + 5);
        }
        feed_ids(b, ids, n, NULL, 0, &at, &stopped);
        const char *stop[] = {"\xef\xbf\xbd ", " a", "  "};
        feed_ids(b, ids, n, stop, 3, &at, &stopped);
        um_arena_reset(&b->a, mark);
    }
}

/* What is shown after each token of a text. */
static void text_is_shown_as_soon_as_it_is_certain(void **state)
{
    bench *b = *state;
    const struct {
        const char *text, *stop, *shown[12]; /* after so many byte pieces and other tokens */
    } cases[] = {
        {"\xf0\x9f\x98\x80", NULL, {"", "", "", "\xf0\x9f\x98\x80"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids = NULL;
        int n = 0, token = 0;
        um_err err = {0};
        um_answer answer;
        assert_int_equal(um_tokenizer_encode(b->tok, cases[i].text, strlen(cases[i].text), &ids, &n,
                                             &b->a, &err),
                         UM_OK);
        um_answer_open(&answer, b->tok, &cases[i].stop, cases[i].stop != NULL);
        for (int k = 1; k < n; k++) {
            um_answer_add(&answer, ids[k]);
            const char *shown = um_answer_show(&answer, &b->a);
            if (um_tokenizer_byte(b->tok, ids[k]) < 0) { /* the mark of the text's beginning */
                assert_string_equal(shown, "");
                continue;
            }
            assert_string_equal(shown, cases[i].shown[token++]);
        }
        assert_int_equal(token, 4);
        um_answer_close(&answer);
    }
    /* a word that may be the stop text, and white space, wait for what comes next */
    static const char *const stop[] = {"pictures"};
    const struct {
        const char *text, *before, *after; /* shown before the answer ends; the answer */
    } waits[] = {
        {"any picture", "any", "any picture"},
        {"any picture of", "any picture of", "any picture of"},
        {"any pictures of", "any", "any"},
        {"any \n", "any", "any"},
    };
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
        int32_t *ids = NULL;
        int n = 0;
        um_err err = {0};
        um_answer answer;
        um_text shown = {0};
        assert_int_equal(um_tokenizer_encode(b->tok, waits[i].text, strlen(waits[i].text), &ids, &n,
                                             &b->a, &err),
                         UM_OK);
        um_answer_open(&answer, b->tok, stop, 1);
        bool stopped = false;
        for (int k = 1; k < n && !stopped; k++) {
            stopped = um_answer_add(&answer, ids[k]);
            const char *text = um_answer_show(&answer, &b->a);
            um_text_add(&shown, text, strlen(text));
        }
        assert_string_equal(shown.s, waits[i].before);
        um_answer_end(&answer);
        assert_string_equal(um_answer_text(&answer), waits[i].after);
        um_text_free(&shown);
        um_answer_close(&answer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_ends_before_the_first_stop_text),
        cmocka_unit_test(long_answers_end_too),
        cmocka_unit_test(no_stop_texts_never_end),
        cmocka_unit_test(any_tokens_give_the_text_of_all_of_them),
        cmocka_unit_test(text_is_shown_as_soon_as_it_is_certain),
        cmocka_unit_test(a_token_stands_for_so_many_bytes_at_most),
    };
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
