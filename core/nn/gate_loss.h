/* What the gates of the MoE layers may add to the loss (spec 4.4.2 step 8, 4.5, 10.1), one layer at a time.
 *
 * Each function returns the term's value without its coefficient, in double, and adds coef times its gradient to dlogits [T,E] (device;
 * NULL: the value only). Every row of the route counts, rows of padding too where they are rows of the batch. Values and gradients do
 * not depend on the number of threads. Route and dlogits: device memory; scratch: one arena of each kind. */
#pragma once

#include "core/model/modality.h"
#include "core/nn/dynamic.h"
#include "core/nn/gate.h"

/* The samples of a micro-batch: sample i is rows sample_row[i] .. + sample_T[i]-1, padding included. Host memory. */
typedef struct um_gate_rows {
    const int *sample_row, *sample_T; /* [samples] */
    int samples;
    const uint8_t *modality; /* [T] um_modality of each row; rows of padding are text */
} um_gate_rows;

/* Load balance: E sum over e of (mean of p_e) (share of rows whose first choice is e), p = softmax(logits). The shares have no
 * gradient. Lepikhin et al. 2020, arXiv 2006.16668. */
double um_gate_balance_loss(um_dev *d, float *dlogits, const um_route *r, float coef,
                            um_arena *host, um_arena *device);
/* The mean over rows of logsumexp(logits)^2. Zoph et al. 2022, arXiv 2202.08906. */
double um_gate_z_loss(um_dev *d, float *dlogits, const um_route *r, float coef, um_arena *host,
                      um_arena *device);
/* The sum over samples and over images, audio and video of (n_m / T) mean |p - t_m|, the mean over the n_m rows of that kind and all
 * experts, T the rows of the sample; t_m[e] is 1 for the experts that are meant for the kind. meant[um_fm] (host): [E] 0 or 1; NULL: the
 * kind is left out. */
double um_gate_multimodal_loss(um_dev *d, float *dlogits, const um_route *r,
                               const um_gate_rows *rows, const uint8_t *const *meant, float coef,
                               um_arena *host, um_arena *device);
/* The sum over samples of the mean of 1 - KL(a, b) over those of the pairs image-audio, image-text, audio-text, audio-video and video-text
 * of which both kinds are there. KL(a, b) = 1/E sum over e of q_e (ln q_e - ln r_e), r the softmax of the mean p over the rows of kind a
 * and q that of b: a softmax of probabilities, as in the reference. */
double um_gate_kl_loss(um_dev *d, float *dlogits, const um_route *r, const um_gate_rows *rows,
                       float coef, um_arena *host, um_arena *device);

/* The balance value of the gate with a varying number of experts, as um_dynamic_balance computes it. dlogits [T,C]. weight [T] host. */
double um_dynamic_balance_loss(um_dev *d, float *dlogits, const um_dynamic *g, const float *weight,
                               float coef, um_arena *host, um_arena *device);
