/* Rotary position angles (Su et al. 2021, arXiv 2104.09864), in Llama's half-split form: pair (j, j + head_dim/2) is rotated by
 * pos / factor * theta^(-2j/head_dim). The angle is rounded to f32 as the reference does; cos and sin are our own. */
#pragma once

#include <stddef.h>

typedef struct um_rope {
    float *cs; /* [rows][head_dim]: cos of the first half, then sin */
    int rows, head_dim;
    float theta, factor;
} um_rope;

void um_rope_open(um_rope *r, int head_dim, float theta, float factor);
void um_rope_close(um_rope *r);
/* Extends the table to at least n positions. */
void um_rope_reserve(um_rope *r, int n);
