/* Where the samples of training steps come from: a data set in its order, or the batches of a training file (trace_train.h). Every router
 * asks for every step and gets its own micro-batches, so that all agree on how many there are. */
#pragma once

#include "core/options/config.h"
#include "router/data/order.h"
#include "router/train/train_media.h"

#include <stdint.h>

/* A micro-batch: samples with their media. */
typedef struct um_train_work {
    uint32_t number; /* of the step's */
    um_data_sample *sample;
    int n;
    um_train_item *item; /* [items] of all samples, in their order */
    int items;
    int *first; /* [n + 1] first item of each sample */
    int lost;   /* samples that could not be read */
} um_train_work;

/* One step of the optimiser, as this router sees it. */
typedef struct um_train_plan {
    uint64_t step;       /* from 1 */
    uint32_t batches;    /* micro-batches of the step, on all routers */
    um_train_work *work; /* [n] this router's, by rising number */
    int n;
    unsigned media;         /* the combination of media of its samples, UM_MEDIA_* */
    um_order_cursor cursor; /* behind this step */
    um_arena arena;
} um_train_plan;

typedef struct um_train_feed {
    /* Makes plan->step, which is set, as is its arena. */
    um_status (*plan)(void *ctx, um_train_plan *plan, um_err *err);
    void *ctx;
    bool pad_rows; /* of each micro-batch (micro_batch.h) */
} um_train_feed;

/* Opens the data set of --data or --eval-data (option): files, weights, media folder. Warns of samples that are left out. arena: for the
 * list of files. */
um_status um_training_data_open(um_dataset **out, const um_list *list, const char *option,
                                const um_config *cfg, um_sample_maker maker, um_arena *arena,
                                um_err *err);

/* The feed of a data set. cursor: of the first step that is asked for; steps are asked for in order. Samples that cannot be read any more
 * are left out with a warning. */
typedef struct um_data_feed {
    const um_dataset *data;
    um_order *order;
    um_order_cursor cursor;
    int routers, router; /* of the job; this one */
} um_data_feed;
um_train_feed um_data_feed_of(um_data_feed *f);

/* The step does not run, or not to its end: lets go of the media that have come for it. */
void um_train_plan_drop(um_train_plan *p);

/* For feeds: the items of a work's samples, and its list of first items, in the plan's arena. */
void um_train_work_items(um_train_work *w, uint64_t step, um_arena *arena);
