/* See step.h: experts and encoders. */
#include "core/train/step_message.h"

#include "core/comm/join.h"

#include <string.h>

void um_step_follower_open(um_step_follower *f, um_link *l, um_params *ps, um_optimizer *o,
                           um_step_saver save, void *save_ctx, uint64_t first)
{
    *f = (um_step_follower){
        .link = l, .params = ps, .optimizer = o, .save = save, .save_ctx = save_ctx, .step = first};
}

void um_step_follower_close(um_step_follower *f)
{
    for (int i = 0; i < f->n_held; i++) um_link_release(f->link, &f->held[i]);
    um_free(f->held);
    *f = (um_step_follower){0};
}

um_status um_step_check(um_step_follower *f, bool *later, uint64_t step, const um_inbound *in,
                        um_err *err)
{
    char label[128];
    *later = step > f->step;
    if (step >= f->step) return UM_OK;
    um_topology_label(&f->link->comm->topo, in->msg.peer, label);
    return UM_FAIL(err, UM_E_CORRUPT, "%s frame of %s: step %llu is over, step %llu is under way",
                   um_kind_name(in->frame.kind), label, (unsigned long long)step,
                   (unsigned long long)f->step);
}

void um_step_hold(um_step_follower *f, um_inbound *in)
{
    if (f->n_held == f->cap_held) {
        f->cap_held = f->cap_held == 0 ? 8 : 2 * f->cap_held;
        f->held = um_realloc(f->held, (size_t)f->cap_held * sizeof *f->held);
    }
    f->held[f->n_held++] = *in;
    *in = (um_inbound){0};
}

bool um_step_held(um_step_follower *f, um_inbound *out)
{
    if (f->replay == 0) return false;
    *out = f->held[0];
    f->replay--;
    memmove(f->held, f->held + 1, (size_t)--f->n_held * sizeof *f->held);
    return true;
}

/* "finish" and "apply" come in turn, and for the step that is under way. */
static um_status in_turn(const um_step_follower *f, const Um__StepEnd *m, um_err *err)
{
    bool finish = m->phase == UM__STEP_PHASE__STEP_PHASE_FINISH;
    if (m->step == f->step && finish == !f->finished) return UM_OK;
    return UM_FAIL(err, UM_E_CORRUPT,
                   "step-end frame of router 0: \"%s\" of step %llu, but step %llu is %s",
                   um_step_phase_name(m->phase), (unsigned long long)m->step,
                   (unsigned long long)f->step, f->finished ? "finished" : "not finished");
}

static um_status apply(um_step_follower *f, const Um__StepEnd *m, um_arena *arena, um_err *err)
{
    const um_step_orders orders = um_step_orders_of(m);
    Um__StepEnd saved = UM__STEP_END__INIT;
    if (f->finishing)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "step-end frame of router 0: \"apply\" of step %llu comes before its norms",
                       (unsigned long long)m->step);
    UM_TRY(um_step_obey(&saved, &orders, f->step, f->params, f->optimizer, f->save, f->save_ctx,
                        arena, err));
    if (orders.save != NULL)
        UM_TRY(um_step_send(f->link, um_join_leader(f->link->comm), &saved, err));
    f->step++;
    f->finished = false;
    f->replay = f->n_held;
    return UM_OK;
}

um_status um_step_follow(um_step_follower *f, const um_inbound *in, bool *applied, um_err *err)
{
    Um__StepEnd *m = NULL;
    um_arena arena;
    um_arena_init(&arena, "end of a step", 1 << 12);
    *applied = false;
    um_status st = um_step_unpack(&m, f->link, in,
                                  1u << UM__STEP_PHASE__STEP_PHASE_FINISH |
                                      1u << UM__STEP_PHASE__STEP_PHASE_APPLY,
                                  &arena, err);
    if (st == UM_OK) st = in_turn(f, m, err);
    if (st == UM_OK && m->phase == UM__STEP_PHASE__STEP_PHASE_FINISH) {
        f->finishing = f->finished = true;
        f->batches = m->count;
    } else if (st == UM_OK) {
        st = apply(f, m, &arena, err);
        *applied = st == UM_OK;
    }
    um_arena_free(&arena);
    return st;
}

um_status um_step_norms(um_step_follower *f, um_err *err)
{
    Um__StepEnd m = UM__STEP_END__INIT;
    um_arena arena;
    UM_CHECK(f->finishing);
    um_arena_init(&arena, "norms", 1 << 12);
    m.phase = UM__STEP_PHASE__STEP_PHASE_NORMS;
    m.step = f->step;
    um_step_norms_fill(&m, f->optimizer, &arena);
    f->finishing = false;
    um_status st = um_dev_sync(f->params->how.dev, err);
    if (st == UM_OK) st = um_step_send(f->link, um_join_leader(f->link->comm), &m, err);
    um_arena_free(&arena);
    return st;
}
