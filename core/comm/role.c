/* See role.h. */
#include "core/comm/role.h"

#include "core/comm/join.h"

um_status um_role_begin(um_role_base *w, const um_config *cfg, um_comm *comm, um_err *err)
{
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    *w = (um_role_base){.cfg = cfg};
    um_arena_init(&w->model, "model", 1 << 16);
    um_arena_init(&w->step, "step", 1 << 20);
    um_dev_arena(&w->device, &w->dev, "weights", 1 << 20);
    um_dev_arena(&w->device_step, &w->dev, "activations", 1 << 20);
    w->lora.scratch = &w->device_step;
    um_link_open(&w->link, comm);
    UM_TRY(um_link_watch(&w->link, cfg->deadline_ms, err));
    const um_dev_opener open = comm->dev_open != NULL ? comm->dev_open : um_dev_open_cpu;
    UM_TRY(open(&w->dev, (um_isa)um_isa_from_name(cfg->isa), um_join_threads(comm, cfg->threads),
                err));
    return um_checkpoint_open(&w->ck, cfg->model, &towers, err);
}

um_status um_role_join(um_role_base *w, um_err *err)
{
    if (w->link.comm->rank == um_join_leader(w->link.comm))
        return um_join_lead(&w->link, w->cfg, &w->ck, &w->model, err);
    return um_join_follow(&w->link, w->cfg, &w->ck, w->dev.isa, &w->model, err);
}

um_status um_role_own(um_role_base *w, uint32_t modalities, um_err *err)
{
    um_model *m = &w->ck.model;
    if (w->cfg->train && w->cfg->balance_bias > 0 && !m->expert_bias && m->experts > 0 &&
        m->gate != UM_GATE_DYNAMIC)
        m->expert_bias = m->expert_bias_begins = true;
    const um_owner me = {&w->link.comm->topo, w->link.comm->rank};
    const um_selection sel = um_topology_selection(&me, modalities);
    const um_loading how = {.dev = &w->dev,
                            .host = &w->model,
                            .device = &w->device,
                            .keep = um_keep_from_name(w->cfg->weights),
                            .lora_live = um_lora_is_live(w->cfg->lora),
                            .lora = &w->lora};
    return um_params_open(&w->params, &w->ck, &sel, &how, err);
}

/* The task of a frame's kind, NULL without one. */
static const um_role_task *task_of(const um_role_task *task, int tasks, um_kind kind)
{
    for (int i = 0; i < tasks; i++)
        if (task[i].kind == kind) return &task[i];
    return NULL;
}

/* Whether the sender of a frame may send it to an expert or encoder rank. */
static bool sender_ok(const um_comm *c, const um_inbound *in, const um_role_task *task)
{
    bool leader = in->msg.peer == um_join_leader(c);
    if (task != NULL)
        return task->leader ? leader : c->topo.ranks[in->msg.peer].role == UM_ROLE_ROUTER;
    return leader && (in->frame.kind == UM_KIND_STATS || in->frame.kind == UM_KIND_SHUTDOWN);
}

um_status um_role_serve(um_role_base *w, const um_role_task *task, int tasks, const char *idle,
                        void *ctx, um_err *err)
{
    um_link *l = &w->link;
    for (;;) {
        um_inbound in = {0};
        Um__Stats s;
        um_status st = UM_OK;
        l->phase = idle;
        UM_TRY(um_link_next(l, &in, -1, err));
        um_kind got = in.frame.kind;
        const um_role_task *t = task_of(task, tasks, got);
        if (!sender_ok(l->comm, &in, t)) {
            st = um_link_unwanted(l, &in, idle, err);
        } else if (t != NULL) {
            st = t->work(ctx, &in, err);
        } else if (got == UM_KIND_STATS) {
            um_join_stats(l, &s);
            st = um_link_control(l, in.msg.peer, UM_KIND_STATS, &s.base, err);
        }
        um_link_release(l, &in);
        if (st != UM_OK || got == UM_KIND_SHUTDOWN) return st;
    }
}

void um_role_end(um_role_base *w, um_status st, const um_err *err)
{
    um_comm *c = w->link.comm;
    if (st != UM_OK && st != UM_E_STOPPED && !c->follows) {
        /* who sees the same dead rank a moment later has nothing to add; an error of its own stays one */
        if (!um_comm_claim(c) && st == UM_E_PEER)
            c->follows = true;
        else
            um_link_error(&w->link, st, err->msg);
    }
    um_link_close(&w->link);
    um_checkpoint_close(&w->ck);
    um_arena_free(&w->device_step);
    um_arena_free(&w->device);
    um_arena_free(&w->step);
    um_arena_free(&w->model);
    if (c->dev_close != NULL && w->dev.ops != NULL) c->dev_close(&w->dev);
}
