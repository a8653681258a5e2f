/* See gate.h. */
#include "core/nn/gate.h"

#include "core/base/bytes.h"

#include <float.h>
#include <string.h>

void um_route_bind(um_route *r, um_arena *arena, int T, int K, int E)
{
    size_t rows = (size_t)T;
    *r = (um_route){.T = T, .K = K, .E = E};
    r->logits = um_arena_f32(arena, rows, (size_t)E);
    r->experts = um_arena_i32(arena, rows * (size_t)K);
    r->weights = um_arena_f32(arena, rows, (size_t)K);
}

static bool chosen(const int32_t *experts, int k, int e)
{
    for (int j = 0; j < k; j++)
        if (experts[j] == e) return true;
    return false;
}

/* The index of the largest z that is not among the first k of experts; the lowest index on ties, and for rows of NaN. */
static int largest(const float *z, int E, const int32_t *experts, int k)
{
    int best = -1;
    for (int e = 0; e < E; e++) {
        if (chosen(experts, k, e)) continue;
        if (best < 0 || z[e] > z[best]) best = e;
    }
    return best;
}

/* Gumbel(0,1) = -ln(-ln u), drawn expert after expert from the row's own stream. */
static int largest_noisy(const float *z, int E, const int32_t *experts, int k, um_rng *rng)
{
    int best = -1;
    double best_value = 0;
    for (int e = 0; e < E; e++) {
        double noisy = (double)z[e] - um_log(-um_log(um_rng_open(rng)));
        if (chosen(experts, k, e)) continue;
        if (best < 0 || noisy > best_value) {
            best = e;
            best_value = noisy;
        }
    }
    return best;
}

static void weights_mixtral(float *w, const float *z, const int32_t *experts, int K)
{
    float sum = 0.0f;
    for (int k = 0; k < K; k++) sum += w[k] = um_expf(z[experts[k]] - z[experts[0]]);
    for (int k = 0; k < K; k++) w[k] /= sum;
}

/* p_i = exp(z_i - max) / sum over all; the K chosen divided by their sum. */
static void weights_gshard(float *w, const float *z, int E, const int32_t *experts, int K)
{
    float top = z[experts[0]], all = 0.0f, sum = 0.0f;
    for (int e = 0; e < E; e++) all += um_expf(z[e] - top);
    for (int k = 0; k < K; k++) sum += w[k] = um_expf(z[experts[k]] - top) / all;
    if (sum < FLT_EPSILON) sum = FLT_EPSILON;
    for (int k = 0; k < K; k++) w[k] /= sum;
}

/* Larger weight first. Only noise with K > 2 can produce another order; equal weights keep the order of choice. */
static void sort_by_weight(int32_t *experts, float *w, int K)
{
    for (int i = 1; i < K; i++) {
        for (int j = i; j > 0 && w[j] > w[j - 1]; j--) {
            float tw = w[j];
            int32_t te = experts[j];
            w[j] = w[j - 1];
            experts[j] = experts[j - 1];
            w[j - 1] = tw;
            experts[j - 1] = te;
        }
    }
}

void um_gate_choose(um_route *r, um_gate_style style, uint64_t seed, const uint64_t *noise)
{
    for (int t = 0; t < r->T; t++) {
        const float *z = r->logits + um_at((size_t)t, 0, (size_t)r->E);
        int32_t *experts = r->experts + um_at((size_t)t, 0, (size_t)r->K);
        float *w = r->weights + um_at((size_t)t, 0, (size_t)r->K);
        bool noisy = style == UM_GATE_GSHARD && noise != NULL;
        um_rng rng = noisy ? um_rng_seed(seed, noise[t]) : (um_rng){0};
        for (int k = 0; k < r->K; k++)
            experts[k] = k > 0 && noisy ? largest_noisy(z, r->E, experts, k, &rng)
                                        : largest(z, r->E, experts, k);
        if (style == UM_GATE_GSHARD)
            weights_gshard(w, z, r->E, experts, r->K);
        else
            weights_mixtral(w, z, experts, r->K);
        sort_by_weight(experts, w, r->K);
    }
}

void um_gate_bwd(float *dlogits, const float *dweights, const um_route *r)
{
    for (int t = 0; t < r->T; t++) {
        const float *w = r->weights + um_at((size_t)t, 0, (size_t)r->K),
                    *dw = dweights + um_at((size_t)t, 0, (size_t)r->K);
        float mean = 0.0f;
        for (int k = 0; k < r->K; k++) mean += w[k] * dw[k];
        for (int k = 0; k < r->K; k++) {
            size_t e = (size_t)r->experts[um_at((size_t)t, (size_t)k, (size_t)r->K)];
            dlogits[um_at((size_t)t, e, (size_t)r->E)] += w[k] * (dw[k] - mean);
        }
    }
}

double um_gate_balance(const um_route *r)
{
    double value = 0;
    for (int e = 0; e < r->E; e++) {
        double p = 0, first = 0;
        for (int t = 0; t < r->T; t++) {
            const float *z = r->logits + um_at((size_t)t, 0, (size_t)r->E);
            int top = largest(z, r->E, NULL, 0);
            float all = 0.0f;
            for (int i = 0; i < r->E; i++) all += um_expf(z[i] - z[top]);
            p += (double)(um_expf(z[e] - z[top]) / all);
            first += top == e;
        }
        value += p / r->T * (first / r->T);
    }
    return value * r->E;
}
