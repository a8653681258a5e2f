/* See interval.h. */
#include "launch/eval/metrics/interval.h"

#include "core/base/arena.h"
#include "core/base/rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define Z95                                                                                        \
    1.959963984540054 /* the normal distribution has 95 % within so many standard deviations */

um_interval um_interval_wilson(long hits, long n)
{
    if (n <= 0) return (um_interval){0, 1};
    double p = (double)hits / (double)n, z2 = Z95 * Z95 / (double)n;
    double middle = (p + z2 / 2) / (1 + z2);
    double half = Z95 * sqrt(p * (1 - p) / (double)n + z2 / (4 * (double)n)) / (1 + z2);
    double low = hits == 0 ? 0 : middle - half, high = hits == n ? 1 : middle + half;
    return (um_interval){low, high};
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between the two values that stand around a share of the sorted list. */
static double percentile(const double *sorted, int n, double share)
{
    double at = share * (n - 1);
    int k = (int)at;
    return k + 1 < n ? sorted[k] + (at - k) * (sorted[k + 1] - sorted[k]) : sorted[n - 1];
}

um_interval um_interval_bootstrap(const double *score, int n, int rounds, uint64_t seed)
{
    if (n <= 0 || rounds <= 0) return (um_interval){0, 0};
    double *means = um_alloc_aligned((size_t)rounds * sizeof *means);
    um_rng rng = um_rng_seed(seed, 0);
    for (int r = 0; r < rounds; r++) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += score[um_rng_below(&rng, (uint64_t)n)];
        means[r] = sum / n;
    }
    qsort(means, (size_t)rounds, sizeof *means, by_value);
    um_interval out = {percentile(means, rounds, 0.025), percentile(means, rounds, 0.975)};
    um_free(means);
    return out;
}

um_bias_index um_bias_index_of(const double *score, const double *specialist, int n)
{
    um_bias_index b = {0};
    double squares = 0;
    for (int i = 0; i < n; i++) {
        if (!(specialist[i] > 0)) continue;
        b.mean += score[i] / specialist[i];
        b.n++;
    }
    if (b.n == 0) return b;
    b.mean /= b.n;
    for (int i = 0; i < n; i++)
        if (specialist[i] > 0) squares += pow(score[i] / specialist[i] - b.mean, 2);
    b.deviation = sqrt(squares / b.n);
    return b;
}

/* The index of questions drawn at random; false when no specialist has a score there. */
static bool bias_drawn(um_bias_index *out, const um_bias_cell *cells, int n, double *score,
                       double *specialist, um_rng *rng)
{
    for (int c = 0; c < n; c++) {
        const um_bias_cell *cell = &cells[c];
        double sum = 0, of = 0;
        for (long i = 0; i < cell->n; i++) {
            uint64_t k = um_rng_below(rng, (uint64_t)cell->n);
            sum += cell->score[k];
            of += cell->specialist[k];
        }
        score[c] = cell->n > 0 ? sum / (double)cell->n : 0;
        specialist[c] = cell->n > 0 ? of / (double)cell->n : 0;
    }
    *out = um_bias_index_of(score, specialist, n);
    return out->n > 0;
}

um_bias_interval um_bias_bootstrap(const um_bias_cell *cells, int n, int rounds, uint64_t seed)
{
    um_bias_interval out = {{0, 0}, {0, 0}};
    if (n <= 0 || rounds <= 0) return out;
    double *means = um_alloc_aligned(2 * (size_t)(rounds + n) * sizeof *means);
    double *deviations = means + rounds, *score = deviations + rounds, *specialist = score + n;
    um_rng rng = um_rng_seed(seed, 0);
    int drawn = 0;
    for (int r = 0; r < rounds; r++) {
        um_bias_index b;
        if (!bias_drawn(&b, cells, n, score, specialist, &rng)) continue;
        means[drawn] = b.mean;
        deviations[drawn++] = b.deviation;
    }
    if (drawn > 0) {
        qsort(means, (size_t)drawn, sizeof *means, by_value);
        qsort(deviations, (size_t)drawn, sizeof *deviations, by_value);
        out.mean = (um_interval){percentile(means, drawn, 0.025), percentile(means, drawn, 0.975)};
        out.deviation = (um_interval){percentile(deviations, drawn, 0.025),
                                      percentile(deviations, drawn, 0.975)};
    }
    um_free(means);
    return out;
}
