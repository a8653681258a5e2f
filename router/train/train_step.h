/* The micro-batches of one step on one router, two in flight: while the experts work on one, the router works on the other. A model without
 * experts has the second one in flight only while it waits for the media of the first: so gradients of media leave early.
 *
 *   batch 0   forward ..... loss, backward .........  done
 *   batch 1             forward .................... loss, backward ... done
 *   batch 2                                          forward ...
 *
 * One at most is on its way forward and one on its way back. A backward pass begins when the one before it is through, because both add to
 * the same gradients; its sum then goes into the tree of the step (core/train/step.h). Group: the router and all expert and encoder ranks
 * that its rows need. Thread: main. */
#pragma once

#include "core/train/select.h"
#include "core/train/step.h"
#include "router/train/loss.h"
#include "router/train/train_feed.h"

/* Sums over the micro-batches of a step that routers add up (um_step_batch.value). */
enum {
    UM_SUM_LOSS, /* of the cross-entropy over target tokens */
    UM_SUM_AUX,  /* of target tokens times the value of each auxiliary term, without coefficient */
    UM_SUM_ADDED =
        UM_SUM_AUX + UM_AUX_TERMS, /* of target tokens times what these add to the loss */
    UM_SUM_ROWS,                   /* rows that went through the layers */
    UM_SUM_LOST,                   /* samples that were left out */
    UM_SUM_OF,                     /* cross-entropy by modality */
    UM_SUM_TARGETS_OF = UM_SUM_OF + UM_MODALITIES, /* target tokens by modality */
    UM_SUMS = UM_SUM_TARGETS_OF + UM_MODALITIES
};

/* What the steps of a router work with. */
typedef struct um_train_engine {
    um_link *link;
    um_lora *lora; /* of the rank: drops nothing but in steps */
    float dropout;
    bool gate_noise; /* in steps; evaluations have none */
    um_step *step;
    um_train_media *media;
    um_micro_batch micro[2];
    const um_aux *aux;
    bool pad_rows;
    bool all_terms;   /* compute every auxiliary term, whether it has a coefficient or not */
    um_arena scratch; /* host */
    /* NULL, or sees every micro-batch when its loss is known; may return an error */
    um_status (*on_loss)(void *ctx, const um_train_work *w, const um_micro_batch *m,
                         const um_loss *l, um_err *err);
    void *ctx;
} um_train_engine;

/* Runs all micro-batches of the plan, whose media have been asked for. done[plan->n]: what um_step_finish wants of each; values
 * [UM_SUMS] each lie in arena. */
um_status um_train_step_run(um_train_engine *e, um_train_plan *plan, um_step_batch *done,
                            um_arena *arena, um_err *err);
/* The same forward only, for evaluations: nothing is kept anywhere, and nothing goes into the step's gradients. */
um_status um_train_step_forward(um_train_engine *e, um_train_plan *plan, um_step_batch *done,
                                um_arena *arena, um_err *err);
