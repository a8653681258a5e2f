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

/* A benchmark of the index: scores of the same n questions, of the model and of its specialist. */
typedef struct um_bias_cell {
    const double *score, *specialist; /* [n] */
    long n;
} um_bias_cell;
/* 95 % intervals of the mean and the deviation: the questions of every benchmark are drawn anew, those of a model and its specialist
 * together. Draws in which no specialist has a score above 0 are left out. */
typedef struct um_bias_interval {
    um_interval mean, deviation;
} um_bias_interval;
um_bias_interval um_bias_bootstrap(const um_bias_cell *cells, int n, int rounds, uint64_t seed);
