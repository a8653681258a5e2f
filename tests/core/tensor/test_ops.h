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

/* All cases but gemm and attention: forward ops, and those of training. */
const op_case *op_cases(size_t *count);
const op_case *op_train_cases(size_t *count);
/* n normal values that depend on seed and stream only. */
float *op_values(um_arena *arena, size_t n, uint64_t stream, float std);

/* name, outputs, tolerance, run, want, T, D, K, flag. The larger shapes are large enough to be divided among threads. */
#define OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, T, D)                                                 \
    {                                                                                              \
        NAME, OUT(T, D, K), TOL, FN##_run, FN##_want, T, D, K, FLAG                                \
    }
#define OP_SHAPES(NAME, FN, OUT, TOL, K, FLAG)                                                     \
    OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, 1, 1), OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, 1, 16),       \
        OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, 2, 15), OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, 3, 17),  \
        OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, 5, 64), OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, 7, 100), \
        OP_ROWS(NAME, FN, OUT, TOL, K, FLAG, 131, 1021)
/* Values of a case's output. */
#define OP_JUST(T, D, K) ((size_t)(T) * (D))
#define OP_TWICE(T, D, K) ((size_t)(T) * (D)*2)
#define OP_PLUS_T(T, D, K) ((size_t)(T) * (D) + (T))
#define OP_PLUS_D(T, D, K) ((size_t)(T) * (D) + (D))
#define OP_GAPS(T, D, K) ((size_t)(T) * ((size_t)(D) * (K) + 3))
