/* The engine's requests, step by step: cancelled in every state they can be in, refused, and streamed. */
#include "tests/cluster/engine_fixture.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"
#include "tests/support/tiny_png.h"

#include "core/base/clock.h"
#include "core/base/file.h"
#include "launch/model_dir/init.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { LONG, TALKER, SEER, LATE, OTHERS = 4 }; /* the four requests of these tests, by number */

static char *words(um_arena *a, int n)
{
    char *s = um_arena_zero(a, (size_t)(2 * n) + 1);
    for (int i = 0; i < n; i++) memcpy(s + 2 * i, "a ", 2);
    return s;
}

static engine_fixture *open_fixture(void)
{
    um_arena a;
    um_arena_init(&a, "path", 4096);
    engine_fixture *f = engine_fixture_open(golden_path(&a, "models/s4"));
    um_arena_free(&a);
    f->c.cfg.max_batch = 3; /* so that the fourth is queued */
    f->c.cfg.prefill_chunk = 16;
    f->c.cfg.prefix_cache = 0; /* prompts that come again are read again */
    return f;
}

/* A long prompt, a long answer, one with an image, and one that waits in the queue for a place. */
static void submit_all(engine_fixture *f)
{
    const char *image = golden_path(&f->arena, "media/small.png");
    engine_submit(
        f, LONG,
        um_arena_fmt(&f->arena, "{\"prompt\":\"%s\",\"max_new_tokens\":6}", words(&f->arena, 300)));
    engine_submit(f, TALKER, "{\"prompt\":\"Tell me\",\"max_new_tokens\":60}");
    engine_submit(f, SEER,
                  um_arena_fmt(&f->arena,
                               "{\"prompt\":\"hi\",\"max_new_tokens\":9,\"image\":\"%s\"}", image));
    engine_submit(f, LATE, "{\"prompt\":\"And you?\",\"max_new_tokens\":12}");
}

/* Results without any cancelling. */
static Um__Result want[OTHERS];
static um_arena want_arena;

static void keep_results(engine_fixture *f)
{
    submit_all(f);
    engine_finish(f);
    for (int i = 0; i < OTHERS; i++) {
        want[i] = f->request[i].result;
        assert_int_equal(want[i].finish, UM__FINISH__FINISH_LENGTH);
        int32_t *ids = um_arena_i32(&want_arena, want[i].n_ids);
        memcpy(ids, want[i].ids, want[i].n_ids * sizeof *ids);
        want[i].ids = ids;
    }
}

static void same_as_alone(const engine_fixture *f, int number)
{
    const Um__Result *r = &f->request[number].result;
    assert_true(f->request[number].done);
    assert_int_equal(r->finish, UM__FINISH__FINISH_LENGTH);
    assert_int_equal(r->n_ids, want[number].n_ids);
    assert_memory_equal(r->ids, want[number].ids, r->n_ids * sizeof *r->ids);
}

static void nothing_is_held(const engine_fixture *f)
{
    um_engine_load load = um_engine_load_of(f->engine);
    assert_int_equal(um_engine_unfinished(f->engine), 0);
    assert_int_equal(load.queued + load.active, 0);
    assert_int_equal(load.queued_bytes, 0);
    assert_int_equal(load.pages.used, 0);
}

/* Cancels it, and it is gone within a step. */
static void cancel(engine_fixture *f, int number)
{
    um_engine_load before = um_engine_load_of(f->engine);
    int held = before.queued + before.active, tokens = f->request[number].tokens;
    assert_false(f->request[number].done);
    assert_true(um_engine_cancel(f->engine, (uint64_t)number));
    assert_false(um_engine_cancel(f->engine, (uint64_t)number)); /* once is enough */
    assert_true(um_engine_runnable(f->engine));
    const engine_request *r = &f->request[number];
    for (int i = 0; i < 100 && !r->done; i++)
        engine_round(f); /* micro-batches in flight end first */
    assert_true(r->done);
    assert_int_equal(r->tokens, tokens);
    assert_int_equal(r->result.status, UM_OK);
    assert_int_equal(r->result.finish, UM__FINISH__FINISH_CANCELLED);
    assert_int_equal(r->result.n_ids, r->tokens);
    assert_int_equal(memcmp(r->result.ids, want[number].ids, (size_t)r->tokens * sizeof(int32_t)),
                     0);
    assert_string_equal(r->result.text, r->text.s != NULL ? r->text.s : "");
    um_engine_load after = um_engine_load_of(f->engine);
    assert_true(after.queued + after.active < held);
}

static void finish_the_others(engine_fixture *f, int cancelled)
{
    engine_finish(f);
    for (int i = 0; i < OTHERS; i++)
        if (i != cancelled) same_as_alone(f, i);
    assert_false(um_engine_cancel(f->engine, (uint64_t)cancelled));
    assert_false(um_engine_cancel(f->engine, 99));
    nothing_is_held(f);
}

static void each_state(engine_fixture *f)
{
    keep_results(f);
    nothing_is_held(f);

    submit_all(f); /* queued: before the first step all are, later the fourth */
    cancel(f, LATE);
    finish_the_others(f, LATE);
    submit_all(f);
    engine_round(f);
    assert_int_equal(um_engine_load_of(f->engine).queued, 1);
    cancel(f, LATE);
    assert_int_equal(f->request[LATE].result.n_ids, 0);
    finish_the_others(f, LATE);

    submit_all(f); /* prefill: some of its chunks are read */
    int64_t rows = um_engine_stats_of(f->engine)->prompt_rows;
    while (um_engine_stats_of(f->engine)->prompt_rows < rows + 200) engine_round(f);
    assert_int_equal(f->request[LONG].tokens, 0);
    cancel(f, LONG);
    assert_int_equal(f->request[LONG].result.n_ids, 0);
    finish_the_others(f, LONG);

    submit_all(f); /* decode */
    while (f->request[TALKER].tokens < 5) engine_round(f);
    cancel(f, TALKER);
    assert_true(f->request[TALKER].result.n_ids >= 5 && f->request[TALKER].result.n_ids < 60);
    finish_the_others(f, TALKER);
}

/* While its image is with the encoder: nobody waits for the answer, which goes to the cache. */
static void encoding(engine_fixture *f)
{
    um_err err = {0};
    submit_all(f);
    for (int i = 0; i < 3; i++) /* admitted, read and sent; no frame is looked at */
        assert_int_equal(um_engine_step(f->engine, &err), UM_OK);
    assert_int_equal(um_engine_media_stats(f->engine).encoded, 0);
    cancel(f, SEER);
    assert_int_equal(f->request[SEER].tokens, 0);
    engine_finish(f);
    while (um_engine_media_stats(f->engine).encoded == 0) engine_round(f); /* its answer comes */
    finish_the_others(f, SEER);
    engine_submit(f, SEER,
                  um_arena_fmt(&f->arena,
                               "{\"prompt\":\"hi\",\"max_new_tokens\":9,\"image\":\"%s\"}",
                               golden_path(&f->arena, "media/small.png")));
    engine_finish(f);
    same_as_alone(f, SEER);
    um_media_stats s = um_engine_media_stats(f->engine);
    assert_int_equal(s.encoded, 1);
    assert_int_equal(s.cached, 1);
    nothing_is_held(f);
}

/* Two wait for one image: the other gets it. */
static void shared(engine_fixture *f)
{
    um_err err = {0};
    const char *ask =
        um_arena_fmt(&f->arena, "{\"prompt\":\"hi\",\"max_new_tokens\":9,\"image\":\"%s\"}",
                     golden_path(&f->arena, "media/small.png"));
    engine_submit(f, LONG, ask);
    engine_submit(f, SEER, ask);
    for (int i = 0; i < 3; i++) assert_int_equal(um_engine_step(f->engine, &err), UM_OK);
    assert_true(um_engine_cancel(f->engine, LONG));
    engine_finish(f);
    assert_int_equal(f->request[LONG].result.finish, UM__FINISH__FINISH_CANCELLED);
    same_as_alone(f, SEER);
    assert_int_equal(um_engine_media_stats(f->engine).encoded, 1);
    nothing_is_held(f);
}

/* Of many images only those are encoded that were sent before it was cancelled. */
static void unsent(engine_fixture *f)
{
    um_err err = {0};
    um_text json = {0};
    um_text_fmt(&json, "{\"prompt\":\"hi\",\"image\":[");
    for (int i = 0; i < 40; i++) {
        tiny_png png;
        uint8_t row[24];
        char name[64];
        for (int k = 0; k < 24; k++) row[k] = (uint8_t)(i * 37 + k);
        snprintf(name, sizeof name, "cancel-%d-%d.png", (int)getpid(), i);
        tiny_png_begin(&png, 8, 1, 8, 2, false);
        tiny_png_rows(&png, row, sizeof row, sizeof row);
        tiny_png_end(&png);
        assert_int_equal(um_file_write(name, png.bytes, png.n, &err), UM_OK);
        um_text_fmt(&json, "%s\"%s\"", i > 0 ? "," : "", name);
    }
    um_text_fmt(&json, "]}");
    engine_submit(f, SEER, json.s);
    um_text_free(&json);
    for (int i = 0; i < 5; i++) assert_int_equal(um_engine_step(f->engine, &err), UM_OK);
    assert_true(um_engine_cancel(f->engine, SEER));
    assert_int_equal(um_engine_step(f->engine, &err), UM_OK);
    assert_true(f->request[SEER].done);
    nothing_is_held(f);
    assert_false(um_engine_runnable(f->engine)); /* no image is read any more */
    engine_submit(f, TALKER, "{\"prompt\":\"Tell me\",\"max_new_tokens\":60}");
    engine_finish(f);
    same_as_alone(f, TALKER);
    assert_true(um_engine_media_stats(f->engine).encoded <= 5);
    for (int i = 0; i < 40; i++) {
        char name[64];
        snprintf(name, sizeof name, "cancel-%d-%d.png", (int)getpid(), i);
        unlink(name);
    }
}

static void cancelled_in_every_state(void **state)
{
    (void)state;
    engine_fixture *f = open_fixture();
    um_arena_init(&want_arena, "results", 4096);
    engine_run(f, each_state);
    engine_run(f, encoding);
    engine_run(f, shared);
    engine_run(f, unsent);
    um_arena_free(&want_arena);
    engine_fixture_close(f);
}

/* An event may cancel: its own request, and another one. */
static void cancel_within_an_event(engine_fixture *f)
{
    keep_results(f);
    f->cancel_number = TALKER;
    f->cancel_at = 7;
    submit_all(f);
    engine_finish(f);
    f->cancel_at = 0;
    const engine_request *r = &f->request[TALKER];
    assert_int_equal(r->result.finish, UM__FINISH__FINISH_CANCELLED);
    assert_int_equal(r->result.n_ids, 7);
    assert_memory_equal(r->result.ids, want[TALKER].ids, 7 * sizeof(int32_t));
    assert_string_equal(r->result.text, r->text.s);
    for (int i = 0; i < OTHERS; i++)
        if (i != TALKER) same_as_alone(f, i);
    nothing_is_held(f);
}

static void cancelled_by_an_event(void **state)
{
    (void)state;
    engine_fixture *f = open_fixture();
    um_arena_init(&want_arena, "results", 4096);
    engine_run(f, cancel_within_an_event);
    um_arena_free(&want_arena);
    engine_fixture_close(f);
}

/* --- refusals --- */

static void refused(engine_fixture *f, const char *json, um_status st, const char *name,
                    const char *why)
{
    Um__Result r;
    um_err err = {0};
    um_engine_load before = um_engine_load_of(f->engine);
    um_request_source from = {json, strlen(json), strlen(json), ".", 17, .element = true};
    assert_int_equal(um_engine_submit(f->engine, 40, &from, NULL, &r, &err), st);
    if (strstr(err.msg, why) == NULL) printf("want %s in %s\n", why, err.msg);
    assert_non_null(strstr(err.msg, why));
    assert_int_equal(r.status, st);
    assert_int_equal(r.id, 40);
    assert_string_equal(r.name, name);
    assert_string_equal(r.error, err.msg);
    assert_int_equal(r.number, 17);
    assert_true(r.element);
    um_engine_load after = um_engine_load_of(f->engine);
    assert_int_equal(after.queued, before.queued);
    assert_int_equal(after.queued_bytes, before.queued_bytes);
    assert_false(um_engine_cancel(f->engine, 40));
}

static void refuse_all(engine_fixture *f)
{
    const char *image = golden_path(&f->arena, "media/small.png");
    refused(f, "{\"id\":\"x\",", UM_E_DATA, "x", "not JSON");
    refused(f, "{\"prompt\":7}", UM_E_DATA, "17", "prompt: want a text");
    /* --context 300: text alone, and with the rows of images */
    refused(f,
            um_arena_fmt(&f->arena, "{\"id\":\"text\",\"prompt\":\"%s\",\"max_new_tokens\":1}",
                         words(&f->arena, 3000)),
            UM_E_DATA, "text", "do not fit --context 300");
    um_text json = {0};
    um_text_fmt(&json, "{\"id\":\"media\",\"prompt\":\"hi\",\"max_new_tokens\":1,\"image\":[");
    for (int i = 0; i < 60; i++) um_text_fmt(&json, "%s\"%s\"", i > 0 ? "," : "", image);
    um_text_fmt(&json, "]}");
    refused(f, json.s, UM_E_DATA, "media", "media counted");
    um_text_free(&json);
    /* --request-memory 1M */
    f->c.cfg.context = 0;
    refused(f, "{\"id\":\"m\",\"prompt\":\"hi\",\"max_new_tokens\":3900}", UM_E_DATA, "m",
            "are allowed by --request-memory");
    /* four times --max-batch 1 wait */
    for (int i = 0; i < 4; i++)
        engine_submit(f, (uint64_t)i, "{\"prompt\":\"hi\",\"max_new_tokens\":2}");
    refused(f, "{\"id\":5,\"prompt\":\"hi\"}", UM_E_LIMIT, "5", "queue of this router is full");
    engine_round(f);
    engine_submit(f, 4, "{\"prompt\":\"hi\",\"max_new_tokens\":2}");
    engine_finish(f);
    assert_int_equal(f->done, 5);
    nothing_is_held(f);
}

static void what_cannot_run_is_refused(void **state)
{
    (void)state;
    engine_fixture *f = open_fixture();
    f->c.cfg.max_batch = 1;
    f->c.cfg.context = 300;
    f->c.cfg.request_memory = 1 << 20;
    engine_run(f, refuse_all);
    engine_fixture_close(f);
}

/* --- tokens --- */

/* Texts of tokens that were drawn at random, halves of characters among them, are those of the results; so are log-probabilities. */
static void stream_many(engine_fixture *f)
{
    for (int i = 0; i < 40; i += 2) {
        engine_submit(f, (uint64_t)i,
                      um_arena_fmt(&f->arena,
                                   "{\"prompt\":\"hi\",\"max_new_tokens\":%d,\"temperature\":3,"
                                   "\"seed\":%d,\"logprobs\":%s%s}",
                                   1 + i, i, i % 4 == 0 ? "true" : "false",
                                   i % 6 == 0 ? ",\"stop\":[\"e\",\"an\"]" : ""));
        if (i % 8 == 6) engine_finish(f);
    }
    engine_finish(f);
    for (int i = 0; i < 40; i += 2) {
        const engine_request *r = &f->request[i];
        assert_true(r->done);
        assert_string_equal(r->text.s != NULL ? r->text.s : "", r->result.text);
        assert_int_equal(r->tokens, r->result.n_ids);
        assert_int_equal(r->result.n_logprobs, i % 4 == 0 ? r->result.n_ids : 0);
        for (size_t k = 0; k < r->result.n_logprobs; k++) {
            assert_true(r->result.logprobs[k] == r->logprob[k]);
            assert_true(r->result.logprobs[k] < 0 && isfinite(r->result.logprobs[k]));
        }
    }
}

static void tokens_are_streamed(void **state)
{
    (void)state;
    engine_fixture *f = open_fixture();
    engine_run(f, stream_many);
    engine_fixture_close(f);
}

/* --- memory --- */

#ifdef UM_SANITIZED
enum { MANY = 800, WARM = 400 };
#else
enum { MANY = 20000, WARM = 2000 };
#endif

/* Bytes of the heap that are in use are the same after 2,000 requests and after 20,000. */
static void send_many(engine_fixture *f)
{
    size_t warm = 0;
    um_engine_load load;
    for (int i = 0; i < MANY; i++) {
        char json[128];
        snprintf(json, sizeof json,
                 "{\"id\":\"%d\",\"system\":\"\",\"prompt\":\"x\",\"max_new_tokens\":%d}", i,
                 i % 3 == 0);
        engine_submit(f, (uint64_t)(REQUESTS_MAX + i), json);
        for (load = um_engine_load_of(f->engine); load.queued > 6;
             load = um_engine_load_of(f->engine))
            engine_round(f);
        if (i == WARM) {
            engine_finish(f);
            warm = mallinfo2().uordblks;
        }
    }
    engine_finish(f);
    assert_int_equal(f->uncounted_done, MANY);
    nothing_is_held(f);
#ifndef UM_SANITIZED
    size_t now = mallinfo2().uordblks;
    if (now > warm + 4096) printf("%zu bytes more after %d requests\n", now - warm, MANY - WARM);
    assert_true(now <= warm + 4096);
#endif
    (void)warm;
}

/* A model without experts, so that the router's heap is its own: message buffers wander between ranks that are threads. */
static const char dense_model[] =
    "{\"architectures\": [\"LlavaLlamaForCausalLM\"], \"model_type\": \"llava\", \"hidden_size\": "
    "32,"
    "\"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 2,"
    "\"num_key_value_heads\": 2, \"vocab_size\": 400, \"max_position_embeddings\": 256,"
    "\"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"bos_token_id\": "
    "1,"
    "\"eos_token_id\": 2, \"pad_token_id\": 0, \"moe\": false, \"torch_dtype\": \"float32\"}";

static void nothing_is_kept_of_thousands(void **state)
{
    (void)state;
    um_config init;
    um_err err = {0};
    char *dir = folder_make();
    engine_fixture *f = open_fixture();
    folder_text(dir, "sizes.json", dense_model);
    um_config_default(&init);
    init.config = um_path_join(&f->arena, dir, "sizes.json");
    init.out = um_path_join(&f->arena, dir, "model");
    FILE *said = fopen("/dev/null", "w");
    um_status st = um_init_run(&init, said, &err);
    if (st != UM_OK) printf("%s\n", err.msg);
    assert_int_equal(st, UM_OK);
    fclose(said);
    f->c.cfg.model = init.out;
    f->c.cfg.experts = 0;
    f->c.cfg.encoders = "0";
    f->c.cfg.max_batch = 8;
    f->c.cfg.prefill_chunk = 256;
    f->no_tokens = true;
    engine_run(f, send_many);
    engine_fixture_close(f);
    folder_remove(dir);
    um_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancelled_in_every_state),     cmocka_unit_test(cancelled_by_an_event),
        cmocka_unit_test(what_cannot_run_is_refused),   cmocka_unit_test(tokens_are_streamed),
        cmocka_unit_test(nothing_is_kept_of_thousands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
