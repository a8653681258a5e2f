/* Divides a gemm among threads and packs the rows of x. The kernels are in kernels_gemm.inc. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/kernels.h"

#include <stdatomic.h>
#include <string.h>

enum {
    THREAD_WORK = 1 << 17, /* multiply-adds that are worth waking a thread for */
    PACK_WORK = 1 << 15,   /* floats to copy likewise */
    PACK_FLOATS = 1 << 18, /* of x packed at a time for each thread: about L2 */
    TURN_ROWS = 64, /* of x that are turned at a time: few pages of memory; divides UM_KBLOCK */
    SMALL_PACK = 8 * UM_KSTRIDE, /* packed rows that fit on the stack */
    SLICE_ROWS = 96,             /* but at least so many: of fewer the weights are read too often */
    PIECES = 4,                  /* for each thread, at least */
    THIN_UNIT = 4,               /* panels that a thread takes at least: of few rows, */
    L2_UNIT = 2,                 /* of rows that all fit in L2, */
    BLOCK_UNIT = UM_CHUNK / 2,   /* of more rows */
};

/* A call divided into units of panels (times parts of the rows). Threads fetch several units at a time at first and one at a time near
 * the end, so that all threads finish together even when another process occupies a core. */
typedef struct job {
    const um_kernels *kernels;
    um_gemm g;
    float *partial;        /* um_gemm_partial(&g) floats for each part */
    int team, unit, units; /* threads; panels of a unit; units across the panels */
    int tall;              /* parts of the rows */
    atomic_int *taken;     /* units started, of units * tall */
} job;

/* Panels first, because then no two threads read the same weights; rows too when the panels make too few units. */
static void cut(job *j, int unit, int rows_unit)
{
    const int panels = (j->g.N + UM_PANEL - 1) / UM_PANEL;
    j->unit = unit;
    j->units = (panels + unit - 1) / unit;
    j->tall = um_max_int(1, um_min_int(j->team * PIECES / j->units, j->g.M / rows_unit));
    if (j->team == 1) j->tall = 1;
}

/* The next unit, panels [p0, p1) and rows [r0, r1); false when all are done. */
static bool take(const job *j, int rows_unit, size_t *p0, size_t *p1, size_t *r0, size_t *r1)
{
    const int all = j->units * j->tall;
    int n, i = atomic_load_explicit(j->taken, memory_order_relaxed);
    do {
        if (i >= all) return false;
        n = j->team == 1 ? all : um_max_int(1, (all - i) / (2 * j->team));
        n = um_min_int(n, j->units - i % j->units);
    } while (!atomic_compare_exchange_weak_explicit(j->taken, &i, i + n, memory_order_relaxed,
                                                    memory_order_relaxed));
    *p0 = (size_t)(i % j->units) * (size_t)j->unit;
    *p1 = *p0 + (size_t)n * (size_t)j->unit;
    const size_t panels = um_round_up((size_t)j->g.N, UM_PANEL) / UM_PANEL;
    if (*p1 > panels) *p1 = panels;
    um_team_share((size_t)j->g.M, (size_t)rows_unit, i / j->units, j->tall, r0, r1);
    return true;
}

static void thin_part(void *ctx, int part, int parts)
{
    (void)part, (void)parts;
    const job *j = ctx;
    for (size_t p0, p1, r0, r1; take(j, j->g.M, &p0, &p1, &r0, &r1);)
        if (p0 < p1) j->kernels->gemm_thin(&j->g, (int)p0, (int)p1);
}

/* x as [k-block][row][KSTRIDE], a share of the rows. */
static void pack_turned_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    const um_gemm *g = &j->g;
    size_t r0, r1;
    um_team_share((size_t)g->M, UM_PANEL, part, parts, &r0, &r1);
    for (int k = 0; k < g->K; k += TURN_ROWS) {
        const size_t block = (size_t)(k / UM_KBLOCK) * (size_t)g->M;
        j->kernels->transpose(g->packed + (block + r0) * UM_KSTRIDE + k % UM_KBLOCK, UM_KSTRIDE,
                              g->x + (size_t)k * g->ldx + r0, g->ldx,
                              (size_t)um_min_int(TURN_ROWS, g->K - k), r1 - r0);
    }
}

static void pack_part(void *ctx, int part, int parts)
{
    const um_gemm *g = &((const job *)ctx)->g;
    size_t r0, r1;
    um_team_share((size_t)g->M, 1, part, parts, &r0, &r1);
    for (size_t r = r0; r < r1; r++) {
        float *to = g->packed + r * UM_KSTRIDE;
        for (int k = 0; k < g->K; k += UM_KBLOCK, to += (size_t)g->M * UM_KSTRIDE)
            memcpy(to, g->x + r * g->ldx + (size_t)k,
                   (size_t)um_min_int(UM_KBLOCK, g->K - k) * sizeof *to);
    }
}

static void block_part(void *ctx, int part, int parts)
{
    (void)parts;
    const job *j = ctx;
    float *partial = j->partial + (size_t)part * um_gemm_partial(&j->g);
    for (size_t p0, p1, r0, r1; take(j, j->kernels->tile_rows, &p0, &p1, &r0, &r1);)
        if (p0 < p1 && r0 < r1)
            j->kernels->gemm_block(&j->g, (int)r0, (int)r1, (int)p0, (int)p1, partial);
}

/* Rows to pack and multiply at a time: even slices. */
static int slice_rows(const job *j)
{
    const size_t all = (size_t)j->g.M * (size_t)j->g.K, least = SLICE_ROWS * (size_t)j->g.K;
    const size_t floats = (size_t)j->team * PACK_FLOATS, most = floats > least ? floats : least;
    const int unit = j->kernels->tile_rows, slices = (int)((all + most - 1) / most);
    const int units = (j->g.M + unit - 1) / unit;
    return um_max_int(1, units / slices + (units % slices != 0)) * unit;
}

/* Packs and multiplies the rows of j->g, which PACK_FLOATS has made few enough. */
static void packed_gemm(job *j)
{
    const size_t blocks = ((size_t)j->g.K + UM_KBLOCK - 1) / UM_KBLOCK;
    const size_t floats = blocks * (size_t)j->g.M * UM_KSTRIDE,
                 sums = um_gemm_partial(&j->g) * (size_t)j->team;
    float small[SMALL_PACK];
    float *memory =
        floats + sums > SMALL_PACK ? um_alloc_aligned((floats + sums) * sizeof(float)) : small;
    j->g.packed = memory;
    j->partial = memory + floats;
    um_team_run(floats > PACK_WORK ? j->team : 1, j->g.turned ? pack_turned_part : pack_part, j);
    cut(j, um_gemm_fits(&j->g, j->g.M) ? L2_UNIT : BLOCK_UNIT, j->kernels->tile_rows);
    atomic_store(j->taken, 0);
    um_team_run(j->team, block_part, j);
    if (memory != small) um_free(memory);
}

/* A call whose shape, matrix and rows are in g. */
static void gemm_run(um_dev *d, const um_gemm *g)
{
    atomic_int taken = 0;
    job j = {.kernels = d->kernels,
             .team = um_team_size(d, (size_t)g->M * (size_t)g->N * (size_t)g->K, THREAD_WORK),
             .taken = &taken,
             .g = *g};
    if (g->M <= 0 || j.team == 0) return;
    if (g->M <= UM_THIN && !g->turned) {
        cut(&j, THIN_UNIT, g->M);
        um_team_run(j.team, thin_part, &j);
        return;
    }
    const int rows = slice_rows(&j);
    for (int m = 0; m < g->M; m += rows) {
        j.g.M = um_min_int(rows, g->M - m);
        j.g.x = g->x + (size_t)m * (g->turned ? 1 : g->ldx);
        j.g.y = g->y + (size_t)m * g->ldy;
        packed_gemm(&j);
    }
}

/* What all calls with a matrix have in common. */
static um_gemm call_of(float *y, int ldy, const float *x, int ldx, int M, const um_matrix *w)
{
    UM_ASSERT(w->N > 0 && w->K > 0 && ldy >= w->N);
    UM_ASSERT(w->dtype == UM_F32 || w->dtype == UM_BF16 || w->dtype == UM_F16);
    return (um_gemm){.y = y,
                     .x = x,
                     .ldy = (size_t)ldy,
                     .ldx = (size_t)ldx,
                     .M = M,
                     .N = w->N,
                     .K = w->K,
                     .panels = w->data,
                     .dtype = w->dtype};
}

void um_cpu_gemm(um_dev *d, float *y, int ldy, const float *x, int ldx, int M, const um_matrix *w,
                 const float *bias, bool accumulate)
{
    um_gemm g = call_of(y, ldy, x, ldx, M, w);
    UM_ASSERT(ldx > 0);
    g.bias = bias;
    g.accumulate = accumulate;
    gemm_run(d, &g);
}

void um_cpu_gemm_tn(um_dev *d, float *y, int ldy, const float *x, int ldx, int M,
                    const um_matrix *w, bool accumulate)
{
    um_gemm g = call_of(y, ldy, x, ldx, M, w);
    UM_ASSERT(ldx >= M);
    g.accumulate = accumulate;
    g.turned = true;
    gemm_run(d, &g);
}

/* --- many groups of rows, each with its own matrix --- */

/* A call, or a run of its groups, divided into items of a group's panels. */
typedef struct grouped {
    const um_kernels *kernels;
    const um_group *group;
    um_gemm g; /* what all groups share */
    int groups, team;
    int unit, units;      /* panels of an item, items of a group */
    const size_t *packed; /* where each group's packed rows begin; NULL: thin groups */
    float *memory;
    atomic_int *taken;
} grouped;

/* Group i as a gemm of its own. */
static um_gemm gemm_of(const grouped *j, int i)
{
    const um_group *group = &j->group[i];
    um_gemm g = j->g;
    g.M = group->T;
    g.x += (size_t)group->row * g.ldx;
    g.y += (size_t)group->row * g.ldy;
    g.panels = group->w->data;
    g.bias = group->bias;
    if (j->packed != NULL) g.packed = j->memory + j->packed[i];
    return g;
}

static void grouped_part(void *ctx, int part, int parts)
{
    (void)part, (void)parts;
    const grouped *j = ctx;
    const int panels = (j->g.N + UM_PANEL - 1) / UM_PANEL, items = j->groups * j->units;
    for (int i; (i = atomic_fetch_add_explicit(j->taken, 1, memory_order_relaxed)) < items;) {
        const um_gemm g = gemm_of(j, i / j->units);
        const int p0 = i % j->units * j->unit, p1 = um_min_int(p0 + j->unit, panels);
        if (g.M <= 0) continue;
        if (j->packed == NULL)
            j->kernels->gemm_thin(&g, p0, p1);
        else
            j->kernels->gemm_block(&g, 0, g.M, p0, p1, NULL);
    }
}

/* Packs a share of the groups. */
static void grouped_pack_part(void *ctx, int part, int parts)
{
    (void)part, (void)parts;
    const grouped *j = ctx;
    for (int i; (i = atomic_fetch_add_explicit(j->taken, 1, memory_order_relaxed)) < j->groups;) {
        job one = {.g = gemm_of(j, i)};
        if (one.g.M > 0) pack_part(&one, 0, 1);
    }
}

static void grouped_run(grouped *j, void (*fn)(void *ctx, int part, int parts))
{
    atomic_store(j->taken, 0);
    um_team_run(j->team, fn, j);
}

/* Cuts a group's panels into items: enough of them for all threads, each of some size. */
static void grouped_cut(grouped *j, int least)
{
    const int panels = (j->g.N + UM_PANEL - 1) / UM_PANEL;
    const int64_t each = (int64_t)panels * j->groups / ((int64_t)j->team * 2 * PIECES);
    j->unit = j->team == 1 ? panels : (int)um_min_int(panels, um_max_int(least, (int)each));
    j->units = (panels + j->unit - 1) / j->unit;
}

static size_t packed_floats(int T, int K)
{
    return ((size_t)K + UM_KBLOCK - 1) / UM_KBLOCK * (size_t)T * UM_KSTRIDE;
}

/* Groups of more than UM_THIN rows, as many at a time as have room packed. Fewer groups than the threads can divide among
 * themselves are divided inside, one after another. */
static void gemm_grouped_blocks(um_dev *d, grouped *j, size_t *places)
{
    const um_group *all = j->group;
    const int count = j->groups;
    const size_t most = (size_t)j->team * PACK_FLOATS;
    const um_gemm *g = &j->g;
    for (int i = 0, n; i < count; i += n) {
        size_t floats = 0;
        for (n = 0; i + n < count && floats + packed_floats(all[i + n].T, g->K) <= most; n++) {
            places[n] = floats;
            floats += packed_floats(all[i + n].T, g->K);
        }
        if (n < 2 * j->team) {
            n = um_max_int(n, 1);
            for (int k = i; k < i + n; k++)
                um_cpu_gemm(d, g->y + (size_t)all[k].row * g->ldy, (int)g->ldy,
                            g->x + (size_t)all[k].row * g->ldx, (int)g->ldx, all[k].T, all[k].w,
                            all[k].bias, false);
            continue;
        }
        j->group = all + i;
        j->groups = n;
        j->packed = places;
        j->memory = um_alloc_try(floats * sizeof(float));
        if (j->memory == NULL) {
            um_dev_fail(d, UM_E_MEMORY, "gemm_grouped: no memory for %zu packed values", floats);
            return;
        }
        grouped_cut(j, BLOCK_UNIT);
        grouped_run(j, grouped_pack_part);
        grouped_run(j, grouped_part);
        um_free(j->memory);
    }
}

void um_cpu_gemm_grouped(um_dev *d, float *y, int ldy, const float *x, int ldx,
                         const um_group *group, int groups)
{
    size_t rows = 0;
    int thin = 0;
    for (int i = 0; i < groups; i++) {
        UM_ASSERT(group[i].w->N == group[0].w->N && group[i].w->K == group[0].w->K);
        UM_ASSERT(group[i].w->dtype == group[0].w->dtype && ldy >= group[i].w->N);
        UM_ASSERT(group[i].row >= 0 && group[i].T >= 0);
        rows += (size_t)group[i].T;
        thin += group[i].T <= UM_THIN;
    }
    if (rows == 0 || d->st != UM_OK) return;
    const um_matrix *w = group[0].w;
    atomic_int taken = 0;
    grouped j = {.kernels = d->kernels,
                 .team = um_team_size(d, rows * (size_t)w->N * (size_t)w->K, THREAD_WORK),
                 .taken = &taken,
                 .g = {.y = y,
                       .x = x,
                       .ldy = (size_t)ldy,
                       .ldx = (size_t)ldx,
                       .N = w->N,
                       .K = w->K,
                       .dtype = w->dtype}};
    const size_t each = sizeof(um_group) + sizeof(size_t);
    um_group *sorted = um_alloc_try((size_t)groups * each); /* the thin ones first */
    if (sorted == NULL) {
        um_dev_fail(d, UM_E_MEMORY, "gemm_grouped: no memory for the order of %d groups", groups);
        return;
    }
    for (int i = 0, a = 0, b = thin; i < groups; i++)
        sorted[group[i].T <= UM_THIN ? a++ : b++] = group[i];
    j.group = sorted;
    j.groups = thin;
    if (thin > 0) {
        grouped_cut(&j, THIN_UNIT);
        grouped_run(&j, grouped_part);
    }
    j.group = sorted + thin;
    j.groups = groups - thin;
    if (j.groups > 0) gemm_grouped_blocks(d, &j, (size_t *)(void *)(sorted + groups));
    um_free(sorted);
}
