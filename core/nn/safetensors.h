/* Safetensors: strict reader of one file or of a sharded set, mapped; and a writer.
 *
 * File: u64 header length, JSON header {"name": {"dtype", "shape", "data_offsets": [from, to]}, ..., "__metadata__": {...}}, data.
 * Refused with UM_E_CORRUPT, naming file and tensor: header longer than the file or than 100 MB, not JSON, not an object, unknown
 * dtype, shape that overflows or has more than 8 dimensions or a negative one, bytes that do not equal shape x dtype, offsets
 * outside the data, overlap, gap, trailing bytes; in an index: a path that leads out of the folder, a tensor that the named file
 * does not contain, a tensor in two files of which the index names neither. Accepted, as by the safetensors library: __metadata__
 * null, additional keys in an entry, types that the programs do not compute with (unless such a tensor is requested), empty
 * tensors, shards in folders below the index. Opening reads headers only, not the data.
 * Source of the rules: the format description of the safetensors project. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/tensor/dtype.h"

#include <stdint.h>

enum {
    UM_MAX_DIMS = 8,
    UM_TENSORS_HEADER_MAX = 100000000, /* bytes of a file's header: the format's own limit */
};

typedef struct um_tensor {
    const char *name;
    um_dtype dtype;
    int rank;
    int64_t shape[UM_MAX_DIMS];
    const uint8_t *data; /* mapped, may be unaligned */
    size_t bytes;
    int file; /* index of its file in the set */
} um_tensor;

typedef struct um_tensors um_tensors;

/* path: a .safetensors file, or a folder with model.safetensors or model.safetensors.index.json (a map from tensors to shards). For a
 * folder with neither, the message of UM_E_MODEL says which files were expected and what was found instead (an incomplete download,
 * shards without their index, PyTorch files). */
um_status um_tensors_open(um_tensors **out, const char *path, um_err *err);
/* Makes a set that only describes: it has the names, types, shapes and sizes of list (names are copied and must be unique), but neither
 * data nor a file. path is used in messages. For checking tensors that are not written yet. */
um_tensors *um_tensors_describe(const um_tensor *list, size_t n, const char *path);
void um_tensors_close(um_tensors *s); /* accepts NULL */
size_t um_tensors_count(const um_tensors *s);
const um_tensor *um_tensors_at(const um_tensors *s, size_t i);           /* sorted by name */
const um_tensor *um_tensors_find(const um_tensors *s, const char *name); /* NULL when absent */
/* Finds a tensor and checks it: UM_E_MODEL "tensor NAME: missing in PATH" or "tensor NAME in PATH: shape [4,64], want [8,64]". A size
 * of -1 in shape matches any size. Tensors of a non-float type are refused too. */
um_status um_tensors_want(const um_tensors *s, const um_tensor **out, const char *name, int rank,
                          const int64_t *shape, um_err *err);
/* Removes the mapped pages of a tensor that has been copied elsewhere from the resident set. */
void um_tensors_forget(const um_tensors *s, const um_tensor *t);
const char *um_tensors_path(const um_tensors *s);
/* The files of the set; and the print of one, over its size, header and 256 samples of its data: see um_checkpoint_prints. */
int um_tensors_files(const um_tensors *s);
const char *um_tensors_file(const um_tensors *s, int i);
uint64_t um_tensors_print(const um_tensors *s, int i);

/* Copies a float tensor (f32, bf16, f16, f64) to f32, any rank. */
void um_tensor_to_f32(float *out, const um_tensor *t);
/* Number of values of a tensor: the product of its sizes. */
size_t um_tensor_values(const um_tensor *t);
/* Writes "[4,64]" into out. */
void um_shape_text(char out[96], int rank, const int64_t *shape);

/* Writes n tensors (name, dtype, rank, shape, data, bytes are read) in the given order, with the header padded to 8 bytes. metadata is
 * a list key, value, key, value, NULL (may be NULL). Atomic: temporary file, fsync, rename. Equal input gives equal bytes. UM_E_LIMIT
 * when the header would be longer than UM_TENSORS_HEADER_MAX, which readers do not accept: write shards then. */
um_status um_tensors_write(const char *path, const um_tensor *list, size_t n,
                           const char *const *metadata, um_err *err);

/* The same for tensors that are not all in memory at the same time. open writes the header (reads name, dtype, rank and shape; bytes
 * must match them), add writes the data in the order of the list, in chunks of any size, finish checks that the data is complete and
 * renames the file to its final name; close without finish removes the temporary file. */
typedef struct um_tensors_writer um_tensors_writer;
um_status um_tensors_writer_open(um_tensors_writer **out, const char *path, const um_tensor *list,
                                 size_t n, const char *const *metadata, um_err *err);
um_status um_tensors_writer_add(um_tensors_writer *w, const void *data, size_t bytes, um_err *err);
um_status um_tensors_writer_finish(um_tensors_writer *w, um_err *err);
void um_tensors_writer_close(um_tensors_writer *w); /* accepts NULL */
/* Maximum bytes that a tensor's entry adds to the header. */
size_t um_tensors_entry_bytes(const um_tensor *t);
