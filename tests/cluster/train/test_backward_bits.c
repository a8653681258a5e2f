/* The bits of the backward pass: the same when activations are computed again, when another micro-batch goes forward between its stops, and
 * for any number of expert ranks and threads. */
#include "tests/cluster/train/backward_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "tests/support/dynamic_layer.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include <string.h>

static float *gradients(work *w, size_t *n)
{
    um_params_zero_grads(&w->base.params);
    work_pass(w, true);
    return work_gradients(w, &w->batch, n);
}

static void recompute_body(work *w)
{
    size_t n, again;
    w->aux = (um_aux){.coef = {[UM_AUX_BALANCE] = 0.05f, [UM_AUX_Z] = 0.01f}};
    work_samples(w);
    const float *kept = gradients(w, &n);
    for (int how = UM_RECOMPUTE_FFN; how <= UM_RECOMPUTE_LAYER; how++) {
        w->batch.setup.recompute = (um_recompute)how;
        if (w->trains == WORK_ADAPTERS) w->number = 0; /* the same is dropped */
        const float *g = gradients(w, &again);
        assert_int_equal(n, again);
        assert_memory_equal(kept, g, n * sizeof *g);
    }
}

static void computed_again(void **state)
{
    (void)state;
    um_err err = {0};
    char *dynamic = um_arena_fmt(&arena, "%s/dynamic", dir);
    work_ok(um_file_mkdirs(dynamic, &err), &err);
    dynamic_model_make(dynamic, "p07", &arena);
    work_run(work_dense_model("false"), WORK_ADAPTERS, 0, 1, recompute_body);
    work_run(golden_path(&arena, "models/s8fm"), WORK_ALL, 2, 1, recompute_body);
    work_run(golden_path(&arena, "models/a4"), WORK_ALL, 2, 1, recompute_body);
    work_run(dynamic, WORK_ALL, 1, 1, recompute_body);
}

/* --- two in flight --- */

static void forward(um_micro_batch *m)
{
    um_err err = {0};
    while (!um_pass_done(&m->pass)) work_ok(um_pass_run(&m->pass, &err), &err);
}

static void loss(work *w, um_micro_batch *m)
{
    um_err err = {0};
    um_loss l;
    um_params_zero_grads(&w->base.params);
    work_ok(um_loss_run(&l, m, true, false, &w->host, &err), &err);
}

/* Backward of m, with a piece of `other`'s forward between its stops, unless it is NULL. */
static float *backward(work *w, um_micro_batch *m, um_micro_batch *other, size_t *n)
{
    um_err err = {0};
    loss(w, m);
    while (!um_backward_done(&m->backward)) {
        work_ok(um_backward_run(&m->backward, &err), &err);
        if (other != NULL && !um_pass_done(&other->pass))
            work_ok(um_pass_run(&other->pass, &err), &err);
    }
    work_ok(um_micro_batch_finish(m, &err), &err);
    return work_gradients(w, m, n);
}

static void flight_body(work *w)
{
    um_err err = {0};
    um_micro_batch second;
    size_t n[2], now[2];
    const float *want[2], *got[2];
    um_micro_batch_open(&second, &w->setup);
    work_samples(w);
    for (uint32_t step = 1; step <= 2; step++) {
        const uint32_t b = 2 * (step - 1); /* numbers are used once */
        work_ok(um_micro_batch_build(&w->batch, w->sample, 2, false, 1, b, &err), &err);
        work_ok(um_micro_batch_build(&second, w->sample + 1, 2, false, 1, b + 1, &err), &err);
        forward(&w->batch);
        if (step == 1) {
            want[0] = backward(w, &w->batch, NULL, &n[0]);
            forward(&second);
            want[1] = backward(w, &second, NULL, &n[1]);
            continue;
        }
        got[0] = backward(w, &w->batch, &second, &now[0]);
        forward(&second);
        got[1] = backward(w, &second, NULL, &now[1]);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(n[i], now[i]);
        assert_memory_equal(want[i], got[i], n[i] * sizeof(float));
    }
    um_micro_batch_close(&second);
}

static void two_in_flight(void **state)
{
    (void)state;
    work_run(golden_path(&arena, "models/s4"), WORK_ALL, 2, 1, flight_body);
}

/* --- ranks and threads --- */

static float *first;
static size_t first_n;

static void ranks_body(work *w)
{
    size_t n;
    w->aux = (um_aux){.coef = {[UM_AUX_BALANCE] = 0.05f, [UM_AUX_Z] = 0.01f, [UM_AUX_KL] = 0.1f}};
    work_samples(w);
    const float *g = gradients(w, &n);
    if (first == NULL) {
        first_n = n;
        first = um_arena_f32(&arena, 1, n);
        memcpy(first, g, n * sizeof *g);
    }
    assert_int_equal(n, first_n);
    assert_memory_equal(g, first, n * sizeof *g);
}

static void any_ranks_and_threads(void **state)
{
    (void)state;
    const int experts[] = {1, 2, 3, 8}, threads[] = {1, 2, 3, 1};
    for (int i = 0; i < 4; i++)
        work_run(golden_path(&arena, "models/s8fm"), WORK_ALL, experts[i], threads[i], ranks_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(computed_again),
        cmocka_unit_test(two_in_flight),
        cmocka_unit_test(any_ranks_and_threads),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
