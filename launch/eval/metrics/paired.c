/* See paired.h. */
#include "launch/eval/metrics/paired.h"

#include "core/base/arena.h"

#include <math.h>

double um_mcnemar(long only_a, long only_b)
{
    long n = only_a + only_b, k = only_a < only_b ? only_a : only_b;
    double sum = 0;
    /* P(X <= k) of a binomial of n and 1/2, each term by logarithms, for 2^-n may be too small for a double */
    for (long i = 0; i <= k; i++)
        sum += exp(lgamma((double)n + 1) - lgamma((double)i + 1) - lgamma((double)(n - i) + 1) -
                   (double)n * log(2.0));
    return fmin(1.0, 2 * sum);
}

um_paired um_paired_of(const double *a, const double *b, long n, int rounds, uint64_t seed)
{
    um_paired p = {.n = n, .counts = true, .p = 1};
    double *d = um_alloc_aligned(((size_t)n + 1) * sizeof *d), sum = 0;
    for (long i = 0; i < n; i++) {
        d[i] = b[i] - a[i];
        sum += d[i];
        p.counts = p.counts && (a[i] == 0 || a[i] == 1) && (b[i] == 0 || b[i] == 1);
        p.only_a += d[i] < 0;
        p.only_b += d[i] > 0;
    }
    if (n > 0) p.difference = sum / (double)n;
    p.interval = um_interval_bootstrap(d, (int)n, rounds, seed);
    if (p.counts)
        p.p = um_mcnemar(p.only_a, p.only_b);
    else
        p.only_a = p.only_b = 0;
    um_free(d);
    return p;
}
