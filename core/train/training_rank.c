/* See training_rank.h. */
#include "core/train/training_rank.h"

um_status um_training_rank_choose(um_training_rank *t, um_role_base *base, um_err *err)
{
    UM_TRY(um_select_open(&t->select, base->cfg, &base->ck.model, &base->model, err));
    t->base = base;
    return um_select_adapt(&t->select, &base->params, err);
}

/* Sets the weights and the optimiser to those of --resume's checkpoint. *first: the number of the first step. */
static um_status resume(const um_training_rank *t, uint64_t *first, um_err *err)
{
    const char *folder = t->base->cfg->resume;
    um_saved saved;
    *first = 1;
    if (folder[0] == '\0') return UM_OK;
    UM_TRY(um_saved_open(&saved, folder, false, err));
    um_status st = um_state_load(&t->state, &saved, err);
    *first = saved.step + 1;
    um_saved_close(&saved);
    return st;
}

um_status um_training_rank_begin(um_training_rank *t, um_trained_fn trained, const void *ctx,
                                 um_err *err)
{
    um_role_base *b = t->base;
    const um_comm *c = b->link.comm;
    const um_rank *me = &c->topo.ranks[c->rank];
    uint64_t first;
    UM_TRY(um_params_train(&b->params, trained, ctx, err));
    if (t->select.start != NULL) UM_TRY(um_params_start(&b->params, t->select.start, err));
    t->optimizer = um_optimizer_open(&b->params, &t->select.optimizer);
    t->state =
        (um_state){.params = &b->params,
                   .optimizer = t->optimizer,
                   .name = um_arena_fmt(&b->model, "%s-%d", um_role_name(me->role), me->index)};
    UM_TRY(resume(t, &first, err));
    um_step_follower_open(&t->step, &b->link, &b->params, t->optimizer, um_state_save, &t->state,
                          first);
    return UM_OK;
}

void um_training_rank_close(um_training_rank *t)
{
    um_step_follower_close(&t->step);
    um_optimizer_close(t->optimizer);
    um_select_close(&t->select);
    *t = (um_training_rank){0};
}

um_status um_training_rank_replay(um_training_rank *t, um_role_work work, void *ctx, um_err *err)
{
    for (um_inbound held; um_step_held(&t->step, &held);) {
        um_status st = work(ctx, &held, err);
        um_link_release(&t->base->link, &held);
        UM_TRY(st);
    }
    return UM_OK;
}
