/* Comparing a trace with the golden data, tensor by tensor. */
#pragma once

#include <stdbool.h>

/* Every tensor of expected (a safetensors file) that trace should hold: floats within tolerance times the tensor's largest value,
 * integers equal; logits_tail is compared with the last rows of logits. The order of the two experts may differ only where their
 * weights are equal within the tolerance. Prints each tensor that is off with its first bad index. */
bool golden_matches(const char *trace, const char *expected, double tolerance);
/* The two files have the same bytes. Prints the first tensor that differs. */
bool golden_same_bits(const char *a, const char *b);
