/* bench_ops: contestants that do the same work, timed in turns. */
#pragma once

#include "bench/bench_peers.h"

enum { MAX_CONTESTANTS = 8, MAX_ROUNDS = 201 };

typedef struct bench {
    um_dev dev;
    um_peers *peers;
    um_arena arena;
    int rounds;
    double turn_s; /* least time of one turn */
} bench;

typedef struct contestant {
    const char *name; /* "f32", "bf16", "f16": ours; else a peer's name */
    void (*run)(void *ctx, const struct contestant *c);
    um_peer peer;
    bool transposed;
    um_matrix w;
    double seconds[MAX_ROUNDS]; /* of one run, sorted when timed */
} contestant;

/* One line of the result. */
typedef struct result {
    const char *op, *dtype;
    bool values;                  /* median, p10 and p90 are values a nanosecond */
    int M, N, K, threads;         /* attention: rows of a sequence, heads, head_dim */
    double median, p10, p90, gbs; /* GFLOP/s (or values); GB/s of weights */
    double peer[UM_PEERS], ratio, best,
        f32; /* peers' GFLOP/s (0: not there); ours over the better one by medians and by the
                                                fastest tenth of rounds; ours over our f32 */
} result;

/* Times all of c[0..n-1] in turns; their order changes from round to round. */
void bench_turns(const bench *b, contestant *c, int n, void *ctx);
/* The seconds of a run that a share `part`, 0..1, of the rounds did not exceed, once timed. */
double bench_quantile(const contestant *c, int rounds, double part);
/* n numbers in -0.5..0.5 of the arena; each stream has its own. */
float *bench_values(bench *b, size_t n, uint64_t stream);
/* y = x W^T in f32 and bf16 beside the peers; results[0..1]. False when a peer's result is another one. */
bool bench_gemm(bench *b, int M, int N, int K, result *results);
/* Sequences of T new rows after `past` positions each. */
typedef struct attention_shape {
    const char *name;
    int sequences, T, past, heads, kv_heads, head_dim;
} attention_shape;
/* Causal attention over pages, beside gemm, softmax, gemm with each peer where one sequence has no past. */
bool bench_attention(bench *b, const attention_shape *s, result *out);
/* Training with T rows: the gradients of a layer [N,K], its weight's with the packing of x, and a product of eight groups of rows. */
void bench_train_layer(bench *b, int T, int N, int K, result results[3]);
/* Backward of causal attention over one sequence. */
void bench_train_attention(bench *b, int T, int heads, int head_dim, result *r);
/* Cross-entropy of T rows of V logits with its gradient, in values a nanosecond. */
void bench_train_loss(bench *b, int T, int V, result *r);
