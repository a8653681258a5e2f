/* Ops of the CPU that move values: between host and device, types, rows. On the CPU both memories are the same, so put and get copy. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/kernels.h"

#include <string.h>
#include <sys/mman.h>

enum {
    MOVE_WORK = 1 << 16, /* floats that are worth waking a thread for */
    BLOCK = 64,          /* rows that a transposition takes at a time */
};

/* The bytes of a block stand in front of it. */
enum { HEADER = 64 };

/* From this size on memory comes straight from the system, in pages of 2 MiB where it has them: gemm and attention read all of it, and
 * spend a good part of their time on address translation otherwise. It costs nothing until it is used: pools of keys and values are
 * reserved whole. */
static const size_t huge = (size_t)2 << 20, reserve_bytes = (size_t)4 << 20;

/* bytes of the system, from a multiple of 2 MiB. */
static char *reserve(size_t bytes)
{
    char *all = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return NULL;
    char *p = all + (huge - (uintptr_t)all % huge) % huge;
    if (p > all) munmap(all, (size_t)(p - all));
    munmap(p + bytes, (size_t)(all + huge - p));
    madvise(p, bytes, MADV_HUGEPAGE); /* a wish */
    return p;
}

void *um_cpu_alloc(um_dev *d, size_t bytes)
{
    (void)d;
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t all = um_round_up(bytes, HEADER) + HEADER;
    if (all >= reserve_bytes) all = um_round_up(all, 4096);
    char *p = all >= reserve_bytes ? reserve(all) : um_alloc_try(all);
    if (p == NULL) return NULL;
    memcpy(p, &all, sizeof all);
    return p + HEADER;
}

void um_cpu_free(um_dev *d, void *p)
{
    (void)d;
    size_t all;
    if (p == NULL) return;
    char *from = (char *)p - HEADER;
    memcpy(&all, from, sizeof all);
    if (all >= reserve_bytes)
        munmap(from, all);
    else
        um_free(from);
}

void um_cpu_sync(um_dev *d) { (void)d; }

void um_cpu_copy(um_dev *d, void *to, const void *from, size_t bytes)
{
    if (d->st != UM_OK) return;
    if (bytes > 0) memcpy(to, from, bytes);
}

/* What one of the ops below needs. */
typedef struct job {
    const um_kernels *kernels;
    float *y;
    void *to;
    const float *x;
    const void *from;
    const int32_t *index;
    um_dtype type;
    float value;
    size_t n, ldy, ldx;
    int rows, cols;
} job;

static void copy_2d_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t t, to;
    um_team_share((size_t)j->rows, 1, part, parts, &t, &to);
    for (; t < to; t++)
        memcpy(j->y + t * j->ldy, j->x + t * j->ldx, (size_t)j->cols * sizeof *j->y);
}

void um_cpu_copy_2d(um_dev *d, float *y, int ldy, const float *x, int ldx, int T, int D)
{
    UM_ASSERT(ldy >= D && (ldx >= D || ldx == 0));
    job j = {.y = y, .ldy = (size_t)ldy, .x = x, .ldx = (size_t)ldx, .rows = T, .cols = D};
    um_team_run(um_team_size(d, (size_t)T * (size_t)D, MOVE_WORK), copy_2d_part, &j);
}

static void fill_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    for (; i < to; i++) j->y[i] = j->value;
}

void um_cpu_fill(um_dev *d, float *y, float value, size_t n)
{
    job j = {.y = y, .value = value, .n = n};
    um_team_run(um_team_size(d, n, MOVE_WORK), fill_part, &j);
}

void um_cpu_cast(um_dev *d, void *y, um_dtype to, const void *x, um_dtype from, size_t n)
{
    if (d->st != UM_OK) return;
    enum { AT_ONCE = 1024 };
    float part[AT_ONCE];
    char *out = y;
    const char *in = x;
    if (to == UM_F32) {
        um_to_f32(y, x, from, n);
    } else if (from == UM_F32) {
        um_from_f32(y, to, x, n);
    } else {
        for (size_t i = 0; i < n; i += AT_ONCE) {
            const size_t count = n - i < AT_ONCE ? n - i : AT_ONCE;
            um_to_f32(part, in + i * um_dtype_size(from), from, count);
            um_from_f32(out + i * um_dtype_size(to), to, part, count);
        }
    }
}

/* A share of the columns, some rows at a time, so that both sides stay in cache. */
static void transpose_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    const size_t rows = (size_t)j->rows, cols = (size_t)j->cols;
    size_t from, to;
    um_team_share(cols, BLOCK, part, parts, &from, &to);
    for (size_t r = 0; r < rows; r += BLOCK)
        j->kernels->transpose(j->y + from * rows + r, rows, j->x + r * cols + from, cols,
                              rows - r < BLOCK ? rows - r : BLOCK, to - from);
}

void um_cpu_transpose(um_dev *d, float *y, const float *x, int rows, int cols)
{
    job j = {.kernels = d->kernels, .y = y, .x = x, .rows = rows, .cols = cols};
    um_team_run(um_team_size(d, (size_t)rows * (size_t)cols, MOVE_WORK), transpose_part, &j);
}

static void rows_out_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    const size_t D = (size_t)j->cols, bytes = D * um_dtype_size(j->type);
    size_t i, to;
    um_team_share((size_t)j->rows, 1, part, parts, &i, &to);
    for (; i < to; i++) {
        const size_t row = j->index == NULL ? i : (size_t)j->index[i];
        um_from_f32((char *)j->to + i * bytes, j->type, j->x + row * D, D);
    }
}

void um_cpu_rows_out(um_dev *d, void *host, um_dtype to, const float *x, const int32_t *index,
                     int n, int D)
{
    job j = {.to = host, .type = to, .x = x, .index = index, .rows = n, .cols = D};
    um_team_run(um_team_size(d, (size_t)n * (size_t)D, MOVE_WORK), rows_out_part, &j);
}

void um_cpu_rows_in(um_dev *d, float *y, const void *host, um_dtype from, size_t n)
{
    if (d->st != UM_OK) return;
    um_to_f32(y, host, from, n);
}

static void divide_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    for (; i < to; i++) j->y[i] /= j->value;
}

void um_cpu_divide(um_dev *d, float *y, float s, size_t n)
{
    job j = {.y = y, .value = s, .n = n};
    um_team_run(um_team_size(d, n, MOVE_WORK), divide_part, &j);
}

static void sum_rows_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    const size_t N = (size_t)j->cols;
    size_t from, to;
    um_team_share(N, UM_PANEL, part, parts, &from, &to);
    for (size_t t = 0; t < (size_t)j->rows; t++)
        j->kernels->add(j->y + from, j->x + t * N + from, to - from);
}

void um_cpu_sum_rows(um_dev *d, float *y, const float *x, int T, int N)
{
    job j = {.kernels = d->kernels, .y = y, .x = x, .rows = T, .cols = N};
    um_team_run(um_team_size(d, (size_t)T * (size_t)N, MOVE_WORK), sum_rows_part, &j);
}

static void scatter_part(void *ctx, int part, int parts)
{
    const job *j = ctx;
    const size_t D = (size_t)j->cols;
    size_t i, to;
    um_team_share((size_t)j->rows, 1, part, parts, &i, &to);
    for (; i < to; i++) memcpy(j->y + (size_t)j->index[i] * D, j->x + i * D, D * sizeof(float));
}

void um_cpu_scatter(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D)
{
    job j = {.y = y, .x = x, .index = index, .rows = n, .cols = D};
    um_team_run(um_team_size(d, (size_t)n * (size_t)D, MOVE_WORK), scatter_part, &j);
}
