/* See planes.h. The vector versions process as many whole groups as fit; the plain versions process the tail. */
#include "proto/planes.h"

#include "core/base/bytes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static void split_bf16(uint8_t *exps, uint8_t *rest, const void *src, size_t n)
{
    const uint8_t *s = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t x = um_get_u16(s + 2 * i), r = (uint16_t)(x << 1 | x >> 15);
        exps[i] = (uint8_t)(r >> 8);
        rest[i] = (uint8_t)r;
    }
}

static void merge_bf16(void *dst, const uint8_t *exps, const uint8_t *rest, size_t n)
{
    uint8_t *d = dst;
    for (size_t i = 0; i < n; i++) {
        uint16_t r = (uint16_t)(exps[i] << 8 | rest[i]);
        um_put_u16(d + 2 * i, (uint16_t)(r >> 1 | r << 15));
    }
}

static void split_f32(uint8_t *exps, uint8_t *rest, const void *src, size_t n)
{
    const uint8_t *s = src;
    for (size_t i = 0; i < n; i++) {
        uint32_t x = um_get_u32(s + 4 * i), r = x << 1 | x >> 31;
        exps[i] = (uint8_t)(r >> 24);
        um_put_u16(rest + 3 * i, (uint16_t)r);
        rest[3 * i + 2] = (uint8_t)(r >> 16);
    }
}

static void merge_f32(void *dst, const uint8_t *exps, const uint8_t *rest, size_t n)
{
    uint8_t *d = dst;
    for (size_t i = 0; i < n; i++) {
        uint32_t r =
            (uint32_t)exps[i] << 24 | (uint32_t)rest[3 * i + 2] << 16 | um_get_u16(rest + 3 * i);
        um_put_u32(d + 4 * i, r >> 1 | r << 31);
    }
}

const um_planes um_planes_plain = {"plain", split_bf16, merge_bf16, split_f32, merge_f32};

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
/* Every function below executes zeroupper explicitly after its vector part: gcc 12 omits it before the tail call in merge_f32_avx2, and
 * SSE code that runs later (the payload hash) is then three times slower. */

AVX2 static inline __m256i load32(const void *p) { return _mm256_loadu_si256(p); }
AVX2 static inline void store32(void *p, __m256i v) { _mm256_storeu_si256(p, v); }
AVX2 static inline __m256i rotl16(__m256i x)
{
    return _mm256_or_si256(_mm256_slli_epi16(x, 1), _mm256_srli_epi16(x, 15));
}
AVX2 static inline __m256i rotr16(__m256i x)
{
    return _mm256_or_si256(_mm256_srli_epi16(x, 1), _mm256_slli_epi16(x, 15));
}
AVX2 static inline __m256i rotl32(__m256i x)
{
    return _mm256_or_si256(_mm256_slli_epi32(x, 1), _mm256_srli_epi32(x, 31));
}
AVX2 static inline __m256i rotr32(__m256i x)
{
    return _mm256_or_si256(_mm256_srli_epi32(x, 1), _mm256_slli_epi32(x, 31));
}

/* packus works within 128-bit halves; 0xD8 restores the order of the four quarters. */
AVX2 static void split_bf16_avx2(uint8_t *exps, uint8_t *rest, const void *src, size_t n)
{
    const uint8_t *s = src;
    const __m256i low = _mm256_set1_epi16(0xFF);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = rotl16(load32(s + 2 * i)), b = rotl16(load32(s + 2 * i + 32));
        __m256i e = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
        __m256i r = _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
        store32(exps + i, _mm256_permute4x64_epi64(e, 0xD8));
        store32(rest + i, _mm256_permute4x64_epi64(r, 0xD8));
    }
    _mm256_zeroupper();
    split_bf16(exps + i, rest + i, s + 2 * i, n - i);
}

AVX2 static void merge_bf16_avx2(void *dst, const uint8_t *exps, const uint8_t *rest, size_t n)
{
    uint8_t *d = dst;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i e = _mm256_permute4x64_epi64(load32(exps + i), 0xD8);
        __m256i r = _mm256_permute4x64_epi64(load32(rest + i), 0xD8);
        store32(d + 2 * i, rotr16(_mm256_unpacklo_epi8(r, e)));
        store32(d + 2 * i + 32, rotr16(_mm256_unpackhi_epi8(r, e)));
    }
    _mm256_zeroupper();
    merge_bf16(d + 2 * i, exps + i, rest + i, n - i);
}

/* Stores the low three bytes of eight dwords as 24 bytes, and eight more bytes that the next store overwrites. */
AVX2 static inline __m256i squeeze(__m256i x)
{
    const __m256i pick = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1, 0,
                                          1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x, pick),
                                       _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
}

AVX2 static void split_f32_avx2(uint8_t *exps, uint8_t *rest, const void *src, size_t n)
{
    const uint8_t *s = src;
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    size_t i = 0;
    /* the last store of a round ends at byte 3 * i + 104 of rest: three values after the round's 32 keep it inside the buffer */
    for (; i + 35 <= n; i += 32) {
        __m256i x[4], e[4];
        for (int k = 0; k < 4; k++) {
            x[k] = rotl32(load32(s + 4 * i + 32 * k));
            e[k] = _mm256_srli_epi32(x[k], 24);
            store32(rest + 3 * i + 24 * k, squeeze(x[k]));
        }
        __m256i v =
            _mm256_packus_epi16(_mm256_packus_epi32(e[0], e[1]), _mm256_packus_epi32(e[2], e[3]));
        store32(exps + i, _mm256_permutevar8x32_epi32(v, order));
    }
    _mm256_zeroupper();
    split_f32(exps + i, rest + 3 * i, s + 4 * i, n - i);
}

AVX2 static void merge_f32_avx2(void *dst, const uint8_t *exps, const uint8_t *rest, size_t n)
{
    uint8_t *d = dst;
    const __m128i pick = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    size_t i = 0;
    /* a round of 8 reads 28 bytes from 3 * i */
    for (; i + 10 <= n; i += 8) {
        const uint8_t *r = rest + 3 * i;
        __m128i lo = _mm_shuffle_epi8(_mm_loadu_si128((const void *)r), pick);
        __m128i hi = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(r + 12)), pick);
        __m256i e =
            _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(exps + i))), 24);
        store32(d + 4 * i, rotr32(_mm256_or_si256(_mm256_set_m128i(hi, lo), e)));
    }
    _mm256_zeroupper();
    merge_f32(d + 4 * i, exps + i, rest + 3 * i, n - i);
}

static const um_planes planes_avx2 = {"avx2", split_bf16_avx2, merge_bf16_avx2, split_f32_avx2,
                                      merge_f32_avx2};
#endif

const um_planes *um_planes_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return &planes_avx2;
#endif
    return &um_planes_plain;
}
