/* See train.h. */
#include "expert_worker/train.h"

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

um_status um_expert_training_open(um_expert_training *t, um_role_base *base,
                                  const um_experts *experts, um_optimizer *o, um_step_saver save,
                                  void *save_ctx, uint64_t first, um_err *err)
{
    const um_config *cfg = base->cfg;
    const um_kept_settings how = {.recompute = strcmp(cfg->recompute, "none") != 0,
                                  .memory = (uint64_t)cfg->activation_memory,
                                  .seed = (uint64_t)cfg->seed,
                                  .dropout = base->lora.dropout};
    t->base = base;
    t->optimizer = o;
    t->kept = um_kept_open(experts, &base->link, &base->dev, &base->lora, &how);
    um_step_follower_open(&t->step, &base->link, &base->params, o, save, save_ctx, first);
    return owners_ok(&base->link.comm->topo.place, &base->ck.model, err);
}

um_status um_expert_training_choose(um_expert_training *t, um_role_base *base, um_err *err)
{
    UM_TRY(um_select_open(&t->select, base->cfg, &base->ck.model, &base->model, err));
    t->base = base;
    base->lora.dropout = (float)t->select.dropout;
    return um_select_adapt(&t->select, &base->params, err);
}

um_status um_expert_training_begin(um_expert_training *t, const um_experts *experts, um_err *err)
{
    um_role_base *b = t->base;
    um_saved saved = {0};
    um_status st = UM_OK;
    UM_TRY(um_select_begin(&t->select, &b->params, err));
    um_optimizer *o = um_optimizer_open(&b->params, &t->select.optimizer);
    t->state = (um_state){.params = &b->params,
                          .optimizer = o,
                          .name = um_arena_fmt(&b->model, "expert-%d",
                                               b->link.comm->topo.ranks[b->link.comm->rank].index)};
    if (b->cfg->resume[0] != '\0') st = um_saved_open(&saved, b->cfg->resume, false, err);
    if (st == UM_OK && b->cfg->resume[0] != '\0') st = um_state_load(&t->state, &saved, err);
    const uint64_t first = saved.step + 1;
    um_saved_close(&saved);
    if (st == UM_OK)
        return um_expert_training_open(t, b, experts, o, um_state_save, &t->state, first, err);
    um_optimizer_close(o);
    return st;
}

void um_expert_training_close(um_expert_training *t)
{
    if (t->base == NULL) return;
    um_step_follower_close(&t->step);
    um_kept_close(t->kept);
    um_optimizer_close(t->optimizer);
    um_select_close(&t->select);
    *t = (um_expert_training){0};
}

static um_status rows(um_expert_training *t, um_inbound *in, um_err *err)
{
    um_role_base *b = t->base;
    bool later = false;
    b->link.phase = "running experts";
    b->link.layer = in->frame.layer;
    b->link.step = in->frame.step;
    if (in->frame.step > 0) UM_TRY(um_step_check(&t->step, &later, in->frame.step, in, err));
    if (later) {
        um_step_hold(&t->step, in);
        return UM_OK;
    }
    int64_t start = um_now_ns();
    um_status st = in->frame.kind == UM_KIND_DISPATCH
                       ? um_kept_dispatch(t->kept, in, true, &b->step, &b->device_step, err)
                       : um_kept_gradient(t->kept, in, &b->step, &b->device_step, err);
    b->link.stats.compute_ns += um_now_ns() - start;
    return st;
}

static um_status step_end(um_expert_training *t, const um_inbound *in, um_err *err)
{
    um_role_base *b = t->base;
    bool applied = false;
    b->link.phase = "ending a step";
    UM_TRY(um_step_follow(&t->step, in, &applied, err));
    if (t->step.finishing) {
        um_kept_finish(t->kept, &b->step, &b->device_step);
        UM_TRY(um_step_norms(&t->step, err));
    }
    for (um_inbound held; applied && um_step_held(&t->step, &held);) {
        um_status st = rows(t, &held, err);
        um_link_release(&b->link, &held);
        UM_TRY(st);
    }
    return UM_OK;
}

um_status um_expert_training_frame(um_expert_training *t, um_inbound *in, um_err *err)
{
    return in->frame.kind == UM_KIND_STEP_END ? step_end(t, in, err) : rows(t, in, err);
}
