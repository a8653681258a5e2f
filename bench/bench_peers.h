/* The libraries that bench_ops compares with, loaded at run time: oneDNN and OpenBLAS. */
#pragma once

#include "core/tensor/ops.h"

typedef enum um_peer { UM_PEER_DNNL, UM_PEER_OPENBLAS, UM_PEERS } um_peer;

typedef struct um_peers um_peers;

/* Loads what was found when the build was configured, held to the instruction set `isa` by each library's own means. */
um_peers *um_peers_open(um_isa isa);
bool um_peers_has(const um_peers *p, um_peer which);
const char *um_peer_name(um_peer which);
/* Threads of the peers; binds the OpenMP threads, ours among them, to a CPU each. */
void um_peers_threads(um_peers *p, int threads);
/* C[M,N] = alpha A[M,K] B, row-major; B is [N,K] when transposed, else [K,N]. */
void um_peer_gemm(const um_peers *p, um_peer which, bool transposed, int M, int N, int K,
                  float alpha, const float *A, int lda, const float *B, int ldb, float *C, int ldc);
void um_peers_close(um_peers *p);
