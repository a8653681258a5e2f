/* The order of samples: every sample as often as its file's weight says, one combination of media a step, nothing dropped, and the same
 * from any cursor. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/text.h"
#include "router/data/order.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static um_model model;

static int setup(void **state)
{
    um_err err = {0};
    folder_setup(state);
    if (um_model_read(&model, golden_path(&arena, "models/s4"), NULL, &arena, &err) != UM_OK)
        fail_msg("%s", err.msg);
    return 0;
}

/* One file with n[k] samples of each of the first four combinations (text, image, speech, both), in turn, of various lengths. */
static const char *file_make(const char *name, const int n[4])
{
    um_text t = {0};
    int left[4] = {n[0], n[1], n[2], n[3]};
    for (int i = 0; left[0] + left[1] + left[2] + left[3] > 0; i++) {
        int k = i % 4;
        if (left[k] == 0) continue;
        left[k]--;
        um_text_fmt(&t,
                    "{\"conversations\":[{\"from\":\"human\",\"value\":\"%s%sq\"},{\"from\":"
                    "\"gpt\",\"value\":\"a\"}],\"tokens\":%d",
                    k & 1 ? "<image>" : "", k & 2 ? "<audio>" : "", 10 + i * 37 % 101);
        um_text_fmt(&t, "%s%s}\n", k & 1 ? ",\"image\":\"a.png\"" : "",
                    k & 2 ? ",\"voice\":\"a.wav\"" : "");
    }
    folder_write(dir, name, t.s, t.n);
    um_text_free(&t);
    return um_arena_fmt(&arena, "%s/%s", dir, name);
}

static um_dataset *data_open(const um_data_file *files, int n)
{
    um_dataset *ds = NULL;
    um_err err = {0};
    um_dataset_how how = {.maker = {&model, NULL, 2048}};
    if (um_dataset_open(&ds, files, n, &how, &err) != UM_OK) fail_msg("%s", err.msg);
    return ds;
}

static um_order *order_open(const um_dataset *ds, const um_order_how *how)
{
    um_order *o = NULL;
    um_err err = {0};
    if (um_order_open(&o, ds, how, &err) != UM_OK) fail_msg("%s", err.msg);
    return o;
}

static const um_order_how usual = {
    .seed = 7, .batch = 8, .micro = 3, .by_kinds = true, .by_length = true, .shuffle = true};

static void step_is_sound(const um_dataset *ds, const um_order_step *s, const um_order_how *how)
{
    assert_in_range(s->n, 1, how->batch);
    assert_int_equal(s->n_micro, (s->n + how->micro - 1) / how->micro);
    assert_int_equal(s->first[0], 0);
    assert_int_equal(s->first[s->n_micro], s->n);
    for (int b = 0; b < s->n_micro; b++)
        assert_in_range(s->first[b + 1] - s->first[b], s->n / s->n_micro, how->micro);
    for (int i = 0; i < s->n && how->by_kinds; i++)
        assert_int_equal(um_dataset_entry(ds, s->samples[i])->kinds, s->kinds);
}

/* Adds to seen[] the samples of one epoch, and returns its steps. */
static int64_t epoch_walk(um_order *o, const um_dataset *ds, const um_order_how *how, int64_t epoch,
                          int *seen)
{
    um_order_cursor at = {epoch, 0};
    int64_t steps = um_order_steps(o, epoch), samples = um_order_samples(o, epoch);
    for (int64_t k = 0; k < steps; k++) {
        um_order_step s;
        um_order_next(o, &s, &at);
        assert_int_equal(s.cursor.epoch, epoch);
        assert_int_equal(s.cursor.step, k);
        step_is_sound(ds, &s, how);
        for (int i = 0; i < s.n; i++) seen[s.samples[i]]++;
        samples -= s.n;
    }
    assert_int_equal(samples, 0);
    return steps;
}

/* Each sample once an epoch; what is left over of a combination is a smaller step. */
static void test_epoch(void **state)
{
    (void)state;
    const int n[4] = {20, 9, 1, 16};
    um_data_file file = {file_make("epoch.jsonl", n), 1};
    um_dataset *ds = data_open(&file, 1);
    um_order *o = order_open(ds, &usual);
    int seen[46] = {0};
    assert_int_equal(epoch_walk(o, ds, &usual, 0, seen), 3 + 2 + 1 + 2);
    for (int i = 0; i < 46; i++) assert_int_equal(seen[i], 1);
    assert_int_equal(epoch_walk(o, ds, &usual, 5, seen), 8);
    for (int i = 0; i < 46; i++) assert_int_equal(seen[i], 2);
    assert_int_equal(um_order_total(o, 2.5), 20);
    assert_int_equal(um_order_total(o, 0), 0);
    um_order_close(o);
    um_order_how mixed = usual;
    mixed.by_kinds = false;
    o = order_open(ds, &mixed);
    assert_int_equal(epoch_walk(o, ds, &mixed, 0, seen), 6);
    um_order_close(o);
    um_dataset_close(ds);
}

static void step_text(um_text *out, const um_order_step *s)
{
    um_text_fmt(out, "%lld.%lld %u:", (long long)s->cursor.epoch, (long long)s->cursor.step,
                s->kinds);
    for (int b = 0; b < s->n_micro; b++) {
        for (int i = s->first[b]; i < s->first[b + 1]; i++) um_text_fmt(out, " %u", s->samples[i]);
        um_text_fmt(out, " /");
    }
    um_text_fmt(out, "\n");
}

/* The order from a cursor is the same whatever came before, and each epoch and each seed has another. */
static void test_resume(void **state)
{
    (void)state;
    const int n[4] = {30, 17, 11, 5};
    um_data_file files[2] = {{file_make("r1.jsonl", n), 1}, {file_make("r2.jsonl", n), 0.3}};
    um_dataset *ds = data_open(files, 2);
    um_order *o = order_open(ds, &usual);
    um_text whole[40] = {{0}};
    um_order_cursor at = {0, 0}, before[40];
    for (int k = 0; k < 40; k++) {
        um_order_step s;
        before[k] = at;
        um_order_next(o, &s, &at);
        step_text(&whole[k], &s);
    }
    assert_true(at.epoch >= 2);
    for (int k = 39; k >= 0; k -= 7) {
        um_order *other = order_open(ds, &usual);
        um_order_step s;
        um_text now = {0};
        at = before[k];
        um_order_next(other, &s, &at);
        step_text(&now, &s);
        assert_string_equal(now.s, whole[k].s);
        um_text_free(&now);
        um_order_close(other);
    }
    um_order_how seeded = usual;
    seeded.seed++;
    um_order *other = order_open(ds, &seeded);
    um_order_step s;
    um_text now = {0};
    at = (um_order_cursor){0, 0};
    um_order_next(other, &s, &at);
    step_text(&now, &s);
    assert_string_not_equal(now.s, whole[0].s);
    um_text_free(&now);
    um_order_close(other);
    for (int k = 0; k < 40; k++) um_text_free(&whole[k]);
    um_order_close(o);
    um_dataset_close(ds);
}

/* A fraction of a weight goes to other samples each epoch, and to each in turn. */
static void test_weights(void **state)
{
    (void)state;
    const int n[4] = {40, 0, 0, 0};
    static const double weights[] = {1, 2, 2.5, 0.25, 0.1, 1.0 / 3};
    const char *path = file_make("w.jsonl", n);
    for (size_t w = 0; w < sizeof weights / sizeof *weights; w++) {
        um_data_file files[2] = {{path, weights[w]}, {path, 1}};
        um_dataset *ds = data_open(files, 2);
        um_order *o = order_open(ds, &usual);
        int seen[80] = {0}, least = 1000, most = 0;
        for (int64_t e = 0; e < 20; e++) {
            int64_t per = um_order_samples(o, e) - 40;
            if (fabs((double)per - 40 * weights[w]) > 1)
                fail_msg("%lld of weight %g", (long long)per, weights[w]);
            epoch_walk(o, ds, &usual, e, seen);
        }
        for (int i = 0; i < 40; i++) {
            least = seen[i] < least ? seen[i] : least;
            most = seen[i] > most ? seen[i] : most;
            assert_int_equal(seen[40 + i], 20);
        }
        if (most - least > 1) fail_msg("weight %g: seen %d to %d times", weights[w], least, most);
        assert_in_range((int)(20 * weights[w]), least, most);
        um_order_close(o);
        um_dataset_close(ds);
    }
}

/* A weight so small that epochs are empty: the order goes to the next that is not. */
static void test_empty_epochs(void **state)
{
    (void)state;
    const int n[4] = {1, 0, 0, 0};
    um_data_file file = {file_make("e.jsonl", n), 0.125};
    um_dataset *ds = data_open(&file, 1);
    um_order *o = order_open(ds, &usual);
    um_order_cursor at = {0, 0};
    um_order_step s;
    um_order_next(o, &s, &at);
    int64_t first = s.cursor.epoch;
    um_order_next(o, &s, &at);
    assert_int_equal(s.cursor.epoch, first + 8);
    assert_int_equal(um_order_total(o, 16), 2);
    um_order_close(o);
    um_dataset_close(ds);
}

static int64_t length_of(const um_dataset *ds, const um_order_step *s, int from, int to)
{
    int64_t sum = 0;
    for (int i = from; i < to; i++) sum += um_dataset_entry(ds, s->samples[i])->length;
    return sum;
}

/* Steps hold samples of similar length, and micro-batches similar sums. */
static void test_lengths(void **state)
{
    (void)state;
    const int n[4] = {400, 0, 0, 0};
    um_data_file file = {file_make("l.jsonl", n), 1};
    um_dataset *ds = data_open(&file, 1);
    int64_t spread[2] = {0, 0};
    for (int sorted = 0; sorted < 2; sorted++) {
        um_order_how how = usual;
        how.by_length = sorted == 1;
        how.micro = 2;
        um_order *o = order_open(ds, &how);
        um_order_cursor at = {0, 0};
        for (int64_t k = um_order_steps(o, 0); k > 0; k--) {
            um_order_step s;
            um_order_next(o, &s, &at);
            int64_t low = INT64_MAX, high = 0;
            for (int i = 0; i < s.n; i++) {
                int64_t one = length_of(ds, &s, i, i + 1);
                low = one < low ? one : low;
                high = one > high ? one : high;
            }
            spread[sorted] += high - low;
            for (int b = 0; sorted && b < s.n_micro; b++)
                assert_true(llabs(length_of(ds, &s, s.first[b], s.first[b + 1]) * s.n_micro -
                                  length_of(ds, &s, 0, s.n)) <= (high - low) * s.n);
        }
        um_order_close(o);
    }
    assert_true(spread[1] * 5 < spread[0]);
    um_dataset_close(ds);
}

/* For evaluation: the files' own order, whatever the weights. */
static void test_unshuffled(void **state)
{
    (void)state;
    const int n[4] = {5, 6, 0, 0};
    um_data_file file = {file_make("u.jsonl", n), 3};
    um_dataset *ds = data_open(&file, 1);
    um_order *o = order_open(ds, &(um_order_how){.batch = 4, .micro = 3});
    um_order_cursor at = {0, 0};
    uint32_t want = 0;
    for (int64_t k = um_order_steps(o, 0); k > 0; k--) {
        um_order_step s;
        um_order_next(o, &s, &at);
        for (int i = 0; i < s.n; i++) assert_int_equal(s.samples[i], want++);
    }
    assert_int_equal(want, 11);
    um_order_close(o);
    um_dataset_close(ds);
}

static void test_refused(void **state)
{
    (void)state;
    const int n[4] = {1, 0, 0, 0};
    um_data_file file = {file_make("x.jsonl", n), 1};
    um_dataset *ds = data_open(&file, 1);
    um_order *o = NULL;
    um_err err = {0};
    um_order_how how = usual;
    how.micro = 9;
    assert_int_equal(um_order_open(&o, ds, &how, &err), UM_E_USAGE);
    has(&err, "micro-batches of 9 samples, allowed 1..8");
    how.batch = 0;
    assert_int_equal(um_order_open(&o, ds, &how, &err), UM_E_USAGE);
    um_dataset_close(ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epoch),   cmocka_unit_test(test_resume),
        cmocka_unit_test(test_weights), cmocka_unit_test(test_empty_epochs),
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_unshuffled),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, setup, folder_teardown);
}
