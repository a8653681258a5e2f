/* Backward ops of the CPU, divided among threads: rows where a row is alone, columns where a sum runs over the rows. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/train/train_kernels.h"

/* What one of the ops below needs. */
typedef struct job {
    const um_train_kernels *kernels;
    float *dx, *dw, *db, *stats;
    const float *dy, *x, *w;
    const int32_t *index;
    size_t n, ld;
    int T, D, K, step;
    float eps;
} job;

static void rope_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    j->kernels->rope_bwd(j->dx + t * j->ld, j->ld, j->x, j->index + t, count, j->K, j->D);
}

void um_cpu_rope_bwd(um_dev *d, float *dx, int ldx, const float *cs, const int32_t *pos, int T,
                     int heads, int head_dim)
{
    UM_ASSERT(head_dim % 2 == 0 && ldx >= heads * head_dim);
    job j = {.kernels = d->kernels->train,
             .dx = dx,
             .ld = (size_t)ldx,
             .x = cs,
             .index = pos,
             .T = T,
             .K = heads,
             .D = head_dim};
    um_team_run(um_team_of_rows(d, T, heads * head_dim), rope_part, &j);
}

static void layernorm_x_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t at = t * (size_t)j->D;
    j->kernels->layernorm_bwd_x(j->dx + at, j->stats + 2 * t, j->dy + at, j->x + at, j->w, count,
                                j->D, j->eps);
}

static void layernorm_w_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t d0, d1;
    um_team_share((size_t)j->D, UM_PANEL, part, parts, &d0, &d1);
    j->kernels->layernorm_bwd_w(j->dw, j->db, j->dy, j->x, j->stats, j->T, j->D, (int)d0, (int)d1);
}

void um_cpu_layernorm_bwd(um_dev *d, float *dx, float *dw, float *db, const float *dy,
                          const float *x, const float *w, int T, int D, float eps)
{
    if (T <= 0 || d->st != UM_OK) return;
    float *stats = um_alloc_try((size_t)T * 2 * sizeof *stats);
    if (stats == NULL) {
        um_dev_fail(d, UM_E_MEMORY, "layernorm_bwd: no memory for the means of %d rows", T);
        return;
    }
    job j = {.kernels = d->kernels->train,
             .dx = dx,
             .dw = dw,
             .db = db,
             .stats = stats,
             .dy = dy,
             .x = x,
             .w = w,
             .T = T,
             .D = D,
             .eps = eps};
    um_team_run(um_team_of_rows(d, T, D), layernorm_x_part, &j);
    if (dw != NULL || db != NULL) um_team_run(um_team_of_rows(d, T, D), layernorm_w_part, &j);
    um_free(stats);
}

static void gelu_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->gelu_bwd(j->dx + i, j->dy + i, j->x + i, to - i);
}

void um_cpu_gelu_bwd(um_dev *d, float *dx, const float *dy, const float *x, size_t n)
{
    job j = {.kernels = d->kernels->train, .dx = dx, .dy = dy, .x = x, .n = n};
    um_team_run(um_team_size(d, n, UM_EXP_WORK), gelu_part, &j);
}

static void quick_gelu_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->quick_gelu_bwd(j->dx + i, j->dy + i, j->x + i, to - i);
}

void um_cpu_quick_gelu_bwd(um_dev *d, float *dx, const float *dy, const float *x, size_t n)
{
    job j = {.kernels = d->kernels->train, .dx = dx, .dy = dy, .x = x, .n = n};
    um_team_run(um_team_size(d, n, UM_EXP_WORK), quick_gelu_part, &j);
}

enum { GATE_VALUES = 8 };

/* forward was gate = ga (gb a - 1) + 2 with ga, gb the sigmoids of two sums of four values, so each of the four gets
 * dgate (gb a - 1) ga (1 - ga)  or  dgate ga a gb (1 - gb),  and  da += dgate ga gb */
void um_cpu_bias_gate_bwd(um_dev *d, float *dx, float *da, const float *dgate, const float *x,
                          const float *a, int T, int heads)
{
    if (d->st != UM_OK) return;
    for (int t = 0; t < T; t++)
        for (int h = 0; h < heads; h++, x += GATE_VALUES, dgate++) {
            const float ga = um_sigmoidf(x[0] + x[1] + x[2] + x[3]),
                        gb = um_sigmoidf(x[4] + x[5] + x[6] + x[7]);
            const float first = *dgate * (gb * a[h] - 1.0f) * (ga * (1.0f - ga)),
                        last = *dgate * ga * a[h] * (gb * (1.0f - gb));
            if (da != NULL) da[h] += *dgate * ga * gb;
            for (int i = 0; i < GATE_VALUES && dx != NULL; i++)
                *dx++ += i < GATE_VALUES / 2 ? first : last;
        }
}

static void combine_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t slot = t * (size_t)j->K;
    j->kernels->combine_bwd(j->dx, j->dw == NULL ? NULL : j->dw + slot, j->dy + t * (size_t)j->D,
                            j->x, j->index + slot, j->w == NULL ? NULL : j->w + slot, count, j->K,
                            j->D);
}

void um_cpu_combine_bwd(um_dev *d, float *drows, float *dweight, const float *dy, const float *rows,
                        const int32_t *index, const float *weight, int T, int K, int D)
{
    UM_ASSERT(K > 0 && (drows == NULL || weight != NULL) && (dweight == NULL || rows != NULL));
    job j = {.kernels = d->kernels->train,
             .dx = drows,
             .dw = dweight,
             .dy = dy,
             .x = rows,
             .w = weight,
             .index = index,
             .T = T,
             .K = K,
             .D = D};
    um_team_run(um_team_of_rows(d, T, K * D), combine_part, &j);
}

/* Columns, because an index may repeat. */
static void scatter_add_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    const size_t D = (size_t)j->D;
    size_t from, to;
    um_team_share(D, UM_PANEL, part, parts, &from, &to);
    for (int i = 0; i < j->T; i++) {
        if (j->index[i] < 0) continue;
        float *y = j->dx + (size_t)j->index[i] * D;
        const float *x = j->dy + (size_t)i * D;
        for (size_t k = from; k < to; k++) y[k] += x[k];
    }
}

void um_cpu_scatter_add(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D)
{
    job j = {.dx = y, .dy = x, .index = index, .T = n, .D = D};
    um_team_run(um_team_of_rows(d, n, D), scatter_add_part, &j);
}

/* A share of x, with every window that reaches into it. */
static void windows_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    const size_t K = (size_t)j->K, step = (size_t)j->step, T = (size_t)j->T;
    size_t from, to;
    um_team_share(j->n, UM_PANEL, part, parts, &from, &to);
    if (from == to) return;
    for (size_t t = from < K ? 0 : (from - K) / step; t < T && t * step < to; t++) {
        const size_t at = t * step, first = at > from ? at : from, last = at + K < to ? at + K : to;
        for (size_t i = first; i < last; i++) j->dx[i] += j->dy[t * K + i - at];
    }
}

void um_cpu_windows_add(um_dev *d, float *x, const float *cols, int T, int K, int step)
{
    if (T <= 0) return;
    UM_ASSERT(K > 0 && step > 0);
    job j = {.dx = x, .dy = cols, .T = T, .K = K, .step = step};
    j.n = (size_t)(T - 1) * (size_t)step + (size_t)K;
    um_team_run(um_team_of_rows(d, T, K), windows_part, &j);
}
