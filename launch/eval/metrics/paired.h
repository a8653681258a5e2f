/* Two models on the same questions: is one better, or was it luck? */
#pragma once

#include "launch/eval/metrics/interval.h"

#include <stdbool.h>

typedef struct um_paired {
    long n;               /* questions that both have a score of */
    double difference;    /* mean of b - a */
    um_interval interval; /* 95 % of it, by bootstrap over questions */
    bool counts;          /* every score is 0 or 1, so that the next three are set */
    long only_a, only_b;  /* right of one of them alone */
    double p; /* McNemar's exact test: that such a difference or a larger one is chance */
} um_paired;

/* Scores a[n] and b[n] of the same n questions. The same seed gives the same interval everywhere. */
um_paired um_paired_of(const double *a, const double *b, long n, int rounds, uint64_t seed);
/* The two-sided exact test of McNemar (1947; binomial with 1/2): of only_a + only_b questions that one alone has right. Without any: 1. */
double um_mcnemar(long only_a, long only_b);
