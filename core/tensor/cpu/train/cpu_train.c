/* Ops of the CPU for losses and the optimiser, divided among threads. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/train/train_kernels.h"

#include <math.h>

/* What one of the ops below needs. */
typedef struct job {
    const um_train_kernels *kernels;
    float *y, *m, *v;
    const float *x, *p;
    const int32_t *target;
    double *sums;
    size_t n, ld;
    int T, D;
    float scale;
    um_adamw_f32 how;
    uint64_t seed;
    uint32_t least;
} job;

static void softmax_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    j->kernels->softmax(j->y + t * (size_t)j->D, j->x + t * (size_t)j->D, count, j->D);
}

void um_cpu_softmax(um_dev *d, float *y, const float *x, int T, int E)
{
    UM_ASSERT(E > 0);
    job j = {.kernels = d->kernels->train, .y = y, .x = x, .T = T, .D = E};
    um_team_run(um_team_size(d, (size_t)T * (size_t)E, UM_EXP_WORK), softmax_part, &j);
}

static void softmax_bwd_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t at = t * (size_t)j->D;
    j->kernels->softmax_bwd(j->y + at, j->x + t * j->ld, j->ld, j->p + at, count, j->D);
}

void um_cpu_softmax_bwd(um_dev *d, float *dx, const float *dp, int lddp, const float *p, int T,
                        int E)
{
    UM_ASSERT(E > 0 && (lddp == 0 || lddp >= E));
    job j = {
        .kernels = d->kernels->train, .y = dx, .x = dp, .ld = (size_t)lddp, .p = p, .T = T, .D = E};
    um_team_run(um_team_of_rows(d, T, E), softmax_bwd_part, &j);
}

static void cross_entropy_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t at = t * (size_t)j->D;
    j->kernels->cross_entropy(j->m + t, j->y == NULL ? NULL : j->y + at, j->x + at, j->target + t,
                              count, j->D, j->scale);
}

void um_cpu_cross_entropy(um_dev *d, float *loss, float *dlogits, const float *logits,
                          const int32_t *target, int T, int V, float scale)
{
    UM_ASSERT(V > 0);
    for (int t = 0; t < T; t++) UM_CHECK(target[t] >= -1 && target[t] < V);
    job j = {.kernels = d->kernels->train,
             .m = loss,
             .y = dlogits,
             .x = logits,
             .target = target,
             .T = T,
             .D = V,
             .scale = scale};
    um_team_run(um_team_size(d, (size_t)T * (size_t)V, UM_EXP_WORK), cross_entropy_part, &j);
}

/* A share, in runs that end where the upper 32 bits of a value's number change. */
static void dropout_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    while (i < to) {
        const uint64_t at = i, end = (at | UINT32_MAX) + 1;
        const size_t n = end < to ? (size_t)(end - at) : to - i;
        um_dropout how = {
            .first = um_mix32((uint32_t)j->seed), .least = j->least, .scale = j->scale};
        how.add = um_mix32((uint32_t)(j->seed >> 32) ^ um_mix32((uint32_t)(at >> 32) + 1));
        j->kernels->dropout(j->y + i, j->x + i, (uint32_t)at, n, &how);
        i += n;
    }
}

void um_cpu_dropout(um_dev *d, float *y, const float *x, size_t n, float p, uint64_t seed)
{
    UM_ASSERT(p >= 0.0f && p < 1.0f);
    job j = {.kernels = d->kernels->train,
             .y = y,
             .x = x,
             .n = n,
             .seed = seed,
             .least = (uint32_t)((double)p * 0x1p32),
             .scale = (float)(1.0 / (1.0 - (double)p))};
    um_team_run(um_team_size(d, n, UM_VALUE_WORK), dropout_part, &j);
}

static void adamw_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->adamw(j->y + i, j->x + i, j->m + i, j->v + i, to - i, &j->how);
}

void um_cpu_adamw(um_dev *d, float *p, const float *g, float *m, float *v, size_t n,
                  const um_adamw *how)
{
    UM_ASSERT(how->bias1 > 0.0 && how->bias2 > 0.0);
    job j = {.kernels = d->kernels->train, .y = p, .x = g, .m = m, .v = v, .n = n};
    j.how = (um_adamw_f32){.scale = (float)how->scale,
                           .keep = (float)(1.0 - how->lr * how->weight_decay),
                           .move1 = (float)(1.0 - how->beta1),
                           .keep2 = (float)how->beta2,
                           .move2 = (float)(1.0 - how->beta2),
                           .step = (float)(how->lr / how->bias1),
                           .root2 = (float)sqrt(how->bias2),
                           .eps = (float)how->eps};
    um_team_run(um_team_size(d, n, UM_VALUE_WORK), adamw_part, &j);
}

static void squares_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_SQUARES_BLOCK, part, parts, &i, &to);
    for (; i < to; i += UM_SQUARES_BLOCK) {
        const size_t n = to - i < UM_SQUARES_BLOCK ? to - i : UM_SQUARES_BLOCK;
        j->sums[i / UM_SQUARES_BLOCK] = j->kernels->sum_squares(j->x + i, n);
    }
}

void um_cpu_sum_squares(um_dev *d, double *host, const float *x, size_t n)
{
    enum { FEW = 256 };
    double few[FEW], sum = 0.0;
    const size_t blocks = (n + UM_SQUARES_BLOCK - 1) / UM_SQUARES_BLOCK;
    if (d->st != UM_OK) return;
    job j = {.kernels = d->kernels->train, .x = x, .n = n, .sums = few};
    if (blocks > FEW) j.sums = um_alloc_try(blocks * sizeof *j.sums);
    if (j.sums == NULL) {
        um_dev_fail(d, UM_E_MEMORY, "sum_squares: no memory for the sums of %zu blocks", blocks);
        return;
    }
    um_team_run(um_team_size(d, n, UM_VALUE_WORK), squares_part, &j);
    for (size_t i = 0; i < blocks; i++) sum += j.sums[i];
    if (j.sums != few) um_free(j.sums);
    *host = sum;
}
