/* exp, sigmoid and the tail of the normal distribution on v16. The coefficients are minimax fits made for this file; each
 * function is one fixed sequence of v16 operations, so that all instruction sets and scalar.c give the same bits. */
#pragma once

#include "core/tensor/cpu/v16.h"

/* e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2, e^r = 1 + r + r^2 q(r). Relative error below 1.1e-7.
 * 0 below -87.336 (the smallest normal number), infinity above 88.722, NaN stays. */
static inline v16 v16_exp(v16 x)
{
    const v16 magic = v16_set1(
        0x1.8p23f); /* adding it rounds to an integer, which lies in the low mantissa bits */
    v16 t = v16_fma(x, v16_set1(0x1.715476p0f), magic);
    v16 n = v16_sub(t, magic);
    v16 r =
        v16_fnma(n, v16_set1(0.693359375f), x); /* ln 2 in two parts; n times the first is exact */
    r = v16_fnma(n, v16_set1(-0.00021219444f), r);
    v16 q = v16_set1(0x1.6a21acp-10f);
    q = v16_fma(q, r, v16_set1(0x1.123b6ap-7f));
    q = v16_fma(q, r, v16_set1(0x1.5558fap-5f));
    q = v16_fma(q, r, v16_set1(0x1.555490p-3f));
    q = v16_fma(q, r, v16_set1(0x1.fffffcp-2f));
    v16 p = v16_fma(v16_mul(r, r), q, r);
    p = v16_shift_exponent(v16_add(p, v16_set1(1.0f)), t);
    p = v16_if_less(v16_set1(88.72283f), x, v16_set1(INFINITY), p);
    p = v16_if_less(x, v16_set1(-87.33654f), v16_zero(), p);
    return v16_if_nan(x, x, p);
}

/* 1 / (1 + e^-x) */
static inline v16 v16_sigmoid(v16 x)
{
    const v16 one = v16_set1(1.0f);
    return v16_div(one, v16_add(one, v16_exp(v16_sub(v16_zero(), x))));
}

/* Q(a) = 1/2 erfc(a / sqrt 2) for a >= 0: the chance of a normal variable above a. Q(a) = e^(-a^2/2) G(t), t = (a-3)/(a+3), G a
 * polynomial. The rounding error of a^2 is put back, so that the relative error stays below 5e-7 down to Q = 1e-38, then 0. */
static inline v16 v16_normal_tail(v16 a)
{
    const v16 three = v16_set1(3.0f), half = v16_set1(0.5f);
    a = v16_min(v16_set1(20.0f), a);
    v16 t = v16_div(v16_sub(a, three), v16_add(a, three));
    v16 g = v16_set1(5.316166425473057e-05f);
    g = v16_fma(g, t, v16_set1(0.00011501333938213065f));
    g = v16_fma(g, t, v16_set1(-0.00033901262213476f));
    g = v16_fma(g, t, v16_set1(-0.0009832879295572639f));
    g = v16_fma(g, t, v16_set1(0.002904387190937996f));
    g = v16_fma(g, t, v16_set1(0.006131942383944988f));
    g = v16_fma(g, t, v16_set1(-0.046213261783123016f));
    g = v16_fma(g, t, v16_set1(0.12322504073381424f));
    g = v16_fma(g, t, v16_set1(-0.20640261471271515f));
    g = v16_fma(g, t, v16_set1(0.12151394784450531f));
    v16 sq = v16_mul(a, a);
    v16 lost = v16_mul(half, v16_fms(a, a, sq));
    v16 e = v16_exp(v16_fnma(half, sq, v16_zero()));
    return v16_mul(v16_fnma(e, lost, e), g);
}

/* Phi(x), the chance of a normal variable below x: from the tail of |x|, so that nothing cancels on either side. */
static inline v16 v16_normal_below(v16 x)
{
    v16 tail = v16_normal_tail(v16_abs(x));
    return v16_if_less(x, v16_zero(), tail, v16_sub(v16_set1(1.0f), tail));
}

/* x * Phi(x) = x/2 (1 + erf(x / sqrt 2)) */
static inline v16 v16_gelu(v16 x) { return v16_mul(x, v16_normal_below(x)); }

/* Its derivative, Phi(x) + x phi(x), phi(x) = e^(-x^2/2) / sqrt(2 pi). */
static inline v16 v16_gelu_slope(v16 x)
{
    const v16 most = v16_set1(20.0f), a = v16_min(most, v16_max(v16_set1(-20.0f), x));
    v16 density =
        v16_mul(v16_exp(v16_mul(v16_mul(a, a), v16_set1(-0.5f))), v16_set1(0.3989422804f));
    return v16_fma(a, density, v16_normal_below(x));
}
