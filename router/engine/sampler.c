/* See sampler.h. */
#include "router/engine/sampler.h"

#include "core/tensor/ops.h"

#include <math.h>

typedef struct candidate {
    float logit;
    int32_t id;
    double p; /* relative to the largest: e^((logit - largest) / temperature) */
} candidate;

/* The id of the largest logit, the lowest on ties. One comparison finds both a larger one and a NaN. */
static um_status largest(int32_t *id, const float *logits, int V, um_err *err)
{
    int32_t best = 0;
    float top = logits[0];
    for (int32_t i = 0; i < V; i++) {
        if (logits[i] <= top) continue;
        if (isnan(logits[i])) return UM_FAIL(err, UM_E_CORRUPT, "logit %d is not a number", i);
        best = i;
        top = logits[i];
    }
    if (isinf(top))
        return UM_FAIL(err, UM_E_CORRUPT, "logit %d, the largest, is %sinfinite", best,
                       top < 0 ? "minus " : "");
    *id = best;
    return UM_OK;
}

/* Larger logit first, lower id on ties. */
static bool before(const candidate *a, const candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Sinks element i of a heap whose root is the first in order, or the last when from_end. */
static void sift(candidate *heap, int n, int i, bool from_end)
{
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child]) != from_end) child++;
        if (before(&heap[i], &heap[child]) != from_end) return;
        candidate t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
    }
}

static void heapify(candidate *heap, int n, bool from_end)
{
    for (int i = n / 2 - 1; i >= 0; i--) sift(heap, n, i, from_end);
}

/* The k first of V, in no order that matters: a heap of the k best so far with the worst of them on top. O(V + k log k log V) on
 * average. */
static void keep_top_k(candidate *out, int k, const float *logits, int V)
{
    for (int i = 0; i < k; i++) out[i] = (candidate){.logit = logits[i], .id = i};
    if (k == V) return;
    heapify(out, k, true);
    for (int i = k; i < V; i++) {
        if (logits[i] <= out[0].logit) continue; /* ids rise: a tie loses */
        out[0] = (candidate){.logit = logits[i], .id = i};
        sift(out, k, 0, true);
    }
}

/* Moves the nucleus to the end of c[n]: the first candidates in order while the probability before them is below top_p, at least
 * one. Takes them off a heap, so that only they are sorted. Returns how many. */
static int keep_nucleus(candidate *c, int n, double top_p)
{
    double total = 0, taken = 0;
    int left = n;
    for (int i = 0; i < n; i++) total += c[i].p;
    heapify(c, n, false);
    do {
        candidate first = c[0];
        c[0] = c[--left];
        sift(c, left, 0, false);
        c[left] = first;
        taken += first.p;
    } while (left > 0 && taken < top_p * total);
    return n - left;
}

/* One of c[n], each as likely as its p. The sums run from the first to the last in both loops. */
static int32_t draw(const candidate *c, int n, um_rng *rng)
{
    double sum = 0, up_to = 0;
    int last = 0;
    for (int i = 0; i < n; i++) sum += c[i].p;
    const double at = um_rng_uniform(rng) * sum;
    for (int i = 0; i < n; i++) {
        up_to += c[i].p;
        if (at < up_to) return c[i].id;
        if (c[i].p > 0) last = i;
    }
    return c[last].id; /* at was rounded up to sum */
}

float um_sample_logprob(const float *logits, int V, int32_t id)
{
    enum { LANES = 16 };
    double lane[LANES] = {0}, top = (double)logits[0];
    for (int i = 1; i < V; i++)
        if ((double)logits[i] > top) top = (double)logits[i];
    for (int i = 0; i < V; i++) lane[i % LANES] += um_exp((double)logits[i] - top);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return (float)((double)logits[id] - top - um_log(lane[0]));
}

um_status um_sample(int32_t *id, const float *logits, int V, const um_sampling *opt, um_rng *rng,
                    um_arena *scratch, um_err *err)
{
    int32_t best = 0;
    UM_TRY(largest(&best, logits, V, err));
    if (opt->temperature <= 0 || opt->top_k == 1) {
        *id = best;
        return UM_OK;
    }
    um_mark mark = um_arena_mark(scratch);
    int n = opt->top_k > 0 && opt->top_k < V ? opt->top_k : V;
    candidate *c = um_arena_alloc(scratch, (size_t)n * sizeof *c);
    keep_top_k(c, n, logits, V);
    for (int i = 0; i < n; i++)
        c[i].p = um_exp(((double)c[i].logit - (double)logits[best]) / opt->temperature);
    int kept = opt->top_p < 1 ? keep_nucleus(c, n, opt->top_p) : n;
    *id = draw(c + (n - kept), kept, rng);
    um_arena_reset(scratch, mark);
    return UM_OK;
}
