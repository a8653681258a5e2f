/* The loop of an expert rank: one frame in, one frame out. See expert.h, and core/comm/role.h for what all roles share. */
#include "expert_worker/expert.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "expert_worker/expert_steps.h"

typedef struct worker {
    um_role_base base;
    um_experts experts;
    um_expert_steps steps; /* of a job that trains */
} worker;

static um_status work(void *ctx, um_inbound *in, um_err *err)
{
    worker *w = ctx;
    um_role_base *b = &w->base;
    um_mark mark = um_arena_mark(&b->step), device = um_arena_mark(&b->device_step);
    um_dispatch_batch batch = {0};
    b->link.phase = "running experts";
    b->link.layer = in->frame.layer;
    b->link.step = in->frame.step;
    int64_t start = um_now_ns();
    um_status st = um_dispatch_batch_read(&batch, &b->link, in, b->ck.model.dim, &b->dev, &b->step,
                                          &b->device_step, err);
    float *y = NULL;
    if (st == UM_OK) {
        const um_model *m = &b->ck.model;
        um_expert_acts acts;
        y = um_arena_f32(&b->device_step, (size_t)batch.pairs, (size_t)batch.D);
        um_expert_acts_bind(&acts, &b->device_step, batch.pairs, m->dim, m->expert_dim, false);
        st = um_experts_run(&w->experts, y, &batch, &acts, &b->dev, &b->step, err);
    }
    b->link.stats.compute_ns += um_now_ns() - start;
    if (st == UM_OK)
        st = um_dispatch_batch_answer(&b->link, in->msg.peer, &batch, y, &b->dev, &b->step, err);
    um_arena_reset(&b->device_step, device);
    um_arena_reset(&b->step, mark);
    return st;
}

/* The same in a job that trains. */
static um_status training_work(void *ctx, um_inbound *in, um_err *err)
{
    worker *w = ctx;
    return um_expert_steps_frame(&w->steps, in, err);
}

static um_status load(worker *w, um_err *err)
{
    um_role_base *b = &w->base;
    const um_topology *topo = &b->link.comm->topo;
    const um_model *m = &b->ck.model;
    b->link.phase = "loading experts";
    UM_TRY(um_role_own(b, 0, err));
    if (b->cfg->train) UM_TRY(um_training_rank_choose(&w->steps.rank, b, err));
    UM_TRY(um_wrap(err,
                   um_experts_load(&w->experts, &b->params, &topo->place,
                                   topo->ranks[b->link.comm->rank].index, err),
                   "load experts"));
    um_log_info("owns %d of %d experts of %d layers, %.1f MiB", w->experts.owned,
                m->experts * m->moe_layers, m->moe_layers,
                (double)w->experts.weight_bytes / 1048576.0);
    if (b->cfg->train) {
        um_training_rank *t = &w->steps.rank;
        UM_TRY(um_training_rank_begin(t, um_select_trains, &t->select, err));
        UM_TRY(um_expert_steps_open(&w->steps, &w->experts, err));
    }
    return um_join_ready(&b->link, w->experts.weight_bytes, w->experts.owned, err);
}

static um_status serve(worker *w, um_err *err)
{
    const char *idle = "waiting for rows";
    const um_role_task answers[] = {{UM_KIND_DISPATCH, work, false}},
                       trains[] = {{UM_KIND_DISPATCH, training_work, false},
                                   {UM_KIND_DISPATCH_GRAD, training_work, false},
                                   {UM_KIND_STEP_END, training_work, true}};
    if (w->base.cfg->train) return um_role_serve(&w->base, trains, 3, idle, w, err);
    return um_role_serve(&w->base, answers, 1, idle, w, err);
}

um_status um_expert_run(const um_config *cfg, um_comm *comm, um_err *err)
{
    worker w = {0};
    um_status st = um_role_begin(&w.base, cfg, comm, err);
    if (st == UM_OK) st = um_role_join(&w.base, err);
    if (st == UM_OK) st = load(&w, err);
    if (st == UM_OK) st = serve(&w, err);
    um_expert_steps_close(&w.steps);
    um_role_end(&w.base, st, err);
    return st;
}
