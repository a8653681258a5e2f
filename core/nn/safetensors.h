/* Safetensors: strict reader of one file or of a sharded set, mapped; and a writer.
 *
 * File: u64 header length, JSON header {"name": {"dtype", "shape", "data_offsets": [from, to]}, ..., "__metadata__": {...}}, data.
 * Refused with UM_E_CORRUPT, naming file and tensor: header longer than the file or than 100 MB, not JSON, not an object, unknown
 * dtype, shape that overflows or has more than 8 dimensions or a negative one, bytes that do not equal shape x dtype, offsets
 * outside the data, overlap, hole, trailing bytes; in an index: a path that leads out of the folder, a tensor that the named file
 * does not contain, a tensor in two files of which it names neither. Accepted as by the safetensors library: __metadata__ null,
 * further keys in an entry, types that nothing here computes with (as long as nobody wants the tensor), empty tensors, shards in
 * folders below the index. Opening reads headers only, never a page of data.
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
    int file; /* which file of the set */
} um_tensor;

typedef struct um_tensors um_tensors;

/* path: a .safetensors file, or a folder with model.safetensors or model.safetensors.index.json (a map from tensors to shards).
 * A folder with neither gives UM_E_MODEL that says what was looked for, and what is there instead (a download that is not complete,
 * shards without their index, PyTorch files). */
um_status um_tensors_open(um_tensors **out, const char *path, um_err *err);
/* A set that only describes: names, types, shapes and sizes of list (names are copied; no two alike), no data, no file. path names it
 * in messages. For checking what is not written yet. */
um_tensors *um_tensors_describe(const um_tensor *list, size_t n, const char *path);
void um_tensors_close(um_tensors *s); /* accepts NULL */
size_t um_tensors_count(const um_tensors *s);
const um_tensor *um_tensors_at(const um_tensors *s, size_t i);           /* sorted by name */
const um_tensor *um_tensors_find(const um_tensors *s, const char *name); /* NULL when absent */
/* The tensor, checked: UM_E_MODEL "tensor NAME: missing in PATH" or "tensor NAME in PATH: shape [4,64], want [8,64]". A size of -1
 * in shape matches any. A type that is no float is refused too: weights are wanted as numbers. */
um_status um_tensors_want(const um_tensors *s, const um_tensor **out, const char *name, int rank,
                          const int64_t *shape, um_err *err);
/* The mapped pages of a tensor that has been copied elsewhere leave the resident set. */
void um_tensors_forget(const um_tensors *s, const um_tensor *t);
const char *um_tensors_path(const um_tensors *s);
/* The files of the set, and a number over size, header and 256 samples of the data of one: see um_checkpoint_prints. */
int um_tensors_files(const um_tensors *s);
const char *um_tensors_file(const um_tensors *s, int i);
uint64_t um_tensors_print(const um_tensors *s, int i);

/* Copies a float tensor (f32, bf16, f16, f64) to f32, any rank. */
void um_tensor_to_f32(float *out, const um_tensor *t);
/* Values of a tensor: the product of its sizes. */
size_t um_tensor_values(const um_tensor *t);
/* "[4,64]" into out. */
void um_shape_text(char out[96], int rank, const int64_t *shape);

/* Writes n tensors (name, dtype, rank, shape, data, bytes are read), in the given order, header padded to 8 bytes. metadata is a
 * list of pairs key, value, key, value, NULL (may be NULL). Atomic: temporary file, fsync, rename. Same input, same bytes.
 * UM_E_LIMIT when the header would be longer than UM_TENSORS_HEADER_MAX, which no reader accepts: write shards then. */
um_status um_tensors_write(const char *path, const um_tensor *list, size_t n,
                           const char *const *metadata, um_err *err);

/* The same for tensors that are never in memory together: open writes the header (name, dtype, rank, shape are read, bytes must
 * fit them), add takes the data in the order of the list, in pieces of any size. finish checks that all of it came, and puts
 * the file in its place; close without finish leaves nothing behind. */
typedef struct um_tensors_writer um_tensors_writer;
um_status um_tensors_writer_open(um_tensors_writer **out, const char *path, const um_tensor *list,
                                 size_t n, const char *const *metadata, um_err *err);
um_status um_tensors_writer_add(um_tensors_writer *w, const void *data, size_t bytes, um_err *err);
um_status um_tensors_writer_finish(um_tensors_writer *w, um_err *err);
void um_tensors_writer_close(um_tensors_writer *w); /* accepts NULL */
/* Bytes that a tensor's entry adds to the header, at most. */
size_t um_tensors_entry_bytes(const um_tensor *t);
