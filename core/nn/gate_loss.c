/* See gate_loss.h. Letters: T rows, E experts. */
#include "core/nn/gate_loss.h"

#include "core/base/bytes.h"

#include <math.h>
#include <string.h>

static size_t cells(const um_route *r) { return (size_t)r->T * (size_t)r->E; }

/* p [T,E] = softmax of the logits, on the device. */
static float *probabilities(um_dev *d, const um_route *r, um_arena *device)
{
    float *p = um_arena_f32(device, 1, cells(r));
    d->ops->softmax(d, p, r->logits, r->T, r->E);
    return p;
}

static float *fetched(um_dev *d, um_arena *host, const float *x, size_t n)
{
    float *to = um_arena_f32(host, 1, n);
    d->ops->get(d, to, x, n * sizeof *to);
    return to;
}

/* dlogits += the gradient through p = softmax(logits) of dp [T,E], host. */
static void through_softmax(um_dev *d, float *dlogits, const float *dp, const float *p,
                            const um_route *r, um_arena *device)
{
    const float *to = um_dev_put_f32(d, device, dp, cells(r));
    d->ops->softmax_bwd(d, dlogits, to, r->E, p, r->T, r->E);
}

/* --- balance --- */

/* first[E] (host): rows whose first choice is the expert. */
static void count_first(um_dev *d, double *first, const um_route *r, um_arena *host)
{
    const size_t K = (size_t)r->K, n = (size_t)r->T * K;
    int32_t *experts = um_arena_i32(host, n);
    d->ops->get(d, experts, r->experts, n * sizeof *experts);
    for (size_t t = 0; t < (size_t)r->T; t++)
        if (experts[t * K] != UM_NO_EXPERT) first[experts[t * K]]++;
}

double um_gate_balance_loss(um_dev *d, float *dlogits, const um_route *r, float coef,
                            um_arena *host, um_arena *device)
{
    const size_t E = (size_t)r->E;
    if (r->T == 0) return 0;
    um_mark h = um_arena_mark(host), v = um_arena_mark(device);
    double value = 0, *first = um_arena_zero(host, E * sizeof *first);
    float *dp = um_arena_f32(host, 1, E), *p = probabilities(d, r, device),
          *sum = um_arena_f32(device, 1, E);
    count_first(d, first, r, host);
    d->ops->fill(d, sum, 0.0f, E);
    d->ops->sum_rows(d, sum, p, r->T, r->E);
    const float *total = fetched(d, host, sum, E);
    const double rows = (double)r->T;
    for (size_t e = 0; e < E; e++) {
        value += (double)total[e] / rows * (first[e] / rows);
        dp[e] = (float)((double)coef * (double)r->E / rows * (first[e] / rows));
    }
    if (dlogits != NULL)
        d->ops->softmax_bwd(d, dlogits, um_dev_put_f32(d, device, dp, E), 0, p, r->T, r->E);
    um_arena_reset(device, v);
    um_arena_reset(host, h);
    return value * r->E;
}

/* --- z --- */

/* log(sum over e of e^z[e]), as all our logarithms the same on every machine */
static double logsumexp(const float *z, int E)
{
    float most = z[0];
    double sum = 0;
    for (int e = 1; e < E; e++) most = z[e] > most ? z[e] : most;
    for (int e = 0; e < E; e++) sum += um_exp((double)z[e] - (double)most);
    return (double)most + um_log(sum);
}

double um_gate_z_loss(um_dev *d, float *dlogits, const um_route *r, float coef, um_arena *host,
                      um_arena *device)
{
    const size_t n = cells(r);
    double value = 0;
    if (r->T == 0) return 0;
    um_mark h = um_arena_mark(host), v = um_arena_mark(device);
    float *z = fetched(d, host, r->logits, n);
    for (int t = 0; t < r->T; t++) {
        float *row = z + um_at((size_t)t, 0, (size_t)r->E);
        const double lse = logsumexp(row, r->E), by = 2.0 * (double)coef * lse / r->T;
        value += lse * lse;
        for (int e = 0; e < r->E; e++) row[e] = (float)(by * um_exp((double)row[e] - lse));
    }
    if (dlogits != NULL) d->ops->add(d, dlogits, um_dev_put_f32(d, device, z, n), n);
    um_arena_reset(device, v);
    um_arena_reset(host, h);
    return value / r->T;
}

/* --- the terms that look at kinds of rows --- */

static um_fm kind_of(const um_gate_rows *rows, int t)
{
    return um_fm_of((um_modality)rows->modality[t]);
}

double um_gate_multimodal_loss(um_dev *d, float *dlogits, const um_route *r,
                               const um_gate_rows *rows, const uint8_t *const *meant, float coef,
                               um_arena *host, um_arena *device)
{
    const size_t n = cells(r), E = (size_t)r->E;
    double value = 0;
    um_mark h = um_arena_mark(host), v = um_arena_mark(device);
    float *on_device = probabilities(d, r, device), *p = fetched(d, host, on_device, n),
          *dp = um_arena_zero(host, n * sizeof *dp);
    for (int i = 0; i < rows->samples; i++) {
        const int from = rows->sample_row[i], T = rows->sample_T[i];
        const double by = 1.0 / ((double)T * (double)r->E); /* n_m / T * 1 / (n_m E) */
        for (int t = from; t < from + T; t++) {
            const um_fm m = kind_of(rows, t);
            if (m == UM_FM_TEXT || meant[m] == NULL) continue;
            for (size_t e = 0; e < E; e++) {
                const size_t at = um_at((size_t)t, e, E);
                const double off = (double)p[at] - (double)meant[m][e];
                value += fabs(off) * by;
                dp[at] = (float)((double)coef * (off > 0 ? by : off < 0 ? -by : 0));
            }
        }
    }
    if (dlogits != NULL) through_softmax(d, dlogits, dp, on_device, r, device);
    um_arena_reset(device, v);
    um_arena_reset(host, h);
    return value;
}

/* Of one sample: rows of each kind, the mean p over them, and the softmax of that. */
typedef struct kinds {
    int n[UM_FMS];
    double *soft[UM_FMS]; /* [E] */
    double *grad[UM_FMS]; /* [E] of soft, then of the mean */
} kinds;

static void measure_kinds(kinds *k, const float *p, const um_gate_rows *rows, int from, int T,
                          size_t E)
{
    memset(k->n, 0, sizeof k->n);
    for (int m = 0; m < UM_FMS; m++) {
        memset(k->soft[m], 0, E * sizeof(double));
        memset(k->grad[m], 0, E * sizeof(double));
    }
    for (int t = from; t < from + T; t++) {
        const um_fm m = kind_of(rows, t);
        k->n[m]++;
        for (size_t e = 0; e < E; e++) k->soft[m][e] += (double)p[um_at((size_t)t, e, E)];
    }
    for (int m = 0; m < UM_FMS; m++) {
        double sum = 0;
        if (k->n[m] == 0) continue;
        for (size_t e = 0; e < E; e++) {
            k->soft[m][e] = um_exp(k->soft[m][e] / k->n[m]);
            sum += k->soft[m][e];
        }
        for (size_t e = 0; e < E; e++) k->soft[m][e] /= sum;
    }
}

/* 1 - KL(a, b); its gradient times by into grad. */
static double pair_loss(kinds *k, um_fm a, um_fm b, double by, size_t E)
{
    const double *r = k->soft[a], *q = k->soft[b], n = (double)E;
    double kl = 0;
    for (size_t e = 0; e < E; e++) {
        const double ratio = um_log(q[e]) - um_log(r[e]);
        kl += q[e] * ratio / n;
        k->grad[b][e] -= by * (ratio + 1.0) / n;
        k->grad[a][e] += by * (q[e] / r[e]) / n;
    }
    return 1.0 - kl;
}

/* The value of one sample; grad becomes coef times the gradient of the mean p's. */
static double kinds_loss(kinds *k, double coef, size_t E)
{
    static const um_fm pair[][2] = {{UM_FM_IMAGE, UM_FM_AUDIO},
                                    {UM_FM_IMAGE, UM_FM_TEXT},
                                    {UM_FM_AUDIO, UM_FM_TEXT},
                                    {UM_FM_AUDIO, UM_FM_VIDEO},
                                    {UM_FM_VIDEO, UM_FM_TEXT}};
    enum { PAIRS = sizeof pair / sizeof *pair };
    int present = 0;
    double value = 0;
    for (int i = 0; i < PAIRS; i++) present += k->n[pair[i][0]] > 0 && k->n[pair[i][1]] > 0;
    if (present == 0) return 0;
    for (int i = 0; i < PAIRS; i++)
        if (k->n[pair[i][0]] > 0 && k->n[pair[i][1]] > 0)
            value += pair_loss(k, pair[i][0], pair[i][1], coef / present, E) / present;
    for (int m = 0; m < UM_FMS; m++) {
        double dot = 0;
        for (size_t e = 0; e < E; e++) dot += k->soft[m][e] * k->grad[m][e];
        for (size_t e = 0; e < E; e++) k->grad[m][e] = k->soft[m][e] * (k->grad[m][e] - dot);
    }
    return value;
}

double um_gate_kl_loss(um_dev *d, float *dlogits, const um_route *r, const um_gate_rows *rows,
                       float coef, um_arena *host, um_arena *device)
{
    const size_t n = cells(r), E = (size_t)r->E;
    double value = 0;
    kinds k;
    um_mark h = um_arena_mark(host), v = um_arena_mark(device);
    float *on_device = probabilities(d, r, device), *p = fetched(d, host, on_device, n),
          *dp = um_arena_zero(host, n * sizeof *dp);
    for (int m = 0; m < UM_FMS; m++) {
        k.soft[m] = um_arena_alloc(host, E * sizeof(double));
        k.grad[m] = um_arena_alloc(host, E * sizeof(double));
    }
    for (int i = 0; i < rows->samples; i++) {
        const int from = rows->sample_row[i], T = rows->sample_T[i];
        measure_kinds(&k, p, rows, from, T, E);
        value += kinds_loss(&k, (double)coef, E);
        for (int t = from; t < from + T; t++) {
            const um_fm m = kind_of(rows, t);
            for (size_t e = 0; e < E; e++)
                dp[um_at((size_t)t, e, E)] = (float)(k.grad[m][e] / k.n[m]);
        }
    }
    if (dlogits != NULL) through_softmax(d, dlogits, dp, on_device, r, device);
    um_arena_reset(device, v);
    um_arena_reset(host, h);
    return value;
}

/* --- the gate with a varying number of experts --- */

/* A um_dynamic whose tables are copies on the host. */
static um_dynamic tables_on_host(um_dev *d, const um_dynamic *g, um_arena *host)
{
    const size_t T = (size_t)g->T, N = (size_t)g->m->routed + (size_t)g->m->nulls, C = (size_t)g->C;
    um_dynamic to = *g;
    to.logits = fetched(d, host, g->logits, T * C);
    to.count = um_arena_i32(host, T);
    d->ops->get(d, to.count, g->count, T * sizeof *to.count);
    to.pick = um_arena_i32(host, T * N);
    d->ops->get(d, to.pick, g->pick, T * N * sizeof *to.pick);
    to.real = um_arena_alloc(host, T);
    d->ops->get(d, to.real, g->real, T);
    return to;
}

/* dz[t] += by w_t f_e through the softmax over the n chosen experts of row t. */
static void dynamic_row_bwd(float *dz, const float *z, const int32_t *pick, int n, const double *f,
                            double by)
{
    double sum = 0, dot = 0;
    for (int i = 0; i < n; i++) sum += um_exp((double)z[pick[i]] - (double)z[pick[0]]);
    for (int i = 0; i < n; i++)
        dot += um_exp((double)z[pick[i]] - (double)z[pick[0]]) / sum * f[pick[i]];
    for (int i = 0; i < n; i++)
        dz[pick[i]] = (float)(by * (um_exp((double)z[pick[i]] - (double)z[pick[0]]) / sum) *
                              (f[pick[i]] - dot));
}

double um_dynamic_balance_loss(um_dev *d, float *dlogits, const um_dynamic *g, const float *weight,
                               float coef, um_arena *host, um_arena *device)
{
    const size_t T = (size_t)g->T, C = (size_t)g->C, N = (size_t)g->m->routed + (size_t)g->m->nulls;
    um_mark h = um_arena_mark(host), v = um_arena_mark(device);
    const um_dynamic t = tables_on_host(d, g, host);
    const double value = um_dynamic_balance(&t, weight, host);
    double rows = 0, *f = um_arena_zero(host, N * sizeof *f);
    float *dz = um_arena_zero(host, T * C * sizeof *dz);
    for (size_t i = 0; i < T; i++) {
        rows += (double)weight[i];
        for (int k = 0; k < (t.real[i] ? t.count[i] : 0); k++)
            f[t.pick[um_at(i, (size_t)k, N)]] += (double)weight[i];
    }
    for (size_t i = 0; i < T && rows > 0; i++) {
        if (!t.real[i]) continue;
        const double by = (double)coef * (double)N * (double)weight[i] / (rows * rows);
        dynamic_row_bwd(dz + um_at(i, 0, C), t.logits + um_at(i, 0, C), t.pick + um_at(i, 0, N),
                        t.count[i], f, by);
    }
    if (dlogits != NULL) d->ops->add(d, dlogits, um_dev_put_f32(d, device, dz, T * C), T * C);
    um_arena_reset(device, v);
    um_arena_reset(host, h);
    return value;
}
