/* Reader of torch.save files (.bin, .pt) of torch 1.6 and newer: a mapped ZIP file whose data.pkl says where each tensor is.
 * Weights are never loaded as a whole. Files of an older torch are refused; the error says how to save them again. Little-endian
 * only. */
#pragma once

#include "launch/torch/pickle.h"

typedef struct um_torch um_torch;

um_status um_torch_open(um_torch **out, const char *path, um_err *err);
void um_torch_close(um_torch *f); /* accepts NULL */
/* The object that was saved. */
const um_value *um_torch_root(const um_torch *f);
/* Sets *out to the first value of a tensor in the mapped file; all its values are inside the file. */
um_status um_torch_data(const um_torch *f, const uint8_t **out, const um_value *tensor,
                        um_err *err);
/* Drops the mapped pages of [data, data + bytes) from the resident set. */
void um_torch_forget(const um_torch *f, const uint8_t *data, size_t bytes);
