/* Number types: names, every f16 and bf16 value there and back, rounding, and the scalar functions against libm. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "core/tensor/ops.h"

#include <math.h>

static void names(void **state)
{
    (void)state;
    for (int t = 0; t < UM_DTYPES; t++) {
        assert_int_equal(um_dtype_from_name(um_dtype_name((um_dtype)t)), t);
        assert_in_range(um_dtype_size((um_dtype)t), 1, 8);
    }
    assert_int_equal(um_dtype_from_name("F8"), -1);
    assert_int_equal(um_dtype_from_name("f32"), -1);
    assert_string_equal(um_dtype_lower(UM_BF16), "bf16");
}

/* What the bits mean, by the definition. */
static double half_value(uint16_t h, int exponent_bits, int mantissa_bits)
{
    const int bias = (1 << (exponent_bits - 1)) - 1,
              e = h >> mantissa_bits & ((1 << exponent_bits) - 1);
    const double m = ldexp((double)(h & ((1 << mantissa_bits) - 1)), -mantissa_bits);
    const double v = e == 0 ? ldexp(m, 1 - bias) : ldexp(1.0 + m, e - bias);
    return h & 0x8000 ? -v : v;
}

static void every_half(um_dtype type, int exponent_bits, int mantissa_bits)
{
    const int top = (1 << exponent_bits) - 1;
    for (uint32_t u = 0; u < 0x10000; u++) {
        const uint16_t h = (uint16_t)u;
        uint16_t back;
        float f;
        um_to_f32(&f, &h, type, 1);
        um_from_f32(&back, type, &f, 1);
        const bool special = (h >> mantissa_bits & top) == top,
                   nan = special && (h & ((1 << mantissa_bits) - 1)) != 0;
        if (nan) {
            assert_true(f != f);
            assert_true(half_value(back, exponent_bits, mantissa_bits) != 0 &&
                        (back >> mantissa_bits & top) == top);
            assert_int_not_equal(back & ((1 << mantissa_bits) - 1), 0);
            continue;
        }
        assert_int_equal(back, h);
        if (special)
            assert_true(isinf(f) && (f < 0) == (h >= 0x8000));
        else
            assert_true((double)f == half_value(h, exponent_bits, mantissa_bits));
    }
}

static void halves_there_and_back(void **state)
{
    (void)state;
    every_half(UM_F16, 5, 10);
    every_half(UM_BF16, 8, 7);
}

/* The nearer of the two neighbours, the even one on a tie; a value half a step beyond the largest becomes infinite. */
static void rounding(um_dtype type, int exponent_bits, int mantissa_bits, float largest,
                     float overflow)
{
    um_rng rng = um_rng_seed(3, (uint64_t)type);
    for (int i = 0; i < 200000; i++) {
        const uint16_t h =
            (uint16_t)um_rng_below(&rng, (uint64_t)((1u << exponent_bits) - 1) << mantissa_bits);
        const double low = half_value(h, exponent_bits, mantissa_bits);
        const double high = half_value((uint16_t)(h + 1), exponent_bits, mantissa_bits);
        const double part = i % 3 == 0 ? 0.5 : um_rng_uniform(&rng);
        const float f = (float)(low + (high - low) * part);
        uint16_t got;
        um_from_f32(&got, type, &f, 1);
        const double up = high - (double)f, down = (double)f - low;
        const uint16_t want = up < down ? h + 1 : up > down ? h : h % 2 == 0 ? h : h + 1;
        assert_int_equal(got, want);
    }
    uint16_t got;
    um_from_f32(&got, type, &largest, 1);
    assert_int_equal(got, (((1u << exponent_bits) - 1) << mantissa_bits) - 1);
    um_from_f32(&got, type, &overflow, 1);
    assert_int_equal(got, ((1u << exponent_bits) - 1) << mantissa_bits);
}

static void rounds_to_nearest_even(void **state)
{
    (void)state;
    rounding(UM_F16, 5, 10, 65519.0f, 65520.0f);
    rounding(UM_BF16, 8, 7, 0x1.fefffep127f, 0x1.ffp127f);
}

static void f64_and_unaligned(void **state)
{
    (void)state;
    const double in[3] = {1.0 / 3.0, -1e300, 1e-300};
    unsigned char bytes[sizeof in + 1];
    memcpy(bytes + 1, in, sizeof in);
    float f[3];
    um_to_f32(f, bytes + 1, UM_F64, 3);
    assert_true(f[0] == (float)(1.0 / 3.0) && isinf(f[1]) && f[2] == 0.0f);
    double back[3];
    um_from_f32(back, UM_F64, f, 1);
    assert_true(back[0] == (double)f[0]);
}

static double relative(double got, double want) { return fabs(got - want) / fabs(want); }

static void float_functions(void **state)
{
    (void)state;
    double worst_exp = 0, worst_sigmoid = 0;
    for (float x = -87.3f; x < 88.7f; x += 0.00037f) {
        worst_exp = fmax(worst_exp, relative((double)um_expf(x), exp((double)x)));
        worst_sigmoid =
            fmax(worst_sigmoid, relative((double)um_sigmoidf(x), 1.0 / (1.0 + exp(-(double)x))));
    }
    assert_true(worst_exp < 1.2e-7);
    assert_true(worst_sigmoid < 2.5e-7);
    assert_true(um_expf(0.0f) == 1.0f && um_expf(-0.0f) == 1.0f);
    assert_true(um_expf(-88.0f) == 0.0f && um_expf(-1e30f) == 0.0f && um_expf(-INFINITY) == 0.0f);
    assert_true(isinf(um_expf(89.0f)) && isinf(um_expf(1e30f)) && isinf(um_expf(INFINITY)));
    assert_true(isnan(um_expf(NAN)) && isnan(um_sigmoidf(NAN)));
    assert_true(um_sigmoidf(200.0f) == 1.0f && um_sigmoidf(-200.0f) == 0.0f &&
                um_sigmoidf(0.0f) == 0.5f);
}

static void double_functions(void **state)
{
    (void)state;
    um_rng rng = um_rng_seed(4, 0);
    for (int i = 0; i < 100000; i++) {
        const double x = (um_rng_uniform(&rng) - 0.5) * 1400.0;
        assert_true(relative(um_exp(x), exp(x)) < 1e-14);
        const double y = exp((um_rng_uniform(&rng) - 0.5) * (i % 2 ? 1400.0 : 2.0));
        assert_true(fabs(um_log(y) - log(y)) <= 1e-15 * fmax(1.0, fabs(log(y))));
        const double z = (um_rng_uniform(&rng) - 0.5) * (i % 3 == 0   ? 2e8
                                                         : i % 3 == 1 ? 200.0
                                                                      : 2.0);
        double s, c;
        um_sincos(z, &s, &c);
        assert_true(fabs(s - sin(z)) < 1e-12 && fabs(c - cos(z)) < 1e-12);
    }
    assert_true(um_exp(0.0) == 1.0 && um_log(1.0) == 0.0);
    assert_true(um_exp(-800.0) == 0.0 && isinf(um_exp(710.0)) && isnan(um_exp((double)NAN)));
    assert_true(isinf(um_log(0.0)) && isnan(um_log(-1.0)) && isnan(um_log((double)NAN)) &&
                isinf(um_log((double)INFINITY)));
    assert_true(relative(um_log(5e-324), log(5e-324)) < 1e-15);
    assert_true(fabs(um_exp(-745.0) - exp(-745.0)) <= 5e-324);
}

/* Rules of ops.h, spelled out: lane i adds i, i+16, ...; then 8+8, 4+4, 2+2, 1+1. */
static void sum_is_sixteen_lanes(void **state)
{
    (void)state;
    float x[53], lane[16] = {0};
    um_rng rng = um_rng_seed(5, 0);
    um_rng_normal_f32(&rng, x, 53, 1000.0f);
    for (int i = 0; i < 53; i++) lane[i % 16] += x[i];
    for (int w = 8; w >= 1; w /= 2)
        for (int i = 0; i < w; i++) lane[i] += lane[i + w];
    assert_true(um_sum(x, 53) == lane[0]);
    assert_true(um_sum(x, 0) == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(halves_there_and_back),
        cmocka_unit_test(rounds_to_nearest_even),
        cmocka_unit_test(f64_and_unaligned),
        cmocka_unit_test(float_functions),
        cmocka_unit_test(double_functions),
        cmocka_unit_test(sum_is_sixteen_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
