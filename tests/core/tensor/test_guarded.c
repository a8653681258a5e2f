/* The guarded op table: ops compute as the CPU's do, whoever else touches the memory dies, memory comes back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/guarded_ops.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static um_dev guarded(void)
{
    um_dev d;
    um_err err = {0};
    if (um_dev_open_guarded(&d, UM_ISA_AUTO, 2, &err) != UM_OK) fail_msg("%s", err.msg);
    return d;
}

/* y = x W^T of 9 x 40 by 33 outputs, everything in the memory of d. */
static void product(um_dev *d, float *host_y)
{
    enum { M = 9, N = 33, K = 40 };
    um_arena a;
    float x[M * K], w[N * K];
    um_matrix m = {UM_F32, N, K, NULL};
    for (int i = 0; i < M * K; i++) x[i] = (float)(i % 13) - 6.0f;
    for (int i = 0; i < N * K; i++) w[i] = (float)(i % 7) * 0.25f;
    um_dev_arena(&a, d, "test", 1 << 12);
    const float *dev_x = um_dev_put_f32(d, &a, x, M * K);
    m.data = um_arena_alloc(&a, um_matrix_bytes(UM_F32, N, K));
    float *y = um_arena_f32(&a, M, N);
    d->ops->pack(d, &m, w, UM_F32, K, false);
    d->ops->gemm(d, y, N, dev_x, K, M, &m, NULL, false);
    d->ops->get(d, host_y, y, sizeof(float) * M * N);
    um_arena_free(&a);
}

static void ops_work(void **state)
{
    (void)state;
    um_dev cpu, d = guarded();
    um_err err;
    float want[9 * 33], got[9 * 33];
    assert_int_equal(um_dev_open_cpu(&cpu, UM_ISA_AUTO, 1, &err), UM_OK);
    product(&cpu, want);
    product(&d, got);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(um_dev_guarded_bytes(&d), 0);
    um_dev_close_guarded(&d);
}

/* Every op of the CPU's table has its place in the guarded one, which is not the CPU's. */
static void wraps_every_op(void **state)
{
    (void)state;
    um_dev cpu, d = guarded();
    um_err err;
    void (*own)(void), (*its)(void);
    assert_int_equal(um_dev_open_cpu(&cpu, UM_ISA_AUTO, 1, &err), UM_OK);
    for (size_t at = sizeof cpu.ops->name; at < sizeof(um_ops); at += sizeof own) {
        memcpy(&own, (const char *)d.ops + at, sizeof own);
        memcpy(&its, (const char *)cpu.ops + at, sizeof its);
        if (own == NULL || its == NULL || own == its) fail_msg("entry at byte %zu", at);
    }
    um_dev_close_guarded(&d);
}

/* What a child may do wrong. */
static void reads(um_dev *d, float *p)
{
    (void)d;
    volatile float x = p[3];
    (void)x;
}
static void writes(um_dev *d, float *p)
{
    (void)d;
    *(volatile float *)p = 1.0f;
}
static void host_to_an_op(um_dev *d, float *p)
{
    float host[8] = {0};
    d->ops->add(d, p, host, 8);
}
static void after_it_was_freed(um_dev *d, float *p)
{
    d->ops->free(d, p);
    d->ops->fill(d, p, 1.0f, 8);
}
static void as_it_should(um_dev *d, float *p) { d->ops->fill(d, p, 1.0f, 8); }

/* The signal that ends a child that does this with 8 floats of device memory; 0: it lives. */
static int signal_of(void (*act)(um_dev *d, float *p))
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        um_dev d;
        um_err err;
        signal(SIGSEGV, SIG_DFL); /* cmocka's handlers and the sanitizers' */
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        if (um_dev_open_guarded(&d, UM_ISA_GENERIC, 1, &err) != UM_OK) _exit(2);
        float *p = d.ops->alloc(&d, 8 * sizeof *p);
        d.ops->fill(&d, p, 0.5f, 8);
        act(&d, p);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void touching_it_is_fatal(void **state)
{
    (void)state;
    assert_int_equal(signal_of(as_it_should), 0);
    assert_int_equal(signal_of(reads), SIGSEGV);
    assert_int_equal(signal_of(writes), SIGSEGV);
    assert_int_equal(signal_of(host_to_an_op), SIGABRT);
    assert_int_equal(signal_of(after_it_was_freed), SIGABRT);
}

static void memory_comes_back(void **state)
{
    (void)state;
    um_dev d = guarded();
    float *p[20];
    for (int turn = 0; turn < 3; turn++) {
        for (int i = 0; i < 20; i++) {
            p[i] = d.ops->alloc(&d, (size_t)(i * 5000 + 1));
            assert_int_equal((uintptr_t)p[i] % 64, 0);
            d.ops->fill(&d, p[i], 1.0f, (size_t)i * 1250);
        }
        assert_true(um_dev_guarded_bytes(&d) >= 19 * 20 / 2 * 5000);
        for (int i = 0; i < 20; i++) d.ops->free(&d, p[(i * 7 + turn) % 20]);
        assert_int_equal(um_dev_guarded_bytes(&d), 0);
    }
    d.ops->free(&d, NULL);
    assert_null(d.ops->alloc(&d, SIZE_MAX / 4));
    um_dev_close_guarded(&d);
}

static void *run(void *ctx)
{
    um_dev *d = ctx;
    float y[9 * 33];
    for (int i = 0; i < 50; i++) product(d, y);
    return NULL;
}

/* Ops of one device at any time do not open or close the memory of another. */
static void devices_are_apart(void **state)
{
    (void)state;
    enum { N = 4 };
    um_dev d[N];
    pthread_t thread[N];
    for (int i = 0; i < N; i++) d[i] = guarded();
    for (int i = 0; i < N; i++) assert_int_equal(pthread_create(&thread[i], NULL, run, &d[i]), 0);
    for (int i = 0; i < N; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < N; i++) um_dev_close_guarded(&d[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_work),
        cmocka_unit_test(wraps_every_op),
        cmocka_unit_test(touching_it_is_fatal),
        cmocka_unit_test(memory_comes_back),
        cmocka_unit_test(devices_are_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
