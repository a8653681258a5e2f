/* Packing of weight matrices into panels, with conversion. Used when a model is loaded and, in training, for transposes. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/kernels.h"

#include <string.h>

enum {
    STRIP = 128,             /* k taken at a time: a panel's strip stays in L1 */
    LINE = STRIP + UM_PANEL, /* from line to line of a strip that is read */
    THREAD_WORK = 1 << 18,   /* elements that repay a thread */
};

size_t um_matrix_bytes(um_dtype dtype, int N, int K)
{
    return um_round_up((size_t)N, UM_PANEL) * (size_t)K * um_dtype_size(dtype);
}

typedef struct pack_job {
    const um_kernels *kernels;
    um_matrix *dst;
    const char *src;
    um_dtype type;
    size_t ld;
    bool transposed;
} pack_job;

/* strip[k][lane] = W[row0 + lane][k0 + k]; src is W, a row is contiguous. */
static void read_rows(const pack_job *j, float *strip, size_t row0, size_t rows, size_t k0,
                      size_t n)
{
    float lines[UM_PANEL * LINE];
    const char *src = j->src + (row0 * j->ld + k0) * um_dtype_size(j->type);
    if (j->type == UM_F32 && (uintptr_t)src % sizeof(float) == 0) {
        j->kernels->transpose(strip, UM_PANEL, (const float *)(const void *)src, j->ld, rows, n);
        return;
    }
    for (size_t r = 0; r < rows; r++)
        um_to_f32(lines + r * LINE, src + r * j->ld * um_dtype_size(j->type), j->type, n);
    j->kernels->transpose(strip, UM_PANEL, lines, LINE, rows, n);
}

/* The same from the transpose: src is [K, N], sixteen outputs are contiguous. */
static void read_columns(const pack_job *j, float *strip, size_t row0, size_t rows, size_t k0,
                         size_t n)
{
    for (size_t k = 0; k < n; k++)
        um_to_f32(strip + k * UM_PANEL, j->src + ((k0 + k) * j->ld + row0) * um_dtype_size(j->type),
                  j->type, rows);
}

static void pack_part(void *ctx, int part, int parts)
{
    const pack_job *j = ctx;
    const size_t N = (size_t)j->dst->N, K = (size_t)j->dst->K;
    float strip[STRIP * UM_PANEL] = {0};
    size_t p0, p1;
    um_team_share(um_round_up(N, UM_PANEL) / UM_PANEL, 1, part, parts, &p0, &p1);
    for (size_t p = p0; p < p1; p++) {
        const size_t row0 = p * UM_PANEL, rows = N - row0 < UM_PANEL ? N - row0 : UM_PANEL;
        if (rows < UM_PANEL) memset(strip, 0, sizeof strip);
        for (size_t k0 = 0; k0 < K; k0 += STRIP) {
            const size_t n = K - k0 < STRIP ? K - k0 : STRIP;
            (j->transposed ? read_columns : read_rows)(j, strip, row0, rows, k0, n);
            char *to =
                (char *)j->dst->data + (row0 * K + k0 * UM_PANEL) * um_dtype_size(j->dst->dtype);
            um_from_f32(to, j->dst->dtype, strip, n * UM_PANEL);
        }
    }
}

static void pack(um_dev *d, um_matrix *dst, const void *src, um_dtype src_type, int ld,
                 bool transposed)
{
    UM_ASSERT(dst->N > 0 && dst->K > 0 && ld > 0);
    pack_job j = {d->kernels, dst, src, src_type, (size_t)ld, transposed};
    um_team_run(um_team_size(d, (size_t)dst->N * (size_t)dst->K, THREAD_WORK), pack_part, &j);
}

void um_cpu_pack(um_dev *d, um_matrix *dst, const void *src, um_dtype src_type, int ld,
                 bool transposed)
{
    UM_ASSERT(ld >= (transposed ? dst->N : dst->K));
    pack(d, dst, src, src_type, ld, transposed);
}

void um_cpu_pack_device(um_dev *d, um_matrix *dst, const float *src, int ld, bool transposed)
{
    UM_ASSERT(transposed || ld >= dst->K);
    pack(d, dst, src, UM_F32, ld, transposed); /* both memories are the same here */
}

typedef struct turn_job {
    const um_kernels *kernels;
    um_matrix *dst;
    const um_matrix *src;
} turn_job;

/* rows x cols of halves, 16 apart on both sides */
static void turn_halves(uint16_t *to, const uint16_t *from, size_t rows, size_t cols)
{
    for (size_t c = 0; c < cols; c++)
        for (size_t r = 0; r < rows; r++) to[c * UM_PANEL + r] = from[r * UM_PANEL + c];
}

/* A panel of dst has sixteen columns of src: of each panel of src a square of sixteen by sixteen, turned. */
static void turn_part(void *ctx, int part, int parts)
{
    const turn_job *j = ctx;
    const size_t size = um_dtype_size(j->dst->dtype), N = (size_t)j->dst->N, K = (size_t)j->dst->K;
    size_t p, to;
    um_team_share(um_round_up(N, UM_PANEL) / UM_PANEL, 1, part, parts, &p, &to);
    for (; p < to; p++) {
        const size_t rows = N - p * UM_PANEL < UM_PANEL ? N - p * UM_PANEL : UM_PANEL;
        char *panel = (char *)j->dst->data + p * K * UM_PANEL * size;
        if (rows < UM_PANEL) memset(panel, 0, K * UM_PANEL * size);
        for (size_t k = 0; k < K; k += UM_PANEL) {
            /* dst[row][k + i] = src[k + i][row]: in src's panel k/16, at column row, lane i */
            const size_t cols = K - k < UM_PANEL ? K - k : UM_PANEL;
            const char *in =
                (const char *)j->src->data + (k / UM_PANEL * N + p * UM_PANEL) * UM_PANEL * size;
            void *out = panel + k * UM_PANEL * size;
            if (j->dst->dtype == UM_F32)
                j->kernels->transpose(out, UM_PANEL, (const float *)(const void *)in, UM_PANEL,
                                      rows, cols);
            else
                turn_halves(out, (const uint16_t *)(const void *)in, rows, cols);
        }
    }
}

void um_cpu_pack_transpose(um_dev *d, um_matrix *dst, const um_matrix *src)
{
    UM_ASSERT(dst->N == src->K && dst->K == src->N && dst->dtype == src->dtype);
    turn_job j = {d->kernels, dst, src};
    um_team_run(um_team_size(d, (size_t)dst->N * (size_t)dst->K, THREAD_WORK), turn_part, &j);
}
