/* Kernels with AVX2, FMA and F16C. A tile is 6 rows x 16 outputs: 12 of 16 registers hold sums. */
#define UM_V16_AVX2
#include "core/tensor/cpu/train/train_kernels.h"
#include "core/tensor/cpu/v16_math.h"

#define KERNELS um_kernels_avx2
#define TILE_ROWS 6
#define TILE_PANELS 1
#define THIN_SUMS 4
#define THIN_AHEAD 16
#include "core/tensor/cpu/kernels_gemm.inc"
#include "core/tensor/cpu/kernels_attention.inc"
#include "core/tensor/cpu/kernels_rows.inc"
#include "core/tensor/cpu/train/kernels_backward.inc"
#include "core/tensor/cpu/train/kernels_attention_bwd.inc"
#include "core/tensor/cpu/train/kernels_train.inc"
#include "core/tensor/cpu/kernels_table.inc"
