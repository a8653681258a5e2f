/* See dtype.h. */
#include "core/tensor/dtype.h"

#include "core/base/status.h"
#include "core/tensor/half.h"

#include <string.h>

static const struct {
    const char *name, *lower;
    int bits;
} types[UM_DTYPES] = {
    [UM_F32] = {"F32", "f32", 32},
    [UM_BF16] = {"BF16", "bf16", 16},
    [UM_F16] = {"F16", "f16", 16},
    [UM_I8] = {"I8", "i8", 8},
    [UM_I32] = {"I32", "i32", 32},
    [UM_I64] = {"I64", "i64", 64},
    [UM_U8] = {"U8", "u8", 8},
    [UM_BOOL] = {"BOOL", "bool", 8},
    [UM_F64] = {"F64", "f64", 64},
    [UM_I16] = {"I16", "i16", 16},
    [UM_U16] = {"U16", "u16", 16},
    [UM_U32] = {"U32", "u32", 32},
    [UM_U64] = {"U64", "u64", 64},
    [UM_C64] = {"C64", "c64", 64},
    [UM_F8_E4M3] = {"F8_E4M3", "f8_e4m3", 8},
    [UM_F8_E5M2] = {"F8_E5M2", "f8_e5m2", 8},
    [UM_F8_E8M0] = {"F8_E8M0", "f8_e8m0", 8},
    [UM_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", "f8_e4m3fnuz", 8},
    [UM_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", "f8_e5m2fnuz", 8},
    [UM_F6_E2M3] = {"F6_E2M3", "f6_e2m3", 6},
    [UM_F6_E3M2] = {"F6_E3M2", "f6_e3m2", 6},
    [UM_F4] = {"F4", "f4", 4},
};

size_t um_dtype_size(um_dtype t) { return (size_t)(types[t].bits + 7) / 8; }
int um_dtype_bits(um_dtype t) { return types[t].bits; }
const char *um_dtype_name(um_dtype t) { return types[t].name; }
const char *um_dtype_lower(um_dtype t) { return types[t].lower; }

int um_dtype_from_name(const char *name)
{
    for (int t = 0; t < UM_DTYPES; t++)
        if (strcmp(types[t].name, name) == 0) return t;
    return -1;
}

static void from_f64(float *dst, const char *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double v; /* by bytes: tensors in a file need not be aligned */
        memcpy(&v, src + i * sizeof v, sizeof v);
        dst[i] = (float)v;
    }
}

static void from_bf16(float *dst, const char *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        dst[i] = um_bf16_f32(v);
    }
}

static void from_f16(float *dst, const char *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        dst[i] = um_f16_f32(v);
    }
}

void um_to_f32(float *dst, const void *src, um_dtype src_type, size_t n)
{
    if (n == 0) return;
    switch (src_type) {
    case UM_F32:
        memcpy(dst, src, n * sizeof *dst);
        return;
    case UM_BF16:
        from_bf16(dst, src, n);
        return;
    case UM_F16:
        from_f16(dst, src, n);
        return;
    case UM_F64:
        from_f64(dst, src, n);
        return;
    default:
        UM_ASSERT(!"um_to_f32 takes f32, bf16, f16 and f64");
    }
}

static void to_bf16(char *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t v = um_f32_bf16(src[i]);
        memcpy(dst + i * sizeof v, &v, sizeof v);
    }
}

static void to_f16(char *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t v = um_f32_f16(src[i]);
        memcpy(dst + i * sizeof v, &v, sizeof v);
    }
}

static void to_f64(char *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double v = (double)src[i];
        memcpy(dst + i * sizeof v, &v, sizeof v);
    }
}

void um_from_f32(void *dst, um_dtype dst_type, const float *src, size_t n)
{
    if (n == 0) return;
    switch (dst_type) {
    case UM_F32:
        memcpy(dst, src, n * sizeof *src);
        return;
    case UM_BF16:
        to_bf16(dst, src, n);
        return;
    case UM_F16:
        to_f16(dst, src, n);
        return;
    case UM_F64:
        to_f64(dst, src, n);
        return;
    default:
        UM_ASSERT(!"um_from_f32 makes f32, bf16, f16 and f64");
    }
}
