/* The loop of an expert rank: one frame in, one frame out. See expert.h. */
#include "expert_worker/expert.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/comm/join.h"

/* Everything a frame needs, in one place. */
typedef struct worker {
    um_link link;
    um_dev dev;
    um_checkpoint ck;
    um_experts experts;
    um_arena model, step;
} worker;

static um_status serve_dispatch(worker *w, const um_inbound *in, um_err *err)
{
    um_mark mark = um_arena_mark(&w->step);
    um_dispatch_batch batch = {0};
    w->link.phase = "running experts";
    w->link.layer = in->frame.layer;
    w->link.step = in->frame.step;
    int64_t start = um_now_ns();
    um_status st = um_exchange_open(&w->link, &batch, in, w->ck.model.dim, &w->step, err);
    float *y = NULL;
    if (st == UM_OK) {
        y = um_arena_f32(&w->step, (size_t)batch.pairs, (size_t)batch.D);
        st = um_experts_run(&w->experts, y, &batch, &w->link.comm->topo, &w->link, &w->dev,
                            &w->step, err);
    }
    w->link.stats.compute_ns += um_now_ns() - start;
    if (st == UM_OK) st = um_exchange_answer(&w->link, in->msg.peer, &batch, y, &w->step, err);
    um_arena_reset(&w->step, mark);
    return st;
}

static um_status serve_stats(worker *w, const um_inbound *in, um_err *err)
{
    Um__Stats s;
    um_join_stats(&w->link, &s);
    return um_link_control(&w->link, in->msg.peer, UM_KIND_STATS, &s.base, err);
}

/* The last (step, layer) of each router, to notice a frame that comes twice. */
static um_status order_check(uint64_t *last, const um_topology *topo, const um_inbound *in,
                             int layers, um_err *err)
{
    const um_rank *from = &topo->ranks[in->msg.peer];
    if (from->role != UM_ROLE_ROUTER)
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame of rank %d, which is no router",
                       in->msg.peer);
    if (in->frame.layer >= (uint32_t)layers)
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: layer %u of %d", in->frame.layer,
                       layers);
    uint64_t now = in->frame.step * (uint64_t)layers + in->frame.layer + 1;
    if (now <= last[from->index])
        return UM_FAIL(
            err, UM_E_CORRUPT,
            "repeated dispatch frame of router/%d: step %llu layer %u was served already",
            from->index, (unsigned long long)in->frame.step, in->frame.layer);
    last[from->index] = now;
    return UM_OK;
}

static um_status serve(worker *w, um_err *err)
{
    const um_topology *topo = &w->link.comm->topo;
    uint64_t *last = um_arena_zero(&w->model, (size_t)topo->count[UM_ROLE_ROUTER] * sizeof *last);
    for (;;) {
        um_inbound in = {0};
        w->link.phase = "waiting for rows";
        UM_TRY(um_link_next(&w->link, &in, -1, err));
        um_kind kind = in.frame.kind;
        um_status st = UM_OK;
        if (kind == UM_KIND_DISPATCH) {
            st = order_check(last, topo, &in, w->ck.model.layers, err);
            if (st == UM_OK) st = serve_dispatch(w, &in, err);
        } else if (kind == UM_KIND_STATS) {
            st = serve_stats(w, &in, err);
        } else if (kind != UM_KIND_SHUTDOWN) {
            st = UM_FAIL(err, UM_E_CORRUPT, "%s frame of rank %d: an expert rank does not take it",
                         um_kind_name(kind), in.msg.peer);
        }
        um_link_release(&w->link, &in);
        if (st != UM_OK || kind == UM_KIND_SHUTDOWN) return st;
    }
}

um_status um_expert_run(const um_config *cfg, um_comm *comm, um_err *err)
{
    worker w = {0};
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    um_arena_init(&w.model, "expert weights", 1 << 20);
    um_arena_init(&w.step, "expert step", 1 << 20);
    um_link_open(&w.link, comm);
    um_status st = um_dev_open_cpu(&w.dev, (um_isa)um_isa_from_name(cfg->isa),
                                   um_join_threads(comm, cfg->threads), err);
    if (st == UM_OK) st = um_checkpoint_open(&w.ck, cfg->model, &towers, err);
    if (st == UM_OK) st = um_join_follow(&w.link, cfg, &w.ck.model, &w.model, err);
    if (st == UM_OK) {
        w.link.phase = "loading experts";
        st = um_wrap(
            err, um_experts_load(&w.experts, &w.ck, &w.link, &w.dev, cfg->weights, &w.model, err),
            "load experts");
    }
    if (st == UM_OK) {
        um_log_info("owns %d of %d experts in %d layers, %.1f MiB", w.experts.owned,
                    w.ck.model.experts, w.ck.model.moe_layers,
                    (double)w.experts.weight_bytes / 1048576.0);
        st = um_join_ready(&w.link, w.experts.weight_bytes, w.experts.owned, err);
    }
    if (st == UM_OK) st = serve(&w, err);
    if (st != UM_OK && st != UM_E_STOPPED) um_link_error(&w.link, st, err->msg);
    um_link_close(&w.link);
    um_checkpoint_close(&w.ck);
    um_arena_free(&w.step);
    um_arena_free(&w.model);
    return st;
}
