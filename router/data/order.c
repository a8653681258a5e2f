/* See order.h. */
#include "router/data/order.h"

#include "core/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POOL_STEPS = 64, SHIFT = 20 /* bits of a fraction of a weight */ };

/* Streams of random numbers, of one seed. An epoch has 16: one for each combination, and one for the order of the steps. */
enum { STREAMS = 16, STREAM_STEPS = UM_MEDIA_SETS };
#define STREAM_FILE ((uint64_t)1 << 63) /* + file: which of its samples are seen once more */

typedef struct planned_step {
    size_t first; /* in seq */
    int n;
    unsigned kinds;
} planned_step;

struct um_order {
    const um_dataset *ds;
    um_order_how how;
    uint64_t weight[UM_DATA_FILES_MAX]; /* times an epoch, in units of 2^-SHIFT */
    bool whole;                         /* all weights are whole: every epoch has as many samples */
    uint32_t *rank; /* [size] place of a sample in a permutation of its file; NULL when whole */
    uint32_t file_n[UM_DATA_FILES_MAX]; /* samples of each file */
    /* the epoch that is planned, -1: none */
    int64_t epoch;
    uint32_t *seq; /* [n] */
    planned_step *steps;
    size_t n_steps, seq_cap, steps_cap;
    /* of the step that um_order_next returned last */
    uint32_t *samples; /* [batch] */
    int *first;        /* [batch + 1] */
    uint64_t *keys;    /* [pool] for sorting */
};

/* --- opening --- */

static void shuffle(uint32_t *v, size_t n, uint64_t seed, uint64_t stream)
{
    um_rng rng = um_rng_seed(seed, stream);
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)um_rng_below(&rng, i);
        uint32_t t = v[i - 1];
        v[i - 1] = v[k];
        v[k] = t;
    }
}

/* The samples of a file stand one behind another in the data set. */
static void ranks_make(um_order *o, int n_files)
{
    size_t at = 0, n = um_dataset_size(o->ds);
    uint32_t *order = um_alloc_aligned((n + 1) * sizeof *order);
    o->rank = um_alloc_aligned((n + 1) * sizeof *o->rank);
    for (int f = 0; f < n_files; f++) {
        uint32_t m = o->file_n[f];
        for (uint32_t i = 0; i < m; i++) order[i] = i;
        shuffle(order, m, o->how.seed, STREAM_FILE + (uint64_t)f);
        for (uint32_t i = 0; i < m; i++) o->rank[at + order[i]] = i;
        at += m;
    }
    um_free(order);
}

um_status um_order_open(um_order **out, const um_dataset *ds, const um_order_how *how, um_err *err)
{
    int n_files = 0;
    const um_data_file *files = um_dataset_files(ds, &n_files);
    if (how->batch < 1) return UM_FAIL(err, UM_E_USAGE, "a step of %d samples", how->batch);
    if (how->micro < 1 || how->micro > how->batch)
        return UM_FAIL(err, UM_E_USAGE, "micro-batches of %d samples, allowed 1..%d (a step)",
                       how->micro, how->batch);
    um_order *o = um_zalloc(sizeof *o);
    o->ds = ds;
    o->how = *how;
    o->epoch = -1;
    o->whole = true;
    for (int f = 0; f < n_files; f++) {
        double w = how->shuffle ? files[f].weight : 1;
        o->weight[f] = (uint64_t)llround(ldexp(w, SHIFT));
        o->whole = o->whole && (o->weight[f] & ((1 << SHIFT) - 1)) == 0;
    }
    for (size_t i = 0; i < um_dataset_size(ds); i++) o->file_n[um_dataset_entry(ds, i)->file]++;
    if (!o->whole) ranks_make(o, n_files);
    o->samples = um_alloc_aligned((size_t)how->batch * sizeof *o->samples);
    o->first = um_alloc_aligned(((size_t)how->batch + 1) * sizeof *o->first);
    o->keys = um_alloc_aligned((size_t)how->batch * POOL_STEPS * sizeof *o->keys);
    *out = o;
    return UM_OK;
}

void um_order_close(um_order *o)
{
    if (o == NULL) return;
    um_free(o->rank);
    um_free(o->seq);
    um_free(o->steps);
    um_free(o->samples);
    um_free(o->first);
    um_free(o->keys);
    um_free(o);
}

/* --- epochs --- */

/* How often sample i is seen in an epoch. Over the epochs it is seen floor((epoch + 1) * weight + u) times, where u in [0, 1) is its
 * rank: so a fraction of a weight goes to other samples in each epoch, and to each in turn. */
static uint64_t times(const um_order *o, size_t i, int64_t epoch)
{
    const um_data_entry *e = um_dataset_entry(o->ds, i);
    uint64_t w = o->weight[e->file];
    if (o->whole) return w >> SHIFT;
    uint64_t u = ((uint64_t)o->rank[i] << SHIFT) / o->file_n[e->file], at = (uint64_t)epoch * w + u;
    return ((at + w) >> SHIFT) - (at >> SHIFT);
}

static unsigned group_of(const um_order *o, size_t i)
{
    return o->how.by_kinds ? um_dataset_entry(o->ds, i)->kinds : 0;
}

/* Samples of each combination in an epoch. */
static void epoch_count(const um_order *o, int64_t epoch, size_t count[UM_MEDIA_SETS])
{
    memset(count, 0, UM_MEDIA_SETS * sizeof *count);
    for (size_t i = 0; i < um_dataset_size(o->ds); i++)
        count[group_of(o, i)] += (size_t)times(o, i, epoch);
}

static int64_t steps_of(const um_order *o, const size_t count[UM_MEDIA_SETS])
{
    size_t n = 0, batch = (size_t)o->how.batch;
    for (int k = 0; k < UM_MEDIA_SETS; k++) n += (count[k] + batch - 1) / batch;
    return (int64_t)n;
}

int64_t um_order_steps(um_order *o, int64_t epoch)
{
    size_t count[UM_MEDIA_SETS];
    if (epoch == o->epoch) return (int64_t)o->n_steps;
    epoch_count(o, epoch, count);
    return steps_of(o, count);
}

int64_t um_order_samples(um_order *o, int64_t epoch)
{
    size_t count[UM_MEDIA_SETS], n = 0;
    epoch_count(o, epoch, count);
    for (int k = 0; k < UM_MEDIA_SETS; k++) n += count[k];
    return (int64_t)n;
}

int64_t um_order_total(um_order *o, double epochs)
{
    int64_t full = (int64_t)floor(epochs), n = 0;
    UM_ASSERT(epochs >= 0);
    if (o->whole)
        n = full * um_order_steps(o, 0);
    else
        for (int64_t e = 0; e < full; e++) n += um_order_steps(o, e);
    return n + (int64_t)ceil((epochs - (double)full) * (double)um_order_steps(o, full));
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts v[0..n) by falling length; equal ones keep their order. n is at most a pool. */
static void sort_by_length(um_order *o, uint32_t *v, size_t n)
{
    UM_CHECK(n <= (size_t)o->how.batch * POOL_STEPS);
    uint32_t *old = um_alloc_aligned((n + 1) * sizeof *old);
    for (size_t i = 0; i < n; i++) {
        old[i] = v[i];
        o->keys[i] = (uint64_t)(UINT32_MAX - um_dataset_entry(o->ds, v[i])->length) << 32 | i;
    }
    qsort(o->keys, n, sizeof *o->keys, by_key);
    for (size_t i = 0; i < n; i++) v[i] = old[o->keys[i] & UINT32_MAX];
    um_free(old);
}

/* Puts samples seq[first .. first+n) of one combination in order and cuts them into steps. */
static void group_plan(um_order *o, int64_t epoch, unsigned kinds, size_t first, size_t n)
{
    size_t batch = (size_t)o->how.batch, pool = batch * POOL_STEPS;
    uint32_t *v = o->seq + first;
    if (o->how.shuffle) shuffle(v, n, o->how.seed, (uint64_t)epoch * STREAMS + kinds);
    for (size_t i = 0; o->how.by_length && o->how.shuffle && i < n; i += pool)
        sort_by_length(o, v + i, n - i < pool ? n - i : pool);
    for (size_t i = 0; i < n; i += batch)
        o->steps[o->n_steps++] =
            (planned_step){first + i, (int)(n - i < batch ? n - i : batch), kinds};
}

static void steps_shuffle(um_order *o, int64_t epoch)
{
    um_rng rng = um_rng_seed(o->how.seed, (uint64_t)epoch * STREAMS + STREAM_STEPS);
    for (size_t i = o->n_steps; i > 1; i--) {
        size_t k = (size_t)um_rng_below(&rng, i);
        planned_step t = o->steps[i - 1];
        o->steps[i - 1] = o->steps[k];
        o->steps[k] = t;
    }
}

static void epoch_plan(um_order *o, int64_t epoch)
{
    size_t count[UM_MEDIA_SETS], at[UM_MEDIA_SETS], n = 0;
    epoch_count(o, epoch, count);
    for (int k = 0; k < UM_MEDIA_SETS; k++) {
        at[k] = n;
        n += count[k];
    }
    size_t steps = (size_t)steps_of(o, count);
    if (n > o->seq_cap) o->seq = um_realloc(o->seq, (o->seq_cap = n) * sizeof *o->seq);
    if (steps > o->steps_cap)
        o->steps = um_realloc(o->steps, (o->steps_cap = steps) * sizeof *o->steps);
    for (size_t i = 0; i < um_dataset_size(o->ds); i++)
        for (uint64_t k = times(o, i, epoch); k > 0; k--)
            o->seq[at[group_of(o, i)]++] = (uint32_t)i;
    o->n_steps = 0;
    for (unsigned k = 0; k < UM_MEDIA_SETS; k++)
        group_plan(o, epoch, k, at[k] - count[k], count[k]);
    if (o->how.shuffle) steps_shuffle(o, epoch);
    UM_ASSERT(o->n_steps == steps);
    o->epoch = epoch;
}

/* --- steps --- */

/* Assigns the samples of a step to micro-batches: the longest to the first, the next to the second, and back again from the last, so
 * that none has all the long ones. Without shuffling they stay in order. */
static void micro_assign(um_order *o, um_order_step *s, const uint32_t *v)
{
    int M = s->n_micro, q = s->n / M, rest = s->n % M;
    uint32_t *sorted = um_alloc_aligned((size_t)s->n * sizeof *sorted);
    int *fill = um_zalloc((size_t)M * sizeof *fill);
    memcpy(sorted, v, (size_t)s->n * sizeof *v);
    if (o->how.shuffle) sort_by_length(o, sorted, (size_t)s->n);
    for (int b = 0; b <= M;
         b++) { /* the last, incomplete row of the turns goes the way that it goes */
        int more = !o->how.shuffle || q % 2 == 0 ? (b < rest ? b : rest)
                                                 : (b > M - rest ? b - (M - rest) : 0);
        o->first[b] = b * q + more;
    }
    for (int i = 0; i < s->n; i++) {
        int row = i / M, col = i % M, b = row % 2 == 0 ? col : M - 1 - col;
        if (o->how.shuffle)
            o->samples[o->first[b] + fill[b]++] = sorted[i];
        else
            o->samples[i] = sorted[i];
    }
    um_free(fill);
    um_free(sorted);
}

void um_order_next(um_order *o, um_order_step *out, um_order_cursor *cursor)
{
    um_order_cursor at = *cursor;
    UM_ASSERT(at.epoch >= 0 && at.step >= 0);
    if (o->epoch != at.epoch) epoch_plan(o, at.epoch);
    while ((size_t)at.step >= o->n_steps) { /* an epoch of a small weight may be empty */
        at = (um_order_cursor){at.epoch + 1, 0};
        epoch_plan(o, at.epoch);
    }
    const planned_step *p = &o->steps[at.step];
    um_order_step s = {.samples = o->samples, .first = o->first, .n = p->n, .cursor = at};
    s.n_micro = (s.n + o->how.micro - 1) / o->how.micro;
    micro_assign(o, &s, o->seq + p->first);
    for (int i = 0; i < s.n; i++) s.kinds |= um_dataset_entry(o->ds, o->samples[i])->kinds;
    *out = s;
    *cursor = (um_order_cursor){at.epoch, at.step + 1};
}
