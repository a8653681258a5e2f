/* See step_message.h. */
#include "core/train/step_message.h"

#include <stdlib.h>

const char *um_step_phase_name(Um__StepPhase phase)
{
    switch (phase) {
    case UM__STEP_PHASE__STEP_PHASE_DONE:
        return "done";
    case UM__STEP_PHASE__STEP_PHASE_FINISH:
        return "finish";
    case UM__STEP_PHASE__STEP_PHASE_NORMS:
        return "norms";
    case UM__STEP_PHASE__STEP_PHASE_APPLY:
        return "apply";
    case UM__STEP_PHASE__STEP_PHASE_SAVED:
        return "saved";
    case UM__STEP_PHASE__STEP_PHASE_BEGIN:
        return "begin";
    default:
        return "no phase";
    }
}

um_status um_step_send(um_link *l, int rank, const Um__StepEnd *m, um_err *err)
{
    return um_link_control(l, rank, UM_KIND_STEP_END, &m->base, err);
}

um_status um_step_unpack(Um__StepEnd **out, const um_link *l, const um_inbound *in, unsigned phases,
                         um_arena *arena, um_err *err)
{
    ProtobufCMessage *m = NULL;
    char label[128];
    um_topology_label(&l->comm->topo, in->msg.peer, label);
    UM_TRY(um_wrap(err, um_link_unpack(&m, &um__step_end__descriptor, in, arena, err),
                   "step-end frame of %s", label));
    Um__StepEnd *e = (Um__StepEnd *)m;
    if ((phases >> e->phase & 1) == 0)
        return UM_FAIL(err, UM_E_CORRUPT, "step-end frame of %s: \"%s\" of step %llu is not for me",
                       label, um_step_phase_name(e->phase), (unsigned long long)e->step);
    *out = e;
    return UM_OK;
}

void um_step_norms_fill(Um__StepEnd *m, const um_optimizer *o, um_arena *arena)
{
    const size_t n = o == NULL ? 0 : um_optimizer_params(o);
    double *squares = um_arena_alloc(arena, n * sizeof *squares);
    m->n_norms = n;
    m->norms = um_arena_alloc(arena, n * sizeof *m->norms);
    if (n > 0) um_optimizer_squares(squares, o);
    for (size_t i = 0; i < n; i++) {
        const um_param *p = um_optimizer_param(o, i);
        Um__StepNorm *e = um_arena_alloc(arena, sizeof *e);
        um__step_norm__init(e);
        e->part = (uint32_t)p->spec.at.part;
        e->layer = p->spec.at.layer;
        e->index = p->spec.at.index;
        e->squares = squares[i];
        e->touched = p->touched;
        m->norms[i] = e;
    }
}

um_step_orders um_step_orders_of(const Um__StepEnd *m)
{
    return (um_step_orders){.lr = m->lr,
                            .scale = m->scale,
                            .skip = m->skip,
                            .evaluate = m->evaluate,
                            .stop = m->stop,
                            .gradients = m->gradients,
                            .save = m->save[0] == '\0' ? NULL : m->save};
}

/* The files that were written, into the message. */
static void files_fill(Um__StepEnd *m, const um_saved_file *file, int n, um_arena *arena)
{
    m->n_files = (size_t)n;
    m->files = um_arena_alloc(arena, (size_t)n * sizeof *m->files);
    for (int i = 0; i < n; i++) {
        Um__StepFile *f = um_arena_alloc(arena, sizeof *f);
        um__step_file__init(f);
        f->name = um_arena_str(arena, file[i].name);
        f->bytes = file[i].bytes;
        f->xxh3 = file[i].xxh3;
        m->files[i] = f;
    }
}

um_status um_step_obey(Um__StepEnd *saved, const um_step_orders *orders, uint64_t step,
                       um_params *ps, um_optimizer *o, um_step_saver save, void *save_ctx,
                       um_arena *arena, um_err *err)
{
    if (o != NULL && !orders->skip) um_optimizer_step(o, orders->lr, orders->scale);
    UM_TRY(um_dev_sync(ps->how.dev, err));
    saved->phase = UM__STEP_PHASE__STEP_PHASE_SAVED;
    saved->step = step;
    if (orders->save != NULL && save != NULL) {
        um_saved_file *file = NULL;
        int n = 0;
        um_err why = {0};
        um_status st = save(save_ctx, orders, step, &file, &n, arena, &why);
        if (st == UM_E_IO)
            saved->unsaved = um_arena_str(arena, why.msg);
        else if (st != UM_OK)
            return um_fail(err, st, "%s", why.msg);
        else
            files_fill(saved, file, n, arena);
    }
    um_params_zero_grads(ps);
    return UM_OK;
}
