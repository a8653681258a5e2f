/* Frames that an expert rank of a job that trains gets out of turn: those of a later step wait until the step before has changed the
 * weights; what does not fit is refused by name; what would take too much memory says which option bounds it. The routers here are
 * scripts. */
#include "core/base/arena.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "core/train/step_message.h"
#include "tests/cluster/train/train_job.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { LONG_US = 60000000, SHORT_US = 100000 };

struct actor;

typedef struct stage {
    train_job j;
    um_status (*script)(struct actor *a, um_err *err);
    pthread_barrier_t barrier;
} stage;

/* A router of a script: it sends rows of one layer, and reads what comes. */
typedef struct actor {
    um_role_base base;
    stage *stage;
    int index, expert; /* expert: rank of the only expert rank */
} actor;

typedef um_status (*script_fn)(actor *a, um_err *err);

/* Waits for the other router. */
static void together(actor *a) { pthread_barrier_wait(&a->stage->barrier); }

static um_status router_run(void *ctx, const um_config *cfg, um_comm *comm, um_err *err)
{
    stage *s = ctx;
    actor a = {.stage = s,
               .index = comm->topo.ranks[comm->rank].index,
               .expert = comm->topo.of_role[UM_ROLE_EXPERT][0]};
    um_status st = um_role_begin(&a.base, cfg, comm, err);
    if (st == UM_OK) st = um_role_join(&a.base, err);
    if (st == UM_OK)
        st = a.index == 0 ? um_join_all_ready(&a.base.link, err)
                          : um_join_ready(&a.base.link, 0, 0, err);
    together(&a);
    if (st == UM_OK) st = s->script(&a, err);
    if (st == UM_OK && a.index == 0) {
        Um__Shutdown bye = UM__SHUTDOWN__INIT;
        for (int p = 1; p < comm->topo.n && st == UM_OK; p++)
            st = um_link_control(&a.base.link, p, UM_KIND_SHUTDOWN, &bye.base, err);
    }
    um_role_end(&a.base, st, err);
    return st;
}

/* --- words of scripts --- */

enum { ROWS = 4 };

static um_status rows_send(actor *a, um_kind kind, uint64_t step, uint32_t b, int rows, um_err *err)
{
    const int D = a->base.ck.model.dim;
    uint8_t meta[ROWS * UM_PAIR_BYTES] = {0}; /* row i goes to expert 0 */
    float *x = um_arena_zero(&a->base.step, ROWS * (size_t)D * sizeof(float));
    for (int i = 0; i < ROWS; i++) {
        meta[i * UM_PAIR_BYTES] = (uint8_t)i;
        x[i * D] = (float)(i + 1);
    }
    um_data_frame f = {.kind = kind,
                       .layer = 1,
                       .step = step,
                       .batch = b,
                       .meta = meta,
                       .meta_bytes =
                           kind == UM_KIND_DISPATCH ? (uint32_t)(rows * UM_PAIR_BYTES) : 0,
                       .rows = x,
                       .n = (uint32_t)rows,
                       .cols = (uint32_t)D};
    return um_link_send_rows(&a->base.link, a->expert, &f, &a->base.step, err);
}

/* The next frame is of this kind, or none comes (kind 0). */
static um_status frame_next(actor *a, um_kind kind, um_err *err)
{
    um_inbound in = {0};
    um_status st = um_link_next(&a->base.link, &in, kind == 0 ? SHORT_US : LONG_US, err);
    if (kind == 0 && st == UM_E_TIMEOUT) return UM_OK;
    if (st != UM_OK) return st;
    const um_kind got = in.frame.kind;
    um_link_release(&a->base.link, &in);
    if (got == kind) return UM_OK;
    return UM_FAIL(err, UM_E_CORRUPT, "the script got a frame of kind %s", um_kind_name(got));
}

static um_status phase_send(actor *a, Um__StepPhase phase, uint64_t step, um_err *err)
{
    Um__StepEnd m = UM__STEP_END__INIT;
    m.phase = phase;
    m.step = step;
    m.scale = 1.0;
    m.lr = 0.1;
    return um_step_send(&a->base.link, a->expert, &m, err);
}

static um_status there_and_back(actor *a, uint64_t step, uint32_t b, um_err *err)
{
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, step, b, ROWS, err));
    UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    UM_TRY(rows_send(a, UM_KIND_DISPATCH_GRAD, step, b, ROWS, err));
    return frame_next(a, UM_KIND_COMBINE_GRAD, err);
}

static um_status finish(actor *a, uint64_t step, um_err *err)
{
    UM_TRY(phase_send(a, UM__STEP_PHASE__STEP_PHASE_FINISH, step, err));
    return frame_next(a, UM_KIND_STEP_END, err);
}

static um_status apply(actor *a, uint64_t step, um_err *err)
{
    return phase_send(a, UM__STEP_PHASE__STEP_PHASE_APPLY, step, err);
}

/* --- scripts --- */

/* Router 1 is a step ahead of router 0's "apply": it is answered afterwards, and evaluations of the step are too. */
static um_status later(actor *a, um_err *err)
{
    if (a->index == 0) {
        UM_TRY(there_and_back(a, 1, 0, err));
        UM_TRY(finish(a, 1, err));
        together(a); /* router 1 sends */
        together(a); /* and has not been answered */
        UM_TRY(apply(a, 1, err));
        together(a);
        UM_TRY(finish(a, 2, err));
        UM_TRY(apply(a, 2, err));
        return UM_OK;
    }
    together(a);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 2, 0, ROWS, err));
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 2, 7 | UM_BATCH_FORWARD, ROWS, err));
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 0, 3, ROWS, err)); /* of no step: at once */
    UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    UM_TRY(frame_next(a, 0, err));
    together(a);
    UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    UM_TRY(rows_send(a, UM_KIND_DISPATCH_GRAD, 2, 0, ROWS, err));
    UM_TRY(frame_next(a, UM_KIND_COMBINE_GRAD, err));
    together(a);
    return frame_next(a, UM_KIND_SHUTDOWN, err);
}

static um_status wait_for_the_end(actor *a, um_err *err)
{
    UM_TRY(frame_next(a, UM_KIND_SHUTDOWN, err));
    return UM_OK;
}

static um_status without_rows(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH_GRAD, 1, 2, ROWS, err));
    return frame_next(a, UM_KIND_COMBINE_GRAD, err);
}

static um_status other_rows(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 1, 0, ROWS, err));
    UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    UM_TRY(rows_send(a, UM_KIND_DISPATCH_GRAD, 1, 0, ROWS - 1, err));
    return frame_next(a, UM_KIND_COMBINE_GRAD, err);
}

static um_status of_another_router(actor *a, um_err *err)
{
    if (a->index == 0) {
        UM_TRY(rows_send(a, UM_KIND_DISPATCH, 1, 0, ROWS, err));
        UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
        together(a);
        return frame_next(a, UM_KIND_STATS, err);
    }
    together(a);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH_GRAD, 1, 0, ROWS, err));
    return frame_next(a, UM_KIND_COMBINE_GRAD, err);
}

static um_status twice_computed(actor *a, um_err *err)
{
    if (a->index > 0) together(a);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 1, 0, ROWS, err));
    UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    if (a->index == 0) together(a);
    return frame_next(a, UM_KIND_STATS, err);
}

static um_status forward_only(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 1, UM_BATCH_FORWARD, ROWS, err));
    UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    UM_TRY(rows_send(a, UM_KIND_DISPATCH_GRAD, 1, UM_BATCH_FORWARD, ROWS, err));
    return frame_next(a, UM_KIND_COMBINE_GRAD, err);
}

static um_status too_high(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 1, UM_BATCHES_MAX, ROWS, err));
    return frame_next(a, UM_KIND_COMBINE, err);
}

static um_status of_an_old_step(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    UM_TRY(finish(a, 1, err));
    UM_TRY(apply(a, 1, err));
    UM_TRY(rows_send(a, UM_KIND_DISPATCH, 1, 0, ROWS, err));
    return frame_next(a, UM_KIND_COMBINE, err);
}

static um_status apply_first(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    UM_TRY(apply(a, 1, err));
    return frame_next(a, UM_KIND_STEP_END, err);
}

static um_status finish_of_another_step(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    return finish(a, 2, err);
}

static um_status end_by_router_1(actor *a, um_err *err)
{
    if (a->index == 0) return frame_next(a, UM_KIND_STATS, err);
    UM_TRY(phase_send(a, UM__STEP_PHASE__STEP_PHASE_FINISH, 1, err));
    return frame_next(a, UM_KIND_STEP_END, err);
}

static um_status gradient(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    UM_TRY(rows_send(a, UM_KIND_DISPATCH_GRAD, 1, 0, ROWS, err));
    return frame_next(a, UM_KIND_COMBINE_GRAD, err);
}

static um_status step_end(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    return finish(a, 1, err);
}

/* Micro-batch after micro-batch forward, none back. */
static um_status many(actor *a, um_err *err)
{
    if (a->index > 0) return wait_for_the_end(a, err);
    for (uint32_t b = 0; b < 1000; b++) {
        UM_TRY(rows_send(a, UM_KIND_DISPATCH, 1, b, ROWS, err));
        UM_TRY(frame_next(a, UM_KIND_COMBINE, err));
    }
    return UM_OK;
}

/* Runs a script; text receives the messages of the ranks that report one. */
static um_status run(script_fn script, bool inference, int64_t memory, const char *keeps,
                     char text[2048])
{
    um_arena a;
    stage s = {.script = script};
    um_arena_init(&a, "test", 4096);
    train_job_open(&s.j, "s4", 2, 1, &a);
    pthread_barrier_init(&s.barrier, NULL, 2);
    s.j.c.role[UM_ROLE_ROUTER] = router_run;
    s.j.c.role_ctx[UM_ROLE_ROUTER] = &s;
    if (inference) {
        s.j.c.cfg.train = false;
        s.j.c.role[UM_ROLE_EXPERT] = NULL;
    }
    s.j.c.cfg.activation_memory = memory;
    s.j.c.cfg.recompute = keeps;
    um_status st = train_job_run(&s.j);
    text[0] = '\0';
    for (int r = 0; r < s.j.c.ranks; r++)
        if (s.j.c.status[r] != UM_OK && !s.j.c.follows[r])
            snprintf(text + strlen(text), 2048 - strlen(text), "%s\n", s.j.c.err[r].msg);
    pthread_barrier_destroy(&s.barrier);
    train_job_close(&s.j);
    um_arena_free(&a);
    return st;
}

static void frames_of_a_later_step_wait(void **state)
{
    char text[2048];
    (void)state;
    if (run(later, false, 0, "none", text) != UM_OK) fail_msg("%s", text);
}

static void refused(script_fn script, bool inference, const char *words)
{
    char text[2048];
    assert_int_not_equal(run(script, inference, 0, "none", text), UM_OK);
    if (strstr(text, words) == NULL) fail_msg("\"%s\" does not say \"%s\"", text, words);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    refused(without_rows, false,
            "dispatch-grad frame of rank 0: nothing is kept for step 1, layer 1, "
            "micro-batch 2");
    refused(other_rows, false, "dispatch-grad frame: 3 rows x 64, want 4 x 64");
    refused(of_another_router, false, "dispatch-grad frame of rank 1: nothing is kept");
    refused(twice_computed, false,
            "dispatch frame of rank 1: step 1, layer 1, micro-batch 0 is rank "
            "0's");
    refused(forward_only, false, "nothing is kept");
    refused(too_high, false, "micro-batch 1048576, a step has at most 1048576");
    refused(of_an_old_step, false, "dispatch frame of router/0 (rank 0, host ");
    refused(of_an_old_step, false, "): step 1 is over, step 2 is under way");
    refused(apply_first, false, "\"apply\" of step 1, but step 1 is not finished");
    refused(finish_of_another_step, false, "\"finish\" of step 2, but step 1 is not finished");
    refused(end_by_router_1, false, "step-end frame of router/1 (rank 1, host ");
}

/* A job that answers requests knows none of it. */
static void other_jobs_refuse_frames_of_training(void **state)
{
    (void)state;
    refused(gradient, true, "dispatch-grad frame of router/0 (rank 0, host ");
    refused(step_end, true, "step-end frame of router/0 (rank 0, host ");
}

static void kept_memory_is_bounded(void **state)
{
    char text[2048];
    (void)state;
    assert_int_not_equal(run(many, false, 1 << 20, "none", text), UM_OK);
    assert_non_null(strstr(text, "--activation-memory allows 1.0 MiB"));
    assert_non_null(strstr(text, "--recompute ffn"));
    assert_int_not_equal(run(many, false, 1 << 18, "ffn", text), UM_OK);
    assert_non_null(strstr(text, "--activation-memory allows 0.2 MiB"));
    assert_null(strstr(text, "--recompute"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_of_a_later_step_wait),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(other_jobs_refuse_frames_of_training),
        cmocka_unit_test(kept_memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
