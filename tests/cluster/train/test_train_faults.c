/* What goes wrong between the ranks of a job that trains: frames that come twice change nothing; one that is lost, a rank that falls silent
 * in the middle of a step and one that ends are named; damaged frames never change what is learnt without a word. */
#include "core/base/arena.h"
#include "proto/frame.h"
#include "tests/cluster/train/train_job.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

typedef enum fault_kind { TWICE, LOSE, FLIP, MUTE } fault_kind;

typedef struct fault {
    fault_kind kind;
    um_kind frame; /* 0: all */
    int from;      /* rank that sends it, -1: any */
    int nth;       /* which of them, -1: every */
    _Atomic int seen, done;
} fault;

static int inject(void *ctx, int from, int to, um_msg *msg)
{
    fault *f = ctx;
    (void)to;
    const bool mute = f->kind == MUTE && f->done && from == f->from;
    if (msg == NULL || mute) return !mute; /* msg NULL: a beat */
    const um_kind kind = msg->size >= UM_FRAME_HEADER ? (um_kind)msg->data[6] : UM_KINDS;
    if ((f->frame != 0 && kind != f->frame) || (f->from >= 0 && from != f->from)) return 1;
    const int n = atomic_fetch_add(&f->seen, 1);
    if (f->nth >= 0 && n != f->nth) return 1;
    f->done = 1;
    if (f->kind == FLIP) msg->data[((size_t)f->nth * 7919) % msg->size] ^= 0x10;
    return f->kind == TWICE ? 2 : f->kind == FLIP ? 1 : 0;
}

static um_arena arena_of_test;
static train_job want; /* what two routers and two expert ranks learn, undisturbed */

enum { ROUTERS = 2, EXPERTS = 2 };

static int setup(void **state)
{
    (void)state;
    um_arena_init(&arena_of_test, "test", 4096);
    train_job_open(&want, "s4", ROUTERS, EXPERTS, &arena_of_test);
    return train_job_run(&want) == UM_OK ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    train_job_close(&want);
    um_arena_free(&arena_of_test);
    return 0;
}

/* Runs the job with a fault; text receives the messages of those ranks that report one. */
static um_status run_with(train_job *j, fault *f, int64_t deadline_ms, int64_t stall_ms,
                          char text[4096])
{
    train_job_open(j, "s4", ROUTERS, EXPERTS, &arena_of_test);
    j->c.fault = inject;
    j->c.fault_ctx = f;
    j->c.cfg.deadline_ms = deadline_ms;
    j->c.cfg.stall_ms = stall_ms;
    um_status st = train_job_run(j);
    text[0] = '\0';
    for (int r = 0; r < j->c.ranks; r++)
        if (j->c.status[r] != UM_OK && !j->c.follows[r])
            snprintf(text + strlen(text), 4096 - strlen(text), "%s\n", j->c.err[r].msg);
    return st;
}

static void learnt_the_same(const train_job *got)
{
    for (int i = 0; i < want.n; i++) {
        const train_result *x = &want.result[i], *y = train_job_get(got, x->name);
        if (y == NULL || x->n != y->n || memcmp(x->value, y->value, x->n * sizeof(float)) != 0)
            fail_msg("%s", x->name);
    }
}

/* Every frame of a kind comes twice: answers are repeated and dropped, gradients are added once. */
static void frames_that_come_twice_change_nothing(void **state)
{
    const um_kind kinds[] = {UM_KIND_DISPATCH, UM_KIND_COMBINE, UM_KIND_DISPATCH_GRAD,
                             UM_KIND_COMBINE_GRAD};
    char text[4096];
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        train_job got;
        fault f = {.kind = TWICE, .frame = kinds[i], .from = -1, .nth = -1};
        if (run_with(&got, &f, 20000, 600000, text) != UM_OK)
            fail_msg("%s: %s", um_kind_name(kinds[i]), text);
        learnt_the_same(&got);
        assert_true(got.repeats > 0);
        train_job_close(&got);
    }
}

static void fails_with(fault f, int64_t deadline_ms, int64_t stall_ms, const char *const *words,
                       int n)
{
    train_job got;
    char text[4096];
    assert_int_not_equal(run_with(&got, &f, deadline_ms, stall_ms, text), UM_OK);
    for (int i = 0; i < n; i++)
        if (strstr(text, words[i]) == NULL) fail_msg("\"%s\" does not say \"%s\"", text, words[i]);
    train_job_close(&got);
}

static void what_is_lost_is_named(void **state)
{
    (void)state;
    const char *gradient[] = {"expert/1 (rank 3, host ", "has owed the combine-grad frame of step",
                              "though it is alive"},
               *given[] = {"has owed the combine-grad frame of step 1"},
               *norms[] = {"expert/0 (rank 2, host ", "has owed \"norms\" of step 1"},
               *done[] = {"router/1 (rank 1, host ", "has owed \"done\" of step 1"},
               *saved[] = {"expert/1 (rank 3, host ", "has owed \"saved\" of step 2"},
               *last[] = {"reduce frame of router/1 (rank 1", "values of step 1 have come"},
               *sums[] = {"router/", "has owed the sums of gradients of step 1"};
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_COMBINE_GRAD, .from = 3, .nth = 1}, 20000,
               400, gradient, 3);
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_DISPATCH_GRAD, .from = 1, .nth = 3}, 20000,
               400, given, 1);
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_STEP_END, .from = 2, .nth = 0}, 20000, 400,
               norms, 2);
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_STEP_END, .from = 1, .nth = 0}, 20000, 400,
               done, 2);
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_STEP_END, .from = 3, .nth = 2}, 20000, 400,
               saved, 2);
    /* three nodes and the end */
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_REDUCE, .from = 1, .nth = 0}, 20000, 400,
               last, 2);
    fails_with((fault){.kind = LOSE, .frame = UM_KIND_REDUCE, .from = 1, .nth = 3}, 20000, 400,
               sums, 2);
}

/* As a stopped process: no frame and no beat of it arrives any more. */
static void a_rank_that_falls_silent_in_a_step_is_named(void **state)
{
    (void)state;
    const struct {
        fault f;
        const char *who;
    } cases[] = {
        {{.kind = MUTE, .frame = UM_KIND_COMBINE_GRAD, .from = 3, .nth = 4}, "expert/1 (rank 3"},
        {{.kind = MUTE, .frame = UM_KIND_STEP_END, .from = 2, .nth = 0}, "expert/0 (rank 2"},
        {{.kind = MUTE, .frame = UM_KIND_REDUCE, .from = 1, .nth = 1}, "router/1 (rank 1"},
        {{.kind = MUTE, .frame = UM_KIND_DISPATCH_GRAD, .from = 1, .nth = 2}, "router/1 (rank 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *words[] = {cases[i].who, "is silent: no sign of life"};
        fails_with(cases[i].f, 700, 600000, words, 2);
    }
}

/* A damaged frame ends the job with a message that names a rank; a job that ends well has learnt the same. */
static void damage_is_never_learnt(void **state)
{
    char text[4096];
    (void)state;
    for (int nth = 20;; nth += 23) {
        train_job got;
        fault f = {.kind = FLIP, .from = -1, .nth = nth};
        um_status st = run_with(&got, &f, 20000, 600000, text);
        if (st != UM_OK && strstr(text, "rank ") == NULL) fail_msg("nth %d: \"%s\"", nth, text);
        if (st == UM_OK) learnt_the_same(&got);
        const bool over = !f.done;
        train_job_close(&got);
        if (over) break;
    }
}

/* One that fails in the middle of a step says why, once, and no rank waits for it. */
static void a_rank_that_fails_in_a_step_ends_the_job(void **state)
{
    const int after[] = {1, 7, 16, 19, 33};
    (void)state;
    for (size_t i = 0; i < sizeof after / sizeof *after; i++) {
        train_job got;
        int reports = 0;
        train_job_open(&got, "s4", ROUTERS, EXPERTS, &arena_of_test);
        got.fails_after = after[i];
        assert_int_not_equal(train_job_run(&got), UM_OK);
        for (int r = 0; r < got.c.ranks; r++) {
            assert_int_not_equal(got.c.status[r], UM_OK);
            if (got.c.follows[r]) continue;
            if (strstr(got.c.err[r].msg, "its memory is on fire") == NULL)
                fail_msg("rank %d: %s", r, got.c.err[r].msg);
            reports++;
        }
        assert_int_equal(reports, 1);
        train_job_close(&got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_that_come_twice_change_nothing),
        cmocka_unit_test(what_is_lost_is_named),
        cmocka_unit_test(a_rank_that_falls_silent_in_a_step_is_named),
        cmocka_unit_test(damage_is_never_learnt),
        cmocka_unit_test(a_rank_that_fails_in_a_step_ends_the_job),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
