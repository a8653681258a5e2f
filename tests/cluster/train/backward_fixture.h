/* Router 0 of a job that trains, with everything that a micro-batch needs: for tests of the backward pass. The experts are at their ranks;
 * all compute on guarded memory. */
#pragma once

#include "core/comm/role.h"
#include "core/train/select.h"
#include "router/train/loss.h"
#include "tests/cluster/cluster.h"

/* What trains. */
typedef enum work_trains {
    WORK_ALL, /* every parameter of the router */
    WORK_ADAPTERS, /* that, and adapters beside attention, MLPs and head, whose B is random; dropout 0.2 */
    WORK_GOLDEN /* what a golden training file says */
} work_trains;

typedef struct work {
    cluster c;
    void (*body)(struct work *w);
    work_trains trains;
    const char *expected; /* of a golden case: the file */
    const char *start;    /* of a golden case: the file with the tensors that train */
    /* on router 0, when body runs */
    um_role_base base;
    um_select select;
    um_backbone backbone;
    um_exchange *exchange;
    um_micro_batch_setup setup;
    um_micro_batch batch;
    um_train_sample sample[4];
    um_sample_medium media[4];
    int samples;
    bool pad_rows;
    um_aux aux;
    uint32_t number;  /* of the next micro-batch */
    bool same_number; /* it stays: what is dropped is the same in every pass */
    um_arena host;
} work;

/* The test fails with the message. */
void work_ok(um_status st, const um_err *err);

/* Runs body on router 0 of a job of the model with so many expert ranks; threads: of every rank. */
void work_run(const char *model, work_trains trains, int experts, int threads,
              void (*body)(work *w));
/* The same for a golden training case. */
void work_run_golden(const char *name, void (*body)(work *w));
/* A model without experts, of two layers, in the folder of the fixture; tied: "true" or "false". */
char *work_dense_model(const char *tied);

/* Adds a sample of n ids, the last `answer` of which are to be predicted. rows: of one medium in the middle, or 0. */
void work_sample(work *w, int n, int answer, um_modality modality, int rows);
/* Samples with an image, with text alone, and with speech; or two of text where the model reads no media. */
void work_samples(work *w);

/* Forward of the samples: the loss whose gradient is computed. gradient: and backward. */
double work_pass(work *w, bool gradient);
/* All gradients of m, whose backward pass was the last, and those of its rows, as they are in memory. *n: how many. Lives in w->host. */
float *work_gradients(work *w, const um_micro_batch *m, size_t *n);
