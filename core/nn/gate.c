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

/* --- balance without a loss --- */

/* The K chosen experts of a row, larger clean logit first (ties to the lower index), and the softmax over them. */
static void weigh(int32_t *experts, float *weights, const float *z, int K)
{
    float all = 0.0f;
    for (int i = 1; i < K; i++)
        for (int j = i; j > 0; j--) {
            const int32_t a = experts[j - 1], b = experts[j];
            if (z[a] > z[b] || (!(z[a] < z[b]) && a < b)) break;
            experts[j - 1] = b;
            experts[j] = a;
        }
    for (int i = 0; i < K; i++) {
        weights[i] = um_expf(z[experts[i]] - z[experts[0]]);
        all += weights[i];
    }
    for (int i = 0; i < K; i++) weights[i] /= all;
}

void um_gate_choose_biased(um_dev *d, um_route *r, const float *bias, um_arena *host,
                           um_arena *device)
{
    const size_t T = (size_t)r->T, E = (size_t)r->E, K = (size_t)r->K;
    if (T == 0) return;
    um_mark h = um_arena_mark(host), v = um_arena_mark(device);
    float *biased = um_arena_f32(device, T, E);
    d->ops->copy_2d(d, biased, r->E, bias, 0, r->T, r->E);
    d->ops->add(d, biased, r->logits, T * E);
    d->ops->gate_topk(d, r->experts, r->weights, biased, r->T, r->E, r->K, false, 0, NULL);
    int32_t *experts = um_arena_i32(host, T * K);
    float *weights = um_arena_f32(host, T, K), *z = um_arena_f32(host, T, E);
    d->ops->get(d, z, r->logits, T * E * sizeof *z);
    d->ops->get(d, experts, r->experts, T * K * sizeof *experts);
    for (size_t t = 0; t < T; t++) weigh(experts + t * K, weights + t * K, z + t * E, r->K);
    d->ops->put(d, r->experts, experts, T * K * sizeof *experts);
    d->ops->put(d, r->weights, weights, T * K * sizeof *weights);
    um_arena_reset(device, v);
    um_arena_reset(host, h);
}

void um_gate_add_load(um_dev *d, float *load, const int32_t *experts, int T, int K, int E,
                      um_arena *host, um_arena *device)
{
    um_mark h = um_arena_mark(host), v = um_arena_mark(device);
    float *rows = um_arena_zero(host, (size_t)E * sizeof *rows);
    for (size_t i = 0; i < (size_t)T * (size_t)K; i++)
        if (experts[i] != UM_NO_EXPERT) rows[experts[i]]++;
    d->ops->add(d, load, um_dev_put_f32(d, device, rows, (size_t)E), (size_t)E);
    um_arena_reset(device, v);
    um_arena_reset(host, h);
}

void um_gate_bias_update(float *bias, const float *load, int E, float rate)
{
    double all = 0;
    for (int e = 0; e < E; e++) all += (double)load[e];
    for (int e = 0; e < E; e++) {
        const double more = (double)load[e] * E - all; /* load - mean, times E */
        if (more > 0) bias[e] -= rate;
        if (more < 0) bias[e] += rate;
    }
}
