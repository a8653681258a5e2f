/* Kernels in plain C, for every machine: the reference that the others must equal bit for bit. */
#include "core/tensor/cpu/train/train_kernels.h"
#include "core/tensor/cpu/v16_math.h"

#define KERNELS um_kernels_generic
#define TILE_ROWS 4
#define TILE_PANELS 1
#define THIN_SUMS 4
#define THIN_AHEAD 8
#include "core/tensor/cpu/kernels_gemm.inc"
#include "core/tensor/cpu/kernels_attention.inc"
#include "core/tensor/cpu/kernels_rows.inc"
#include "core/tensor/cpu/train/kernels_backward.inc"
#include "core/tensor/cpu/train/kernels_attention_bwd.inc"
#include "core/tensor/cpu/train/kernels_train.inc"
#include "core/tensor/cpu/kernels_table.inc"
