/* bf16 and f16 as bits, one value at a time. Widening is exact; narrowing rounds to nearest even and keeps NaN a NaN. */
#pragma once

#include "core/base/bytes.h"

static inline float um_bf16_f32(uint16_t h) { return um_bits_f32((uint32_t)h << 16); }

static inline uint16_t um_f32_bf16(float f)
{
    uint32_t u = um_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* f16: 1 sign, 5 exponent (bias 15), 10 mantissa bits. A NaN comes out quiet, as the hardware's conversion has it. */
static inline float um_f16_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 0x1fu, m = h & 0x3ffu;
    if (e == 0) { /* zero and subnormal: m * 2^-24 */
        float v = (float)m * 0x1p-24f;
        return um_bits_f32(um_f32_bits(v) | sign);
    }
    if (e == 31) return um_bits_f32(sign | 0x7f800000u | m << 13 | (m != 0 ? 0x400000u : 0u));
    return um_bits_f32(sign | (e + 112) << 23 | m << 13);
}

static inline uint16_t um_f32_f16(float f)
{
    uint32_t u = um_f32_bits(f), a = u & 0x7fffffffu;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x477ff000u) return sign | 0x7c00u; /* 65520 and more: to infinity */
    if (a < 0x38800000u) { /* below 2^-14: adding 0.5 aligns the last bit to 2^-24 and rounds */
        float v = um_bits_f32(a) + 0.5f;
        return (uint16_t)(sign | (um_f32_bits(v) - 0x3f000000u));
    }
    return (uint16_t)(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13);
}
