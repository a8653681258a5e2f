/* Sixteen floats side by side, three ways: an array (plain C, fmaf), two __m256, one __m512. The kernels are written once against
 * these functions and compiled once per instruction set (cpu_generic.c, cpu_avx2.c, cpu_avx512.c); every function gives the same
 * bits in all three. scalar.c takes the array with one lane, for the scalar functions of ops.h.
 *
 * Which one: UM_V16_AVX512 or UM_V16_AVX2 defined before the include, else the array. v16_fma is the only contraction. */
#pragma once

#include "core/tensor/half.h"

#include <math.h>
#include <string.h>

#if defined(UM_V16_AVX512)
#include <immintrin.h>

enum { V16_LANES = 16 };
typedef struct v16 {
    __m512 v;
} v16;

static inline v16 v16_of(__m512 v) { return (v16){v}; }
static inline __mmask16 v16_first(int n) { return (__mmask16)((1u << n) - 1u); }
static inline v16 v16_set1(float x) { return v16_of(_mm512_set1_ps(x)); }
static inline v16 v16_load(const float *p) { return v16_of(_mm512_loadu_ps(p)); }
static inline v16 v16_load_n(const float *p, int n)
{
    return v16_of(_mm512_maskz_loadu_ps(v16_first(n), p));
}
static inline void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a.v); }
static inline void v16_store_n(float *p, v16 a, int n)
{
    _mm512_mask_storeu_ps(p, v16_first(n), a.v);
}
static inline v16 v16_load_bf16(const uint16_t *p)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return v16_of(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)));
}
static inline v16 v16_load_f16(const uint16_t *p)
{
    return v16_of(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)));
}
static inline v16 v16_add(v16 a, v16 b) { return v16_of(_mm512_add_ps(a.v, b.v)); }
static inline v16 v16_sub(v16 a, v16 b) { return v16_of(_mm512_sub_ps(a.v, b.v)); }
static inline v16 v16_mul(v16 a, v16 b) { return v16_of(_mm512_mul_ps(a.v, b.v)); }
static inline v16 v16_div(v16 a, v16 b) { return v16_of(_mm512_div_ps(a.v, b.v)); }
static inline v16 v16_sqrt(v16 a) { return v16_of(_mm512_sqrt_ps(a.v)); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return v16_of(_mm512_fmadd_ps(a.v, b.v, c.v)); }
static inline v16 v16_fms(v16 a, v16 b, v16 c) { return v16_of(_mm512_fmsub_ps(a.v, b.v, c.v)); }
static inline v16 v16_fnma(v16 a, v16 b, v16 c) { return v16_of(_mm512_fnmadd_ps(a.v, b.v, c.v)); }
static inline v16 v16_max(v16 a, v16 b) { return v16_of(_mm512_max_ps(a.v, b.v)); }
static inline v16 v16_min(v16 a, v16 b) { return v16_of(_mm512_min_ps(a.v, b.v)); }
static inline v16 v16_abs(v16 a)
{
    return v16_of(_mm512_castsi512_ps(
        _mm512_and_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))));
}
static inline v16 v16_if_less(v16 a, v16 b, v16 yes, v16 no)
{
    return v16_of(_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v));
}
static inline v16 v16_if_nan(v16 a, v16 yes, v16 no)
{
    return v16_of(_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), no.v, yes.v));
}
static inline v16 v16_keep_n(v16 a, int n, v16 rest)
{
    return v16_of(_mm512_mask_blend_ps(v16_first(n), rest.v, a.v));
}
static inline v16 v16_shift_exponent(v16 a, v16 t)
{
    __m512i up = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
    return v16_of(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), up)));
}
static inline __m256 v16_lo(v16 a) { return _mm512_castps512_ps256(a.v); }
static inline __m256 v16_hi(v16 a)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
}

#elif defined(UM_V16_AVX2)
#include <immintrin.h>

enum { V16_LANES = 16 };
typedef struct v16 {
    __m256 lo, hi;
} v16;

static inline __m256 v16_lo(v16 a) { return a.lo; }
static inline __m256 v16_hi(v16 a) { return a.hi; }
static inline v16 v16_of(__m256 lo, __m256 hi) { return (v16){lo, hi}; }
/* All ones in lanes from .. from+7 that are below n. */
static inline __m256i v16_first(int n, int from)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - from), lane);
}
static inline v16 v16_set1(float x) { return v16_of(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline v16 v16_load(const float *p)
{
    return v16_of(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
static inline v16 v16_load_n(const float *p, int n)
{
    return v16_of(_mm256_maskload_ps(p, v16_first(n, 0)),
                  _mm256_maskload_ps(p + 8, v16_first(n, 8)));
}
static inline void v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
static inline void v16_store_n(float *p, v16 a, int n)
{
    _mm256_maskstore_ps(p, v16_first(n, 0), a.lo);
    _mm256_maskstore_ps(p + 8, v16_first(n, 8), a.hi);
}
/* Above sixteen zero bits a bf16 is the same f32. Unpacking takes quarters 0 and 2, then 1 and 3, hence the permutation. */
static inline v16 v16_load_bf16(const uint16_t *p)
{
    const __m256i zero = _mm256_setzero_si256(),
                  w = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(const void *)p),
                                               _MM_SHUFFLE(3, 1, 2, 0));
    return v16_of(_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, w)),
                  _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, w)));
}
static inline v16 v16_load_f16(const uint16_t *p)
{
    return v16_of(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8))));
}
static inline v16 v16_add(v16 a, v16 b)
{
    return v16_of(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}
static inline v16 v16_sub(v16 a, v16 b)
{
    return v16_of(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}
static inline v16 v16_mul(v16 a, v16 b)
{
    return v16_of(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}
static inline v16 v16_div(v16 a, v16 b)
{
    return v16_of(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}
static inline v16 v16_sqrt(v16 a) { return v16_of(_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)); }
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return v16_of(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
static inline v16 v16_fms(v16 a, v16 b, v16 c)
{
    return v16_of(_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi));
}
static inline v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return v16_of(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}
static inline v16 v16_max(v16 a, v16 b)
{
    return v16_of(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}
static inline v16 v16_min(v16 a, v16 b)
{
    return v16_of(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi));
}
static inline v16 v16_abs(v16 a)
{
    __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return v16_of(_mm256_and_ps(a.lo, m), _mm256_and_ps(a.hi, m));
}
static inline v16 v16_if_less(v16 a, v16 b, v16 yes, v16 no)
{
    return v16_of(_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                  _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)));
}
static inline v16 v16_if_nan(v16 a, v16 yes, v16 no)
{
    return v16_of(_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q)),
                  _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)));
}
static inline v16 v16_keep_n(v16 a, int n, v16 rest)
{
    return v16_of(_mm256_blendv_ps(rest.lo, a.lo, _mm256_castsi256_ps(v16_first(n, 0))),
                  _mm256_blendv_ps(rest.hi, a.hi, _mm256_castsi256_ps(v16_first(n, 8))));
}
static inline __m256 v16_shift_half(__m256 a, __m256 t)
{
    __m256i up = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), up));
}
static inline v16 v16_shift_exponent(v16 a, v16 t)
{
    return v16_of(v16_shift_half(a.lo, t.lo), v16_shift_half(a.hi, t.hi));
}

#else /* plain C */

#ifdef UM_V16_ONE_LANE
enum { V16_LANES = 1 };
#else
enum { V16_LANES = 16 };
#endif
typedef struct v16 {
    float f[V16_LANES];
} v16;

#define V16_EACH(expr)                                                                             \
    v16 r;                                                                                         \
    for (int i = 0; i < V16_LANES; i++) r.f[i] = (expr);                                           \
    return r

static inline v16 v16_set1(float x) { V16_EACH(x); }
static inline v16 v16_load(const float *p) { V16_EACH(p[i]); }
static inline v16 v16_load_n(const float *p, int n) { V16_EACH(i < n ? p[i] : 0.0f); }
static inline void v16_store(float *p, v16 a) { memcpy(p, a.f, sizeof a.f); }
static inline void v16_store_n(float *p, v16 a, int n) { memcpy(p, a.f, (size_t)n * sizeof *p); }
static inline v16 v16_load_bf16(const uint16_t *p) { V16_EACH(um_bf16_f32(p[i])); }
static inline v16 v16_load_f16(const uint16_t *p) { V16_EACH(um_f16_f32(p[i])); }
static inline v16 v16_add(v16 a, v16 b) { V16_EACH(a.f[i] + b.f[i]); }
static inline v16 v16_sub(v16 a, v16 b) { V16_EACH(a.f[i] - b.f[i]); }
static inline v16 v16_mul(v16 a, v16 b) { V16_EACH(a.f[i] * b.f[i]); }
static inline v16 v16_div(v16 a, v16 b) { V16_EACH(a.f[i] / b.f[i]); }
static inline v16 v16_sqrt(v16 a) { V16_EACH(sqrtf(a.f[i])); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { V16_EACH(fmaf(a.f[i], b.f[i], c.f[i])); }
static inline v16 v16_fms(v16 a, v16 b, v16 c) { V16_EACH(fmaf(a.f[i], b.f[i], -c.f[i])); }
static inline v16 v16_fnma(v16 a, v16 b, v16 c) { V16_EACH(fmaf(-a.f[i], b.f[i], c.f[i])); }
/* The second operand when either is NaN, as maxps and minps do. */
static inline v16 v16_max(v16 a, v16 b) { V16_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]); }
static inline v16 v16_min(v16 a, v16 b) { V16_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]); }
static inline v16 v16_abs(v16 a) { V16_EACH(um_bits_f32(um_f32_bits(a.f[i]) & 0x7fffffffu)); }
static inline v16 v16_if_less(v16 a, v16 b, v16 yes, v16 no)
{
    V16_EACH(a.f[i] < b.f[i] ? yes.f[i] : no.f[i]);
}
static inline v16 v16_if_nan(v16 a, v16 yes, v16 no)
{
    V16_EACH(a.f[i] != a.f[i] ? yes.f[i] : no.f[i]);
}
/* Lanes below n of a, the others of rest. */
static inline v16 v16_keep_n(v16 a, int n, v16 rest) { V16_EACH(i < n ? a.f[i] : rest.f[i]); }
/* Adds the low bits of t to the exponent field of a: a * 2^n when t = 1.5 * 2^23 + n and the result is a normal number. */
static inline v16 v16_shift_exponent(v16 a, v16 t)
{
    V16_EACH(um_bits_f32(um_f32_bits(a.f[i]) + (um_f32_bits(t.f[i]) << 23)));
}
#undef V16_EACH

#ifndef UM_V16_ONE_LANE
/* The lanes as a fixed tree: i with i+8, i+4, i+2, i+1. */
static inline float v16_sum(v16 a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.f[i] = a.f[i] + a.f[i + half];
    return a.f[0];
}
static inline float v16_top(v16 a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.f[i] = a.f[i] > a.f[i + half] ? a.f[i] : a.f[i + half];
    return a.f[0];
}
#endif
#endif

#if defined(UM_V16_AVX512) || defined(UM_V16_AVX2)
static inline float v16_sum(v16 a)
{
    __m256 h = _mm256_add_ps(v16_lo(a), v16_hi(a));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
static inline float v16_top(v16 a)
{
    __m256 h = _mm256_max_ps(v16_lo(a), v16_hi(a));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
#endif

/* to[16,16] = the transpose of from[16,16]. */
#if defined(UM_V16_AVX512) || defined(UM_V16_AVX2)
static inline void v16_turn_8(float *to, size_t ldto, const float *from, size_t ldfrom)
{
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(from + (size_t)i * ldfrom);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], _MM_SHUFFLE(1, 0, 1, 0));
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], _MM_SHUFFLE(3, 2, 3, 2));
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], _MM_SHUFFLE(1, 0, 1, 0));
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + (size_t)i * ldto, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (size_t)(i + 4) * ldto, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
static inline void v16_turn(float *to, size_t ldto, const float *from, size_t ldfrom)
{
    v16_turn_8(to, ldto, from, ldfrom);
    v16_turn_8(to + 8, ldto, from + 8 * ldfrom, ldfrom);
    v16_turn_8(to + 8 * ldto, ldto, from + 8, ldfrom);
    v16_turn_8(to + 8 * ldto + 8, ldto, from + 8 * ldfrom + 8, ldfrom);
}
#elif !defined(UM_V16_ONE_LANE)
static inline void v16_turn(float *to, size_t ldto, const float *from, size_t ldfrom)
{
    for (size_t r = 0; r < V16_LANES; r++)
        for (size_t c = 0; c < V16_LANES; c++) to[c * ldto + r] = from[r * ldfrom + c];
}
#endif

static inline v16 v16_zero(void) { return v16_set1(0.0f); }
