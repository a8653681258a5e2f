/* See expert_steps.h. */
#include "expert_worker/expert_steps.h"

#include "core/base/clock.h"

#include <string.h>

/* An expert on two ranks would be two experts that learn apart. */
static um_status owners_ok(const um_placement *p, const um_model *m, um_err *err)
{
    for (int l = 0; l < m->layers; l++)
        for (int e = 0; m->moe_layer[l] && e < p->experts; e++) {
            const int32_t *at = um_placement_list(p, l) + e;
            if (at[1] - at[0] > 1)
                return UM_FAIL(err, UM_E_USAGE,
                               "training needs every expert on one rank, but expert %d of layer %d "
                               "is on %d",
                               e, l, at[1] - at[0]);
        }
    return UM_OK;
}

um_status um_expert_steps_open(um_expert_steps *t, const um_experts *experts, um_err *err)
{
    um_role_base *b = t->rank.base;
    const um_expert_train_settings how = {.recompute = strcmp(b->cfg->recompute, "none") != 0,
                                          .memory = (uint64_t)b->cfg->activation_memory,
                                          .seed = (uint64_t)b->cfg->seed,
                                          .dropout = (float)t->rank.select.dropout};
    t->train = um_expert_train_open(experts, &b->link, &b->dev, &b->lora, &how);
    return owners_ok(&b->link.comm->topo.place, &b->ck.model, err);
}

void um_expert_steps_close(um_expert_steps *t)
{
    um_expert_train_close(t->train);
    um_training_rank_close(&t->rank);
    *t = (um_expert_steps){0};
}

/* A um_role_work: dispatch and dispatch-grad. */
static um_status rows(void *ctx, um_inbound *in, um_err *err)
{
    um_expert_steps *t = ctx;
    um_role_base *b = t->rank.base;
    bool later = false;
    b->link.phase = "running experts";
    b->link.layer = in->frame.layer;
    b->link.step = in->frame.step;
    if (in->frame.step > 0) UM_TRY(um_step_check(&t->rank.step, &later, in->frame.step, in, err));
    if (later) {
        um_step_hold(&t->rank.step, in);
        return UM_OK;
    }
    int64_t start = um_now_ns();
    um_status st = in->frame.kind == UM_KIND_DISPATCH
                       ? um_expert_train_dispatch(t->train, in, &b->step, &b->device_step, err)
                       : um_expert_train_gradient(t->train, in, &b->step, &b->device_step, err);
    b->link.stats.compute_ns += um_now_ns() - start;
    return st;
}

static um_status step_end(um_expert_steps *t, const um_inbound *in, um_err *err)
{
    um_role_base *b = t->rank.base;
    bool applied = false;
    b->link.phase = "ending a step";
    UM_TRY(um_step_follow(&t->rank.step, in, &applied, err));
    if (t->rank.step.finishing) {
        um_expert_train_finish(t->train, &b->step, &b->device_step);
        UM_TRY(um_step_norms(&t->rank.step, err));
    }
    return applied ? um_training_rank_replay(&t->rank, rows, t, err) : UM_OK;
}

um_status um_expert_steps_frame(um_expert_steps *t, um_inbound *in, um_err *err)
{
    return in->frame.kind == UM_KIND_STEP_END ? step_end(t, in, err) : rows(t, in, err);
}
