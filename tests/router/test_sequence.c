/* A sequence between text and answer: what stands at each position of its prompt, and where its memory goes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/engine/sequence.h"
#include "router/request/prompt.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <string.h>

enum { D_MAX = 256, MEDIA_MAX = 8, POSITIONS_MAX = 2048 };

static um_tokenizer *tok;
static um_model model;
static um_config cfg;

static int setup(void **state)
{
    um_err err = {0};
    um_towers none = {0};
    arena_setup(state);
    um_config_default(&cfg);
    if (um_model_read(&model, golden_path(&arena, "models/s4"), &none, &arena, &err) != UM_OK ||
        um_tokenizer_open(&tok, golden_path(&arena, "models/s4"), &err) != UM_OK) {
        printf("%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    um_tokenizer_close(tok);
    return arena_teardown(state);
}

/* What a position should be, made the plain way: text and media in order. */
typedef struct position {
    int32_t id;
    int feature, row; /* feature -1: the token id */
    um_modality modality;
} position;

static int positions_of(position *out, const um_sequence *s)
{
    int n = 0, next = 0;
    for (int i = 0; i < s->n_ids; i++) {
        if (s->ids[i] >= 0) {
            out[n++] = (position){.id = s->ids[i], .feature = -1};
            continue;
        }
        for (int k = 0; k < s->features[next].n; k++)
            out[n++] =
                (position){.feature = next, .row = k, .modality = s->req.items[next].modality};
        next++;
    }
    for (int i = 0; i < s->n_out; i++) out[n++] = (position){.id = s->out[i], .feature = -1};
    return n;
}

static um_sequence *begin(const char *json)
{
    um_sequence *s = um_zalloc(sizeof *s);
    um_request_source from = {json, strlen(json), strlen(json), ".", 1, .element = false};
    um_err err = {0};
    um_status st = um_sequence_open(s, 0, &from, NULL, &cfg, &model, tok, &err);
    if (st != UM_OK) printf("%s\n", err.msg);
    assert_int_equal(st, UM_OK);
    um_sequence_begin(s, &cfg, &model, tok);
    if (s->status != UM_OK) printf("%s\n", s->why.msg);
    assert_int_equal(s->status, UM_OK);
    return s;
}

/* Gives item i n rows, whose first value tells item and row. */
static void give(um_sequence *s, um_media_cache *c, int i, int n)
{
    static float rows[64 * D_MAX];
    char key[UM_SHA256_HEX];
    um_err err = {0};
    assert_true(model.dim <= D_MAX && n <= 64);
    for (int k = 0; k < n; k++) rows[k * model.dim] = (float)(100 * i + k);
    assert_int_equal(um_sha256_of(key, &i, sizeof i, &err), UM_OK);
    const um_media_rows *r = um_media_cache_put(c, key, rows, n, model.dim);
    um_sequence_feature(s, i, r, &cfg, &model);
    um_media_rows_drop(r);
}

static void check(const um_sequence *s)
{
    static position want[POSITIONS_MAX];
    int n = positions_of(want, s), most[] = {1, 3, 16, 10000};
    assert_int_equal(n, s->T + s->n_out);
    for (int m = 0; m < 4; m++)
        for (int at = 0, runs = 0; at < n; runs++) {
            um_run run = um_sequence_run(s, at, most[m]);
            assert_true(run.n > 0 && run.n <= most[m] && at + run.n <= n);
            assert_true((run.ids == NULL) == (run.feature >= 0));
            for (int k = 0; k < run.n; k++) {
                const position *p = &want[at + k];
                assert_int_equal(run.modality, p->modality);
                assert_int_equal(run.feature, p->feature);
                if (run.ids != NULL) {
                    assert_int_equal(run.ids[k], p->id);
                    continue;
                }
                assert_int_equal(run.first + k, p->row);
                assert_true(run.rows[k * model.dim] == (float)(100 * p->feature + p->row));
            }
            at += run.n;
            assert_true(most[m] < 10000 || runs < 2 * s->n_features + 2); /* whole runs */
        }
}

static void close_sequence(um_sequence *s)
{
    um_sequence_close(s);
    um_free(s);
}

static void a_run_is_what_stands_there(void **state)
{
    static const struct {
        const char *json;
        int rows[MEDIA_MAX];
    } cases[] = {
        {"{\"prompt\":\"hello\"}", {0}},
        {"{\"prompt\":\"a <image> b\",\"image\":\"x.png\"}", {5}},
        {"{\"prompt\":[{\"image\":\"a\"},{\"speech\":\"b\"},\"between\",{\"video\":\"c\"},"
         "{\"image\":\"d\"}]}",
         {1, 33, 2, 7}},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"a\"}]},"
         "{\"role\":\"assistant\",\"content\":\"one\"},"
         "{\"role\":\"user\",\"content\":[\"two\",{\"image\":\"b\"}]}]}",
         {3, 64}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        um_media_cache *c = um_media_cache_open(0);
        um_sequence *s = begin(cases[i].json);
        for (int k = s->n_features - 1; k >= 0; k--) give(s, c, k, cases[i].rows[k]);
        assert_int_equal(s->state, UM_SEQ_READY);
        check(s);
        um_sequence_grant(s, &model);
        for (; s->n_out < 20; s->n_out++) s->out[s->n_out] = 300 + s->n_out;
        check(s);
        close_sequence(s);
        um_media_cache_close(c); /* no reference is left */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_what_stands_there),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
