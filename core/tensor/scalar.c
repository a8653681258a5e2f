/* The scalar functions of ops.h: floats by way of the vector code with one lane, doubles in plain mul and add. */
#define UM_V16_ONE_LANE
#include "core/tensor/ops.h"
#include "core/tensor/cpu/v16_math.h"

float um_expf(float x) { return v16_exp(v16_set1(x)).f[0]; }
float um_sigmoidf(float x) { return v16_sigmoid(v16_set1(x)).f[0]; }

/* The same tree as v16_sum. */
float um_sum(const float *x, size_t n)
{
    float lane[UM_PANEL] = {0};
    for (size_t i = 0; i < n; i++) lane[i % UM_PANEL] = lane[i % UM_PANEL] + x[i];
    for (int half = UM_PANEL / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

static uint64_t bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double from_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* ln 2 in two parts: the first has 32 bits, so that a whole number below 2^20 times it is exact. */
static const double LN2_HI = 0x1.62e42feep-1, LN2_LO = 0x1.a39ef35793c76p-33;

/* 2^n for -1022 <= n <= 1023 */
static double power2(int n) { return from_bits((uint64_t)(n + 1023) << 52); }

/* e^x = 2^n e^r, |r| <= ln 2 / 2, e^r by its series to r^13 (what is left out is below 5e-18). */
double um_exp(double x)
{
    if (x != x) return x;
    if (x > 709.782712893384) return (double)INFINITY;
    if (x < -745.2) return 0.0;
    const int n = (int)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
    const double r = x - (double)n * LN2_HI - (double)n * LN2_LO;
    double p = 1.0;
    for (int i = 13; i >= 1; i--) p = 1.0 + r * p / (double)i;
    /* in two steps: 2^n itself may be outside the normal numbers */
    return p * power2(n / 2) * power2(n - n / 2);
}

/* ln x = e ln 2 + ln m, m in [1/sqrt 2, sqrt 2), ln m = 2 atanh(s), s = (m-1)/(m+1), |s| < 0.1716, by its series to s^21. */
double um_log(double x)
{
    if (!(x > 0.0)) return x == 0.0 ? -(double)INFINITY : (double)NAN;
    if (x > 0x1.fffffffffffffp1023) return x;
    int e = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        e = -54;
    }
    const uint64_t u = bits(x);
    e += (int)(u >> 52) - 1023;
    double m = from_bits((u & 0xfffffffffffffull) | 0x3ff0000000000000ull);
    if (m >= 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
    double p = 0.0;
    for (int i = 21; i >= 3; i -= 2) p = (p + 1.0 / (double)i) * s2;
    return (double)e * LN2_HI + (2.0 * s + (2.0 * s * p + (double)e * LN2_LO));
}

/* x = n pi/2 + r, pi/2 in three parts of which the first two have 26 bits: n times them is exact for |n| < 2^27. Then the
 * series of sin and cos on |r| <= pi/4. */
void um_sincos(double x, double *sin_out, double *cos_out)
{
    UM_ASSERT(x > -1e8 && x < 1e8);
    const int64_t n = (int64_t)(x * 0.6366197723675814 + (x < 0 ? -0.5 : 0.5));
    const double q = (double)n;
    const double r = x - q * 0x1.921fb5p+0 - q * 0x1.110b46p-26 - q * 0x1.1a62633145c07p-54;
    const double z = r * r;
    double s = 1.0, c = 1.0;
    for (int i = 8; i >= 1; i--) {
        s = 1.0 - s * z / (double)(2 * i * (2 * i + 1));
        c = 1.0 - c * z / (double)(2 * i * (2 * i - 1));
    }
    s *= r;
    switch (n & 3) {
    case 0:
        *sin_out = s, *cos_out = c;
        return;
    case 1:
        *sin_out = c, *cos_out = -s;
        return;
    case 2:
        *sin_out = -s, *cos_out = -c;
        return;
    default:
        *sin_out = -c, *cos_out = s;
        return;
    }
}
