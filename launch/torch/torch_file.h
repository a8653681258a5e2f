/* Reader of torch.save files (.bin, .pt) of torch 1.6 and newer: a ZIP file, mapped, whose data.pkl says where each tensor lies.
 * Weights are never loaded whole. Files of an older torch are refused with the way to save them again. Little-endian only. */
#pragma once

#include "launch/torch/pickle.h"

typedef struct um_torch um_torch;

um_status um_torch_open(um_torch **out, const char *path, um_err *err);
void um_torch_close(um_torch *f); /* accepts NULL */
/* What was saved. */
const um_value *um_torch_root(const um_torch *f);
/* Where the first value of a tensor lies in the mapped file; all others are inside the file too. */
um_status um_torch_data(const um_torch *f, const uint8_t **out, const um_value *tensor,
                        um_err *err);
/* The mapped pages of [data, data + bytes) leave the resident set. */
void um_torch_forget(const um_torch *f, const uint8_t *data, size_t bytes);
