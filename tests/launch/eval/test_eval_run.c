/* An evaluation without a job: answers that are kept in files, what is still to be asked, and what is found of it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "launch/eval/asking.h"
#include "launch/eval/kept.h"
#include "launch/eval/outcome.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ORIGIN "{\"kind\":\"answers\",\"weights\":\"w\",\"task\":\"t\",\"settings\":\"s\"}"

static const char *path_of(const char *name) { return um_arena_fmt(&arena, "%s/%s", dir, name); }

static void lines_read(um_listed_task *l, const char *name, const char *text)
{
    um_err err = {0};
    folder_json(dir, name, text);
    um_eval_source from = {.format = "jsonl", .questions = path_of(name)};
    if (um_eval_read(&l->task, &from, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    l->name = name;
}

/* A choice of three and of two, one of them about speech. */
static void choice_read(um_listed_task *l)
{
    lines_read(l, "choice",
               "{'id':'a','question':'?','options':['red','dark "
               "red','blue'],'answer':1,'modality':'image'}\n"
               "{'id':'b','question':'<audio>','voice':'x.wav','options':['x','y'],'answer':0}\n");
}

static void kept_open(um_kept *k, const char *origin, const um_eval_task *t)
{
    um_err err = {0};
    if (um_kept_open(k, path_of("kept/k.jsonl"), origin, t, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
}

/* --- kept --- */

static void test_kept(void **state)
{
    um_listed_task l = {0};
    um_kept k;
    um_err err = {0};
    (void)state;
    choice_read(&l);
    kept_open(&k, ORIGIN, &l.task);
    assert_int_equal(um_kept_answer(&k, 0, "It is \"red\"\n\xC3\xA9", &err), UM_OK);
    assert_int_equal(um_kept_likelihood(&k, 1, 0, (um_kept_score){-1.25, 3}, &err), UM_OK);
    um_kept_failure(&k, 1, "first");
    um_kept_failure(&k, 1, "second");
    assert_string_equal(k.failure[1], "first");
    assert_false(um_kept_scored(&k, 1));
    assert_int_equal(um_kept_likelihood(&k, 1, 1, (um_kept_score){-2.5, 4}, &err), UM_OK);
    assert_true(um_kept_scored(&k, 1));
    assert_int_equal(um_kept_close(&k, &err), UM_OK);
    FILE *f = fopen(path_of("kept/k.jsonl"), "a"); /* killed while it wrote */
    assert_non_null(f);
    fputs("{\"kind\":\"result\",\"id\":\"b\",\"an", f);
    fclose(f);
    for (int again = 0; again < 2; again++) {
        kept_open(&k, ORIGIN, &l.task);
        assert_string_equal(k.begun, "");
        assert_string_equal(k.answer[0], "It is \"red\"\n\xC3\xA9");
        assert_null(k.answer[1]);
        assert_null(k.failure[1]);
        assert_true(um_kept_scored(&k, 1) && !um_kept_scored(&k, 0));
        assert_true(k.likelihood[1][0].sum == -1.25 && k.likelihood[1][1].tokens == 4);
        assert_int_equal(um_kept_close(&k, &err), UM_OK);
    }
}

static void test_kept_of_another(void **state)
{
    static const char *const others[][2] = {
        {"{\"kind\":\"answers\",\"weights\":\"v\",\"task\":\"t\",\"settings\":\"s\"}",
         "the model has changed"},
        {"{\"kind\":\"answers\",\"weights\":\"w\",\"task\":\"u\",\"settings\":\"s\"}",
         "the task has changed"},
        {"{\"kind\":\"answers\",\"weights\":\"w\",\"task\":\"t\",\"settings\":\"r\"}",
         "the settings have changed"},
    };
    um_listed_task l = {0};
    um_kept k;
    um_err err = {0};
    (void)state;
    choice_read(&l);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        kept_open(&k, ORIGIN, &l.task);
        assert_int_equal(um_kept_answer(&k, 0, "x", &err), UM_OK);
        assert_int_equal(um_kept_close(&k, &err), UM_OK);
        kept_open(&k, others[i][0], &l.task);
        assert_string_equal(k.begun, others[i][1]);
        assert_null(k.answer[0]);
        assert_int_equal(um_kept_close(&k, &err), UM_OK);
        uint8_t *old = NULL;
        size_t n = 0;
        assert_int_equal(um_file_read(&old, &n, path_of("kept/k.jsonl.old"), 1 << 20, &arena, &err),
                         UM_OK);
        says((char *)old, "\"answer\":\"x\"");
    }
    folder_text(dir, "kept/k.jsonl", ORIGIN "\nbroken\n");
    assert_int_equal(um_kept_open(&k, path_of("kept/k.jsonl"), ORIGIN, &l.task, &arena, &err),
                     UM_E_DATA);
    has(&err, "line 2");
    has(&err, "remove it to ask again");
    assert_int_equal(um_kept_close(&k, &err), UM_OK);
    remove(path_of("kept/k.jsonl"));
}

/* --- asking --- */

static void takes(um_asking *a, const char *text)
{
    um_json *j = NULL;
    um_err err = {0};
    assert_int_equal(um_json_parse(&j, text, strlen(text), &err), UM_OK);
    assert_true(um_asking_take(a, j));
    um_json_free(j);
}

static void test_asking(void **state)
{
    um_listed_task l = {0};
    um_task_list tasks = {&l, 1};
    um_asking a;
    um_kept k;
    um_model m = {0};
    um_err err = {0};
    uint8_t *text = NULL;
    size_t n = 0;
    (void)state;
    choice_read(&l);
    kept_open(&k, ORIGIN, &l.task);
    um_asking_plan(&a, &tasks, &k, &m, "both", &arena);
    assert_true(a.n == 4 && a.lacking == 1); /* no speech tower */
    m.speech.present = true;
    um_asking_plan(&a, &tasks, &k, &m, "generated", &arena);
    assert_true(a.n == 2 && a.lacking == 0);
    um_asking_plan(&a, &tasks, &k, &m, "likelihood", &arena);
    assert_int_equal(a.n, 5);
    um_asking_plan(&a, &tasks, &k, &m, "both", &arena);
    assert_int_equal(a.n, 7);
    assert_int_equal(um_asking_write(&a, path_of("requests"), path_of("media"), 9, &err), UM_OK);
    assert_int_equal(um_file_read(&text, &n, path_of("requests"), 1 << 20, &arena, &err), UM_OK);
    says((char *)text, "{\"id\":\"0\",\"messages\":");
    says((char *)text, "\"max_new_tokens\":9,");
    says((char *)text, "\"score\":\"dark red\"}\n");
    takes(&a, "{\"kind\":\"result\",\"id\":\"0\",\"answer\":\"B\"}");
    takes(&a, "{\"kind\":\"result\",\"id\":\"2\",\"answer\":\"dark "
              "red\",\"score\":-2.5,\"ids\":[5,6,2]}");
    takes(&a, "{\"kind\":\"error\",\"id\":\"4\",\"error\":\"x.wav: broken\"}");
    takes(&a, "{\"kind\":\"result\",\"id\":\"77\",\"answer\":\"B\"}"); /* not ours */
    assert_string_equal(k.answer[0], "B");
    assert_true(k.likelihood[0][1].sum == -2.5 && k.likelihood[0][1].tokens == 3);
    assert_string_equal(k.failure[1], "x.wav: broken");
    assert_int_equal(um_kept_close(&k, &err), UM_OK);
    kept_open(&k, ORIGIN, &l.task); /* the failure is asked again, with what is still missing */
    um_asking_plan(&a, &tasks, &k, &m, "both", &arena);
    assert_int_equal(a.n, 5);
    assert_int_equal(um_kept_close(&k, &err), UM_OK);
}

/* An image that stands in the questions is one file, however often it is asked about. */
static void test_media_within(void **state)
{
    um_listed_task l = {0};
    um_task_list tasks = {&l, 1};
    um_asking a;
    um_kept k;
    um_model m = {.vision.present = true};
    um_err err = {0};
    um_text file = {0};
    uint8_t *text = NULL;
    size_t n = 0;
    (void)state;
    um_text_fmt(&file,
                "index\tquestion\tA\tB\tanswer\timage\n1\tWhich?\tred\tblue\tB\tiVBORw0KGgo");
    for (int i = 0; i < 6000; i++) um_text_fmt(&file, "A");
    um_text_fmt(&file, "A\n");
    folder_text(dir, "within.tsv", file.s);
    um_text_free(&file);
    um_eval_source from = {.format = "mmbench", .questions = path_of("within.tsv")};
    assert_int_equal(um_eval_read(&l.task, &from, &arena, &err), UM_OK);
    if (um_kept_open(&k, path_of("kept/within.jsonl"), ORIGIN, &l.task, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    um_asking_plan(&a, &tasks, &k, &m, "both", &arena);
    assert_int_equal(a.n, 3);
    assert_int_equal(um_asking_write(&a, path_of("requests"), path_of("media"), 9, &err), UM_OK);
    assert_int_equal(um_file_read(&text, &n, path_of("requests"), 1 << 20, &arena, &err), UM_OK);
    const char *at = strstr((char *)text, um_arena_fmt(&arena, "\"%s/", path_of("media")));
    assert_non_null(at);
    assert_true(n < 2000);
    const char *image = um_arena_strn(&arena, at + 1, strcspn(at + 1, "\""));
    assert_int_equal(um_file_read(&text, &n, image, 1 << 20, &arena, &err), UM_OK);
    assert_true(n > 4000 && memcmp(text, "\x89PNG\r\n\x1a\n", 8) == 0);
    assert_int_equal(um_kept_close(&k, &err), UM_OK);
}

/* --- what is found --- */

enum { MODELS = 2 };
static um_listed_model two[MODELS] = {{.name = "one"}, {.name = "two"}};
static const um_model_list models = {two, MODELS};

static void outcome_of(um_outcome *o, const um_task_list *tasks, const um_given *given,
                       const char *specialist)
{
    um_err err = {0};
    um_config *cfg = um_arena_zero(&arena, sizeof *cfg);
    um_config_default(cfg);
    if (specialist != NULL) cfg->specialist.item[cfg->specialist.n++] = specialist;
    if (um_outcome_make(o, &models, tasks, given, cfg, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
}

static double score_of(const um_outcome *o, int measure, int model)
{
    assert_true(o->measures[measure].of[model].there);
    return o->measures[measure].of[model].tally.rows[0].score;
}

/* The sum prefers the short option and the mean the long one; equal ones are a tie; what is not known does not count. */
static void test_likelihood(void **state)
{
    um_listed_task l = {0};
    um_task_list tasks = {&l, 1};
    um_outcome o;
    (void)state;
    lines_read(&l, "c",
               "{'id':'a','question':'?','options':['red','dark red'],'answer':1}\n"
               "{'id':'b','question':'?','options':['red','dark red'],'answer':1}\n"
               "{'id':'c','question':'?','options':['x','y'],'answer':0}\n");
    const char *none[3] = {NULL, NULL, NULL}, *silent[3] = {"B", NULL, "x"};
    um_kept_score a[] = {{-2, 2}, {-3, 4}}, b[] = {{-2, 2}, {0, 0}}, c[] = {{-1, 2}, {-1, 2}};
    um_kept_score *likelihood[] = {a, b, c};
    const um_given given[] = {{.answer = none, .likelihood = likelihood},
                              {.answer = silent, .silence = true}};
    outcome_of(&o, &tasks, given, NULL);
    assert_int_equal(o.n_measures, 3);
    assert_false(o.measures[0].of[0].there);
    assert_true(fabs(score_of(&o, 0, 1) - 2 / 3.0) < 1e-12);
    assert_int_equal(o.measures[0].of[1].silent, 1);
    assert_string_equal(o.measures[1].name, "likelihood");
    assert_true(score_of(&o, 1, 0) == 0.5); /* "a" wrong, "c" right by the first of a tie */
    assert_true(score_of(&o, 2, 0) == 1);
    assert_true(o.measures[1].of[0].tally.rows[0].n == 2 && o.measures[1].of[0].ties == 1);
    assert_false(o.measures[1].of[1].there);
    assert_true(o.measures[1].n_worst == 1 && o.measures[1].worst[0] == 0);
}

/* What a model lacks or could not read leaves its score and the comparison alone; the index is over what counts for both. */
static void test_outcome(void **state)
{
    um_listed_task l = {0};
    um_task_list tasks = {&l, 1};
    um_outcome o;
    (void)state;
    lines_read(&l, "k",
               "{'id':'a','question':'?','key':'red','answer':'x','modality':'image'}\n"
               "{'id':'b','question':'?','key':'blue','answer':'x','modality':'image'}\n"
               "{'id':'c','question':'?','key':'dog','answer':'x','modality':'speech'}\n"
               "{'id':'d','question':'?','key':'cat','answer':'x','modality':'speech'}\n");
    const char *first[4] = {"red", "red", NULL, NULL}, *second[4] = {"red", "blue", "dog", NULL};
    const char *failure[4] = {NULL, NULL, NULL, "broken"};
    const bool lacking[4] = {false, false, true, true};
    const um_given given[] = {{.answer = first, .lacking = lacking, .failure = failure},
                              {.answer = second, .failure = failure}};
    outcome_of(&o, &tasks, given, "image=two");
    const um_marks *p = o.measures[0].of;
    assert_true(score_of(&o, 0, 0) == 0.5 && score_of(&o, 0, 1) == 1);
    assert_true(p[0].lacking == 2 && p[0].failed == 0 && p[0].answered == 2);
    assert_true(p[1].lacking == 0 && p[1].failed == 1 && p[1].answered == 3);
    assert_int_equal(o.measures[0].n_pairs, 1);
    const um_paired *pair = &o.measures[0].pairs[0].found;
    assert_true(pair->n == 2 && pair->only_a == 0 && pair->only_b == 1 && pair->difference == 0.5);
    assert_int_equal(o.n_modalities, 2);
    assert_string_equal(o.modalities[0].name, "image");
    assert_true(o.modalities[0].of[0].n == 2 && o.modalities[1].of[0].n == 0);
    assert_true(o.modalities[1].of[1].n == 1 && o.modalities[1].of[1].score == 1);
    assert_true(o.has_bias && o.bias.n == 2 && o.bias.rows[1].specialist == -1);
    assert_true(o.bias.index[0].n == 1 && o.bias.index[0].mean == 0.5);
    assert_true(o.bias.index[1].mean == 1 && o.bias.index[1].deviation == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept),       cmocka_unit_test(test_kept_of_another),
        cmocka_unit_test(test_asking),     cmocka_unit_test(test_media_within),
        cmocka_unit_test(test_likelihood), cmocka_unit_test(test_outcome),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
