/* See dynamic.h. Steps are those of spec 10.1. */
#include "core/nn/dynamic.h"

#include "core/base/bytes.h"

#include <math.h>

void um_dynamic_bind(um_dynamic *g, um_arena *arena, const um_dynamic_model *m, int T, int K)
{
    size_t rows = (size_t)T, N = (size_t)m->routed + (size_t)m->nulls, C = N + (size_t)m->shared;
    *g = (um_dynamic){.m = m, .T = T, .K = K, .C = (int)C};
    g->logits = um_arena_f32(arena, rows, C);
    g->count = um_arena_i32(arena, rows);
    g->pick = um_arena_i32(arena, rows * N);
    g->share = um_arena_f32(arena, rows, N);
    g->real = um_arena_alloc(arena, rows);
    g->mask = um_arena_alloc(arena, rows * C);
    g->weights = um_arena_f32(arena, rows, C);
    g->experts = um_arena_i32(arena, rows * (size_t)K);
    g->slots = um_arena_f32(arena, rows, (size_t)K);
}

int um_dynamic_capacity(const um_dynamic_model *m, int T)
{
    double n = ceil((double)T / (m->routed + m->nulls) * (double)m->capacity_factor);
    return um_min_int(n < (double)T ? um_max_int((int)n, m->min_capacity) : T, T);
}

/* What the ops take of a gate. */
static um_dynamic_rows rows_of(const um_dynamic *g)
{
    const um_dynamic_model *m = g->m;
    return (um_dynamic_rows){.T = g->T,
                             .K = g->K,
                             .C = g->C,
                             .routed = m->routed,
                             .nulls = m->nulls,
                             .shared = m->shared,
                             .top_p = m->top_p,
                             .top_k = m->top_k,
                             .eps = m->eps,
                             .dropped = g->dropped,
                             .by_logit = m->drop_policy == UM_DROP_PROBS,
                             .keep = um_dynamic_capacity(m, g->T),
                             .logits = g->logits,
                             .count = g->count,
                             .pick = g->pick,
                             .share = g->share,
                             .real = g->real,
                             .mask = g->mask,
                             .weights = g->weights,
                             .experts = g->experts,
                             .slots = g->slots};
}

void um_dynamic_choose(um_dev *d, um_dynamic *g, const uint8_t *real, bool drop)
{
    g->dropped = drop;
    const um_dynamic_rows rows = rows_of(g);
    d->ops->gate_dynamic(d, &rows, real);
}

void um_dynamic_bwd(um_dev *d, float *dlogits, const float *dweights, const um_dynamic *g)
{
    const um_dynamic_rows rows = rows_of(g);
    d->ops->gate_dynamic_bwd(d, dlogits, dweights, &rows);
}

/* Step 7. */

double um_dynamic_balance(const um_dynamic *g, const float *weight, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    size_t N = (size_t)g->m->routed + (size_t)g->m->nulls;
    double *f = um_arena_zero(scratch, N * sizeof *f), *q = um_arena_zero(scratch, N * sizeof *q);
    double rows = 0, value = 0;
    for (int t = 0; t < g->T; t++) {
        const float *z = g->logits + um_at((size_t)t, 0, (size_t)g->C);
        const int32_t *pick = g->pick + um_at((size_t)t, 0, N);
        const int n = g->real[t] ? g->count[t] : 0;
        float all = 0.0f;
        rows += (double)weight[t];
        for (int i = 0; i < n; i++) all += um_expf(z[pick[i]] - z[pick[0]]);
        for (int i = 0; i < n; i++) {
            f[pick[i]] += (double)weight[t];
            q[pick[i]] += (double)(weight[t] * (um_expf(z[pick[i]] - z[pick[0]]) / all));
        }
    }
    for (size_t e = 0; rows > 0 && e < N; e++) value += f[e] / rows * (q[e] / rows);
    um_arena_reset(scratch, mark);
    return value * (double)N;
}
