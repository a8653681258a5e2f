/* How sure a measured number is, and the index that compares a model with specialists. */
#pragma once

#include <stdint.h>

typedef struct um_interval {
    double low, high;
} um_interval;

/* 95 % interval of a share: hits of n (Wilson 1927). n 0: 0 to 1. */
um_interval um_interval_wilson(long hits, long n);
/* 95 % interval of the mean of n scores: percentiles of the means of `rounds` samples drawn with replacement (Efron 1979). The same seed
 * gives the same interval everywhere. n 0: both 0. */
um_interval um_interval_bootstrap(const double *score, int n, int rounds, uint64_t seed);

/* The bias index (spec 9.3): over n benchmarks the mean and the standard deviation (of all n, not an estimate) of a model's score as a
 * share of the score of the specialist of that benchmark's modality. A mean near 1 with a small deviation: as good as the specialists,
 * on all of them alike. */
typedef struct um_bias_index {
    double mean, deviation;
    int n; /* benchmarks that count: those whose specialist's score is more than 0 */
} um_bias_index;
um_bias_index um_bias_index_of(const double *score, const double *specialist, int n);
