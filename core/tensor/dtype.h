/* Number types of tensors, and conversion between them. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef enum um_dtype {
    UM_F32,
    UM_BF16,
    UM_F16,
    UM_I8,
    UM_I32,
    UM_I64,
    UM_U8,
    UM_BOOL,
    UM_F64,
    UM_I16,
    /* only in files, for tensors that nobody needs: nothing computes with them */
    UM_U16,
    UM_U32,
    UM_U64,
    UM_C64,
    UM_F8_E4M3,
    UM_F8_E5M2,
    UM_F8_E8M0,
    UM_F8_E4M3FNUZ,
    UM_F8_E5M2FNUZ,
    UM_F6_E2M3,
    UM_F6_E3M2,
    UM_F4,
    UM_DTYPES
} um_dtype;

size_t um_dtype_size(um_dtype t); /* bytes; 1 for the packed types F6 and F4 */
int um_dtype_bits(um_dtype t);
/* safetensors spelling: "F32", "BF16", "F16", "I8", "I32", "I64", ... */
const char *um_dtype_name(um_dtype t);
int um_dtype_from_name(const char *name); /* -1 when unknown */
const char *um_dtype_lower(um_dtype t);   /* "f32", "bf16", ... as flags spell it */

/* n values of floating type (f32, bf16, f16, f64) to f32 and back. To bf16/f16: round to nearest even, NaN stays NaN.
 * The bits do not depend on the machine. src and dst may not overlap. */
void um_to_f32(float *dst, const void *src, um_dtype src_type, size_t n);
void um_from_f32(void *dst, um_dtype dst_type, const float *src, size_t n);
