/* The rows of bench_ops --train: what a training step does besides the forward gemm. No peers. */
#include "bench/bench_ops.h"

#include <math.h>

/* One case: T rows, layers [N,K], or heads of head_dim. */
typedef struct train_case {
    bench *b;
    int T, N, K;
    float *x, *y, *w, *dx, *dw, *out, *lse;
    int32_t *target;
    um_matrix factor, turned;
    um_group *group;
} train_case;

enum { GROUPS = 8 };

/* dW += dy^T x, the packing of x included */
static void weight_grad(void *ctx, const contestant *c)
{
    (void)c;
    train_case *t = ctx;
    um_dev *d = &t->b->dev;
    d->ops->pack_device(d, &t->factor, t->x, t->K, true);
    d->ops->gemm_tn(d, t->dw, t->K, t->y, t->N, t->N, &t->factor, true);
}

/* dx += dy W */
static void input_grad(void *ctx, const contestant *c)
{
    (void)c;
    train_case *t = ctx;
    t->b->dev.ops->gemm(&t->b->dev, t->dx, t->K, t->y, t->N, t->T, &t->turned, NULL, true);
}

/* the rows, in groups, through as many experts (one and the same matrix) */
static void grouped(void *ctx, const contestant *c)
{
    (void)c;
    train_case *t = ctx;
    t->b->dev.ops->gemm_grouped(&t->b->dev, t->dx, t->K, t->y, t->N, t->group, GROUPS);
}

static void attention_back(void *ctx, const contestant *c)
{
    (void)c;
    train_case *t = ctx;
    const um_span span = {0, t->T, 0, t->T, 0};
    const int32_t row = 0;
    const int ld = t->N * t->K;
    t->b->dev.ops->attention_bwd(&t->b->dev, t->dx, t->dw, t->w, t->y, t->out, ld, t->lse, t->x, ld,
                                 t->x, t->x, ld, &span, &row, 1, t->N, t->N, t->K,
                                 1.0f / sqrtf((float)t->K), true);
}

static void cross_entropy(void *ctx, const contestant *c)
{
    (void)c;
    train_case *t = ctx;
    t->b->dev.ops->cross_entropy(&t->b->dev, t->lse, t->dx, t->y, t->target, t->T, t->N, 1.0f);
}

static void timed(train_case *t, const char *op, void (*run)(void *, const contestant *),
                  double flop, result *r)
{
    contestant c = {.name = "f32", .run = run};
    const int rounds = t->b->rounds;
    bench_turns(t->b, &c, 1, t);
    *r = (result){.op = op,
                  .dtype = "f32",
                  .M = t->T,
                  .N = t->N,
                  .K = t->K,
                  .threads = t->b->dev.threads,
                  .f32 = 1};
    r->median = flop / bench_quantile(&c, rounds, 0.5) * 1e-9;
    r->p10 = flop / bench_quantile(&c, rounds, 0.9) * 1e-9;
    r->p90 = flop / bench_quantile(&c, rounds, 0.1) * 1e-9;
}

void bench_train_layer(bench *b, int T, int N, int K, result results[3])
{
    um_mark mark = um_arena_mark(&b->arena);
    const size_t rows = (size_t)T, n = (size_t)N, k = (size_t)K;
    um_group group[GROUPS];
    train_case t = {.b = b, .T = T, .N = N, .K = K, .group = group};
    t.x = bench_values(b, rows * k, 1);
    t.y = bench_values(b, rows * n, 2);
    t.dx = bench_values(b, rows * k, 3);
    t.dw = bench_values(b, n * k, 4);
    t.factor = (um_matrix){UM_F32, K, T, um_arena_alloc(&b->arena, um_matrix_bytes(UM_F32, K, T))};
    t.turned = (um_matrix){UM_F32, K, N, um_arena_alloc(&b->arena, um_matrix_bytes(UM_F32, K, N))};
    b->dev.ops->pack(&b->dev, &t.turned, t.dw, UM_F32, K, true);
    for (int i = 0; i < GROUPS; i++) {
        const int from = T * i / GROUPS;
        group[i] = (um_group){&t.turned, NULL, from, T * (i + 1) / GROUPS - from};
    }
    const double flop = 2.0 * T * N * K;
    timed(&t, "weight gradient", weight_grad, flop, &results[0]);
    timed(&t, "input gradient", input_grad, flop, &results[1]);
    timed(&t, "grouped", grouped, flop, &results[2]);
    um_arena_reset(&b->arena, mark);
}

void bench_train_attention(bench *b, int T, int heads, int head_dim, result *r)
{
    um_mark mark = um_arena_mark(&b->arena);
    const size_t n = (size_t)T * (size_t)(heads * head_dim), rows = (size_t)T * (size_t)heads;
    train_case t = {.b = b, .T = T, .N = heads, .K = head_dim};
    t.x = bench_values(b, n, 1);
    t.y = bench_values(b, n, 2);
    t.out = bench_values(b, n, 3);
    t.dx = bench_values(b, n, 4);
    t.dw = bench_values(b, n, 5);
    t.w = bench_values(b, n, 6);
    t.lse = bench_values(b, rows, 7);
    for (size_t i = 0; i < rows; i++) t.lse[i] += 4.0f;
    /* five products over what causal attention sees */
    timed(&t, "attention backward", attention_back, 10.0 * heads * head_dim * T * 0.5 * (T + 1.0),
          r);
    um_arena_reset(&b->arena, mark);
}

void bench_train_loss(bench *b, int T, int V, result *r)
{
    um_mark mark = um_arena_mark(&b->arena);
    train_case t = {.b = b, .T = T, .N = V, .K = 1};
    t.y = bench_values(b, (size_t)T * (size_t)V, 1);
    t.dx = bench_values(b, (size_t)T * (size_t)V, 2);
    t.lse = bench_values(b, (size_t)T, 3);
    t.target = um_arena_i32(&b->arena, (size_t)T);
    for (int i = 0; i < T; i++) t.target[i] = i % V;
    timed(&t, "cross-entropy", cross_entropy, (double)T * V, r);
    r->values = true;
    um_arena_reset(&b->arena, mark);
}
