/* LoRA adapters as PEFT writes and reads them: adapter_model.safetensors has base_model.model.X.lora_A.weight [r, in] and
 * base_model.model.X.lora_B.weight [out, r] for each adapted X.weight [out, in], adapter_config.json says r, alpha and which X. */
#pragma once

#include "core/nn/safetensors.h"

#define UM_PEFT_PREFIX "base_model.model."

typedef struct um_peft_config {
    const char *base; /* the model that it belongs to, NULL: null */
    int r;
    double alpha, dropout;
} um_peft_config;

/* Writes an adapter to the folder dir, which is made if need be. config NULL: only the tensors. */
um_status um_peft_write(const char *dir, const um_tensor *list, size_t n,
                        const um_peft_config *config, um_arena *arena, um_err *err);

/* One row of W + scale B A: w[j] += scale * sum over k of b[k] * a[k][j], k rising, every step rounded to f32, with the same bits on
 * every machine.   w, sum: [in], sum is overwritten   a: [r, in]   b: [r] of the row */
void um_peft_merge_row(float *restrict w, float *restrict sum, const float *a, const float *b,
                       size_t r, size_t in, float scale);
