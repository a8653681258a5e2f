/* The gate: which K of E experts a token goes to, and with what weights (spec 4.4). Always f32, ties to the lowest expert index.
 *
 * Mixtral style (4.4.1): the K largest logits; weights = softmax over those K.
 * GShard style (4.4.2): p = softmax over all E; first expert = arg max; further experts = arg max of the logits, with Gumbel noise
 * on request, excluding the experts already chosen; weights = the clean p of the K, divided by their sum (clamped to float epsilon).
 * Without noise both give the same experts, and the same weights up to rounding. */
#pragma once

#include "core/base/rng.h"
#include "core/model/model.h"
#include "core/tensor/ops.h"

/* What a gate decided for T rows; larger weight first. Device memory. */
typedef struct um_route {
    int T, K, E;
    float *logits;    /* [T,E] clean */
    int32_t *experts; /* [T,K] */
    float *weights;   /* [T,K] */
} um_route;

void um_route_bind(um_route *r, um_arena *arena, int T, int K, int E);

/* Fills experts and weights from logits. noise: one stream number for each row (GShard only; device memory), NULL for none;
 * seed is theirs. */
void um_gate_choose(um_dev *d, um_route *r, um_gate_style style, uint64_t seed,
                    const uint64_t *noise);

/* Backward of the weights w.r.t. the logits; the choice itself has no gradient. Both styles: weights = softmax over the K chosen
 * logits, so dlogits[chosen i] += w_i (dw_i - sum_j w_j dw_j). dlogits [T,E], dweights [T,K]. */
void um_gate_bwd(um_dev *d, float *dlogits, const float *dweights, const um_route *r);

/* Balance without a loss: a bias of each expert is added to the logits for the choice alone; the weights are the softmax over the chosen
 * clean logits, larger first. Wang et al. 2024, arXiv 2408.15664 (there with sigmoid weights). bias [E] device. Fills experts and
 * weights of r from its logits. host, device: scratch. */
void um_gate_choose_biased(um_dev *d, um_route *r, const float *bias, um_arena *host,
                           um_arena *device);
/* load[E] (device) += the rows of each expert, in any slot; experts [T,K] host. In training load is the gradient of the bias: sums of whole
 * numbers below 2^24, which f32 adds exactly in any order. */
void um_gate_add_load(um_dev *d, float *load, const int32_t *experts, int T, int K, int E,
                      um_arena *host, um_arena *device);
/* After a step: bias[e] += rate where expert e had fewer rows than the mean, -= rate where it had more. load [E]: rows of the whole step,
 * of all routers. Both host. */
void um_gate_bias_update(float *bias, const float *load, int E, float rate);
