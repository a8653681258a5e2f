/* Samples: ids and labels of the golden training cases and of the original's walk over awkward texts, forms, faults, rounds cut off. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "router/data/sample.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <string.h>

enum { MAX_IDS = 2048 };

typedef struct opened {
    um_model model;
    um_tokenizer *tok;
} opened;

static opened s4, a4; /* hear speech; sounds */

static void model_open(opened *o, const char *name)
{
    um_err err = {0};
    char *path = golden_path(&arena, "models/%s", name);
    if (um_model_read(&o->model, path, NULL, &arena, &err) != UM_OK ||
        um_tokenizer_open(&o->tok, path, &err) != UM_OK)
        fail_msg("%s", err.msg);
}

static int setup(void **state)
{
    arena_setup(state);
    model_open(&s4, "s4");
    model_open(&a4, "a4");
    return 0;
}

static int teardown(void **state)
{
    um_tokenizer_close(s4.tok);
    um_tokenizer_close(a4.tok);
    return arena_teardown(state);
}

/* Single quotes of json count as double ones. */
static um_status make(um_data_sample *s, const opened *o, const char *json, int max, um_err *err)
{
    um_sample_maker maker = {&o->model, o->tok, max};
    size_t n = strlen(json);
    char *text = um_arena_str(&arena, json);
    for (char *p = text; (p = strchr(p, '\'')) != NULL;) *p = '"';
    um_request_source from = {.json = text, .n = n, .bytes = n, .folder = "f", .number = 13};
    return um_sample_make(s, &maker, &from, "x.jsonl", &arena, err);
}

static void must_make(um_data_sample *s, const opened *o, const char *json)
{
    um_err err = {0};
    if (make(s, o, json, MAX_IDS, &err) != UM_OK) fail_msg("%s: %s", json, err.msg);
}

static void fails(const opened *o, const char *json, um_data_fault_kind kind, const char *word)
{
    um_data_sample s = {0};
    um_err err = {0};
    assert_int_equal(make(&s, o, json, MAX_IDS, &err), UM_E_DATA);
    if (s.fault != kind)
        fail_msg("%s: fault %s, want %s", json, um_data_fault_name(s.fault),
                 um_data_fault_name(kind));
    assert_string_equal(s.where, "x.jsonl:13");
    has(&err, word);
}

/* A JSON value as text, for samples that stand within another file. */
static void value_text(um_text *out, const um_json *j)
{
    void *iter = NULL;
    const char *key = NULL;
    bool object = um_json_kind_of(j) == UM_JSON_OBJECT;
    if (um_json_kind_of(j) == UM_JSON_STRING) {
        um_text_json(out, um_json_str(j, ""));
        return;
    }
    um_text_fmt(out, object ? "{" : "[");
    for (size_t i = 0; i < um_json_size(j); i++) {
        const um_json *v = object ? um_json_next(j, &iter, &key) : um_json_at(j, i);
        if (i > 0) um_text_fmt(out, ",");
        if (object) um_text_json(out, key);
        if (object) um_text_fmt(out, ":");
        value_text(out, v);
    }
    um_text_fmt(out, object ? "}" : "]");
}

/* --- golden training cases --- */

/* Row `row` of a padded batch: the sample, then padding. */
static void row_equal(const char *what, const int32_t *got, int n, const int32_t *want, int wide,
                      int row, int32_t pad)
{
    const int32_t *w = want + (ptrdiff_t)row * wide;
    assert_true(n <= wide);
    ids_equal(what, got, n, w, n);
    for (int i = n; i < wide; i++) assert_int_equal(w[i], pad);
}

static int batch_matches(const opened *o, const char *model, const um_json *samples,
                         const um_json *batch, int number)
{
    char *path = golden_path(&arena, "training/%s/expected.safetensors", model);
    int n = 0, rows = (int)um_json_size(batch);
    int32_t *ids = golden_ids(path, um_arena_fmt(&arena, "batch%d.input_ids", number), &n, &arena);
    int32_t *labels = golden_ids(path, um_arena_fmt(&arena, "batch%d.labels", number), &n, &arena);
    for (int i = 0; i < rows; i++) {
        um_data_sample s;
        um_text json = {0};
        value_text(&json,
                   um_json_at(samples, (size_t)um_json_int(um_json_at(batch, (size_t)i), 0)));
        must_make(&s, o, json.s);
        row_equal(json.s, s.ids, s.n, ids, n / rows, i, 0);
        row_equal(json.s, s.labels, s.n, labels, n / rows, i, UM_LABEL_IGNORED);
        assert_false(s.reference_masks);
        um_text_free(&json);
    }
    return rows;
}

static void test_golden(void **state)
{
    (void)state;
    static const char *const models[] = {"s4", "a4", "s8"};
    int seen = 0;
    for (size_t m = 0; m < 3; m++) {
        opened o = {0};
        model_open(&o, models[m]);
        um_json *root = golden_json(golden_path(&arena, "training/%s/training.json", models[m]));
        const um_json *batches = um_json_get(root, "batches");
        for (size_t b = 0; b < um_json_size(batches); b++)
            seen += batch_matches(&o, models[m], um_json_get(root, "samples"),
                                  um_json_at(batches, b), (int)b);
        um_json_free(root);
        um_tokenizer_close(o.tok);
    }
    assert_int_equal(seen, 3 * 8);
}

/* --- the original's walk --- */

static void turns_text(um_text *out, const um_json *turns)
{
    bool image = false, audio = false, video = false;
    um_text_fmt(out, "{\"conversations\":[");
    for (size_t i = 0; i < um_json_size(turns); i++) {
        const char *text = um_json_str(um_json_at(turns, i), "");
        um_text_fmt(out, "%s{\"from\":\"%s\",\"value\":", i > 0 ? "," : "",
                    i % 2 ? "gpt" : "human");
        um_text_json(out, text);
        um_text_fmt(out, "}");
        image = image || strstr(text, "<image>") != NULL;
        audio = audio || strstr(text, "<audio>") != NULL;
        video = video || strstr(text, "<video>") != NULL;
    }
    um_text_fmt(out, "]%s%s%s}", image ? ",\"image\":\"a.png\"" : "",
                audio ? ",\"voice\":[\"a.wav\"]" : "", video ? ",\"video\":\"a.mp4\"" : "");
}

static int32_t *list_ids(const um_json *list, int *n)
{
    *n = (int)um_json_size(list);
    int32_t *ids = um_arena_i32(&arena, (size_t)*n);
    for (int i = 0; i < *n; i++) ids[i] = (int32_t)um_json_int(um_json_at(list, (size_t)i), 0);
    return ids;
}

/* Where the original masks all of a sample, ours says so and covers its answers all the same. */
static void test_walk(void **state)
{
    (void)state;
    um_json *rows = golden_json(um_arena_fmt(&arena, "%s/ref/labels.json", UM_TEST_DATA));
    int masked = 0;
    for (size_t i = 0; i < um_json_size(rows); i++) {
        const um_json *row = um_json_at(rows, i);
        um_data_sample s;
        um_text json = {0};
        um_err err = {0};
        int n = 0;
        turns_text(&json, um_json_get(row, "turns"));
        if (make(&s, &s4, json.s, 1 << 20, &err) != UM_OK) fail_msg("%s: %s", json.s, err.msg);
        int32_t *ids = list_ids(um_json_get(row, "ids"), &n);
        ids_equal(json.s, s.ids, s.n, ids, s.unanswered ? s.n : n);
        bool whole = um_json_bool(um_json_get(row, "masked"), false);
        if (s.reference_masks != whole) fail_msg("%s: masked %d, want %d", json.s, !whole, whole);
        int32_t *labels = list_ids(um_json_get(row, "labels"), &n);
        if (!whole) ids_equal(json.s, s.labels, s.n, labels, n);
        assert_true(s.targets >= 2);
        masked += whole;
        um_text_free(&json);
    }
    assert_in_range(masked, 5, um_json_size(rows) - 10);
    um_json_free(rows);
}

/* The text of the ids that the loss covers, without </s>. */
static const char *learnt(const um_data_sample *s)
{
    int n = 0;
    int32_t *ids = um_arena_i32(&arena, (size_t)s->n);
    for (int i = 0; i < s->n; i++) {
        if (s->labels[i] == UM_LABEL_IGNORED) continue;
        assert_int_equal(s->labels[i], s->ids[i]);
        ids[n++] = s->labels[i];
    }
    assert_int_equal(n, s->targets);
    return um_tokenizer_decode(s4.tok, ids, n, &arena);
}

/* Conversations in JSON that is spelled with single quotes: TALK question SAYS answer ASKS question ... DONE, then what else it holds. */
#define TALK "{'conversations':[{'from':'human','value':'"
#define SAYS "'},{'from':'gpt','value':'"
#define ASKS "'},{'from':'human','value':'"
#define DONE "'}]"

/* What the loss covers are the answers, whatever they hold. */
static void test_spans(void **state)
{
    (void)state;
    um_data_sample s;
    must_make(&s, &s4, TALK "say ASSISTANT: x" SAYS "USER: y ASSISTANT: z" DONE "}");
    assert_string_equal(learnt(&s), "USER: y ASSISTANT: z");
    assert_true(s.reference_masks);
    must_make(&s, &s4, TALK "one" SAYS "red" ASKS "two" SAYS "" ASKS "three" SAYS "blue" DONE "}");
    assert_string_equal(learnt(&s), "red blue");
    assert_int_equal(s.rounds, 2);
    must_make(&s, &s4, TALK "q" SAYS "left <image> right" DONE ",'image':'a.png'}");
    assert_string_equal(learnt(&s),
                        "left   right"); /* two texts; the medium between them is no target */
    assert_int_equal(s.n_items, 1);
}

/* --- forms --- */

static void test_forms(void **state)
{
    (void)state;
    static const char *const same[] = {
        TALK "<image>\\nhi" SAYS "red" DONE ",'image':'a.png'}",
        "{'conversations':[{'role':'user','content':'<image>\\nhi'},"
        "{'role':'assistant','content':'red'}],'image':['a.png']}",
        "{'messages':[{'role':'user','content':'<image>\\nhi'},{'role':'assistant','content':'red'}"
        "],'image':'a.png','category':[1,{}]}",
        "{'messages':[{'role':'user','content':[{'image':'a.png'},'\\nhi']},{'role':'assistant','"
        "content':'red'}],'id':{}}",
        "{'sample':" TALK "<image>\\nhi" SAYS "red" DONE ",'image':'a.png'},'note':1}",
        "{'conversations':[{'from':'gpt','value':'"
        "dropped" ASKS "<image>\\nhi" SAYS "red" DONE
        ",'image':'a.png','temperature':'hot','prompt':7}",
    };
    um_data_sample want, s;
    must_make(&want, &s4, same[0]);
    assert_int_equal(want.kinds, UM_KIND_IMAGE);
    assert_string_equal(want.items[0].paths[0], "f/a.png");
    assert_int_equal(want.length, want.n - 1 + 16);
    for (size_t i = 1; i < sizeof same / sizeof *same; i++) {
        must_make(&s, &s4, same[i]);
        ids_equal(same[i], s.ids, s.n, want.ids, want.n);
        ids_equal(same[i], s.labels, s.n, want.labels, want.n);
        assert_string_equal(s.items[0].paths[0], "f/a.png");
    }
    must_make(&s, &s4,
              "{'conversations':[{'from':'system','value':'"
              "Be brief." ASKS "hi" SAYS "red" DONE "}");
    assert_true(s.n < want.n - 20); /* instead of the template's own sentence */
    must_make(&want, &s4,
              "{'system':'Be "
              "brief.','messages':[{'role':'user','content':'hi'},{'role':'assistant','content':'"
              "red'}]}");
    ids_equal("system", s.ids, s.n, want.ids, want.n);
}

static void test_ids_and_tokens(void **state)
{
    (void)state;
    um_data_sample s;
    must_make(&s, &s4, TALK "a" SAYS "b" DONE ",'id':'000','tokens':77}");
    assert_string_equal(s.id, "000");
    assert_int_equal(s.tokens, 77);
    must_make(&s, &s4, TALK "a" SAYS "b" DONE ",'multi_info':{'tokens':78}}");
    assert_string_equal(s.id, "x.jsonl:13"); /* it has none */
    assert_int_equal(s.tokens, 78);
    assert_string_equal(um_sample_where("d/x.json", 1, true, &arena), "d/x.json[0]");
    assert_string_equal(um_sample_where("d/x.json", 1, false, &arena), "d/x.json:1");
    assert_string_equal(um_kinds_name(UM_KIND_VIDEO | UM_KIND_AUDIO), "audio+video");
}

/* The original's files for a model that hears sounds only call them voice. */
static void test_voice(void **state)
{
    (void)state;
    static const char voice[] = TALK "<audio>\\na" SAYS "b" DONE ",'voice':['a.wav']}";
    um_data_sample s;
    must_make(&s, &s4, voice);
    assert_int_equal(s.items[0].modality, UM_SPEECH);
    must_make(&s, &a4, voice);
    assert_int_equal(s.items[0].modality, UM_SOUND);
    assert_int_equal(s.kinds, UM_KIND_AUDIO);
    fails(&a4, TALK "<audio>\\na" SAYS "b" DONE ",'speech':['a.wav']}", UM_FAULT_MEDIA,
          "the model has no speech tower");
}

/* --- faults --- */

static void test_faults(void **state)
{
    (void)state;
    fails(&s4, "{'conversations': [", UM_FAULT_JSON, "");
    fails(&s4, "[1]", UM_FAULT_JSON, "want a JSON object");
    fails(&s4, "{}", UM_FAULT_JSON, "want a list of turns, under conversations or messages");
    fails(&s4, "{'conversation':[]}", UM_FAULT_JSON, "did you mean conversations");
    fails(&s4, "{'conversations':[]}", UM_FAULT_JSON, "list of 1 to");
    fails(&s4, TALK "a" ASKS "b" DONE "}", UM_FAULT_JSON, "alternate");
    fails(&s4, TALK "a'},{'from':'gpt'}]}", UM_FAULT_JSON, "conversations[1]: want");
    fails(&s4, TALK "a" DONE "}", UM_FAULT_ANSWER, "no question has an answer");
    fails(&s4, TALK "a" SAYS "" DONE "}", UM_FAULT_ANSWER, "nothing to learn");
    fails(&s4, TALK "<image> a" SAYS "b" DONE "}", UM_FAULT_PLACEHOLDER,
          "1 <image> placeholder, but 0 images given");
    fails(&s4, TALK "a" SAYS "b" DONE ",'image':'a.png'}", UM_FAULT_PLACEHOLDER,
          "0 <image> placeholders, but 1 image given");
    fails(&s4,
          "{'messages':[{'role':'user','content':'<image>'},{'role':'assistant','content':'b'}]}",
          UM_FAULT_PLACEHOLDER, "1 <image> placeholder");
    fails(&s4, TALK "<sound> a" SAYS "b" DONE ",'sound':'a.wav'}", UM_FAULT_MEDIA,
          "no sound tower");
    fails(&s4, TALK "a" SAYS "b" DONE ",'image':['http://x/a.png']}", UM_FAULT_JSON,
          "nothing is fetched");
}

/* A question at the end that nobody answered goes, with its media. */
static void test_unanswered(void **state)
{
    (void)state;
    um_data_sample want, s;
    must_make(&want, &s4, TALK "<image> a" SAYS "b" DONE ",'image':'a.png'}");
    assert_false(want.unanswered || want.reference_masks);
    must_make(&s, &s4,
              TALK "<image> a" SAYS "b" ASKS "<audio> c" DONE ",'image':'a.png','voice':'b.wav'}");
    ids_equal("ids", s.ids, s.n, want.ids, want.n);
    assert_int_equal(s.n_items, 1);
    assert_int_equal(s.kinds, UM_KIND_IMAGE);
    assert_true(s.unanswered && s.reference_masks);
}

/* --- length --- */

/* Whole rounds go, from the end, with their media; a first round that is too long is an error. */
static void test_cut(void **state)
{
    (void)state;
    static const char long_one[] = TALK "<image> a" SAYS "red" ASKS "<audio> b" SAYS "blue" ASKS
                                        "c" SAYS "green" DONE ",'image':'a.png','voice':['b.wav']}";
    um_data_sample all, s;
    um_err err = {0};
    must_make(&all, &s4, long_one);
    assert_int_equal(all.cut, 0);
    int end[3], rounds = 0;
    for (int i = 0; i < all.n; i++)
        if (all.labels[i] == 2) end[rounds++] = i + 1;
    assert_int_equal(rounds, 3);
    assert_int_equal(end[2], all.n);
    for (int max = all.n; max >= end[0]; max--) {
        int keep = max >= end[2] ? 3 : max >= end[1] ? 2 : 1;
        assert_int_equal(make(&s, &s4, long_one, max, &err), UM_OK);
        assert_int_equal(s.rounds, keep);
        assert_int_equal(s.cut, 3 - keep);
        ids_equal("cut", s.ids, s.n, all.ids, end[keep - 1]);
        assert_int_equal(s.n_items, keep >= 2 ? 2 : 1);
        assert_int_equal(s.kinds, keep >= 2 ? UM_KIND_IMAGE | UM_KIND_AUDIO : UM_KIND_IMAGE);
        assert_int_equal(s.length, s.n - s.n_items + 16 + (keep >= 2 ? 50 : 0));
    }
    assert_int_equal(make(&s, &s4, long_one, end[0] - 1, &err), UM_E_DATA);
    assert_int_equal(s.fault, UM_FAULT_LONG);
    has(&err, um_arena_fmt(&arena, "%d ids in its first round, at most %d", end[0], end[0] - 1));
}

/* Without a tokenizer, as when files are indexed: everything but ids. */
static void test_estimate(void **state)
{
    (void)state;
    opened bare = {.model = s4.model};
    um_data_sample s;
    must_make(&s, &bare, TALK "<image> abcd" SAYS "efgh" DONE ",'image':'a.png'}");
    assert_true(s.ids == NULL && s.n_items == 1 && s.kinds == UM_KIND_IMAGE);
    assert_in_range(s.length, 16 + 20, 16 + 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_walk),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_ids_and_tokens),
        cmocka_unit_test(test_voice),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_unanswered),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_estimate),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
