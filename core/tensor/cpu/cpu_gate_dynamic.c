/* The gate with a varying number of experts (spec 10.1), as ops. Formulas: core/nn/dynamic.h. Rows are divided among threads, except
 * where columns drop rows. Each is computed in scalar f32, every sum by rising column or in order of choice. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_WORK = 1 << 12 }; /* logits that are worth waking a thread for */

/* Added to the sums that weights are divided by, as the original does. */
static const float sum_floor = 1e-6f;

/* One row. */
typedef struct row {
    const float *z; /* [C] */
    int n, N;       /* dynamic experts chosen; R + Z */
    int32_t *pick;  /* [n] */
    float *share;   /* [n] */
    uint8_t *mask;  /* [C] */
    float *w;       /* [C] */
} row;

static row row_of(const um_dynamic_rows *g, int t)
{
    int N = g->routed + g->nulls;
    size_t c = um_at((size_t)t, 0, (size_t)g->C), d = um_at((size_t)t, 0, (size_t)N);
    return (row){.z = g->logits + c,
                 .n = g->count[t],
                 .N = N,
                 .pick = g->pick + d,
                 .share = g->share + d,
                 .mask = g->mask + c,
                 .w = g->weights + c};
}

/* --- the choice, steps 3 and 4 --- */

/* The column of the largest dynamic logit not yet chosen; the lowest column on ties, and for rows of NaN. -1 when all are chosen. */
static int largest_left(const row *r, const uint8_t *taken)
{
    int best = -1;
    for (int c = 0; c < r->N; c++)
        if (!taken[c] && (best < 0 || r->z[c] > r->z[best])) best = c;
    return best;
}

/* Whether column c shares the softmax of a step that `best` won: (t - z) / max(|z|, |t|) <= 2 eps with t = z[best]. */
static bool in_window(const row *r, const uint8_t *taken, int c, int best, float eps)
{
    float t = r->z[best], z = r->z[c];
    return !taken[c] && !((t - z) / fmaxf(fabsf(z), fabsf(t)) > 2.0f * eps);
}

/* Sum of exp(z - t) over the window of a step: 1 / m. */
static float window_sum(const row *r, const uint8_t *taken, int best, float eps)
{
    float sum = 0.0f;
    for (int c = 0; c < r->N; c++)
        if (in_window(r, taken, c, best, eps)) sum += um_expf(r->z[c] - r->z[best]);
    return sum;
}

/* k = 1 + number of prefix sums below top_p of the probabilities in falling order, which is the order of choice: continue while the
 * sum of the chosen ones is below. taken [R+Z] is all 0 on entry. */
static int choose_row(const um_dynamic_rows *g, const row *r, uint8_t *taken)
{
    float all = 0.0f, prefix = 0.0f;
    int n = 0, top = largest_left(r, taken);
    for (int c = 0; c < r->N; c++) all += um_expf(r->z[c] - r->z[top]);
    for (int best = top; best >= 0; best = largest_left(r, taken)) {
        r->share[n] = 1.0f / window_sum(r, taken, best, g->eps);
        r->pick[n++] = best;
        taken[best] = 1;
        prefix += um_expf(r->z[best] - r->z[top]) / all;
        if (g->top_p > 0.0f ? !(prefix < g->top_p) : n >= g->top_k) break;
    }
    return n;
}

/* --- dropping, step 8 --- */

/* Falling z, then rising row, as one rising number. */
static uint64_t drop_key(float z, int t)
{
    uint32_t b = um_f32_bits(z + 0.0f); /* -0 is 0 */
    uint32_t rising = b >> 31 ? ~b : b | 0x80000000u;
    return (uint64_t)~rising << 32 | (uint32_t)t;
}

static int by_key(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Keeps `keep` of the rows that chose column c: the first, or those of the highest logits, the first of equal ones. */
static void drop_column(const um_dynamic_rows *g, int c, int keep, uint64_t *keys)
{
    size_t n = 0;
    for (int t = 0; t < g->T; t++) {
        size_t at = um_at((size_t)t, (size_t)c, (size_t)g->C);
        if (g->mask[at]) keys[n++] = drop_key(g->by_logit ? g->logits[at] : 0.0f, t);
    }
    if (g->by_logit) qsort(keys, n, sizeof *keys, by_key);
    for (size_t i = (size_t)keep; i < n; i++)
        g->mask[um_at((size_t)(uint32_t)keys[i], (size_t)c, (size_t)g->C)] = 0;
}

/* --- weights, steps 5 and 9 --- */

/* What step 9 divides and multiplies by, for forward and backward. */
typedef struct norms {
    float picked; /* sum of m over the picks + 1e-6 */
    float kept;   /* sum of r over the picks that remain in mask + 1e-6; 1 without dropping */
    float top;    /* the largest logit in mask */
    float all;    /* sum of exp(z - top) over mask; 0 when mask is empty */
    float
        dynamic; /* D: the share of that softmax that dynamic experts hold; 1 without shared experts */
} norms;

static norms norms_of(const um_dynamic_rows *g, const row *r)
{
    norms s = {.kept = 1.0f, .dynamic = 1.0f};
    float sum = 0.0f, kept = 0.0f;
    for (int i = 0; i < r->n; i++) sum += r->share[i];
    s.picked = sum + sum_floor;
    for (int i = 0; i < r->n; i++)
        if (r->mask[r->pick[i]]) kept += r->share[i] / s.picked;
    if (g->dropped) s.kept = kept + sum_floor;
    if (g->shared == 0) return s;
    float dynamic = 0.0f;
    int top = -1;
    for (int c = 0; c < g->C; c++)
        if (r->mask[c] && (top < 0 || r->z[c] > r->z[top])) top = c;
    s.top = r->z[top];
    for (int c = 0; c < g->C; c++) {
        if (!r->mask[c]) continue;
        float e = um_expf(r->z[c] - s.top);
        s.all += e;
        if (c < r->N) dynamic += e;
    }
    s.dynamic = dynamic / s.all;
    return s;
}

static void weigh_row(const um_dynamic_rows *g, const row *r)
{
    norms s = norms_of(g, r);
    memset(r->w, 0, (size_t)g->C * sizeof *r->w);
    for (int i = 0; i < r->n; i++)
        if (r->mask[r->pick[i]]) r->w[r->pick[i]] = r->share[i] / s.picked / s.kept * s.dynamic;
    for (int c = r->N; c < g->C; c++) r->w[c] = um_expf(r->z[c] - s.top) / s.all;
}

static void fill_slots(const um_dynamic_rows *g, const row *r, int t)
{
    int32_t *experts = g->experts + um_at((size_t)t, 0, (size_t)g->K);
    float *slots = g->slots + um_at((size_t)t, 0, (size_t)g->K);
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        int c = r->pick[i];
        if (c >= g->routed || !r->mask[c]) continue;
        UM_CHECK(n < g->K);
        experts[n] = c;
        slots[n++] = r->w[c];
    }
    for (; n < g->K; n++) {
        experts[n] = UM_NO_EXPERT;
        slots[n] = 0.0f;
    }
}

typedef struct dynamic_job {
    const um_dynamic_rows *g;
    const uint8_t *real;
    uint8_t *taken; /* [R+Z] for each part */
} dynamic_job;

static void choose_part(void *ctx, int part, int parts)
{
    const dynamic_job *j = ctx;
    const um_dynamic_rows *g = j->g;
    const size_t N = (size_t)(g->routed + g->nulls);
    uint8_t *taken = j->taken + (size_t)part * N;
    size_t t, to;
    um_team_share((size_t)g->T, 1, part, parts, &t, &to);
    for (; t < to; t++) {
        row r = row_of(g, (int)t);
        memset(taken, 0, N);
        g->real[t] = j->real == NULL || j->real[t] != 0;
        g->count[t] = choose_row(g, &r, taken);
        for (int c = 0; c < g->C; c++) r.mask[c] = c >= r.N || (g->real[t] && taken[c]);
    }
}

static void weigh_part(void *ctx, int part, int parts)
{
    const um_dynamic_rows *g = ((const dynamic_job *)ctx)->g;
    size_t t, to;
    um_team_share((size_t)g->T, 1, part, parts, &t, &to);
    for (; t < to; t++) {
        const row r = row_of(g, (int)t);
        weigh_row(g, &r);
        fill_slots(g, &r, (int)t);
    }
}

void um_cpu_gate_dynamic(um_dev *d, const um_dynamic_rows *g, const uint8_t *real)
{
    const int N = g->routed + g->nulls,
              team = um_team_size(d, (size_t)g->T * (size_t)g->C, ROW_WORK);
    if (g->T <= 0 || d->st != UM_OK) return;
    const size_t keys = g->dropped ? (size_t)g->T * sizeof(uint64_t) : 0;
    char *scratch = um_alloc_try(keys + (size_t)team * (size_t)N);
    if (scratch == NULL) {
        um_dev_fail(d, UM_E_MEMORY, "gate: no memory for %d rows of %d experts", g->T, N);
        return;
    }
    dynamic_job j = {g, real, (uint8_t *)scratch + keys};
    um_team_run(team, choose_part, &j);
    for (int c = 0; g->dropped && c < N; c++)
        drop_column(g, c, g->keep, (uint64_t *)(void *)scratch);
    um_team_run(team, weigh_part, &j);
    um_free(scratch);
}

/* --- backward --- */

/* s = softmax of z over mask, D = sum of the dynamic s:   ds = dD for a dynamic column (w = r' D), dw for a shared one (w = s), and
 * dz_c += s_c (ds_c - sum over c of s ds). */
static void bwd_softmax(float *dz, const float *dw, const um_dynamic_rows *g, const row *r,
                        const norms *s)
{
    float dD = 0.0f, mean = 0.0f;
    for (int i = 0; i < r->n; i++) {
        int c = r->pick[i];
        if (r->mask[c]) dD += dw[c] * (r->share[i] / s->picked / s->kept);
    }
    for (int c = 0; c < g->C; c++)
        if (r->mask[c]) mean += um_expf(r->z[c] - s->top) / s->all * (c < r->N ? dD : dw[c]);
    for (int c = 0; c < g->C; c++)
        if (r->mask[c])
            dz[c] += um_expf(r->z[c] - s->top) / s->all * ((c < r->N ? dD : dw[c]) - mean);
}

/* w_i = r'_i D, r'_i = r_i / (sum of kept r + 1e-6) when rows were dropped, r_i = m_i / (sum of m + 1e-6):
 *   dr_i = (dr'_i - sum of dr' r') / kept,   dm_i = (dr_i - sum of dr r) / picked.   dm [n] */
static void bwd_shares(float *dm, const float *dw, const um_dynamic_rows *g, const row *r,
                       const norms *s)
{
    float mean = 0.0f;
    for (int i = 0; i < r->n; i++) {
        int c = r->pick[i];
        dm[i] = r->mask[c] ? dw[c] * s->dynamic : 0.0f;
        if (r->mask[c]) mean += dm[i] * (r->share[i] / s->picked / s->kept);
    }
    for (int i = 0; g->dropped && i < r->n; i++)
        if (r->mask[r->pick[i]]) dm[i] = (dm[i] - mean) / s->kept;
    mean = 0.0f;
    for (int i = 0; i < r->n; i++) mean += dm[i] * (r->share[i] / s->picked);
    for (int i = 0; i < r->n; i++) dm[i] = (dm[i] - mean) / s->picked;
}

/* m = softmax over the step's window, of the winner:   dz_c += dm m ([c = winner] - p_c). Walks the steps again; taken [R+Z]. */
static void bwd_windows(float *dz, const float *dm, const um_dynamic_rows *g, const row *r,
                        uint8_t *taken)
{
    memset(taken, 0, (size_t)r->N);
    for (int i = 0; i < r->n; i++) {
        int best = r->pick[i];
        float m = r->share[i];
        for (int c = 0; c < r->N; c++) {
            if (!in_window(r, taken, c, best, g->eps)) continue;
            float p = um_expf(r->z[c] - r->z[best]) * m;
            dz[c] += dm[i] * m * ((c == best ? 1.0f : 0.0f) - p);
        }
        taken[best] = 1;
    }
}

void um_cpu_gate_dynamic_bwd(um_dev *d, float *dlogits, const float *dweights,
                             const um_dynamic_rows *g)
{
    if (d->st != UM_OK) return;
    const size_t N = (size_t)(g->routed + g->nulls);
    float *dm = um_alloc_try(N * (sizeof *dm + 1));
    if (dm == NULL) {
        um_dev_fail(d, UM_E_MEMORY, "gate: no memory for %zu experts", N);
        return;
    }
    uint8_t *taken = (uint8_t *)(dm + N);
    for (int t = 0; t < g->T; t++) {
        const row r = row_of(g, t);
        const size_t at = um_at((size_t)t, 0, (size_t)g->C);
        const norms s = norms_of(g, &r);
        if (g->shared > 0) bwd_softmax(dlogits + at, dweights + at, g, &r, &s);
        bwd_shares(dm, dweights + at, g, &r, &s);
        bwd_windows(dlogits + at, dm, g, &r, taken);
    }
    um_free(dm);
}
