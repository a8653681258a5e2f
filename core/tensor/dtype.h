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
    UM_DTYPES
} um_dtype;

size_t um_dtype_size(um_dtype t);
const char *
um_dtype_name(um_dtype t); /* safetensors spelling: "F32", "BF16", "F16", "I8", "I32", "I64", ... */
int um_dtype_from_name(const char *name); /* -1 when unknown */
const char *um_dtype_lower(um_dtype t);   /* "f32", "bf16", ... as flags spell it */

/* n values of floating type (f32, bf16, f16, f64) to f32 and back. To bf16/f16: round to nearest even, NaN stays NaN.
 * The bits do not depend on the machine. src and dst may not overlap. */
void um_to_f32(float *dst, const void *src, um_dtype src_type, size_t n);
void um_from_f32(void *dst, um_dtype dst_type, const float *src, size_t n);
