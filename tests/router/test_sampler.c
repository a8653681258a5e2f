/* Choosing tokens: ties, cuts, the distribution itself, the same draws everywhere, and invalid logits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/engine/sampler.h"
#include "tests/support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const um_sampling greedy = {.temperature = 0, .top_p = 1, .top_k = 0};

static int32_t sample(const float *logits, int V, um_sampling opt, um_rng *rng)
{
    int32_t id = -1;
    um_err err = {0};
    size_t used = arena.used;
    if (um_sample(&id, logits, V, &opt, rng, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(id >= 0 && id < V);
    assert_true(arena.used == used);
    return id;
}

static void test_greedy(void **state)
{
    (void)state;
    um_rng rng = um_rng_seed(1, 0), before = rng;
    const float ties[] = {-1, 3, 2, 3, 3}, zeros[] = {-0.0f, 0.0f}, one[] = {-7},
                cut[] = {-INFINITY, -5, -INFINITY};
    assert_int_equal(sample(ties, 5, greedy, &rng), 1);
    assert_int_equal(sample(zeros, 2, greedy, &rng), 0);
    assert_int_equal(sample(one, 1, greedy, &rng), 0);
    assert_int_equal(sample(cut, 3, greedy, &rng), 1);
    assert_int_equal(sample(ties, 5, (um_sampling){.temperature = 1, .top_p = 1, .top_k = 1}, &rng),
                     1);
    assert_memory_equal(&rng, &before, sizeof rng); /* no draw, no change */
    /* a nucleus smaller than any token keeps the first; so does a temperature near zero */
    assert_int_equal(
        sample(ties, 5, (um_sampling){.temperature = 1, .top_p = 1e-9, .top_k = 0}, &rng), 1);
    const float steps[] = {1, 2, 2.001f, 0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(
            sample(steps, 4, (um_sampling){.temperature = 1e-300, .top_p = 1, .top_k = 0}, &rng),
            2);
}

static void test_broken_logits(void **state)
{
    (void)state;
    const float nan_at_end[] = {1, 2, NAN}, nan_first[] = {NAN, 1}, inf[] = {0, INFINITY},
                none[] = {-INFINITY, -INFINITY};
    const float *const bad[] = {nan_at_end, nan_first, inf, none};
    const int size[] = {3, 2, 2, 2};
    const char *const words[] = {"logit 2 is not a number", "logit 0 is not a number", "logit 1",
                                 "minus infinite"};
    for (int i = 0; i < 4; i++) {
        for (int hot = 0; hot < 2; hot++) {
            um_rng rng = um_rng_seed(1, 0);
            um_err err = {0};
            int32_t id = 77;
            um_sampling opt = {.temperature = hot, .top_p = 0.5, .top_k = 2};
            assert_int_equal(um_sample(&id, bad[i], size[i], &opt, &rng, &arena, &err),
                             UM_E_CORRUPT);
            assert_non_null(strstr(err.msg, words[i]));
            assert_int_equal(id, 77);
        }
    }
}

/* Against the plain formula in long double; together the probabilities are one. */
static void log_probabilities(void **state)
{
    const int sizes[] = {1, 2, 15, 16, 17, 400};
    (void)state;
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
        um_rng rng = um_rng_seed(5, n);
        float logits[400];
        long double sum = 0, all = 0;
        for (int i = 0; i < sizes[n]; i++) {
            logits[i] = (float)(um_rng_uniform(&rng) * 60 - 30);
            sum += expl((long double)logits[i]);
        }
        for (int i = 0; i < sizes[n]; i++) {
            double want = (double)((long double)logits[i] - logl(sum));
            float got = um_sample_logprob(logits, sizes[n], i);
            assert_true(fabs((double)got - want) <= 1e-6 * (1 + fabs(want)));
            all += expl((long double)got);
        }
        assert_true(fabsl(all - 1) < 1e-5L);
    }
    const float huge[] = {3.0e38f, -3.0e38f, 3.0e38f};
    assert_true(fabs((double)um_sample_logprob(huge, 3, 2) + 0.693147) < 1e-5);
}

/* What the sampler should do, the plain way: everything sorted, then cut. p [V] by id. */
typedef struct entry {
    float logit;
    int id;
} entry;

static int entry_order(const void *pa, const void *pb)
{
    const entry *a = pa, *b = pb;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->id - b->id;
}

static void expected(double *p, const float *logits, int V, um_sampling opt)
{
    entry *e = um_arena_alloc(&arena, (size_t)V * sizeof *e);
    double total = 0, before = 0, kept = 0;
    int k = opt.top_k > 0 && opt.top_k < V ? opt.top_k : V;
    for (int i = 0; i < V; i++) e[i] = (entry){logits[i], i};
    qsort(e, (size_t)V, sizeof *e, entry_order);
    for (int i = 0; i < V; i++) p[i] = 0;
    for (int i = 0; i < k; i++)
        total += exp(((double)e[i].logit - (double)e[0].logit) / opt.temperature);
    for (int i = 0; i < k && (i == 0 || before < opt.top_p * total); i++) {
        p[e[i].id] = exp(((double)e[i].logit - (double)e[0].logit) / opt.temperature);
        before += p[e[i].id];
        kept += p[e[i].id];
    }
    for (int i = 0; i < V; i++) p[i] /= kept;
}

/* Pearson's test: for n classes the sum is n - 1 on average with deviation sqrt(2(n-1)); the seed is fixed. */
static void distribution(const float *logits, int V, um_sampling opt, int draws)
{
    double *p = um_arena_alloc(&arena, (size_t)V * sizeof *p), chi2 = 0;
    int *seen = um_arena_zero(&arena, (size_t)V * sizeof *seen), classes = 0;
    um_rng rng = um_rng_seed(42, 7);
    expected(p, logits, V, opt);
    for (int i = 0; i < draws; i++) seen[sample(logits, V, opt, &rng)]++;
    for (int i = 0; i < V; i++) {
        if (p[i] == 0) assert_int_equal(seen[i], 0);
        if (p[i] * draws < 5) continue;
        double off = seen[i] - p[i] * draws;
        chi2 += off * off / (p[i] * draws);
        classes++;
    }
    double limit = classes - 1 + 4 * sqrt(2.0 * classes);
    if (chi2 > limit) fail_msg("chi-square %.1f of %d classes, limit %.1f", chi2, classes, limit);
}

static void test_distribution(void **state)
{
    (void)state;
    enum { V = 40 };
    float logits[V];
    um_rng rng = um_rng_seed(3, 0);
    um_rng_normal_f32(&rng, logits, V, 2.0f);
    logits[7] = logits[8] = logits[31]; /* ties, also at cuts */
    logits[12] = -INFINITY;
    const um_sampling rows[] = {{1, 1, 0},     {0.5, 1, 0},  {3, 1, 0},   {1, 1, 5},
                                {1, 1, 39},    {1, 1, 1000}, {1, 0.9, 0}, {1, 0.5, 20},
                                {0.2, 0.6, 0}, {2, 0.99, 30}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) distribution(logits, V, rows[i], 20000);
}

/* Equal logits at the cut: exactly k stay, those with the lowest ids. */
static void test_ties_at_the_cut(void **state)
{
    (void)state;
    float logits[9] = {0, 1, 0, 1, 0, 1, 0, 1, 0};
    um_rng rng = um_rng_seed(5, 0);
    int seen[9] = {0};
    for (int i = 0; i < 500; i++) seen[sample(logits, 9, (um_sampling){1, 1, 6}, &rng)]++;
    for (int i = 0; i < 9; i++) assert_int_equal(seen[i] > 0, logits[i] > 0 || i < 4);
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < 500; i++) seen[sample(logits, 9, (um_sampling){1, 1, 3}, &rng)]++;
    for (int i = 0; i < 9; i++) assert_int_equal(seen[i] > 0, i == 1 || i == 3 || i == 5);
}

/* A vocabulary of real size, every kind of cut: the sampler never draws what the plain way removes. */
static void test_large_vocabulary(void **state)
{
    (void)state;
    enum { V = 32000 };
    float *logits = um_arena_f32(&arena, 1, V);
    double *p = um_arena_alloc(&arena, V * sizeof *p);
    um_rng rng = um_rng_seed(9, 0);
    um_rng_normal_f32(&rng, logits, V, 3.0f);
    const um_sampling rows[] = {{1, 1, 50}, {1, 0.9, 50}, {0.7, 0.95, 0}, {1, 1, 0}, {1, 1, 31999}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        expected(p, logits, V, rows[r]);
        for (int i = 0; i < 50; i++) assert_true(p[sample(logits, V, rows[r], &rng)] > 0);
    }
}

/* The draws of one seed, written down: the same on every machine and for every compiler. */
static void test_same_everywhere(void **state)
{
    (void)state;
    enum { V = 1000, N = 12 };
    float logits[V];
    um_rng rng = um_rng_seed(11, 0);
    um_rng_normal_f32(&rng, logits, V, 2.5f);
    const um_sampling rows[] = {{1, 1, 0}, {0.8, 0.9, 0}, {1.3, 0.95, 50}};
    static const int32_t want[3][N] = {
        {812, 343, 649, 285, 146, 812, 276, 388, 486, 508, 887, 618},
        {795, 311, 81, 994, 404, 543, 795, 795, 795, 795, 343, 129},
        {404, 751, 486, 343, 739, 343, 543, 751, 795, 404, 838, 543},
    };
    for (int r = 0; r < 3; r++) {
        um_rng draws = um_rng_seed(2024, (uint64_t)r);
        for (int i = 0; i < N; i++)
            assert_int_equal(sample(logits, V, rows[r], &draws), want[r][i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),           cmocka_unit_test(test_broken_logits),
        cmocka_unit_test(test_distribution),     cmocka_unit_test(test_ties_at_the_cut),
        cmocka_unit_test(test_large_vocabulary), cmocka_unit_test(log_probabilities),
        cmocka_unit_test(test_same_everywhere),
    };
    return cmocka_run_group_tests(tests, arena_setup, arena_teardown);
}
