/* A job that trains without a trainer: routers with made rows, gradients and losses, real expert ranks, and the real end of a step, as
 * threads. What it learns depends on the numbers of step, micro-batch and layer alone, so that jobs with other ranks must learn the
 * same. */
#pragma once

#include "core/comm/exchange.h"
#include "core/nn/params.h"
#include "core/train/optimizer.h"
#include "tests/cluster/cluster.h"

#include <pthread.h>

enum { TRAIN_STEPS = 2, TRAIN_BATCHES = 7, TRAIN_ROWS = 9, TRAIN_MAX = 512 };

/* Values that a job leaves behind. */
typedef struct train_result {
    char *name;
    float *value; /* [n] */
    size_t n;
} train_result;

typedef struct train_job {
    cluster c;
    int steps;
    bool leave_out; /* the fifth micro-batch of the second step does not exist */
    pthread_mutex_t lock;
    train_result result[TRAIN_MAX];
    int n;
    float dropout;   /* of the experts' LoRA branches */
    int fails_after; /* frames that the last expert rank works on before it fails; 0: it does not */
    uint64_t repeats;   /* answers that routers dropped */
    uint64_t kept_peak; /* most bytes that an expert rank kept */
} train_job;

/* On tests/golden/models/MODEL. */
void train_job_open(train_job *j, const char *model, int routers, int experts, um_arena *arena);
um_status train_job_run(train_job *j);
void train_job_close(train_job *j);
/* Adds a result. One that is there already must have the same bits. */
void train_job_put(train_job *j, const char *name, const float *value, size_t n);
const train_result *train_job_get(const train_job *j, const char *name);

/* --- what the routers make up --- */

/* Micro-batch b of a step at a layer: T rows of D, K experts of each, the gradient of every (row, slot). */
typedef struct train_rows {
    int T, K, D;
    int32_t *experts; /* [T,K] */
    float *x;         /* [T,D] */
    float *dslot;     /* [T,K,D] */
} train_rows;
train_rows train_rows_make(const um_model *m, uint64_t step, uint32_t b, int layer, um_arena *a);
bool train_exists(const train_job *j, uint64_t step, uint32_t b);
/* Trained: the experts' matrices; of routers every gate and norm. */
bool train_of_router(const void *ctx, const um_spec *s);
/* The gradient of the number-th trained parameter of the routers, from dx [T,D] of the lowest layer; false: it takes no part. */
bool train_router_grad(float *g, size_t n, size_t number, uint64_t step, uint32_t b,
                       const float *dx, size_t dx_n);
/* The optimiser of every rank. Close with um_optimizer_close. */
um_optimizer *train_optimizer(um_params *ps);
/* Router 0's orders for a step. */
double train_lr(uint64_t step);
double train_scale(uint64_t targets, double squares);
/* Loss sums of a micro-batch, and its targets. */
enum { TRAIN_VALUES = 2 };
void train_values(double value[TRAIN_VALUES], uint64_t *targets, uint64_t step, uint32_t b);
