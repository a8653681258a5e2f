/* Metrics against their published definitions, with numbers worked out by hand, and CIDEr-D against the program that papers use. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "launch/eval/metrics/answer_text.h"
#include "launch/eval/metrics/cider.h"
#include "launch/eval/metrics/interval.h"
#include "launch/eval/metrics/paired.h"
#include "launch/eval/metrics/scores.h"
#include "tests/support/fixture.h"

#include <math.h>
#include <string.h>

static void near(double got, double want)
{
    if (!(fabs(got - want) < 1e-9)) fail_msg("%.12g, want %.12g", got, want);
}

/* --- texts --- */

static void test_normal(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"A dog", "dog"},
        {"The  Red\tBall.\n", "red ball"},
        {"two", "2"},
        {"None", "0"},
        {"ten of the twelve", "10 of twelve"},
        {"3.5", "3.5"},
        {".5 or 1.", ".5 or 1"},
        {"1,000", "1000"},
        {"yes, it is", "yes it is"},
        {"black/white", "black white"},
        {"black / white", "black white"},
        {"t-shirt", "t shirt"},
        {"really?!", "really"},
        {"dont know", "don't know"},
        {"isnt it", "isn't it"},
        {"couldntve", "couldntve"},
        {"couldn'tve", "couldn't've"},
        {"its", "its"},
        {"a (small) cat", "small cat"},
        {"what's up", "what's up"},
        {"", ""},
        {"the", ""},
        {"caf\xc3\xa9 Noir", "caf\xc3\xa9 noir"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(um_answer_normal(rows[i][0], &arena), rows[i][1]);
}

static const char *words_text(const um_words *w)
{
    char *s = um_arena_str(&arena, "");
    for (int i = 0; i < w->n; i++) s = um_arena_fmt(&arena, "%s%s|", s, w->word[i]);
    return s;
}

static void test_words(void **state)
{
    (void)state;
    static const char *const spoken[][2] = {
        {"Hello, World!", "hello|world|"},
        {"It's a well-known \"fact\".", "it's|a|well|known|fact|"},
        {"don\xe2\x80\x99t \xe2\x80\x94 stop", "don't|stop|"},
        {"3.5 and 1,000, no 4.", "3.5|and|1,000|no|4|"},
        {"'quoted'", "quoted|"},
        {"  ", ""},
    };
    static const char *const caption[][2] = {
        {"A man's dog doesn't run.", "a|man|'s|dog|does|n't|run|"},
        {"Two well-known cats, sitting...", "two|well-known|cats|sitting|"},
        {"they'll (maybe) stay", "they|'ll|maybe|stay|"},
    };
    for (size_t i = 0; i < sizeof spoken / sizeof *spoken; i++) {
        um_words w = um_words_spoken(spoken[i][0], &arena);
        assert_string_equal(words_text(&w), spoken[i][1]);
    }
    for (size_t i = 0; i < sizeof caption / sizeof *caption; i++) {
        um_words w = um_words_caption(caption[i][0], &arena);
        assert_string_equal(words_text(&w), caption[i][1]);
    }
    assert_string_equal(um_answer_plain("The U.S.A., a  land!", &arena), "usa land");
}

/* --- scores of answers --- */

static void test_exact(void **state)
{
    (void)state;
    static const char *const refs[] = {"a red ball", "Two"};
    assert_true(um_exact_match("The red ball.", refs, 2, &arena));
    assert_true(um_exact_match("2", refs, 2, &arena));
    assert_false(um_exact_match("ball", refs, 2, &arena));
    assert_false(um_exact_match("", refs, 2, &arena));
    assert_true(um_holds_match("It is a Red Ball, I think.", refs, 2, &arena));
    assert_true(um_holds_match("There are 2.", refs, 2, &arena));
    assert_false(um_holds_match("a red balloon", refs, 2, &arena));
    assert_false(um_holds_match("a ball that is red", refs, 2, &arena));
    static const char *const letter[] = {"A"}; /* an article, unless it is a letter that was read */
    assert_true(um_holds_match("It is the letter A.", letter, 1, &arena));
    assert_true(um_holds_match("\"A\"", letter, 1, &arena));
    assert_false(um_holds_match("It is a square.", letter, 1, &arena));
    assert_false(um_holds_match("It is the letter B. An A4 page.", letter, 1, &arena));
    static const char *const nothing[] = {""};
    assert_false(um_holds_match("", nothing, 1, &arena));
}

/* k of ten people say "cat": each of them left out leaves k - 1, each of the others k. */
static void test_vqa(void **state)
{
    (void)state;
    for (int k = 0; k <= 10; k++) {
        const char *refs[10];
        double want = 0;
        for (int i = 0; i < 10; i++) refs[i] = i < k ? "cat" : "dog house";
        for (int i = 0; i < 10; i++) want += fmin(1, (i < k ? k - 1 : k) / 3.0) / 10;
        near(um_vqa_accuracy("A cat.", refs, 10, &arena), want);
    }
    static const char *const three[] = {"yes", "yes", "yes", "no", "no",
                                        "no",  "no",  "no",  "no", "no"};
    near(um_vqa_accuracy("yes", three, 10, &arena), (3 * 2 / 3.0 + 7) / 10); /* 0.9, as published */
    near(um_vqa_accuracy("cat", &three[0], 1, &arena), 0);
    near(um_vqa_accuracy("yes", &three[0], 1, &arena), 1);
}

static void test_f1(void **state)
{
    (void)state;
    static const char *const refs[] = {"the quick brown fox", "dog"};
    near(um_token_f1("A quick fox", refs, 2, &arena), 2 * 1.0 * (2 / 3.0) / (1.0 + 2 / 3.0));
    near(um_token_f1("dog!", refs, 2, &arena), 1);
    near(um_token_f1("dog dog", refs, 2, &arena), 2 / 3.0); /* the second one is not shared */
    near(um_token_f1("cat", refs, 2, &arena), 0);
    static const char *const empty[] = {"the"};
    near(um_token_f1("a", empty, 1, &arena), 1);
    near(um_token_f1("dog", empty, 1, &arena), 0);
}

static void test_choice(void **state)
{
    (void)state;
    static const char *const options[] = {"red", "dark red", "a blue dog", "no idea"};
    static const struct {
        const char *answer;
        int choice;
    } rows[] = {
        {"B", 1},
        {"b", 1},
        {"(c)", 2},
        {"C.", 2},
        {"B. dark red", 1},
        {"D: no idea", 3},
        {"The answer is B.", 1},
        {"answer: (A)", 0},
        {"Option C", 2},
        {"E", -1},
        {"red", 0},
        {"Dark red.", 1},
        {"It is dark red", 1}, /* the longer of two that it holds */
        {"A blue dog", 2},     /* an article, not a letter */
        {"the answer is a blue dog", 2},
        {"reddish", -1},
        {"red, I have no idea", 3},
        {"", -1},
        {"I'd say so", -1},
        {"Answer: **D**", 3},
        {"The correct answer is **(C)**.", 2},
        {"I considered (A), but it is incorrect. Final answer: D.", 3},
        {"The answer is A? No, the answer is B.", 1},
        {"The correct answer is d.", 3},
        {"Based on what is heard it cannot be told", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int k = um_choice_of(rows[i].answer, options, 4, &arena);
        if (k != rows[i].choice) fail_msg("%s: %d, want %d", rows[i].answer, k, rows[i].choice);
    }
    assert_int_equal(um_choice_of("A because of that", NULL, 4, &arena), 0);
    assert_int_equal(um_choice_of("dark red", NULL, 4, &arena), -1);
}

static void test_yes_no(void **state)
{
    (void)state;
    assert_int_equal(um_yes_no_of("Yes, there is.", &arena), 1);
    assert_int_equal(um_yes_no_of("No.", &arena), 0);
    assert_int_equal(um_yes_no_of("There is not a dog", &arena), 0);
    assert_int_equal(um_yes_no_of("nothing known", &arena), -1);
    const um_yes_no c = {.true_yes = 6, .false_yes = 2, .true_no = 8, .false_no = 4};
    near(um_yes_no_precision(&c), 6 / 8.0);
    near(um_yes_no_recall(&c), 6 / 10.0);
    near(um_yes_no_f1(&c), 2 * 0.75 * 0.6 / (0.75 + 0.6));
    near(um_yes_no_precision(&(um_yes_no){.true_no = 1}), 0);
}

static void test_word_errors(void **state)
{
    (void)state;
    static const struct {
        const char *answer, *ref;
        long errors, words;
    } rows[] = {
        {"the cat sat", "The cat sat.", 0, 3},
        {"the cat", "the cat sat", 1, 3},
        {"the big cat sat", "the cat sat", 1, 3},
        {"a cat sat", "the cat sat", 1, 3},
        {"", "the cat sat", 3, 3},
        {"one two", "", 2, 0},
        {"sat cat the", "the cat sat", 2, 3},
        {"b c d", "a b c", 2, 3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        um_word_errors e = um_word_errors_of(rows[i].answer, rows[i].ref, &arena);
        assert_int_equal(e.errors, rows[i].errors);
        assert_int_equal(e.words, rows[i].words);
    }
}

/* --- CIDEr --- */

static void test_cider(void **state)
{
    (void)state;
    um_json *root = NULL;
    um_err err = {0};
    if (um_json_load(&root, um_arena_fmt(&arena, "%s/ref/cider.json", UM_TEST_DATA), 1 << 20,
                     &err) != UM_OK)
        fail_msg("%s", err.msg);
    const um_json *rows = um_json_get(root, "rows");
    int n = (int)um_json_size(rows);
    um_caption *c = um_arena_zero(&arena, (size_t)n * sizeof *c);
    double *score = um_arena_zero(&arena, (size_t)n * sizeof *score), mean = 0;
    for (int i = 0; i < n; i++) {
        const um_json *row = um_json_at(rows, (size_t)i), *refs = um_json_get(row, "refs");
        const char **list = um_arena_zero(&arena, um_json_size(refs) * sizeof *list);
        for (size_t r = 0; r < um_json_size(refs); r++)
            list[r] = um_json_str(um_json_at(refs, r), "");
        c[i] = (um_caption){um_json_str(um_json_get(row, "caption"), ""), list,
                            (int)um_json_size(refs)};
    }
    assert_int_equal(um_cider(score, &mean, c, n, &err), UM_OK);
    for (int i = 0; i < n; i++)
        near(score[i], um_json_num(um_json_get(um_json_at(rows, (size_t)i), "score"), -1));
    near(mean, um_json_num(um_json_get(root, "mean"), -1));
    c[2].n = 0;
    assert_int_equal(um_cider(score, &mean, c, n, &err), UM_E_DATA);
    has(&err, "caption 3 has no references");
    um_json_free(root);
}

/* --- intervals --- */

static void test_wilson(void **state)
{
    (void)state;
    um_interval i = um_interval_wilson(5, 10); /* the tables' 0.2366 to 0.7634 */
    assert_true(fabs(i.low - 0.236593) < 1e-6 && fabs(i.high - 0.763407) < 1e-6);
    i = um_interval_wilson(0, 20);
    assert_true(i.low == 0 && fabs(i.high - 0.161125) < 1e-6);
    i = um_interval_wilson(20, 20);
    assert_true(fabs(i.low - 0.838875) < 1e-6 && i.high == 1);
    i = um_interval_wilson(0, 0);
    assert_true(i.low == 0 && i.high == 1);
}

static void test_bootstrap(void **state)
{
    (void)state;
    double score[400];
    for (int i = 0; i < 400; i++) score[i] = i % 4 == 0;
    um_interval a = um_interval_bootstrap(score, 400, 2000, 1),
                b = um_interval_bootstrap(score, 400, 2000, 1);
    assert_true(a.low == b.low && a.high == b.high);
    um_interval w = um_interval_wilson(100, 400);
    assert_true(fabs(a.low - w.low) < 0.01 && fabs(a.high - w.high) < 0.01);
    for (int i = 0; i < 400; i++) score[i] = 0.5;
    a = um_interval_bootstrap(score, 400, 100, 2);
    near(a.low, 0.5);
    near(a.high, 0.5);
}

/* Dense Task6 of the paper's tables against its specialists, as the specification recommends. */
static void test_mcnemar(void **state)
{
    (void)state;
    near(um_mcnemar(0, 0), 1);
    near(um_mcnemar(0, 5), 2 / 32.0);
    near(um_mcnemar(1, 5), 2 * (1 + 6) / 64.0);
    near(um_mcnemar(4, 4), 1);
    assert_true(um_mcnemar(0, 3000) >= 0 && um_mcnemar(0, 3000) < 1e-100);
    static const double a[] = {1, 1, 0, 0, 1, 0}, b[] = {1, 1, 1, 1, 1, 0},
                        half[] = {.5, 1, 1, 1, 1, 0};
    um_paired p = um_paired_of(a, b, 6, 1000, 1);
    assert_true(p.counts && p.only_a == 0 && p.only_b == 2 && p.n == 6);
    near(p.difference, 2 / 6.0);
    near(p.p, 0.5);
    assert_true(p.interval.low >= 0 && p.interval.low < 1 / 3.0 && p.interval.high > 1 / 3.0);
    p = um_paired_of(a, half, 6, 1000, 1);
    assert_true(!p.counts && p.only_a == 0 && p.only_b == 0);
    near(p.difference, 1.5 / 6.0);
    assert_true(um_paired_of(a, b, 0, 1000, 1).p == 1);
}

/* A model as good as its specialists on every question has the index 1 and 0, whatever is drawn. */
static void test_bias_bootstrap(void **state)
{
    (void)state;
    static const double a[] = {1, 0, 1, 1, 0, 1, 1, 1}, b[] = {0, 0, 1, 0, 0, 1, 0, 0};
    const um_bias_cell same[] = {{a, a, 8}, {b, b, 8}};
    um_bias_interval i = um_bias_bootstrap(same, 2, 500, 1);
    near(i.mean.low, 1);
    near(i.mean.high, 1);
    near(i.deviation.high, 0);
    const um_bias_cell uneven[] = {{a, a, 8}, {b, a, 8}};
    i = um_bias_bootstrap(uneven, 2, 500, 1);
    assert_true(i.mean.low >= 0.5 && i.mean.low < 2 / 3.0 && i.mean.high > 2 / 3.0 &&
                i.mean.high <= 1);
    assert_true(i.deviation.low < 1 / 3.0 && i.deviation.high > 1 / 3.0);
}

static void test_bias_index(void **state)
{
    (void)state;
    const double score[] = {68.74, 18.67, 0.5}, specialist[] = {75.18, 34.67, 0};
    double a = 68.74 / 75.18, b = 18.67 / 34.67, mean = (a + b) / 2;
    um_bias_index i = um_bias_index_of(score, specialist, 3);
    assert_int_equal(i.n, 2);
    near(i.mean, mean);
    near(i.deviation, fabs(a - b) / 2);
    assert_int_equal(um_bias_index_of(score, specialist, 0).n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_vqa),
        cmocka_unit_test(test_f1),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_yes_no),
        cmocka_unit_test(test_word_errors),
        cmocka_unit_test(test_cider),
        cmocka_unit_test(test_wilson),
        cmocka_unit_test(test_bootstrap),
        cmocka_unit_test(test_bias_index),
        cmocka_unit_test(test_bias_bootstrap),
        cmocka_unit_test(test_mcnemar),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
