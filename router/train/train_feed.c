/* See train_feed.h. */
#include "router/train/train_feed.h"

#include "core/base/log.h"
#include "core/train/grad_tree.h"
#include "router/data/data_list.h"

um_status um_training_data_open(um_dataset **out, const um_list *list, const char *option,
                                const um_config *cfg, um_sample_maker maker, um_arena *arena,
                                um_err *err)
{
    um_data_file *files = NULL;
    int n = 0;
    um_dataset_how how = {.maker = maker};
    if (cfg->media_folder[0] != '\0') how.media_folder = cfg->media_folder;
    UM_TRY(um_data_list_read(&files, &n, list->item, list->n, option, arena, err));
    UM_TRY(um_wrap(err, um_dataset_open(out, files, n, &how, err), "%s", option));
    const size_t lost = um_dataset_left_out(*out);
    for (size_t i = 0; um_dataset_fault(*out, i) != NULL; i++)
        um_log_warn("%s", um_dataset_fault(*out, i));
    if (lost > 0)
        um_log_warn("%zu of %zu samples of %s are left out; --check-data lists them all", lost,
                    lost + um_dataset_size(*out), option);
    return UM_OK;
}

void um_train_work_items(um_train_work *w, uint64_t step, um_arena *arena)
{
    int items = 0;
    for (int i = 0; i < w->n; i++) items += w->sample[i].n_items;
    w->first = um_arena_alloc(arena, (size_t)(w->n + 1) * sizeof *w->first);
    w->item = um_arena_zero(arena, (size_t)items * sizeof *w->item);
    w->items = 0;
    for (int i = 0; i < w->n; i++) {
        w->first[i] = w->items;
        for (int k = 0; k < w->sample[i].n_items; k++, w->items++)
            w->item[w->items] = (um_train_item){.of = &w->sample[i].items[k],
                                                .step = step,
                                                .batch = w->number,
                                                .number = (uint32_t)w->items,
                                                .rank = -1};
    }
    w->first[w->n] = w->items;
}

void um_train_plan_drop(um_train_plan *p)
{
    for (int b = 0; b < p->n; b++)
        for (int i = 0; i < p->work[b].items; i++)
            if (p->work[b].item[i].done) um_train_media_drop(&p->work[b].item[i]);
}

/* Reads the samples of one micro-batch. */
static void read_work(um_data_feed *f, um_train_work *w, const uint32_t *index, int n,
                      um_arena *arena)
{
    w->sample = um_arena_zero(arena, (size_t)n * sizeof *w->sample);
    for (int i = 0; i < n; i++) {
        um_err why = {0};
        um_status st = um_dataset_sample(f->data, index[i], &w->sample[w->n], arena, &why);
        if (st == UM_OK) {
            w->n++;
        } else {
            w->lost++;
            um_log_warn("a sample is left out: %s", why.msg);
        }
    }
}

/* An um_train_feed.plan. */
static um_status plan(void *ctx, um_train_plan *p, um_err *err)
{
    um_data_feed *f = ctx;
    um_order_step step;
    uint32_t from = 0, to = 0;
    (void)err;
    um_order_next(f->order, &step, &f->cursor);
    p->batches = (uint32_t)step.n_micro;
    p->media = step.kinds;
    p->cursor = f->cursor;
    um_grad_range(p->batches, f->routers, f->router, &from, &to);
    p->n = (int)(to - from);
    p->work = um_arena_zero(&p->arena, (size_t)p->n * sizeof *p->work);
    for (uint32_t b = from; b < to; b++) {
        um_train_work *w = &p->work[b - from];
        w->number = b;
        read_work(f, w, step.samples + step.first[b], step.first[b + 1] - step.first[b], &p->arena);
        um_train_work_items(w, p->step, &p->arena);
    }
    return UM_OK;
}

um_train_feed um_data_feed_of(um_data_feed *f) { return (um_train_feed){.plan = plan, .ctx = f}; }
