/* The gates: which experts a row goes to, and with what weights. Rows are divided among threads; each is computed in scalar f32, every
 * sum by rising column or in order of choice, so that the bits are the same everywhere. Formulas: core/nn/gate.h, core/nn/dynamic.h. */
#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "core/tensor/cpu/kernels.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_WORK = 1 << 13 }; /* logits that are worth waking a thread for */

static int gate_team(const um_dev *d, int T, int columns)
{
    return um_team_size(d, (size_t)T * (size_t)columns, ROW_WORK);
}

/* --- the K largest --- */

typedef struct topk_job {
    int32_t *experts;
    float *weights;
    const float *logits;
    int T, E, K;
    bool gshard;
    uint64_t seed;
    const uint64_t *noise;
} topk_job;

static bool chosen(const int32_t *experts, int k, int e)
{
    for (int j = 0; j < k; j++)
        if (experts[j] == e) return true;
    return false;
}

/* The index of the largest z that is not among the first k of experts; the lowest index on ties. A NaN is the largest where no lower
 * index is left, and is passed over elsewhere. */
static int largest(const float *z, int E, const int32_t *experts, int k)
{
    int best = -1;
    for (int e = 0; e < E; e++)
        if ((best < 0 || z[e] > z[best]) && !chosen(experts, k, e)) best = e;
    return best;
}

/* The K largest in one pass: a list in falling order, of which few logits reach even the end. False when a logit is NaN, which has no
 * place in an order. */
static bool largest_sorted(int32_t *experts, const float *z, int E, int K)
{
    int n = 0;
    for (int e = 0; e < E; e++) {
        if (z[e] != z[e]) return false;
        if (n == K && !(z[e] > z[experts[n - 1]])) continue;
        int at = n < K ? n++ : n - 1;
        for (; at > 0 && z[e] > z[experts[at - 1]]; at--) experts[at] = experts[at - 1];
        experts[at] = e;
    }
    return true;
}

/* Gumbel(0,1) = -ln(-ln u), drawn expert after expert from the row's own stream. */
static int largest_noisy(const float *z, int E, const int32_t *experts, int k, um_rng *rng)
{
    int best = -1;
    double best_value = 0;
    for (int e = 0; e < E; e++) {
        const double noisy = (double)z[e] - um_log(-um_log(um_rng_open(rng)));
        if ((best < 0 || noisy > best_value) && !chosen(experts, k, e)) {
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

static void topk_row(const topk_job *j, size_t t)
{
    const float *z = j->logits + t * (size_t)j->E;
    int32_t *experts = j->experts + t * (size_t)j->K;
    float *w = j->weights + t * (size_t)j->K;
    if (j->gshard && j->noise != NULL) {
        um_rng rng = um_rng_seed(j->seed, j->noise[t]);
        experts[0] = largest(z, j->E, experts, 0);
        for (int k = 1; k < j->K; k++) experts[k] = largest_noisy(z, j->E, experts, k, &rng);
    } else if (!largest_sorted(experts, z, j->E, j->K)) {
        for (int k = 0; k < j->K; k++) experts[k] = largest(z, j->E, experts, k);
    }
    if (j->gshard)
        weights_gshard(w, z, j->E, experts, j->K);
    else
        weights_mixtral(w, z, experts, j->K);
    sort_by_weight(experts, w, j->K);
}

static void topk_part(void *ctx, int part, int parts)
{
    const topk_job *j = ctx;
    size_t t, to;
    um_team_share((size_t)j->T, 1, part, parts, &t, &to);
    for (; t < to; t++) topk_row(j, t);
}

void um_cpu_gate_topk(um_dev *d, int32_t *experts, float *weights, const float *logits, int T,
                      int E, int K, bool gshard, uint64_t seed, const uint64_t *noise)
{
    UM_CHECK(K > 0 && K <= E);
    topk_job j = {experts, weights, logits, T, E, K, gshard, seed, noise};
    if (T > 0) um_team_run(gate_team(d, T, E), topk_part, &j);
}

void um_cpu_gate_topk_bwd(um_dev *d, float *dlogits, const float *dweights, const float *weights,
                          const int32_t *experts, int T, int E, int K)
{
    if (d->st != UM_OK) return;
    for (int t = 0; t < T; t++, weights += K, dweights += K, experts += K, dlogits += E) {
        float mean = 0.0f;
        for (int k = 0; k < K; k++) mean += weights[k] * dweights[k];
        for (int k = 0; k < K; k++) dlogits[experts[k]] += weights[k] * (dweights[k] - mean);
    }
}
