/* See train_step.h. */
#include "router/train/train_step.h"

#include "core/base/log.h"

typedef enum stage { WAITING, FORWARD, READY, BACKWARD, THROUGH } stage;

typedef struct flight {
    um_train_engine *e;
    um_train_plan *plan;
    um_step_batch *done;
    um_arena *arena;
    stage *at;         /* [plan->n] */
    int **medium;      /* [plan->n] of each built micro-batch: the item of each of its media */
    bool forward_only; /* forward only */
    bool experts;      /* the model has some */
    int ahead;         /* micro-batches in flight: 2 where there is something to wait for, else 1 */
} flight;

static um_micro_batch *micro_of(const flight *f, int i) { return &f->e->micro[i % f->ahead]; }

/* Where a router waits for neither experts nor media a second micro-batch would only take memory. */
static int ahead_of(const um_train_plan *plan, bool experts)
{
    bool waits = experts;
    for (int i = 0; i < plan->n; i++) waits = waits || plan->work[i].items > 0;
    return waits ? 2 : 1;
}

static bool media_here(const um_train_work *w)
{
    for (int i = 0; i < w->items; i++)
        if (!w->item[i].done) return false;
    return true;
}

/* The fault of a sample whose media did not all come, or NULL. */
static const char *fault_of(const um_train_work *w, int s)
{
    for (int i = w->first[s]; i < w->first[s + 1]; i++)
        if (w->item[i].why != NULL) return w->item[i].why;
    return NULL;
}

/* The samples whose media are here, as um_micro_batch_build wants them. Returns how many; medium: the items of theirs, in order. */
static int usable(flight *f, um_train_work *w, um_train_sample *out, int *medium)
{
    int n = 0, media = 0;
    for (int s = 0; s < w->n; s++) {
        const um_data_sample *d = &w->sample[s];
        const char *why = fault_of(w, s);
        if (why != NULL) {
            w->lost++;
            um_log_warn("%s is left out: %s", d->where, why);
            continue;
        }
        um_sample_medium *list = um_arena_alloc(f->arena, (size_t)(d->n_items + 1) * sizeof *list);
        for (int k = 0; k < d->n_items; k++) {
            const um_train_item *it = &w->item[w->first[s] + k];
            list[k] = (um_sample_medium){d->items[k].modality, it->n, it->rows};
            medium[media++] = w->first[s] + k;
        }
        out[n++] = (um_train_sample){
            .ids = d->ids, .labels = d->labels, .n = d->n, .media = list, .media_n = d->n_items};
    }
    return n;
}

static void drop_media(um_train_work *w)
{
    for (int i = 0; i < w->items; i++) um_train_media_drop(&w->item[i]);
}

static double *sums(const flight *f, int i) { return (double *)(uintptr_t)f->done[i].value; }

/* Through: its gradients go into the tree, what encoders wait for and was not sent is sent without rows. */
static um_status through(flight *f, int i, um_err *err)
{
    um_train_work *w = &f->plan->work[i];
    um_status st = UM_OK;
    for (int k = 0; k < w->items && st == UM_OK; k++)
        st = um_train_media_back(f->e->media, &w->item[k], NULL, &f->e->scratch, err);
    drop_media(w);
    sums(f, i)[UM_SUM_LOST] = w->lost;
    /* one without rows has none, and those of the one before may be in the making */
    if (st == UM_OK && f->at[i] == BACKWARD) um_step_take(f->e->step, w->number);
    f->at[i] = THROUGH;
    return st;
}

/* Makes the rows of micro-batch i. */
static um_status build(flight *f, int i, um_err *err)
{
    um_train_engine *e = f->e;
    um_train_work *w = &f->plan->work[i];
    um_train_sample *list = um_arena_alloc(f->arena, (size_t)(w->n + 1) * sizeof *list);
    f->medium[i] = um_arena_alloc(f->arena, (size_t)(w->items + 1) * sizeof **f->medium);
    int n = usable(f, w, list, f->medium[i]);
    if (n == 0) return through(f, i, err);
    const uint32_t number = w->number | (f->forward_only ? UM_BATCH_FORWARD : 0);
    UM_TRY(um_micro_batch_build(micro_of(f, i), list, n, e->pad_rows, f->plan->step, number, err));
    f->done[i].samples = (uint32_t)n;
    f->done[i].targets = (uint64_t)micro_of(f, i)->targets;
    sums(f, i)[UM_SUM_ROWS] = micro_of(f, i)->T;
    f->at[i] = FORWARD;
    return UM_OK;
}

static void count_loss(const um_train_engine *e, double *sum, const um_loss *l)
{
    sum[UM_SUM_LOSS] = l->sum;
    for (int t = 0; t < UM_AUX_TERMS; t++)
        for (int k = 0; k < l->moe_layers; k++) sum[UM_SUM_AUX + t] += l->targets * l->aux[t][k];
    if (e->aux != NULL) sum[UM_SUM_ADDED] = l->targets * um_loss_aux(l, e->aux);
    for (int m = 0; m < UM_MODALITIES; m++) {
        sum[UM_SUM_OF + m] = l->by_modality[m];
        sum[UM_SUM_TARGETS_OF + m] = l->targets_by_modality[m];
    }
}

/* Forward is through: the loss, and the beginning of backward. */
static um_status turn(flight *f, int i, um_err *err)
{
    um_train_engine *e = f->e;
    um_micro_batch *m = micro_of(f, i);
    um_loss loss;
    UM_TRY(um_loss_run(&loss, m, !f->forward_only, e->all_terms, f->arena, err));
    count_loss(e, sums(f, i), &loss);
    if (e->on_loss != NULL) UM_TRY(e->on_loss(e->ctx, &f->plan->work[i], m, &loss, err));
    if (f->forward_only) return through(f, i, err);
    f->at[i] = BACKWARD;
    return UM_OK;
}

/* The gradients of the media's rows go to the encoders that wait for them. */
static um_status give_media(flight *f, int i, um_err *err)
{
    um_train_engine *e = f->e;
    const um_micro_batch *m = micro_of(f, i);
    um_train_work *w = &f->plan->work[i];
    um_status st = UM_OK;
    for (int k = 0; k < m->media_n && st == UM_OK; k++) {
        um_train_item *it = &w->item[f->medium[i][k]];
        um_mark mark = um_arena_mark(&e->scratch);
        if (it->keep) {
            float *grad =
                um_arena_f32(&e->scratch, (size_t)it->n, (size_t)m->setup.backbone->model->dim);
            um_micro_batch_media_grad(m, k, grad);
            st = um_train_media_back(e->media, it, grad, &e->scratch, err);
        }
        um_arena_reset(&e->scratch, mark);
    }
    return st;
}

static um_status backward(flight *f, int i, um_err *err)
{
    um_micro_batch *m = micro_of(f, i);
    UM_TRY(um_backward_run(&m->backward, err));
    if (!um_backward_done(&m->backward)) return UM_OK;
    UM_TRY(um_micro_batch_finish(m, err));
    UM_TRY(give_media(f, i, err));
    return through(f, i, err);
}

/* One piece of forward work of micro-batch i, if there is any now. */
static um_status forward(flight *f, int i, bool *worked, um_err *err)
{
    um_pass *p = &micro_of(f, i)->pass;
    if (f->at[i] == WAITING) {
        if (!media_here(&f->plan->work[i])) return UM_OK;
        *worked = true;
        return build(f, i, err);
    }
    if (f->at[i] != FORWARD) return UM_OK;
    *worked = true;
    UM_TRY(um_pass_run(p, err));
    if (um_pass_done(p)) f->at[i] = READY;
    return UM_OK;
}

/* Waits for a frame; all that may come now have takers. */
static um_status wait(const um_train_engine *e, um_err *err)
{
    um_inbound in = {0};
    e->link->phase = "waiting for media";
    UM_TRY(um_link_next_any(e->link, &in, -1, err));
    if (in.msg.data == NULL) return UM_OK;
    um_status st = um_link_unwanted(e->link, &in, "media of a training step", err);
    um_link_release(e->link, &in);
    return st;
}

static um_status run(flight *f, um_err *err)
{
    const int n = f->plan->n;
    for (int head = 0; head < n;) {
        bool worked = false;
        f->e->link->step = f->plan->step;
        if (f->at[head] == READY) {
            worked = true;
            UM_TRY(turn(f, head, err));
        }
        if (f->at[head] == BACKWARD) {
            worked = true;
            UM_TRY(backward(f, head, err));
        }
        for (int i = head; i < n && i < head + f->ahead; i++)
            if (i == head || f->experts || !worked) UM_TRY(forward(f, i, &worked, err));
        if (!worked) UM_TRY(wait(f->e, err));
        while (head < n && f->at[head] == THROUGH) head++;
    }
    return UM_OK;
}

static um_status start(um_train_engine *e, um_train_plan *plan, um_step_batch *done,
                       bool forward_only, um_arena *arena, um_err *err)
{
    const bool experts = e->micro[0].setup.backbone->model->experts > 0;
    flight f = {.e = e,
                .plan = plan,
                .done = done,
                .arena = arena,
                .forward_only = forward_only,
                .experts = experts,
                .ahead = ahead_of(plan, experts)};
    const size_t n = (size_t)plan->n;
    f.at = um_arena_zero(arena, (n + 1) * sizeof *f.at);
    f.medium = um_arena_zero(arena, (n + 1) * sizeof *f.medium);
    for (size_t i = 0; i < n; i++)
        done[i] = (um_step_batch){.batch = plan->work[i].number,
                                  .value = um_arena_zero(arena, UM_SUMS * sizeof(double))};
    e->lora->dropout = forward_only ? 0 : e->dropout;
    for (int i = 0; i < 2; i++) e->micro[i].setup.gate_noise = e->gate_noise && !forward_only;
    if (!forward_only) um_step_expect(e->step, plan->n);
    um_status st = run(&f, err);
    e->lora->dropout = 0;
    return st;
}

um_status um_train_step_run(um_train_engine *e, um_train_plan *plan, um_step_batch *done,
                            um_arena *arena, um_err *err)
{
    return start(e, plan, done, false, arena, err);
}

um_status um_train_step_forward(um_train_engine *e, um_train_plan *plan, um_step_batch *done,
                                um_arena *arena, um_err *err)
{
    return start(e, plan, done, true, arena, err);
}
