/* See evaluate.h. */
#include "router/train/evaluate.h"

#include <math.h>

enum { GROUP = 16 }; /* micro-batches whose media are asked for together */

struct um_evaluation {
    um_dataset *data;
    um_order *order;
    um_train_engine *engine;
    um_data_feed feed;
    int64_t steps; /* of one time through */
    um_arena step;
};

um_status um_evaluation_open(um_evaluation **out, const um_config *cfg, um_sample_maker maker,
                             um_train_engine *engine, um_arena *arena, um_err *err)
{
    um_evaluation *e = um_zalloc(sizeof *e);
    const int micro = (int)cfg->micro_batch;
    const um_order_how how = {.batch = GROUP * micro, .micro = micro};
    e->engine = engine;
    um_arena_init(&e->step, "evaluation", 1 << 20);
    um_status st =
        um_training_data_open(&e->data, &cfg->eval_data, "--eval-data", cfg, maker, arena, err);
    if (st == UM_OK) st = um_order_open(&e->order, e->data, &how, err);
    if (st != UM_OK) {
        um_evaluation_close(e);
        return st;
    }
    e->feed = (um_data_feed){.data = e->data, .order = e->order, .routers = 1};
    e->steps = um_order_steps(e->order, 0);
    *out = e;
    return UM_OK;
}

void um_evaluation_close(um_evaluation *e)
{
    if (e == NULL) return;
    um_order_close(e->order);
    um_dataset_close(e->data);
    um_arena_free(&e->step);
    um_free(e);
}

/* Some micro-batches; adds to sum and targets. first: numbers of micro-batches begin there, none twice in an evaluation. */
static um_status group_run(um_evaluation *e, uint64_t step, uint32_t *first, double *sum,
                           double *targets, um_err *err)
{
    const um_train_feed feed = um_data_feed_of(&e->feed);
    um_train_plan p = {.step = step + 1};
    um_arena_init(&p.arena, "held-out samples", 1 << 18);
    um_status st = feed.plan(feed.ctx, &p, err);
    for (int i = 0; i < p.n && st == UM_OK; i++) {
        um_train_work *w = &p.work[i];
        w->number = *first + (uint32_t)i;
        for (int k = 0; k < w->items && st == UM_OK; k++) {
            w->item[k].batch = w->number | UM_BATCH_FORWARD;
            st = um_train_media_ask(e->engine->media, &w->item[k], err);
        }
    }
    um_step_batch *done = um_arena_zero(&e->step, (size_t)(p.n + 1) * sizeof *done);
    if (st == UM_OK) st = um_train_step_forward(e->engine, &p, done, &e->step, err);
    for (int i = 0; i < p.n && st == UM_OK; i++) {
        *sum += done[i].value[UM_SUM_LOSS];
        *targets += (double)done[i].targets;
    }
    um_train_plan_drop(&p);
    *first += (uint32_t)p.n;
    um_arena_free(&p.arena);
    return st;
}

um_status um_evaluation_run(um_evaluation *e, uint64_t step, double *loss, um_err *err)
{
    double sum = 0, targets = 0;
    uint32_t first = 0;
    const um_mark begin = um_arena_mark(&e->step);
    e->feed.cursor = (um_order_cursor){0};
    for (int64_t i = 0; i < e->steps; i++) {
        UM_TRY(group_run(e, step, &first, &sum, &targets, err));
        um_arena_reset(&e->step, begin);
    }
    *loss = targets > 0 ? sum / targets : NAN;
    return UM_OK;
}
