/* Traces: every intermediate tensor of one request, appended chunk by chunk and written as one safetensors file. The names are those of
 * the golden data: input_ids, image_features, embeddings, layers.N.{hidden,router_logits,experts,weights}, logits, greedy_ids,
 * greedy_logits. Equal runs give the same file, byte for byte. */
#pragma once

#include "core/base/status.h"
#include "core/tensor/dtype.h"

#include <stdint.h>

typedef struct um_trace um_trace;

um_trace *um_trace_open(void);
void um_trace_close(um_trace *t); /* accepts NULL */
/* Appends n rows of cols values (f32 or i32) to the tensor called name, which is created on first use. cols 0: a vector of n. Does
 * nothing when t is NULL. */
void um_trace_rows(um_trace *t, const char *name, um_dtype dtype, const void *rows, int64_t n,
                   int64_t cols);
/* The same for the tensor "layers.N.name". */
void um_trace_layer(um_trace *t, int layer, const char *name, um_dtype dtype, const void *rows,
                    int64_t n, int64_t cols);
/* Sets a leading dimension: [n, cols] becomes [groups, n / groups, cols] in the file. */
void um_trace_group(um_trace *t, const char *name, int64_t groups);
/* A tensor of any shape, all at once. */
void um_trace_tensor(um_trace *t, const char *name, um_dtype dtype, const void *data, int rank,
                     const int64_t *shape);
um_status um_trace_write(const um_trace *t, const char *path, um_err *err);
