/* Cases of the op table: test_ops.c runs each on every instruction set and thread count, test_ops_cases.c says what they do. */
#pragma once

#include "core/base/arena.h"
#include "core/tensor/ops.h"

#include <stddef.h>

/* One op at one shape. run fills out[n] (given filled with a sentinel, kept where the op must not write) and must draw its inputs
 * from the seed alone; want fills the same in double, NaN where the sentinel must stay. */
typedef struct op_case {
    const char *name;
    size_t n;
    double tolerance; /* |got - want| <= tolerance * scale of the case's values (1) */
    void (*run)(um_dev *d, const struct op_case *c, float *out, um_arena *arena);
    void (*want)(const struct op_case *c, double *out, um_arena *arena);
    int T, D, K, flag; /* rows, width, slots or heads, variant */
} op_case;

/* All cases but gemm and attention. */
const op_case *op_cases(size_t *count);
/* n normal values that depend on seed and stream only. */
float *op_values(um_arena *arena, size_t n, uint64_t stream, float std);
