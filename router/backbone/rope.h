/* Rotary position angles (Su et al. 2021, arXiv 2104.09864), in Llama's half-split form: pair (j, j + head_dim/2) is rotated by
 * pos / factor * theta^(-2j/head_dim). The angle is rounded to f32 as the reference does; cos and sin are our own. */
#pragma once

#include "core/tensor/ops.h"

typedef struct um_rope {
    um_dev *dev;
    float *cs; /* device [rows][head_dim]: cos of the first half, then sin */
    int rows, head_dim;
    float theta, factor;
} um_rope;

/* dev must outlive r. */
void um_rope_open(um_rope *r, um_dev *dev, int head_dim, float theta, float factor);
void um_rope_close(um_rope *r); /* accepts a zeroed one */
/* Extends the table to at least n positions. May move it: ops that were given cs have run by then. */
void um_rope_reserve(um_rope *r, int n);
