/* The op table of the CPU: chooses the instruction set, and divides the row and array ops among threads. */
#include "core/base/bytes.h"
#include "core/tensor/cpu/train/train_kernels.h"

#include <string.h>

/* One op on T rows of D, or on n values. */
typedef struct args {
    const um_kernels *kernels;
    float *y, *y2;
    const float *a, *b, *c, *d;
    const int32_t *index;
    size_t n, ld;
    int T, D, K, heads;
    float f;
} args;

static void rmsnorm_fwd_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t at = t * (size_t)j->D;
    j->kernels->rmsnorm_fwd(j->y + at, j->y2 == NULL ? NULL : j->y2 + t, j->a + at, j->b, count,
                            j->D, j->f);
}

static void rmsnorm_fwd(um_dev *d, float *y, float *rstd, const float *x, const float *w, int T,
                        int D, float eps)
{
    args j = {.kernels = d->kernels, .y = y, .y2 = rstd, .a = x, .b = w, .T = T, .D = D, .f = eps};
    um_team_run(um_team_of_rows(d, T, D), rmsnorm_fwd_part, &j);
}

static void rmsnorm_bwd_x_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t at = t * (size_t)j->D;
    j->kernels->rmsnorm_bwd_x(j->y + at, j->a + at, j->b + at, j->c, j->d + t, count, j->D);
}

static void rmsnorm_bwd_w_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t d0, d1;
    um_team_share((size_t)j->D, UM_PANEL, part, parts, &d0, &d1);
    j->kernels->rmsnorm_bwd_w(j->y2, j->a, j->b, j->d, j->T, j->D, (int)d0, (int)d1);
}

static void rmsnorm_bwd(um_dev *d, float *dx, float *dw, const float *dy, const float *x,
                        const float *w, const float *rstd, int T, int D)
{
    args j = {.kernels = d->kernels,
              .y = dx,
              .y2 = dw,
              .a = dy,
              .b = x,
              .c = w,
              .d = rstd,
              .T = T,
              .D = D};
    um_team_run(um_team_of_rows(d, T, D), rmsnorm_bwd_x_part, &j);
    if (dw != NULL) um_team_run(um_team_of_rows(d, T, D), rmsnorm_bwd_w_part, &j);
}

static void layernorm_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t at = t * (size_t)j->D;
    j->kernels->layernorm_fwd(j->y + at, j->a + at, j->b, j->c, count, j->D, j->f);
}

static void layernorm_fwd(um_dev *d, float *y, const float *x, const float *w, const float *b,
                          int T, int D, float eps)
{
    args j = {.kernels = d->kernels, .y = y, .a = x, .b = w, .c = b, .T = T, .D = D, .f = eps};
    um_team_run(um_team_of_rows(d, T, D), layernorm_part, &j);
}

static void swiglu_fwd_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->swiglu_fwd(j->y + i, j->a + i, j->b + i, to - i);
}

static void swiglu_fwd(um_dev *d, float *y, const float *g, const float *u, size_t n)
{
    args j = {.kernels = d->kernels, .y = y, .a = g, .b = u, .n = n};
    um_team_run(um_team_size(d, n, UM_EXP_WORK), swiglu_fwd_part, &j);
}

static void swiglu_bwd_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->swiglu_bwd(j->y + i, j->y2 + i, j->a + i, j->b + i, j->c + i, to - i);
}

static void swiglu_bwd(um_dev *d, float *dg, float *du, const float *dy, const float *g,
                       const float *u, size_t n)
{
    args j = {.kernels = d->kernels, .y = dg, .y2 = du, .a = dy, .b = g, .c = u, .n = n};
    um_team_run(um_team_size(d, n, UM_EXP_WORK), swiglu_bwd_part, &j);
}

static void gelu_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->gelu(j->y + i, j->a + i, to - i);
}

static void gelu(um_dev *d, float *y, const float *x, size_t n)
{
    args j = {.kernels = d->kernels, .y = y, .a = x, .n = n};
    um_team_run(um_team_size(d, n, UM_EXP_WORK), gelu_part, &j);
}

static void quick_gelu_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->quick_gelu(j->y + i, j->a + i, to - i);
}

static void quick_gelu(um_dev *d, float *y, const float *x, size_t n)
{
    args j = {.kernels = d->kernels, .y = y, .a = x, .n = n};
    um_team_run(um_team_size(d, n, UM_EXP_WORK), quick_gelu_part, &j);
}

static void add_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->add(j->y + i, j->a + i, to - i);
}

static void add(um_dev *d, float *y, const float *x, size_t n)
{
    args j = {.kernels = d->kernels, .y = y, .a = x, .n = n};
    um_team_run(um_team_size(d, n, UM_VALUE_WORK), add_part, &j);
}

static void scale_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t i, to;
    um_team_share(j->n, UM_PANEL, part, parts, &i, &to);
    j->kernels->scale(j->y + i, j->f, to - i);
}

static void scale(um_dev *d, float *y, float s, size_t n)
{
    args j = {.kernels = d->kernels, .y = y, .f = s, .n = n};
    um_team_run(um_team_size(d, n, UM_VALUE_WORK), scale_part, &j);
}

static void rope_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    j->kernels->rope(j->y + t * j->ld, j->ld, j->a, j->index + t, count, j->heads, j->D);
}

static void rope(um_dev *d, float *x, int ldx, const float *cs, const int32_t *pos, int T,
                 int heads, int head_dim)
{
    UM_ASSERT(head_dim % 2 == 0);
    args j = {.kernels = d->kernels,
              .y = x,
              .ld = (size_t)ldx,
              .a = cs,
              .index = pos,
              .T = T,
              .heads = heads,
              .D = head_dim};
    um_team_run(um_team_of_rows(d, T, heads * head_dim), rope_part, &j);
}

static void gather_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    const size_t D = (size_t)j->D;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    for (size_t i = t; i < t + (size_t)count; i++)
        memcpy(j->y + i * D, j->a + (size_t)j->index[i] * D, D * sizeof(float));
}

static void gather(um_dev *d, float *y, const float *x, const int32_t *index, int n, int D)
{
    args j = {.y = y, .a = x, .index = index, .T = n, .D = D};
    um_team_run(um_team_of_rows(d, n, D), gather_part, &j);
}

static void combine_part(void *ctx, int part, int parts)
{
    const args *j = ctx;
    size_t t;
    int count;
    um_team_rows(j->T, part, parts, &t, &count);
    const size_t slot = t * (size_t)j->K;
    j->kernels->combine(j->y + t * (size_t)j->D, j->a, j->index + slot, j->b + slot, count, j->K,
                        j->D);
}

static void combine(um_dev *d, float *y, const float *rows, const int32_t *index,
                    const float *weight, int T, int K, int D)
{
    UM_ASSERT(K > 0);
    args j = {.kernels = d->kernels,
              .y = y,
              .a = rows,
              .b = weight,
              .index = index,
              .T = T,
              .K = K,
              .D = D};
    um_team_run(um_team_of_rows(d, T, D), combine_part, &j);
}

static const um_ops um_ops_cpu = {
    .name = "cpu",
    .alloc = um_cpu_alloc,
    .free = um_cpu_free,
    .sync = um_cpu_sync,
    .put = um_cpu_copy,
    .get = um_cpu_copy,
    .copy = um_cpu_copy,
    .copy_2d = um_cpu_copy_2d,
    .fill = um_cpu_fill,
    .cast = um_cpu_cast,
    .transpose = um_cpu_transpose,
    .rows_out = um_cpu_rows_out,
    .rows_in = um_cpu_rows_in,
    .pack = um_cpu_pack,
    .pack_device = um_cpu_pack_device,
    .pack_transpose = um_cpu_pack_transpose,
    .gemm = um_cpu_gemm,
    .gemm_tn = um_cpu_gemm_tn,
    .gemm_grouped = um_cpu_gemm_grouped,
    .rmsnorm_fwd = rmsnorm_fwd,
    .rmsnorm_bwd = rmsnorm_bwd,
    .layernorm_fwd = layernorm_fwd,
    .layernorm_bwd = um_cpu_layernorm_bwd,
    .swiglu_fwd = swiglu_fwd,
    .swiglu_bwd = swiglu_bwd,
    .gelu = gelu,
    .quick_gelu = quick_gelu,
    .gelu_bwd = um_cpu_gelu_bwd,
    .quick_gelu_bwd = um_cpu_quick_gelu_bwd,
    .add = add,
    .scale = scale,
    .divide = um_cpu_divide,
    .bias_gate = um_cpu_bias_gate,
    .bias_gate_bwd = um_cpu_bias_gate_bwd,
    .sum_rows = um_cpu_sum_rows,
    .softmax = um_cpu_softmax,
    .softmax_bwd = um_cpu_softmax_bwd,
    .cross_entropy = um_cpu_cross_entropy,
    .rope = rope,
    .rope_bwd = um_cpu_rope_bwd,
    .kv_write = um_cpu_kv_write,
    .attention = um_cpu_attention,
    .attention_bwd = um_cpu_attention_bwd,
    .attention_biased = um_cpu_attention_biased,
    .attention_biased_bwd = um_cpu_attention_biased_bwd,
    .gate_topk = um_cpu_gate_topk,
    .gate_topk_bwd = um_cpu_gate_topk_bwd,
    .gate_dynamic = um_cpu_gate_dynamic,
    .gate_dynamic_bwd = um_cpu_gate_dynamic_bwd,
    .gather = gather,
    .scatter = um_cpu_scatter,
    .combine = combine,
    .combine_bwd = um_cpu_combine_bwd,
    .scatter_add = um_cpu_scatter_add,
    .windows_add = um_cpu_windows_add,
    .dropout = um_cpu_dropout,
    .adamw = um_cpu_adamw,
    .sum_squares = um_cpu_sum_squares,
};

static const char *const isa_names[] = {"auto", "generic", "avx2", "avx512"};
enum { ISAS = sizeof isa_names / sizeof *isa_names };

int um_isa_from_name(const char *name)
{
    for (int i = 0; i < ISAS; i++)
        if (strcmp(isa_names[i], name) == 0) return i;
    return -1;
}

const char *um_isa_name(um_isa isa) { return isa_names[isa]; }

/* The kernels of an instruction set, NULL when this machine does not support it. */
static const um_kernels *kernels_of(um_isa isa)
{
    if (isa == UM_ISA_GENERIC) return &um_kernels_generic;
#ifdef UM_X86
    /* every processor with AVX2 and FMA has F16C too; clang 14 does not know the word */
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == UM_ISA_AVX2 && avx2) return &um_kernels_avx2;
    if (isa == UM_ISA_AVX512 && avx2 && __builtin_cpu_supports("avx512f"))
        return &um_kernels_avx512;
#endif
    return NULL;
}

um_status um_dev_open_cpu(um_dev *out, um_isa isa, int threads, um_err *err)
{
    if (threads < 1) return UM_FAIL(err, UM_E_USAGE, "threads %d: at least 1", threads);
    um_isa best = UM_ISA_AVX512;
    while (kernels_of(best) == NULL) best--;
    if (isa == UM_ISA_AUTO) isa = best;
    if (kernels_of(isa) == NULL)
        return UM_FAIL(err, UM_E_USAGE,
                       "isa %s: this machine has generic%s%s; use one of them or auto",
                       um_isa_name(isa), kernels_of(UM_ISA_AVX2) == NULL ? "" : ", avx2",
                       kernels_of(UM_ISA_AVX512) == NULL ? "" : ", avx512");
    *out = (um_dev){.ops = &um_ops_cpu, .kernels = kernels_of(isa), .isa = isa, .threads = threads};
    return UM_OK;
}
