/* See gate.h. */
#include "core/nn/gate.h"

void um_route_bind(um_route *r, um_arena *arena, int T, int K, int E)
{
    size_t rows = (size_t)T;
    *r = (um_route){.T = T, .K = K, .E = E};
    r->logits = um_arena_f32(arena, rows, (size_t)E);
    r->experts = um_arena_i32(arena, rows * (size_t)K);
    r->weights = um_arena_f32(arena, rows, (size_t)K);
}

void um_gate_choose(um_dev *d, um_route *r, um_gate_style style, uint64_t seed,
                    const uint64_t *noise)
{
    d->ops->gate_topk(d, r->experts, r->weights, r->logits, r->T, r->E, r->K,
                      style == UM_GATE_GSHARD, seed, noise);
}

void um_gate_bwd(um_dev *d, float *dlogits, const float *dweights, const um_route *r)
{
    d->ops->gate_topk_bwd(d, dlogits, dweights, r->weights, r->experts, r->T, r->E, r->K);
}

static int largest(const float *z, int E)
{
    int best = 0;
    for (int e = 1; e < E; e++)
        if (z[e] > z[best]) best = e;
    return best;
}

double um_gate_balance(const um_route *r)
{
    const size_t E = (size_t)r->E;
    double value = 0, *p = um_zalloc(2 * E * sizeof *p), *first = p + E;
    for (size_t t = 0; t < (size_t)r->T; t++) {
        const float *z = r->logits + t * E;
        const int top = largest(z, r->E);
        float all = 0.0f;
        for (size_t e = 0; e < E; e++) all += um_expf(z[e] - z[top]);
        for (size_t e = 0; e < E; e++) p[e] += (double)(um_expf(z[e] - z[top]) / all);
        first[top]++;
    }
    for (size_t e = 0; e < E; e++) value += p[e] / r->T * (first[e] / r->T);
    um_free(p);
    return value * r->E;
}
