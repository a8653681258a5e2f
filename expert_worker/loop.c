/* The loop of an expert rank: one frame in, one frame out. See expert.h, and core/comm/role.h for what all roles share. */
#include "expert_worker/expert.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/comm/join.h"
#include "core/comm/role.h"

typedef struct worker {
    um_role_base base;
    um_experts experts;
    uint64_t *last; /* [routers] number of the last (step, layer) served */
} worker;

static um_status serve_dispatch(worker *w, const um_inbound *in, um_err *err)
{
    um_role_base *b = &w->base;
    um_mark mark = um_arena_mark(&b->step);
    um_dispatch_batch batch = {0};
    b->link.phase = "running experts";
    b->link.layer = in->frame.layer;
    b->link.step = in->frame.step;
    int64_t start = um_now_ns();
    um_status st = um_exchange_open(&b->link, &batch, in, b->ck.model.dim, &b->step, err);
    float *y = NULL;
    if (st == UM_OK) {
        y = um_arena_f32(&b->step, (size_t)batch.pairs, (size_t)batch.D);
        st = um_experts_run(&w->experts, y, &batch, &b->link.comm->topo, &b->dev, &b->step, err);
    }
    b->link.stats.compute_ns += um_now_ns() - start;
    if (st == UM_OK) st = um_exchange_answer(&b->link, in->msg.peer, &batch, y, &b->step, err);
    um_arena_reset(&b->step, mark);
    return st;
}

/* Detects a repeated frame: the (step, layer) of a router's frames must increase. */
static um_status order_check(worker *w, const um_inbound *in, um_err *err)
{
    const um_rank *from = &w->base.link.comm->topo.ranks[in->msg.peer];
    int layers = w->base.ck.model.layers;
    if (in->frame.layer >= (uint32_t)layers)
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: layer %u of %d", in->frame.layer,
                       layers);
    uint64_t now = in->frame.step * (uint64_t)layers + in->frame.layer + 1;
    if (now <= w->last[from->index])
        return UM_FAIL(
            err, UM_E_CORRUPT,
            "repeated dispatch frame of router/%d: step %llu layer %u was served already",
            from->index, (unsigned long long)in->frame.step, in->frame.layer);
    w->last[from->index] = now;
    return UM_OK;
}

static um_status work(void *ctx, const um_inbound *in, um_err *err)
{
    UM_TRY(order_check(ctx, in, err));
    return serve_dispatch(ctx, in, err);
}

static um_status load(worker *w, um_err *err)
{
    um_role_base *b = &w->base;
    const um_topology *topo = &b->link.comm->topo;
    const um_model *m = &b->ck.model;
    b->link.phase = "loading experts";
    w->last = um_arena_zero(&b->model, (size_t)topo->count[UM_ROLE_ROUTER] * sizeof *w->last);
    UM_TRY(um_wrap(err,
                   um_experts_load(&w->experts, &b->ck, topo, topo->ranks[b->link.comm->rank].index,
                                   &b->dev, b->cfg->weights, &b->model, err),
                   "load experts"));
    um_log_info("owns %d of %d experts in %d layers, %.1f MiB", w->experts.owned, m->experts,
                m->moe_layers, (double)w->experts.weight_bytes / 1048576.0);
    return um_join_ready(&b->link, w->experts.weight_bytes, w->experts.owned, err);
}

um_status um_expert_run(const um_config *cfg, um_comm *comm, um_err *err)
{
    worker w = {0};
    um_status st = um_role_begin(&w.base, cfg, comm, err);
    if (st == UM_OK) st = um_role_join(&w.base, err);
    if (st == UM_OK) st = load(&w, err);
    if (st == UM_OK)
        st = um_role_serve(&w.base, UM_KIND_DISPATCH, "waiting for rows", work, &w, err);
    um_role_end(&w.base, st, err);
    return st;
}
