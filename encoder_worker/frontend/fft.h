/* Discrete Fourier transform of real rows of any even length, in f64; both audio front ends use it.
 *
 * Bit-identical on every machine: fixed order of plain multiplications and additions, twiddles from um_sincos. Fast where n/2 is
 * a product of 2, 4, 5 (the lengths of the two front ends, 400 and 512, are); any other prime factor p costs O(n p). */
#pragma once

#include "core/base/arena.h"

#include <stddef.h>

enum { UM_FFT_FACTORS = 32 };

typedef struct um_fft {
    int n, half; /* half = n/2: a real row is transformed as `half` complex values */
    int factors, factor[UM_FFT_FACTORS]; /* their product is half */
    const double *re, *im;               /* [n] exp(-2 pi i k / n) */
} um_fft;

/* n even, 2..2^20. The tables live in arena. */
void um_fft_init(um_fft *f, int n, um_arena *arena);
/* Size in doubles of a transform's work buffer; each thread needs its own. */
size_t um_fft_work(const um_fft *f);

/* re, im [n/2+1] = sum over t of x[t] exp(-2 pi i k t / n), k = 0..n/2.   x [n] */
void um_fft_real(const um_fft *f, double *re, double *im, const double *x, double *work);
/* power [n/2+1] = re^2 + im^2 of the same transform. */
void um_fft_power(const um_fft *f, double *power, const double *x, double *work);
