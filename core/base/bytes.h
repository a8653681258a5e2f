/* Little-endian bytes and checked sizes. No struct is ever cast onto bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t um_get_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t um_get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t um_get_u64(const uint8_t *p)
{
    return um_get_u32(p) | (uint64_t)um_get_u32(p + 4) << 32;
}
static inline void um_put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void um_put_u32(uint8_t *p, uint32_t v)
{
    um_put_u16(p, (uint16_t)v);
    um_put_u16(p + 2, (uint16_t)(v >> 16));
}
static inline void um_put_u64(uint8_t *p, uint64_t v)
{
    um_put_u32(p, (uint32_t)v);
    um_put_u32(p + 4, (uint32_t)(v >> 32));
}

/* false on overflow; *out is then undefined. */
static inline bool um_mul_ok(size_t *out, size_t a, size_t b)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool um_add_ok(size_t *out, size_t a, size_t b)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Element (row, col) of a row-major matrix with cols columns. */
static inline size_t um_at(size_t row, size_t col, size_t cols) { return row * cols + col; }

static inline size_t um_round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static inline int um_min_int(int a, int b) { return a < b ? a : b; }
static inline int um_max_int(int a, int b) { return a > b ? a : b; }

/* IEEE bits. */
static inline uint32_t um_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float um_bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
