/* What bench_ops times. Peers get W as [N,K] and as [K,N], and the faster of the two counts. */
#include "bench/bench_ops.h"

#include "core/base/bytes.h"
#include "core/base/rng.h"

#include <math.h>
#include <stdio.h>

typedef struct gemm_case {
    bench *b;
    int M, N, K;
    float *x, *w, *turned, *y; /* x [M,K], w [N,K], turned [K,N], y [M,N] */
} gemm_case;

static void gemm_ours(void *ctx, const contestant *c)
{
    gemm_case *g = ctx;
    g->b->dev.ops->gemm(&g->b->dev, g->y, g->N, g->x, g->K, g->M, &c->w, NULL, false);
}

static void gemm_peer(void *ctx, const contestant *c)
{
    gemm_case *g = ctx;
    um_peer_gemm(g->b->peers, c->peer, c->transposed, g->M, g->N, g->K, 1.0f, g->x, g->K,
                 c->transposed ? g->w : g->turned, c->transposed ? g->K : g->N, g->y, g->N);
}

static contestant gemm_own(gemm_case *g, um_dtype dtype)
{
    um_dev *d = &g->b->dev;
    contestant c = {
        .name = um_dtype_lower(dtype), .run = gemm_ours, .w = {dtype, g->N, g->K, NULL}};
    c.w.data = um_arena_alloc(&g->b->arena, um_matrix_bytes(dtype, g->N, g->K));
    d->ops->pack(d, &c.w, g->w, UM_F32, g->K, false);
    return c;
}

/* Every contestant must compute the same numbers, or the comparison is void. */
static bool agree(gemm_case *g, contestant *c, int n)
{
    const size_t count = (size_t)g->M * (size_t)g->N;
    float *first = um_arena_f32(&g->b->arena, 1, count);
    for (int i = 0; i < n; i++) {
        const double allowed = (c[i].w.dtype == UM_BF16 ? 4e-3 : 1e-5) * sqrt((double)g->K);
        c[i].run(g, &c[i]);
        for (size_t j = 0; j < count; j++) {
            if (i == 0) first[j] = g->y[j];
            if (fabs((double)(g->y[j] - first[j])) <= allowed) continue;
            fprintf(stderr, "bench_ops: %s computes %g where f32 has %g\n", c[i].name,
                    (double)g->y[j], (double)first[j]);
            return false;
        }
    }
    return true;
}

/* Peers' speed and ours over the better one. Contestants 0..ours-1 are ours. */
static void against_peers(const bench *b, const contestant *c, int ours, int n, double flop,
                          result *r)
{
    double median = 0, fastest = 0;
    for (int i = ours; i < n; i++) {
        const double speed = flop / bench_quantile(&c[i], b->rounds, 0.5) * 1e-9;
        r->peer[c[i].peer] = fmax(r->peer[c[i].peer], speed);
        median = fmax(median, speed);
        fastest = fmax(fastest, flop / bench_quantile(&c[i], b->rounds, 0.1) * 1e-9);
    }
    r->ratio = median > 0 ? r->median / median : 0;
    r->best = fastest > 0 ? r->p90 / fastest : 0;
}

static void speeds(const bench *b, const contestant *c, double flop, result *r)
{
    r->median = flop / bench_quantile(c, b->rounds, 0.5) * 1e-9;
    r->p10 = flop / bench_quantile(c, b->rounds, 0.9) * 1e-9;
    r->p90 = flop / bench_quantile(c, b->rounds, 0.1) * 1e-9;
}

bool bench_gemm(bench *b, int M, int N, int K, result *results)
{
    enum { OURS = 2 };
    um_mark mark = um_arena_mark(&b->arena);
    gemm_case g = {.b = b, .M = M, .N = N, .K = K};
    g.x = bench_values(b, (size_t)M * (size_t)K, 1);
    g.w = bench_values(b, (size_t)N * (size_t)K, 2);
    g.turned = um_arena_f32(&b->arena, (size_t)K, (size_t)N);
    g.y = um_arena_f32(&b->arena, (size_t)M, (size_t)N);
    for (size_t n = 0; n < (size_t)N; n++)
        for (size_t k = 0; k < (size_t)K; k++) g.turned[k * (size_t)N + n] = g.w[n * (size_t)K + k];
    contestant c[MAX_CONTESTANTS] = {gemm_own(&g, UM_F32), gemm_own(&g, UM_BF16)};
    int n = OURS;
    for (um_peer p = 0; p < UM_PEERS; p++)
        for (int turned = 0; turned < 2 && um_peers_has(b->peers, p); turned++)
            c[n++] = (contestant){
                .name = um_peer_name(p), .run = gemm_peer, .peer = p, .transposed = turned == 0};
    const bool ok = agree(&g, c, n);
    if (ok) bench_turns(b, c, n, &g);
    const double flop = 2.0 * M * N * K;
    for (int i = 0; i < OURS && ok; i++) {
        result *r = &results[i];
        *r = (result){
            .op = "gemm", .dtype = c[i].name, .M = M, .N = N, .K = K, .threads = b->dev.threads};
        speeds(b, &c[i], flop, r);
        r->gbs = (double)um_matrix_bytes(c[i].w.dtype, N, K) /
                 bench_quantile(&c[i], b->rounds, 0.5) * 1e-9;
        r->f32 = r->median / results[0].median;
        against_peers(b, c, OURS, n, flop, r);
    }
    um_arena_reset(&b->arena, mark);
    return ok;
}

/* Sequences of the same length side by side: T new rows each, after `past` positions. Pages in a shuffled order, as in a pool that has
 * been in use. */
typedef struct attn_case {
    bench *b;
    const attention_shape *shape;
    float *q, *k, *v, *out,
        *scores; /* q, out [sequences * T, heads*head_dim]; scores [T,T] of one head, for peers */
    float scale;
    um_kv kv;
    um_span *span;
} attn_case;

static void attn_ours(void *ctx, const contestant *c)
{
    (void)c;
    attn_case *a = ctx;
    const int width = a->shape->heads * a->shape->head_dim;
    a->b->dev.ops->attention(&a->b->dev, a->out, width, NULL, a->q, width, &a->kv, a->span,
                             a->shape->sequences, a->shape->heads, a->scale, true);
}

/* The plain composition: all scores of a head, softmax of each row's part, then the values. One sequence without a past. */
static void attn_peer(void *ctx, const contestant *c)
{
    attn_case *a = ctx;
    const int T = a->shape->T, D = a->shape->head_dim, width = a->shape->heads * D;
    for (int h = 0; h < a->shape->heads; h++) {
        float *s = a->scores;
        um_peer_gemm(a->b->peers, c->peer, true, T, T, D, a->scale, a->q + h * D, width,
                     a->k + h * D, width, s, T);
#ifdef _OPENMP
#pragma omp parallel for num_threads(a->b->dev.threads)
#endif
        for (int t = 0; t < T; t++) {
            float *row = s + (size_t)t * (size_t)T, top = row[0], sum = 0;
            for (int i = 1; i <= t; i++) top = fmaxf(top, row[i]);
            for (int i = 0; i <= t; i++) sum += row[i] = expf(row[i] - top);
            for (int i = 0; i < T; i++) row[i] = i <= t ? row[i] / sum : 0.0f;
        }
        um_peer_gemm(a->b->peers, c->peer, false, T, D, T, 1.0f, s, T, a->v + h * D, width,
                     a->out + h * D, width);
    }
}

/* The keys and values of every sequence: the same ones for all. */
static void attn_caches(attn_case *a)
{
    bench *b = a->b;
    const attention_shape *s = a->shape;
    const int n = s->past + s->T, pages = (n + UM_PAGE - 1) / UM_PAGE, all = pages * s->sequences;
    const int width = s->kv_heads * s->head_dim;
    int32_t *table = um_arena_i32(&b->arena, (size_t)all);
    um_rng rng = um_rng_seed(1, 4);
    for (int i = 0; i < all; i++) {
        const int j = (int)(um_rng_uniform(&rng) * (i + 1)) % (i + 1);
        table[i] = table[j];
        table[j] = i;
    }
    a->kv = (um_kv){.kv_heads = s->kv_heads,
                    .head_dim = s->head_dim,
                    .stride = um_kv_page_floats(s->kv_heads, s->head_dim),
                    .table = table};
    a->kv.pages = b->dev.ops->alloc(&b->dev, (size_t)all * a->kv.stride * sizeof(float));
    a->span = um_arena_alloc(&b->arena, (size_t)s->sequences * sizeof *a->span);
    for (int i = 0; i < s->sequences; i++) {
        const um_span whole = {0, n, 0, n, i * pages};
        a->span[i] = (um_span){i * s->T, s->T, s->past, n, i * pages};
        b->dev.ops->kv_write(&b->dev, &a->kv, &whole, 1, a->k, width, a->v, width);
    }
}

static bool attn_agree(attn_case *a, const contestant *c, int n)
{
    const size_t count = (size_t)a->shape->sequences * (size_t)a->shape->T *
                         (size_t)(a->shape->heads * a->shape->head_dim);
    float *first = um_arena_f32(&a->b->arena, 1, count);
    bool ok = true;
    for (int i = 0; i < n; i++) {
        c[i].run(a, &c[i]);
        for (size_t j = 0; j < count; j++) {
            if (i == 0) first[j] = a->out[j];
            ok = ok && fabsf(a->out[j] - first[j]) < 1e-4f;
        }
        if (!ok) {
            fprintf(stderr, "bench_ops: attention of %s differs from ours\n", c[i].name);
            return false;
        }
    }
    return ok;
}

bool bench_attention(bench *b, const attention_shape *s, result *r)
{
    um_mark mark = um_arena_mark(&b->arena);
    const size_t rows = (size_t)s->sequences * (size_t)s->T, n = (size_t)(s->past + s->T);
    const size_t width = (size_t)(s->heads * s->head_dim),
                 kv_width = (size_t)(s->kv_heads * s->head_dim);
    attn_case a = {.b = b, .shape = s, .scale = 1.0f / sqrtf((float)s->head_dim)};
    a.q = bench_values(b, rows * width, 1);
    a.k = bench_values(b, n * kv_width, 2);
    a.v = bench_values(b, n * kv_width, 3);
    a.out = um_arena_f32(&b->arena, rows, width);
    a.scores = um_arena_f32(&b->arena, (size_t)s->T, (size_t)s->T);
    attn_caches(&a);
    contestant c[MAX_CONTESTANTS] = {{.name = "f32", .run = attn_ours}};
    int count = 1;
    const bool whole = s->past == 0 && s->sequences == 1 && s->heads == s->kv_heads;
    for (um_peer p = 0; p < UM_PEERS && whole; p++)
        if (um_peers_has(b->peers, p))
            c[count++] = (contestant){.name = um_peer_name(p), .run = attn_peer, .peer = p};
    const bool ok = attn_agree(&a, c, count);
    if (ok) bench_turns(b, c, count, &a);
    /* what causal attention needs */
    const double flop = 4.0 * (double)width * (double)rows * (s->past + 0.5 * (s->T + 1.0));
    *r = (result){.op = s->name,
                  .dtype = "f32",
                  .M = s->T,
                  .N = s->heads,
                  .K = s->head_dim,
                  .threads = b->dev.threads,
                  .f32 = 1};
    if (ok) {
        speeds(b, c, flop, r);
        r->gbs = (double)s->sequences * 2.0 * (double)(n * kv_width) * sizeof(float) /
                 bench_quantile(c, b->rounds, 0.5) * 1e-9;
        against_peers(b, c, 1, count, flop, r);
    }
    b->dev.ops->free(&b->dev, a.kv.pages);
    um_arena_reset(&b->arena, mark);
    return ok;
}
