/* encoder_worker/fft: every kind of length against the definition of the transform. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/tensor/ops.h"
#include "encoder_worker/frontend/fft.h"

#include <math.h>

enum { LONGEST = 512 };

typedef struct bench {
    um_arena arena;
    um_fft fft;
    double x[LONGEST], re[LONGEST], im[LONGEST], power[LONGEST], *work;
} bench;

static void ready(bench *b, int n)
{
    um_arena_init(&b->arena, "test", 1 << 16);
    um_fft_init(&b->fft, n, &b->arena);
    b->work = um_arena_alloc(&b->arena, um_fft_work(&b->fft) * sizeof(double));
    um_rng rng = um_rng_seed(7, (uint64_t)n);
    float value;
    for (int i = 0; i < n; i++) {
        um_rng_normal_f32(&rng, &value, 1, 1.0f);
        b->x[i] = (double)value;
    }
}

/* The definition, angles brought below one turn before they are taken. */
static void check(bench *b, int n)
{
    ready(b, n);
    um_fft_real(&b->fft, b->re, b->im, b->x, b->work);
    um_fft_power(&b->fft, b->power, b->x, b->work);
    for (int k = 0; k <= n / 2; k++) {
        double re = 0.0, im = 0.0;
        for (int t = 0; t < n; t++) {
            double angle = 2.0 * acos(-1.0) * (double)(k * t % n) / (double)n;
            re += b->x[t] * cos(angle);
            im -= b->x[t] * sin(angle);
        }
        if (fabs(b->re[k] - re) > 1e-10 || fabs(b->im[k] - im) > 1e-10) {
            fail_msg("n %d bin %d: (%.12g, %.12g), want (%.12g, %.12g)", n, k, b->re[k], b->im[k],
                     re, im);
        }
        assert_true(b->power[k] == b->re[k] * b->re[k] + b->im[k] * b->im[k]);
    }
    um_arena_free(&b->arena);
}

static void test_lengths(void **state)
{
    (void)state;
    static const int n[] = {2,  4,  6,  8,  10,  12,  14,  16,  18,  20,  22,  26,
                            30, 50, 64, 98, 100, 120, 250, 254, 256, 400, 512, 462};
    static bench b;
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) check(&b, n[i]);
}

/* One cosine fills one bin. */
static void test_tone(void **state)
{
    (void)state;
    static bench b;
    ready(&b, 400);
    for (int t = 0; t < 400; t++) {
        double s, c;
        um_sincos(2.0 * acos(-1.0) * (double)(37 * t % 400) / 400.0, &s, &c);
        b.x[t] = c;
    }
    um_fft_power(&b.fft, b.power, b.x, b.work);
    for (int k = 0; k <= 200; k++) assert_true(fabs(b.power[k] - (k == 37 ? 40000.0 : 0.0)) < 1e-7);
    um_arena_free(&b.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lengths), cmocka_unit_test(test_tone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
