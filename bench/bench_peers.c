/* See bench_peers.h. */
#include "bench/bench_peers.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#ifndef UM_DNNL
#define UM_DNNL NULL
#endif
#ifndef UM_OPENBLAS
#define UM_OPENBLAS NULL
#endif

typedef int (*dnnl_sgemm_fn)(char ta, char tb, int64_t M, int64_t N, int64_t K, float alpha,
                             const float *A, int64_t lda, const float *B, int64_t ldb, float beta,
                             float *C, int64_t ldc);
typedef void (*cblas_sgemm_fn)(int order, int ta, int tb, int M, int N, int K, float alpha,
                               const float *A, int lda, const float *B, int ldb, float beta,
                               float *C, int ldc);
typedef void (*cblas_sgemv_fn)(int order, int trans, int M, int N, float alpha, const float *A,
                               int lda, const float *x, int incx, float beta, float *y, int incy);
typedef void (*threads_fn)(int n);
typedef char *(*text_fn)(void);

struct um_peers {
    void *library[UM_PEERS];
    dnnl_sgemm_fn dnnl;
    cblas_sgemm_fn cblas;
    cblas_sgemv_fn cblas_row;
    threads_fn cblas_threads;
    cpu_set_t allowed; /* CPUs of this process */
};

const char *um_peer_name(um_peer which) { return which == UM_PEER_DNNL ? "dnnl" : "openblas"; }

/* POSIX allows dlsym's pointer to be used as a function; ISO C has no cast for it. */
static void symbol(void *fn, void *library, const char *name)
{
    *(void **)fn = library == NULL ? NULL : dlsym(library, name);
}

static void *load(const char *path)
{
    void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (path != NULL && library == NULL) fprintf(stderr, "bench_ops: %s\n", dlerror());
    return library;
}

um_peers *um_peers_open(um_isa isa)
{
    /* OpenBLAS 0.3.21 treats an unknown CPU as a Pentium unless the core type is set before it is loaded. */
    setenv("OPENBLAS_CORETYPE",
           isa == UM_ISA_AVX512 ? "SkylakeX"
           : isa == UM_ISA_AVX2 ? "Haswell"
                                : "Prescott",
           1);
    setenv("DNNL_MAX_CPU_ISA",
           isa == UM_ISA_AVX512 ? "ALL"
           : isa == UM_ISA_AVX2 ? "AVX2"
                                : "SSE41",
           1);
    um_peers *p = um_zalloc(sizeof *p);
    sched_getaffinity(0, sizeof p->allowed, &p->allowed);
    p->library[UM_PEER_DNNL] = load(UM_DNNL);
    p->library[UM_PEER_OPENBLAS] = load(UM_OPENBLAS);
    symbol(&p->dnnl, p->library[UM_PEER_DNNL], "dnnl_sgemm");
    symbol(&p->cblas, p->library[UM_PEER_OPENBLAS], "cblas_sgemm");
    symbol(&p->cblas_row, p->library[UM_PEER_OPENBLAS], "cblas_sgemv");
    symbol(&p->cblas_threads, p->library[UM_PEER_OPENBLAS], "openblas_set_num_threads");
    text_fn core;
    symbol(&core, p->library[UM_PEER_OPENBLAS], "openblas_get_corename");
    if (core != NULL) fprintf(stderr, "bench_ops: OpenBLAS core type %s\n", core());
    return p;
}

bool um_peers_has(const um_peers *p, um_peer which)
{
    return which == UM_PEER_DNNL ? p->dnnl != NULL : p->cblas != NULL && p->cblas_threads != NULL;
}

#ifdef _OPENMP
/* Pins the calling OpenMP thread to the n'th of the CPUs that this process may use. */
static void pin(const cpu_set_t *allowed, int n)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, allowed) && n-- == 0) CPU_SET(cpu, &one);
    if (CPU_COUNT(&one) == 1) sched_setaffinity(0, sizeof one, &one);
}
#endif

void um_peers_threads(um_peers *p, int threads)
{
    sched_setaffinity(0, sizeof p->allowed,
                      &p->allowed); /* threads that OpenBLAS starts now may run anywhere */
    if (p->cblas_threads != NULL) p->cblas_threads(threads);
#ifdef _OPENMP
    omp_set_num_threads(threads); /* oneDNN's */
    if (threads == 1) return;
        /* Our threads and oneDNN's are the same. Without pinning, a busy machine puts a thread that wakes beside the one that woke it. */
#pragma omp parallel num_threads(threads)
    pin(&p->allowed, omp_get_thread_num());
#endif
}

void um_peer_gemm(const um_peers *p, um_peer which, bool transposed, int M, int N, int K,
                  float alpha, const float *A, int lda, const float *B, int ldb, float *C, int ldc)
{
    enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
    if (which == UM_PEER_DNNL)
        p->dnnl('N', transposed ? 'T' : 'N', M, N, K, alpha, A, lda, B, ldb, 0.0f, C, ldc);
    else if (M == 1 && p->cblas_row != NULL && transposed) /* its gemm is slow on one row */
        p->cblas_row(ROW_MAJOR, NO_TRANS, N, K, alpha, B, ldb, A, 1, 0.0f, C, 1);
    else if (M == 1 && p->cblas_row != NULL)
        p->cblas_row(ROW_MAJOR, TRANS, K, N, alpha, B, ldb, A, 1, 0.0f, C, 1);
    else
        p->cblas(ROW_MAJOR, NO_TRANS, transposed ? TRANS : NO_TRANS, M, N, K, alpha, A, lda, B, ldb,
                 0.0f, C, ldc);
}

void um_peers_close(um_peers *p)
{
    for (int i = 0; i < UM_PEERS; i++)
        if (p->library[i] != NULL) dlclose(p->library[i]);
    um_free(p);
}
