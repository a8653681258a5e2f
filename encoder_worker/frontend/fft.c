/* See fft.h. Stockham's self-sorting form of decimation in frequency: each pass reads one buffer and writes the other, and no bit
 * reversal is needed. Sources: Cooley, Tukey 1965; Van Loan, Computational Frameworks for the FFT, 1992, 1.7. */
#include "encoder_worker/frontend/fft.h"

#include "core/base/status.h"
#include "core/tensor/ops.h"

/* Complex rows of one pass, with separate real and imaginary parts. */
typedef struct cx {
    double *re, *im;
} cx;

/* One pass: each of m blocks of p values is transformed, for s interleaved transforms. Root r of the pass is table entry r * s * 2,
 * because the table has n = 2 half roots. */
typedef struct pass {
    const um_fft *f;
    int p, m, s;
} pass;

void um_fft_init(um_fft *f, int n, um_arena *arena)
{
    static const int likely[] = {4, 2, 5, 3};
    UM_ASSERT(n >= 2 && n <= 1 << 20 && n % 2 == 0);
    double *re = um_arena_alloc(arena, (size_t)n * sizeof *re);
    double *im = um_arena_alloc(arena, (size_t)n * sizeof *im);
    *f = (um_fft){.n = n, .half = n / 2, .re = re, .im = im};
    for (int k = 0; k < n; k++) {
        double s, c;
        um_sincos(6.283185307179586476925 * (double)k / (double)n, &s, &c);
        re[k] = c;
        im[k] = -s;
    }
    int left = f->half;
    for (int i = 0; i < 4; i++)
        for (; left % likely[i] == 0; left /= likely[i]) f->factor[f->factors++] = likely[i];
    for (int p = 7; left > 1; p += 2)
        for (; left % p == 0; left /= p) f->factor[f->factors++] = p;
}

size_t um_fft_work(const um_fft *f) { return 4 * (size_t)f->half; }

/* Multiplies (re, im) by w^(k r), the twiddle of output block k, and stores the product. */
static void put(const pass *a, cx y, int q, int k, int r, double re, double im)
{
    size_t at = (size_t)q + (size_t)a->s * ((size_t)a->p * (size_t)k + (size_t)r);
    size_t w = (size_t)k * (size_t)r * (size_t)a->s * 2;
    double c = a->f->re[w], s = a->f->im[w];
    y.re[at] = re * c - im * s;
    y.im[at] = re * s + im * c;
}

static size_t from(const pass *a, int q, int k, int j)
{
    return (size_t)q + (size_t)a->s * ((size_t)k + (size_t)a->m * (size_t)j);
}

static void pass_2(const pass *a, cx y, cx x)
{
    for (int k = 0; k < a->m; k++) {
        for (int q = 0; q < a->s; q++) {
            size_t i0 = from(a, q, k, 0), i1 = from(a, q, k, 1);
            put(a, y, q, k, 0, x.re[i0] + x.re[i1], x.im[i0] + x.im[i1]);
            put(a, y, q, k, 1, x.re[i0] - x.re[i1], x.im[i0] - x.im[i1]);
        }
    }
}

static void pass_4(const pass *a, cx y, cx x)
{
    for (int k = 0; k < a->m; k++) {
        for (int q = 0; q < a->s; q++) {
            size_t i0 = from(a, q, k, 0), i1 = from(a, q, k, 1), i2 = from(a, q, k, 2),
                   i3 = from(a, q, k, 3);
            double ar = x.re[i0] + x.re[i2], ai = x.im[i0] + x.im[i2];
            double br = x.re[i0] - x.re[i2], bi = x.im[i0] - x.im[i2];
            double cr = x.re[i1] + x.re[i3], ci = x.im[i1] + x.im[i3];
            double dr = x.re[i1] - x.re[i3], di = x.im[i1] - x.im[i3];
            put(a, y, q, k, 0, ar + cr, ai + ci);
            put(a, y, q, k, 1, br + di, bi - dr); /* b - i d */
            put(a, y, q, k, 2, ar - cr, ai - ci);
            put(a, y, q, k, 3, br - di, bi + dr);
        }
    }
}

/* Values j and 5-j have equal cosines and opposite sines. */
static void pass_5(const pass *a, cx y, cx x)
{
    static const double c1 = 0.30901699437494742410, c2 = -0.80901699437494742410,
                        s1 = 0.95105651629515357212, s2 = 0.58778525229247312917;
    for (int k = 0; k < a->m; k++) {
        for (int q = 0; q < a->s; q++) {
            size_t i0 = from(a, q, k, 0), i1 = from(a, q, k, 1), i2 = from(a, q, k, 2),
                   i3 = from(a, q, k, 3), i4 = from(a, q, k, 4);
            double ar = x.re[i1] + x.re[i4], ai = x.im[i1] + x.im[i4];
            double br = x.re[i2] + x.re[i3], bi = x.im[i2] + x.im[i3];
            double cr = x.re[i1] - x.re[i4], ci = x.im[i1] - x.im[i4];
            double dr = x.re[i2] - x.re[i3], di = x.im[i2] - x.im[i3];
            double er = x.re[i0] + c1 * ar + c2 * br, ei = x.im[i0] + c1 * ai + c2 * bi;
            double fr = x.re[i0] + c2 * ar + c1 * br, fi = x.im[i0] + c2 * ai + c1 * bi;
            double gr = s1 * cr + s2 * dr, gi = s1 * ci + s2 * di;
            double hr = s2 * cr - s1 * dr, hi = s2 * ci - s1 * di;
            put(a, y, q, k, 0, x.re[i0] + ar + br, x.im[i0] + ai + bi);
            put(a, y, q, k, 1, er + gi, ei - gr); /* e - i g */
            put(a, y, q, k, 2, fr + hi, fi - hr);
            put(a, y, q, k, 3, fr - hi, fi + hr);
            put(a, y, q, k, 4, er - gi, ei + gr);
        }
    }
}

/* Any p, directly by the definition. */
static void pass_any(const pass *a, cx y, cx x)
{
    size_t p = (size_t)a->p, step = (size_t)a->f->n / p;
    for (int k = 0; k < a->m; k++) {
        for (int q = 0; q < a->s; q++) {
            for (size_t r = 0; r < p; r++) {
                double re = 0.0, im = 0.0;
                for (size_t j = 0; j < p; j++) {
                    size_t i = from(a, q, k, (int)j), w = j * r % p * step;
                    double c = a->f->re[w], s = a->f->im[w];
                    re += x.re[i] * c - x.im[i] * s;
                    im += x.re[i] * s + x.im[i] * c;
                }
                put(a, y, q, k, (int)r, re, im);
            }
        }
    }
}

/* Transforms the `half` complex values in z; w is a work buffer of the same size. Returns the buffer that holds the result. */
static cx transform(const um_fft *f, cx z, cx w)
{
    pass a = {.f = f, .m = f->half, .s = 1};
    for (int i = 0; i < f->factors; i++) {
        a.p = f->factor[i];
        a.m /= a.p;
        if (a.p == 2)
            pass_2(&a, w, z);
        else if (a.p == 4)
            pass_4(&a, w, z);
        else if (a.p == 5)
            pass_5(&a, w, z);
        else
            pass_any(&a, w, z);
        a.s *= a.p;
        cx t = z;
        z = w;
        w = t;
    }
    return z;
}

/* z[t] = x[2t] + i x[2t+1], transformed. */
static cx halves(const um_fft *f, const double *x, double *work)
{
    size_t h = (size_t)f->half;
    cx z = {work, work + h}, w = {work + 2 * h, work + 3 * h};
    for (size_t t = 0; t < h; t++) {
        z.re[t] = x[2 * t];
        z.im[t] = x[2 * t + 1];
    }
    return transform(f, z, w);
}

/* Z combines the transforms of the even and of the odd values of x. The transform of x, with h = n/2:
 * X[k] = (Z[k] + conj Z[h-k]) / 2 - i w^k (Z[k] - conj Z[h-k]) / 2. */
static void bin(const um_fft *f, cx z, int k, double *re, double *im)
{
    int i = k % f->half, j = (f->half - k) % f->half;
    double er = 0.5 * (z.re[i] + z.re[j]), ei = 0.5 * (z.im[i] - z.im[j]);
    double dr = 0.5 * (z.re[i] - z.re[j]), di = 0.5 * (z.im[i] + z.im[j]);
    double c = f->re[k], s = f->im[k];
    *re = er + (di * c + dr * s);
    *im = ei - (dr * c - di * s);
}

void um_fft_real(const um_fft *f, double *re, double *im, const double *x, double *work)
{
    cx z = halves(f, x, work);
    for (int k = 0; k <= f->half; k++) bin(f, z, k, &re[k], &im[k]);
}

void um_fft_power(const um_fft *f, double *power, const double *x, double *work)
{
    cx z = halves(f, x, work);
    for (int k = 0; k <= f->half; k++) {
        double re, im;
        bin(f, z, k, &re, &im);
        power[k] = re * re + im * im;
    }
}
