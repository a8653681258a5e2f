/* Kernels with AVX-512F. A tile is 12 rows x 32 outputs: 24 of 32 registers hold sums. */
#define UM_V16_AVX512
#include "core/tensor/cpu/train/train_kernels.h"
#include "core/tensor/cpu/v16_math.h"

#define KERNELS um_kernels_avx512
#define TILE_ROWS 12
#define TILE_PANELS 2
#define THIN_SUMS 16
#define THIN_AHEAD 8
#include "core/tensor/cpu/kernels_gemm.inc"
#include "core/tensor/cpu/kernels_attention.inc"
#include "core/tensor/cpu/kernels_rows.inc"
#include "core/tensor/cpu/train/kernels_backward.inc"
#include "core/tensor/cpu/train/kernels_attention_bwd.inc"
#include "core/tensor/cpu/train/kernels_train.inc"
#include "core/tensor/cpu/kernels_table.inc"
