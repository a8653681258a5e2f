/* See guarded_ops.h. */
#include "tests/support/guarded_ops.h"

#include "core/base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Address space costs nothing: the region is reserved whole, and blocks are taken from it in pages. */
static const size_t region_bytes = (size_t)1 << 36, page_bytes = 4096;

typedef struct block {
    size_t at, bytes; /* in order of their places */
    bool used;
} block;

typedef struct guard {
    um_ops ops; /* first: the um_dev leads here */
    const um_ops *cpu;
    char *base;
    size_t end; /* of the part that blocks have taken */
    int depth;  /* ops that are running */
    block *list;
    int blocks;
} guard;

static guard *guard_of(const um_dev *d) { return (guard *)(void *)(uintptr_t)d->ops; }

static void protect(const guard *g, int how)
{
    if (g->end == 0 || mprotect(g->base, g->end, how) == 0) return;
    fprintf(stderr, "guarded ops: mprotect of %zu bytes: %s\n", g->end, strerror(errno));
    abort();
}

/* --- memory --- */

/* A free block with room, else a new one at the end; NULL when the region is full. */
static block *block_find(guard *g, size_t bytes)
{
    for (int i = 0; i < g->blocks; i++)
        if (!g->list[i].used && g->list[i].bytes >= bytes) return &g->list[i];
    if (bytes > region_bytes - g->end) return NULL;
    g->list = um_realloc(g->list, (size_t)(g->blocks + 1) * sizeof *g->list);
    block *b = &g->list[g->blocks++];
    *b = (block){.at = g->end, .bytes = bytes};
    g->end += bytes;
    return b;
}

static void *guarded_alloc(um_dev *d, size_t bytes)
{
    guard *g = guard_of(d);
    if (bytes > region_bytes) return NULL;
    block *b = block_find(g, um_round_up(bytes == 0 ? 1 : bytes, page_bytes));
    if (b == NULL) return NULL;
    b->used = true;
    return g->base + b->at;
}

/* The pages go back to the system; free blocks at the end go back to the region. */
static void guarded_free(um_dev *d, void *p)
{
    guard *g = guard_of(d);
    for (int i = 0; p != NULL && i < g->blocks; i++) {
        block *b = &g->list[i];
        if (g->base + b->at != (char *)p) continue;
        UM_CHECK(b->used);
        b->used = false;
        madvise(p, b->bytes, MADV_DONTNEED);
        while (g->blocks > 0 && !g->list[g->blocks - 1].used) g->end = g->list[--g->blocks].at;
        return;
    }
    UM_CHECK(p == NULL);
}

size_t um_dev_guarded_bytes(const um_dev *d)
{
    const guard *g = guard_of(d);
    size_t sum = 0;
    for (int i = 0; i < g->blocks; i++) sum += g->list[i].used ? g->list[i].bytes : 0;
    return sum;
}

/* --- ops --- */

/* Opens the memory for op `name`, whose device pointers (NULL: not given) end with `last`. */
static char last[1];

static const um_ops *begin(um_dev *d, const char *name, const void *const *p)
{
    guard *g = guard_of(d);
    for (int i = 0; p[i] != last; i++) {
        const uintptr_t at = (uintptr_t)p[i], base = (uintptr_t)g->base;
        if (p[i] == NULL || (at >= base && at < base + g->end)) continue;
        fprintf(stderr, "guarded ops: %s: its pointer number %d is not device memory\n", name,
                i + 1);
        abort();
    }
    if (g->depth++ == 0) protect(g, PROT_READ | PROT_WRITE);
    return g->cpu;
}

static void end(um_dev *d)
{
    guard *g = guard_of(d);
    if (--g->depth == 0) protect(g, PROT_NONE);
}

/* The op NAME with its parameters, its arguments, and those of them that are device memory. A call that does nothing (`some` is
 * false) may have any pointers. */
#define OP(NAME, PARAMS, ARGS, SOME, ...)                                                          \
    static void guarded_##NAME PARAMS                                                              \
    {                                                                                              \
        const void *const device[] = {__VA_ARGS__, last}, *const none[] = {last};                  \
        begin(d, #NAME, (SOME) ? device : none)->NAME ARGS;                                        \
        end(d);                                                                                    \
    }

OP(sync, (um_dev * d), (d), true, NULL)
OP(put, (um_dev * d, void *dev, const void *host, size_t bytes), (d, dev, host, bytes), bytes > 0,
   dev)
OP(get, (um_dev * d, void *host, const void *dev, size_t bytes), (d, host, dev, bytes), bytes > 0,
   dev)
OP(copy, (um_dev * d, void *to, const void *from, size_t bytes), (d, to, from, bytes), bytes > 0,
   to, from)
OP(copy_2d, (um_dev * d, float *y, int ldy, const float *x, int ldx, int T, int D),
   (d, y, ldy, x, ldx, T, D), T > 0, y, x)
OP(fill, (um_dev * d, float *y, float value, size_t n), (d, y, value, n), n > 0, y)
OP(cast, (um_dev * d, void *y, um_dtype to, const void *x, um_dtype from, size_t n),
   (d, y, to, x, from, n), n > 0, y, x)
OP(transpose, (um_dev * d, float *y, const float *x, int rows, int cols), (d, y, x, rows, cols),
   rows > 0, y, x)
OP(rows_out,
   (um_dev * d, void *host, um_dtype to, const float *x, const int32_t *index, int n, int D),
   (d, host, to, x, index, n, D), n > 0, x, index)
OP(rows_in, (um_dev * d, float *y, const void *host, um_dtype from, size_t n),
   (d, y, host, from, n), n > 0, y)
OP(pack, (um_dev * d, um_matrix *dst, const void *src, um_dtype type, int ld, bool transposed),
   (d, dst, src, type, ld, transposed), true, dst->data)
OP(pack_device, (um_dev * d, um_matrix *dst, const float *src, int ld, bool transposed),
   (d, dst, src, ld, transposed), true, dst->data, src)
OP(pack_transpose, (um_dev * d, um_matrix *dst, const um_matrix *src), (d, dst, src), true,
   dst->data, src->data)
OP(gemm,
   (um_dev * d, float *y, int ldy, const float *x, int ldx, int M, const um_matrix *w,
    const float *bias, bool accumulate),
   (d, y, ldy, x, ldx, M, w, bias, accumulate), M > 0, y, x, w->data, bias)
OP(gemm_tn,
   (um_dev * d, float *y, int ldy, const float *x, int ldx, int M, const um_matrix *w,
    bool accumulate),
   (d, y, ldy, x, ldx, M, w, accumulate), M > 0, y, x, w->data)
OP(rmsnorm_fwd,
   (um_dev * d, float *y, float *rstd, const float *x, const float *w, int T, int D, float eps),
   (d, y, rstd, x, w, T, D, eps), T > 0, y, rstd, x, w)
OP(rmsnorm_bwd,
   (um_dev * d, float *dx, float *dw, const float *dy, const float *x, const float *w,
    const float *rstd, int T, int D),
   (d, dx, dw, dy, x, w, rstd, T, D), T > 0, dx, dw, dy, x, w, rstd)
OP(layernorm_fwd,
   (um_dev * d, float *y, const float *x, const float *w, const float *b, int T, int D, float eps),
   (d, y, x, w, b, T, D, eps), T > 0, y, x, w, b)
OP(layernorm_bwd,
   (um_dev * d, float *dx, float *dw, float *db, const float *dy, const float *x, const float *w,
    int T, int D, float eps),
   (d, dx, dw, db, dy, x, w, T, D, eps), T > 0, dx, dw, db, dy, x, w)
OP(swiglu_fwd, (um_dev * d, float *y, const float *g, const float *u, size_t n), (d, y, g, u, n),
   n > 0, y, g, u)
OP(swiglu_bwd,
   (um_dev * d, float *dg, float *du, const float *dy, const float *g, const float *u, size_t n),
   (d, dg, du, dy, g, u, n), n > 0, dg, du, dy, g, u)
OP(gelu, (um_dev * d, float *y, const float *x, size_t n), (d, y, x, n), n > 0, y, x)
OP(quick_gelu, (um_dev * d, float *y, const float *x, size_t n), (d, y, x, n), n > 0, y, x)
OP(gelu_bwd, (um_dev * d, float *dx, const float *dy, const float *x, size_t n), (d, dx, dy, x, n),
   n > 0, dx, dy, x)
OP(quick_gelu_bwd, (um_dev * d, float *dx, const float *dy, const float *x, size_t n),
   (d, dx, dy, x, n), n > 0, dx, dy, x)
OP(add, (um_dev * d, float *y, const float *x, size_t n), (d, y, x, n), n > 0, y, x)
OP(scale, (um_dev * d, float *y, float s, size_t n), (d, y, s, n), n > 0, y)
OP(divide, (um_dev * d, float *y, float s, size_t n), (d, y, s, n), n > 0, y)
OP(sum_rows, (um_dev * d, float *y, const float *x, int T, int N), (d, y, x, T, N), T > 0, y, x)
OP(softmax, (um_dev * d, float *y, const float *x, int T, int E), (d, y, x, T, E), T > 0, y, x)
OP(softmax_bwd, (um_dev * d, float *dx, const float *dp, int lddp, const float *p, int T, int E),
   (d, dx, dp, lddp, p, T, E), T > 0, dx, dp, p)
OP(cross_entropy,
   (um_dev * d, float *loss, float *dlogits, const float *logits, const int32_t *target, int T,
    int V, float scale),
   (d, loss, dlogits, logits, target, T, V, scale), T > 0, loss, dlogits, logits, target)
OP(rope,
   (um_dev * d, float *x, int ldx, const float *cs, const int32_t *pos, int T, int heads,
    int head_dim),
   (d, x, ldx, cs, pos, T, heads, head_dim), T > 0, x, cs, pos)
OP(rope_bwd,
   (um_dev * d, float *dx, int ldx, const float *cs, const int32_t *pos, int T, int heads,
    int head_dim),
   (d, dx, ldx, cs, pos, T, heads, head_dim), T > 0, dx, cs, pos)
OP(kv_write,
   (um_dev * d, const um_kv *kv, const um_span *span, int spans, const float *k, int ldk,
    const float *v, int ldv),
   (d, kv, span, spans, k, ldk, v, ldv), spans > 0, kv->pages, kv->table, k, v)
OP(attention,
   (um_dev * d, float *out, int ldo, float *lse, const float *q, int ldq, const um_kv *kv,
    const um_span *span, int spans, int heads, float scale, bool causal),
   (d, out, ldo, lse, q, ldq, kv, span, spans, heads, scale, causal), spans > 0, out, lse, q,
   kv->pages, kv->table)
OP(attention_bwd,
   (um_dev * d, float *dq, float *dk, float *dv, const float *dout, const float *out, int ldo,
    const float *lse, const float *q, int ldq, const float *k, const float *v, int ldkv,
    const um_span *span, const int32_t *key_row, int spans, int heads, int kv_heads, int head_dim,
    float scale, bool causal),
   (d, dq, dk, dv, dout, out, ldo, lse, q, ldq, k, v, ldkv, span, key_row, spans, heads, kv_heads,
    head_dim, scale, causal),
   spans > 0, dq, dk, dv, dout, out, lse, q, k, v)
OP(attention_biased_bwd,
   (um_dev * d, float *dq, float *dk, float *dv, const float *dout, const float *out, int ldo,
    const float *lse, const float *q, int ldq, const float *k, const float *v, int ldkv,
    const um_span *span, const int32_t *key_row, int spans, int heads, int kv_heads, int head_dim,
    float scale, float *dtable, const float *table, int ldtable, float *dgate, const float *gate),
   (d, dq, dk, dv, dout, out, ldo, lse, q, ldq, k, v, ldkv, span, key_row, spans, heads, kv_heads,
    head_dim, scale, dtable, table, ldtable, dgate, gate),
   spans > 0, dq, dk, dv, dout, out, lse, q, k, v, dtable, table, dgate, gate)
OP(attention_biased,
   (um_dev * d, float *out, int ldo, float *lse, const float *q, int ldq, const um_kv *kv,
    const um_span *span, int spans, int heads, float scale, const float *table, int ldtable,
    const float *gate),
   (d, out, ldo, lse, q, ldq, kv, span, spans, heads, scale, table, ldtable, gate), spans > 0, out,
   lse, q, kv->pages, kv->table, table, gate)
OP(bias_gate, (um_dev * d, float *gate, const float *x, const float *a, int T, int heads),
   (d, gate, x, a, T, heads), T > 0, gate, x, a)
OP(bias_gate_bwd,
   (um_dev * d, float *dx, float *da, const float *dgate, const float *x, const float *a, int T,
    int heads),
   (d, dx, da, dgate, x, a, T, heads), T > 0, dx, da, dgate, x, a)
OP(gate_topk,
   (um_dev * d, int32_t *experts, float *weights, const float *logits, int T, int E, int K,
    bool gshard, uint64_t seed, const uint64_t *noise),
   (d, experts, weights, logits, T, E, K, gshard, seed, noise), T > 0, experts, weights, logits,
   noise)
OP(gate_topk_bwd,
   (um_dev * d, float *dlogits, const float *dweights, const float *weights, const int32_t *experts,
    int T, int E, int K),
   (d, dlogits, dweights, weights, experts, T, E, K), T > 0, dlogits, dweights, weights, experts)
OP(gate_dynamic, (um_dev * d, const um_dynamic_rows *g, const uint8_t *real), (d, g, real),
   g->T > 0, g->logits, g->count, g->pick, g->share, g->real, g->mask, g->weights, g->experts,
   g->slots, real)
OP(gate_dynamic_bwd, (um_dev * d, float *dlogits, const float *dweights, const um_dynamic_rows *g),
   (d, dlogits, dweights, g), g->T > 0, dlogits, dweights, g->logits, g->weights)
OP(gather, (um_dev * d, float *y, const float *x, const int32_t *index, int n, int D),
   (d, y, x, index, n, D), n > 0, y, x, index)
OP(scatter, (um_dev * d, float *y, const float *x, const int32_t *index, int n, int D),
   (d, y, x, index, n, D), n > 0, y, x, index)
OP(combine,
   (um_dev * d, float *y, const float *rows, const int32_t *index, const float *weight, int T,
    int K, int D),
   (d, y, rows, index, weight, T, K, D), T > 0, y, rows, index, weight)
OP(combine_bwd,
   (um_dev * d, float *drows, float *dweight, const float *dy, const float *rows,
    const int32_t *index, const float *weight, int T, int K, int D),
   (d, drows, dweight, dy, rows, index, weight, T, K, D), T > 0, drows, dweight, dy, rows, index,
   weight)
OP(scatter_add, (um_dev * d, float *y, const float *x, const int32_t *index, int n, int D),
   (d, y, x, index, n, D), n > 0, y, x, index)
OP(windows_add, (um_dev * d, float *x, const float *cols, int T, int K, int step),
   (d, x, cols, T, K, step), T > 0, x, cols)
OP(dropout, (um_dev * d, float *y, const float *x, size_t n, float p, uint64_t seed),
   (d, y, x, n, p, seed), n > 0, y, x)
OP(adamw, (um_dev * d, float *p, const float *g, float *m, float *v, size_t n, const um_adamw *how),
   (d, p, g, m, v, n, how), n > 0, p, g, m, v)
OP(sum_squares, (um_dev * d, double *host, const float *x, size_t n), (d, host, x, n), n > 0, x)

/* As many pointers as groups. */
static void guarded_gemm_grouped(um_dev *d, float *y, int ldy, const float *x, int ldx,
                                 const um_group *group, int groups)
{
    const void *const device[] = {y, x, last}, *const none[] = {last};
    const um_ops *cpu = begin(d, "gemm_grouped", groups > 0 ? device : none);
    for (int i = 0; i < groups; i++) {
        const void *const own[] = {group[i].w->data, group[i].bias, last};
        begin(d, "gemm_grouped", own);
        end(d);
    }
    cpu->gemm_grouped(d, y, ldy, x, ldx, group, groups);
    end(d);
}

static const um_ops table = {
    .name = "guarded",
    .alloc = guarded_alloc,
    .free = guarded_free,
    .sync = guarded_sync,
    .put = guarded_put,
    .get = guarded_get,
    .copy = guarded_copy,
    .copy_2d = guarded_copy_2d,
    .fill = guarded_fill,
    .cast = guarded_cast,
    .transpose = guarded_transpose,
    .rows_out = guarded_rows_out,
    .rows_in = guarded_rows_in,
    .pack = guarded_pack,
    .pack_device = guarded_pack_device,
    .pack_transpose = guarded_pack_transpose,
    .gemm = guarded_gemm,
    .gemm_tn = guarded_gemm_tn,
    .gemm_grouped = guarded_gemm_grouped,
    .rmsnorm_fwd = guarded_rmsnorm_fwd,
    .rmsnorm_bwd = guarded_rmsnorm_bwd,
    .layernorm_fwd = guarded_layernorm_fwd,
    .layernorm_bwd = guarded_layernorm_bwd,
    .swiglu_fwd = guarded_swiglu_fwd,
    .swiglu_bwd = guarded_swiglu_bwd,
    .gelu = guarded_gelu,
    .quick_gelu = guarded_quick_gelu,
    .gelu_bwd = guarded_gelu_bwd,
    .quick_gelu_bwd = guarded_quick_gelu_bwd,
    .add = guarded_add,
    .scale = guarded_scale,
    .divide = guarded_divide,
    .sum_rows = guarded_sum_rows,
    .softmax = guarded_softmax,
    .softmax_bwd = guarded_softmax_bwd,
    .cross_entropy = guarded_cross_entropy,
    .rope = guarded_rope,
    .rope_bwd = guarded_rope_bwd,
    .kv_write = guarded_kv_write,
    .attention = guarded_attention,
    .attention_bwd = guarded_attention_bwd,
    .attention_biased = guarded_attention_biased,
    .attention_biased_bwd = guarded_attention_biased_bwd,
    .bias_gate = guarded_bias_gate,
    .bias_gate_bwd = guarded_bias_gate_bwd,
    .gate_topk = guarded_gate_topk,
    .gate_topk_bwd = guarded_gate_topk_bwd,
    .gate_dynamic = guarded_gate_dynamic,
    .gate_dynamic_bwd = guarded_gate_dynamic_bwd,
    .gather = guarded_gather,
    .scatter = guarded_scatter,
    .combine = guarded_combine,
    .combine_bwd = guarded_combine_bwd,
    .scatter_add = guarded_scatter_add,
    .windows_add = guarded_windows_add,
    .dropout = guarded_dropout,
    .adamw = guarded_adamw,
    .sum_squares = guarded_sum_squares,
};

um_status um_dev_open_guarded(um_dev *out, um_isa isa, int threads, um_err *err)
{
    UM_TRY(um_dev_open_cpu(out, isa, threads, err));
    char *base =
        mmap(NULL, region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return UM_FAIL(err, UM_E_MEMORY, "guarded ops: no address space of %zu bytes: %s",
                       region_bytes, strerror(errno));
    guard *g = um_zalloc(sizeof *g);
    g->ops = table;
    g->cpu = out->ops;
    g->base = base;
    out->ops = &g->ops;
    return UM_OK;
}

void um_dev_close_guarded(um_dev *d)
{
    guard *g = guard_of(d);
    munmap(g->base, region_bytes);
    um_free(g->list);
    um_free(g);
    d->ops = NULL;
}
