/* Parameters in tests: those of a checkpoint, for a test that is one rank which owns whole parts; and lists made by hand. */
#pragma once

#include "core/nn/params.h"

/* Lists the parts (bits 1 << um_part) of ck. keep as --weights. Structs go into the host arena, values into the device arena. */
um_params params_of(const um_checkpoint *ck, uint32_t parts, const char *keep, um_dev *dev,
                    um_arena *host, um_arena *device);

/* A list made by hand: tensors of any place and shape, with random values, in a file. */
typedef struct made_params {
    um_arena *a;
    um_checkpoint ck; /* only the model's lora_r and lora_alpha are used */
    um_tensors *set;
    um_params ps;
    um_tensor tensor[32];
    um_spec spec[32];
    size_t n;
} made_params;

/* Adds "sSLOT.LEAF", values of size 0.5; the first size of 0 ends the shape. Returns the values, as f32. */
const float *made_add(made_params *m, um_slot slot, um_leaf leaf, um_dtype type, int64_t a,
                      int64_t b, int64_t c);
/* Writes the file into dir and lists its tensors. */
void made_open(made_params *m, const char *dir, const um_loading *how);
void made_close(made_params *m);
/* What is trained: everything; the tensor whose name ctx is. */
bool trains_all(const void *ctx, const um_spec *s);
bool trains_name(const void *ctx, const um_spec *s);
/* um_params_train, which must succeed. */
void train(um_params *ps, um_trained_fn trained, const void *ctx);
/* The place of a slot in such a list. */
um_place made_at(um_slot slot);
