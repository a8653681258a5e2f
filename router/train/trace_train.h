/* `unimoe trace --train`: the steps of a training file (core/train/training_file.h), with what the reference writes of them:
 *
 *   steps 1..n        each batch once, at the start values:  batchI.{loss, input_ids, labels, grad.NAME, balance, loss_with_aux_*}; no
 *                     weight changes
 *   steps n+1..n+S    S steps of the optimiser over the batches in turn:  losses [S]
 *   after the last    after.NAME of every tensor that trains
 *
 * A batch is one micro-batch with pad rows, padded as the reference does. Router 0 has it; other routers have none and take part in the
 * ends of the steps. Thread: main. */
#pragma once

#include "core/train/training_file.h"
#include "router/backbone/trace.h"
#include "router/train/train_step.h"

typedef struct um_train_trace {
    um_training_file file;
    um_sample_maker maker;
    um_trace *trace;
    float off[UM_AUX_TERMS]; /* coefficients of terms that are switched off */
    bool balanced;           /* the gate has a balance loss of its own */
    bool leads;
    um_arena arena;
} um_train_trace;

/* Opens the file of cfg->request. */
um_status um_train_trace_open(um_train_trace *t, const um_config *cfg, const um_sample_maker *maker,
                              bool leads, um_err *err);
void um_train_trace_close(um_train_trace *t);
um_train_feed um_train_trace_feed(um_train_trace *t);
/* Steps in all; and whether a step only shows gradients. */
uint64_t um_train_trace_steps(const um_train_trace *t);
static inline bool um_train_trace_shows(const um_train_trace *t, uint64_t step)
{
    return step <= (uint64_t)t->file.batches;
}
/* An um_train_engine.on_loss; ctx is the trace. */
um_status um_train_trace_loss(void *ctx, const um_train_work *w, const um_micro_batch *m,
                              const um_loss *l, um_err *err);
/* Router 0, after apply of a step whose states lie in folder: its gradients when it shows them (scale: 1 / target tokens), the weights when
 * it is the last one. Afterwards the folder is empty. */
um_status um_train_trace_states(um_train_trace *t, uint64_t number, const char *folder,
                                const um_saved_file *files, int n, double scale, um_err *err);
