/* What tests of golden data share. Everything here ends the test with a sentence when it cannot do its work. */
#pragma once

#include "core/base/arena.h"
#include "core/base/json.h"
#include "core/nn/safetensors.h"

/* The folder tests/golden, or what fmt makes behind it. */
char *golden_path(um_arena *arena, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A JSON file. \u0000, which our reader refuses, comes as U+E000. The caller frees it. */
um_json *golden_json(const char *path);
/* A tensor of i32 in a safetensors file. */
int32_t *golden_ids(const char *path, const char *name, int *n, um_arena *arena);
/* The two lists are equal, or the test fails naming what and the first place. */
void ids_equal(const char *what, const int32_t *got, int n_got, const int32_t *want, int n_want);
/* Largest difference of n values as a share of the largest value wanted; infinite when one of got is not finite. */
float distance(const float *got, const float *want, size_t n);
