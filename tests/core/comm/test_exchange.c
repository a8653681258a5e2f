/* What the exchange has under way: a router with several micro-batches, and expert ranks that the test plays itself, on the in-process
 * transport. "Expert e" multiplies a row by e + 1, so that every sum is known. */
#include "core/comm/exchange.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/rng.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { RANKS = 2, E = 6, K = 2, D = 5, T_MAX = 7, LONG_US = 60000000, BATCHES = 4 };

/* One micro-batch at the router. */
typedef struct flight {
    um_exchange_key key;
    um_dispatch_plan plan;
    int T;
    int32_t experts[T_MAX * K];
    float x[T_MAX * D], weights[T_MAX * K], rows[T_MAX * K * D], y[T_MAX * D];
    float dslot[T_MAX * K * D], drows[T_MAX * K * D], dinput[T_MAX * K * D], dx[T_MAX * D];
} flight;

typedef struct fixture {
    um_comm *comm[1 + RANKS];
    um_link link[1 + RANKS];
    um_dev dev;
    um_arena arena;
    um_exchange *ex;
    flight f[BATCHES];
} fixture;

static fixture *at(void **state) { return *state; }

/* Every micro-batch has other rows and another size; the third sends nothing to the second rank. */
static void flight_make(fixture *t, int i)
{
    um_rng rng = um_rng_seed(5, (uint64_t)i);
    um_err err = {0};
    flight *f = &t->f[i];
    *f = (flight){.key = {.step = 7 + (uint64_t)i / 2, .layer = 3, .batch = (uint32_t)i % 2},
                  .T = i == 3 ? 1 : 3 + i};
    um_rng_normal_f32(&rng, f->x, T_MAX * D, 1.0f);
    um_rng_normal_f32(&rng, f->weights, T_MAX * K, 1.0f);
    for (int r = 0; r < f->T; r++) {
        f->experts[r * K] = i == 2 ? r % 3 : (int32_t)um_rng_below(&rng, E);
        f->experts[r * K + 1] = i == 2 ? UM_NO_EXPERT : (f->experts[r * K] + 1 + r) % E;
        if (f->experts[r * K + 1] == f->experts[r * K]) f->experts[r * K + 1] = UM_NO_EXPERT;
    }
    um_dispatch_plan_bind(&f->plan, &t->arena, &t->arena, T_MAX, K, RANKS);
    assert_int_equal(um_dispatch_plan_build(&f->plan, &t->comm[0]->topo.place, 3, f->experts, f->T,
                                            &t->dev, &t->arena, &err),
                     UM_OK);
}

static int setup(void **state)
{
    const um_role roles[] = {UM_ROLE_ROUTER, UM_ROLE_EXPERT, UM_ROLE_EXPERT};
    um_err err = {0};
    fixture *t = um_zalloc(sizeof *t);
    um_arena_init(&t->arena, "test", 1 << 16);
    assert_int_equal(um_comm_inproc_open(t->comm, roles, 1 + RANKS, &err), UM_OK);
    assert_int_equal(um_dev_open_cpu(&t->dev, UM_ISA_AUTO, 1, &err), UM_OK);
    for (int r = 0; r <= RANKS; r++) {
        assert_int_equal(um_placement_blocks(&t->comm[r]->topo.place, 1, E, RANKS, &t->arena, &err),
                         UM_OK);
        um_link_open(&t->link[r], t->comm[r]);
        assert_int_equal(
            um_link_agree(&t->link[r], UM_F32, UM_CODEC_NONE, 0, 1 << 20, 60000, 1, &err), UM_OK);
    }
    t->ex = um_exchange_open(&t->link[0], &t->dev, D);
    for (int i = 0; i < BATCHES; i++) flight_make(t, i);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    fixture *t = at(state);
    um_exchange_close(t->ex);
    for (int r = 0; r <= RANKS; r++) {
        um_link_close(&t->link[r]);
        um_comm_close(t->comm[r], UM_OK);
    }
    um_arena_free(&t->arena);
    um_free(t);
    return 0;
}

static void dispatch(fixture *t, int i)
{
    um_err err = {0};
    flight *f = &t->f[i];
    um_status st = um_exchange_dispatch(t->ex, &f->plan, f->rows, f->x, f->key, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* Expert rank r receives the next dispatch frame. */
static um_status frame_next(fixture *t, int r, um_dispatch_batch *b, um_err *err)
{
    um_inbound in = {0};
    um_status st = um_link_next(&t->link[r], &in, LONG_US, err);
    if (st == UM_OK)
        st = um_dispatch_batch_read(b, &t->link[r], &in, D, &t->dev, &t->arena, &t->arena, err);
    um_link_release(&t->link[r], &in);
    return st;
}

static um_status answer(fixture *t, int r, const um_dispatch_batch *b, um_err *err)
{
    float *y = um_arena_f32(&t->arena, (size_t)b->pairs, D);
    for (int p = 0; p < b->pairs; p++)
        for (int d = 0; d < D; d++)
            y[p * D + d] = b->x[b->pair_row[p] * D + d] * (float)(b->expert[p] + 1);
    return um_dispatch_batch_answer(&t->link[r], 0, b, y, &t->dev, &t->arena, err);
}

static um_dispatch_batch received(fixture *t, int r)
{
    um_dispatch_batch b = {0};
    um_err err = {0};
    if (frame_next(t, r, &b, &err) != UM_OK) fail_msg("%s", err.msg);
    return b;
}

static void answered(fixture *t, int r, const um_dispatch_batch *b)
{
    um_err err = {0};
    if (answer(t, r, b, &err) != UM_OK) fail_msg("%s", err.msg);
}

static void combined(fixture *t, int i)
{
    um_err err = {0};
    flight *f = &t->f[i];
    um_status st = um_exchange_combine(t->ex, f->y, f->weights, f->key, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    for (int r = 0; r < f->T; r++)
        for (int d = 0; d < D; d++) {
            float want = 0;
            for (int k = 0; k < K; k++)
                if (f->experts[r * K + k] != UM_NO_EXPERT)
                    want += f->weights[r * K + k] * f->x[r * D + d] *
                            (float)(f->experts[r * K + k] + 1);
            assert_float_equal(f->y[r * D + d], want, 1e-4f);
        }
}

/* Receives what is here, waiting for the first frame; what is no answer is kept for later. */
static um_status poll_for(fixture *t, int64_t timeout_us, um_err *err)
{
    um_inbound in = {0};
    um_status st;
    while ((st = um_link_next_any(&t->link[0], &in, timeout_us, err)) == UM_OK) {
        if (in.msg.data != NULL) um_link_defer(&t->link[0], &in);
        timeout_us = 0;
    }
    return st == UM_E_TIMEOUT ? UM_OK : st;
}

static bool here(const fixture *t, int i) { return um_exchange_answered(t->ex, t->f[i].key); }

/* Four micro-batches of two steps; the ranks answer in two different orders, the router combines in a third. */
static void answers_may_come_in_any_order(void **state)
{
    fixture *t = at(state);
    um_dispatch_batch b[1 + RANKS][BATCHES];
    const int order[1 + RANKS][BATCHES] = {{0}, {3, 1, 0, 2}, {2, 0, 3, 1}},
                        combine[BATCHES] = {1, 3, 2, 0};
    for (int i = 0; i < BATCHES; i++) dispatch(t, i);
    for (int r = 1; r <= RANKS; r++)
        for (int i = 0; i < BATCHES; i++) b[r][i] = received(t, r);
    for (int r = 1; r <= RANKS; r++)
        for (int i = 0; i < BATCHES; i++) answered(t, r, &b[r][order[r][i]]);
    for (int i = 0; i < BATCHES; i++) combined(t, combine[i]);
    assert_int_equal(um_exchange_repeats(t->ex), 0);
}

/* While one entry is waited for, answers of the other are taken in, and other frames are kept. */
static void waiting_for_one_takes_in_the_others(void **state)
{
    fixture *t = at(state);
    um_err err = {0};
    um_inbound in = {0};
    Um__Stats s = UM__STATS__INIT;
    dispatch(t, 0);
    dispatch(t, 1);
    um_dispatch_batch first[1 + RANKS], second[1 + RANKS];
    for (int r = 1; r <= RANKS; r++) {
        first[r] = received(t, r);
        second[r] = received(t, r);
    }
    for (int r = 1; r <= RANKS; r++) answered(t, r, &second[r]);
    assert_int_equal(um_link_control(&t->link[1], 0, UM_KIND_STATS, &s.base, &err), UM_OK);
    assert_false(here(t, 1));
    assert_int_equal(poll_for(t, 0, &err), UM_OK);
    assert_true(here(t, 1));
    assert_false(here(t, 0));
    assert_int_equal(poll_for(t, 0, &err), UM_OK); /* nothing there is no error */
    for (int r = 1; r <= RANKS; r++) answered(t, r, &first[r]);
    /* a receiver who knows nothing of the exchange takes them in too */
    assert_int_equal(um_link_next(&t->link[0], &in, 0, &err), UM_OK);
    assert_int_equal(in.frame.kind, UM_KIND_STATS);
    um_link_release(&t->link[0], &in);
    assert_int_equal(um_link_next(&t->link[0], &in, 0, &err), UM_E_TIMEOUT);
    assert_true(here(t, 0));
    combined(t, 0);
    combined(t, 1);
}

static void repeats_are_dropped_and_counted(void **state)
{
    fixture *t = at(state);
    um_err err = {0};
    dispatch(t, 0);
    dispatch(t, 1);
    um_dispatch_batch a = received(t, 1), b = received(t, 2);
    answered(t, 1, &a);
    answered(t, 1, &a); /* while its entry is still waited for */
    answered(t, 2, &b);
    combined(t, 0);
    assert_int_equal(um_exchange_repeats(t->ex), 1);
    answered(t, 2, &b); /* after its entry has ended */
    assert_int_equal(poll_for(t, LONG_US, &err), UM_OK);
    assert_int_equal(um_exchange_repeats(t->ex), 2);
    a = received(t, 1);
    b = received(t, 2);
    answered(t, 1, &a);
    answered(t, 2, &b);
    combined(t, 1);
}

static void poll_fails(fixture *t, const char *words)
{
    um_err err = {0};
    assert_int_equal(poll_for(t, LONG_US, &err), UM_E_CORRUPT);
    if (strstr(err.msg, words) == NULL) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
    assert_non_null(strstr(err.msg, "expert/1 (rank 2"));
}

static void answers_that_nobody_asked_for_are_refused(void **state)
{
    fixture *t = at(state);
    dispatch(t, 0);
    um_dispatch_batch b = received(t, 2), other = b;
    other.key.step++;
    answered(t, 2, &other);
    poll_fails(t, "was not dispatched");
    other = b;
    other.key.layer++;
    answered(t, 2, &other);
    poll_fails(t, "was not dispatched");
    other = b;
    other.key.batch++;
    answered(t, 2, &other);
    poll_fails(t, "was not dispatched");
    other = b;
    assert_true(other.pairs > 1);
    other.pairs--;
    answered(t, 2, &other);
    poll_fails(t, "rows x 5, want");
    um_dispatch_batch a = received(t, 1);
    answered(t, 1, &a);
    answered(t, 2, &b);
    combined(t, 0); /* none of them did harm */
}

/* --- credit --- */

/* The third micro-batch has nothing for the second rank. */
static void ranks_without_rows_get_no_frame(void **state)
{
    fixture *t = at(state);
    um_err err = {0};
    um_inbound in = {0};
    um_exchange_sparse(t->ex);
    dispatch(t, 2);
    um_dispatch_batch b = received(t, 1);
    answered(t, 1, &b);
    combined(t, 2);
    assert_int_equal(um_link_next(&t->link[2], &in, 0, &err), UM_E_TIMEOUT);
    dispatch(t, 1); /* one that has rows for both */
    for (int r = 1; r <= RANKS; r++) {
        b = received(t, r);
        answered(t, r, &b);
    }
    combined(t, 1);
}

static void *experts_main(void *p)
{
    fixture *t = p;
    um_err err = {0};
    for (int i = 0; i < BATCHES; i++)
        for (int r = 1; r <= RANKS; r++) {
            um_dispatch_batch b;
            if (frame_next(t, r, &b, &err) != UM_OK || answer(t, r, &b, &err) != UM_OK) return t;
        }
    return NULL;
}

static void *dispatch_main(void *p)
{
    dispatch(p, 1);
    return NULL;
}

/* The credit holds one of the two micro-batches: the second is not sent before the answer to the first has been taken in. */
static void a_dispatch_waits_for_credit(void **state)
{
    fixture *t = at(state);
    pthread_t thread;
    um_err err = {0};
    um_inbound in = {0};
    int most = 0;
    for (int i = 0; i < 2; i++)
        for (int p = 0; p < RANKS; p++)
            if (t->f[i].plan.pairs_n[p] > most) most = t->f[i].plan.pairs_n[p];
    for (int r = 0; r <= RANKS; r++) t->link[r].credit = (uint64_t)most * D * 4;
    dispatch(t, 0);
    um_dispatch_batch a = received(t, 1), b = received(t, 2);
    assert_int_equal(pthread_create(&thread, NULL, dispatch_main, t), 0);
    assert_int_equal(um_link_next(&t->link[1], &in, 100000, &err), UM_E_TIMEOUT);
    answered(t, 1, &a);
    a = received(t, 1);
    answered(t, 2, &b);
    b = received(t, 2);
    pthread_join(thread, NULL);
    answered(t, 1, &a);
    answered(t, 2, &b);
    combined(t, 1);
    combined(t, 0);
}

/* The largest fits and no two do; all four come through: they wait for one another's answers, whatever is combined first. */
static void little_credit_does_not_block(void **state)
{
    fixture *t = at(state);
    pthread_t thread;
    void *wrong = NULL;
    for (int r = 0; r <= RANKS; r++) t->link[r].credit = T_MAX * D * 4;
    assert_int_equal(pthread_create(&thread, NULL, experts_main, t), 0);
    for (int i = 0; i < BATCHES; i++) dispatch(t, i);
    for (int i = BATCHES - 1; i >= 0; i--) combined(t, i);
    pthread_join(thread, &wrong);
    assert_null(wrong);
}

/* Rank 2 swallows the second of three micro-batches and answers the others; rank 1 answers all. */
static void the_micro_batch_that_is_owed_is_named(void **state)
{
    fixture *t = at(state);
    um_err err = {0};
    char words[96];
    um_link_stall(&t->link[0], 300);
    for (int i = 0; i < 3; i++) dispatch(t, i);
    for (int i = 0; i < 3; i++) {
        um_dispatch_batch a = received(t, 1), b = received(t, 2);
        answered(t, 1, &a);
        if (i != 1) answered(t, 2, &b);
    }
    combined(t, 0);
    combined(t, 2);
    assert_int_equal(poll_for(t, LONG_US, &err), UM_E_PEER);
    snprintf(words, sizeof words, "has owed the combine frame of step %d, layer 3, micro-batch 1",
             (int)t->f[1].key.step);
    if (strstr(err.msg, "expert/1 (rank 2, host ") != err.msg || strstr(err.msg, words) == NULL)
        fail_msg("%s", err.msg);
    assert_int_equal(um_exchange_combine(t->ex, t->f[1].y, t->f[1].weights, t->f[1].key, &err),
                     UM_E_PEER);
}

/* --- backward --- */

/* The gradient of every slot's row, in the plan's order of pairs. */
static void dispatch_back(fixture *t, int i)
{
    um_rng rng = um_rng_seed(6, (uint64_t)i);
    um_err err = {0};
    flight *f = &t->f[i];
    um_rng_normal_f32(&rng, f->dslot, T_MAX * K * D, 1.0f);
    um_rng_normal_f32(&rng, f->dx, T_MAX * D, 1.0f);
    for (int s = 0; s < f->T * K; s++)
        if (f->plan.slot[s] >= 0)
            memcpy(f->drows + f->plan.slot[s] * D, f->dslot + s * D, D * sizeof(float));
    um_status st = um_exchange_dispatch_grad(t->ex, &f->plan, f->dinput, f->drows, f->key, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* Expert rank r receives a gradient, of the pairs that it was sent, and answers it: backward of "times e + 1". again: twice. */
static void answered_back(fixture *t, int r, const um_dispatch_batch *b, bool again)
{
    um_inbound in = {0};
    um_err err = {0};
    float *dy = um_arena_f32(&t->arena, (size_t)b->pairs, D);
    um_status st = um_link_next(&t->link[r], &in, LONG_US, &err);
    if (st == UM_OK && in.frame.kind != UM_KIND_DISPATCH_GRAD) fail_msg("another kind");
    if (st == UM_OK)
        st = um_dispatch_grad_read(dy, b->pairs, &t->link[r], &in, D, &t->dev, &t->arena, &err);
    um_link_release(&t->link[r], &in);
    for (int p = 0; p < b->pairs; p++)
        for (int d = 0; d < D; d++) dy[p * D + d] *= (float)(b->expert[p] + 1);
    for (int n = 0; st == UM_OK && n <= again; n++)
        st = um_dispatch_grad_answer(&t->link[r], 0, b->key, dy, b->pairs, D, &t->dev, &t->arena,
                                     &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
}

/* dx += the sums over the slots, in slot order: these very bits. */
static void combined_back(fixture *t, int i)
{
    flight *f = &t->f[i];
    um_err err = {0};
    float want[T_MAX * D];
    for (int r = 0; r < f->T; r++)
        for (int d = 0; d < D; d++) {
            float sum = 0;
            for (int k = 0; k < K; k++)
                if (f->experts[r * K + k] != UM_NO_EXPERT)
                    sum += f->dslot[(r * K + k) * D + d] * (float)(f->experts[r * K + k] + 1);
            want[r * D + d] = f->dx[r * D + d] + sum;
        }
    um_status st = um_exchange_combine_grad(t->ex, f->dx, f->key, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_memory_equal(f->dx, want, (size_t)(f->T * D) * sizeof(float));
}

/* Forward of all four, then backward from the last to the first while the next forward is under way; both have the same keys. */
static void gradients_go_the_same_way_back(void **state)
{
    fixture *t = at(state);
    um_dispatch_batch b[1 + RANKS][BATCHES];
    for (int i = 0; i < BATCHES; i++) dispatch(t, i);
    for (int r = 1; r <= RANKS; r++)
        for (int i = 0; i < BATCHES; i++) {
            b[r][i] = received(t, r);
            answered(t, r, &b[r][i]);
        }
    for (int i = 0; i < BATCHES; i++) combined(t, i);
    for (int i = BATCHES - 1; i >= 0; i--) dispatch_back(t, i);
    dispatch(t, 0); /* another pass of the same name, forward */
    for (int r = 1; r <= RANKS; r++)
        for (int i = BATCHES - 1; i >= 0; i--) answered_back(t, r, &b[r][i], i == 2);
    for (int r = 1; r <= RANKS; r++) {
        b[r][0] = received(t, r);
        answered(t, r, &b[r][0]);
    }
    for (int i = 0; i < BATCHES; i++) combined_back(t, i);
    combined(t, 0);
    assert_int_equal(um_exchange_repeats(t->ex), RANKS);
    assert_false(um_exchange_answered_grad(t->ex, t->f[0].key));
}

/* A gradient is refused when it was not dispatched, or has other rows; and the one that is owed is named. */
static void gradients_are_checked(void **state)
{
    fixture *t = at(state);
    um_err err = {0};
    um_dispatch_batch a, b;
    float none[T_MAX * K * D] = {0};
    dispatch(t, 0);
    a = received(t, 1);
    b = received(t, 2);
    assert_int_equal(
        um_dispatch_grad_answer(&t->link[2], 0, b.key, none, b.pairs, D, &t->dev, &t->arena, &err),
        UM_OK);
    poll_fails(t, "combine-grad frame of expert/1 (rank 2, host ");
    answered(t, 1, &a);
    answered(t, 2, &b);
    combined(t, 0);
    um_link_stall(&t->link[0], 300);
    dispatch_back(t, 0);
    assert_int_equal(um_dispatch_grad_answer(&t->link[2], 0, b.key, none, b.pairs + 1, D, &t->dev,
                                             &t->arena, &err),
                     UM_OK);
    poll_fails(t, "combine-grad frame of expert/1");
    answered_back(t, 1, &a, false);
    assert_int_equal(um_exchange_combine_grad(t->ex, t->f[0].dx, t->f[0].key, &err), UM_E_PEER);
    if (strstr(err.msg, "expert/1 (rank 2, host ") != err.msg ||
        strstr(err.msg, "has owed the combine-grad frame of step 7, layer 3") == NULL)
        fail_msg("%s", err.msg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers_may_come_in_any_order, setup, teardown),
        cmocka_unit_test_setup_teardown(waiting_for_one_takes_in_the_others, setup, teardown),
        cmocka_unit_test_setup_teardown(repeats_are_dropped_and_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(ranks_without_rows_get_no_frame, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_that_nobody_asked_for_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_dispatch_waits_for_credit, setup, teardown),
        cmocka_unit_test_setup_teardown(the_micro_batch_that_is_owed_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(little_credit_does_not_block, setup, teardown),
        cmocka_unit_test_setup_teardown(gradients_go_the_same_way_back, setup, teardown),
        cmocka_unit_test_setup_teardown(gradients_are_checked, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
