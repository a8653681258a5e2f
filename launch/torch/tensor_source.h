/* Tensors of released checkpoints, whichever files contain them: safetensors or torch.save, one file or the shards of an index.
 * Only descriptions are in memory; values are read from the mapped files piece by piece. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/nn/safetensors.h"
#include "launch/torch/torch_file.h"

typedef struct um_source_tensor {
    const char *name;
    const char *file; /* the file's name, for messages and the report */
    um_dtype dtype;
    int rank;
    int64_t shape[UM_MAX_DIMS], stride[UM_MAX_DIMS]; /* stride: in values */
    bool dense;                                      /* row-major, without gaps */
    size_t values;
    const uint8_t *data;
    const um_tensors *set; /* the file that maps it: set or torch */
    const um_torch *torch;
    /* how it was used, written by the converter */
    const char *used;   /* the names it was used under, or NULL */
    const char *unused; /* why it was not used, or NULL */
} um_source_tensor;

typedef struct um_source_list {
    um_source_tensor *item; /* sorted by name */
    size_t n;
} um_source_list;

/* Everything that was opened; um_sources_close closes it. */
typedef struct um_sources {
    um_arena arena;
    um_tensors **set;
    um_torch **torch;
    size_t sets, torches;
    um_source_list **list; /* all lists, in the order of opening: the report visits them */
    size_t lists;
    const char **path; /* every file that was opened */
    size_t paths;
} um_sources;

void um_sources_open(um_sources *s);
void um_sources_close(um_sources *s);

/* dir/stem.safetensors, dir/stem.safetensors.index.json, dir/stem.bin or dir/stem.bin.index.json, the first that exists. With stem
 * NULL: the same for "model" and "pytorch_model". *out is NULL when none exists. */
um_status um_source_find(um_sources *s, const um_source_list **out, const char *dir,
                         const char *stem, um_err *err);
/* One file, whose name ends in .safetensors, .bin or .pt. */
um_status um_source_file(um_sources *s, const um_source_list **out, const char *path, um_err *err);
/* The tensors of a dict in a torch file that is already open; `file` names it in messages. */
um_status um_source_dict(um_sources *s, const um_source_list **out, const um_torch *f,
                         const um_value *dict, const char *file, um_err *err);
/* Opens a torch file that s closes. */
um_status um_source_torch(um_sources *s, const um_torch **out, const char *path, um_err *err);

/* A tensor that no file has, as a list of its own: it has a type and a shape and no values (data NULL). `file` says in reports where
 * its values come from. */
um_source_tensor *um_source_described(um_sources *s, const char *name, const char *file,
                                      um_dtype dtype, int rank, const int64_t *shape);
/* Whether a file was opened under this path. */
bool um_source_opened(const um_sources *s, const char *path);

um_source_tensor *um_source_get(const um_source_list *list,
                                const char *name); /* NULL when absent */

/* Reads n values from value `from` on, in row-major order: unchanged, or as f32 (float types only). */
void um_source_read(void *out, const um_source_tensor *t, size_t from, size_t n);
void um_source_read_f32(float *out, const um_source_tensor *t, size_t from, size_t n);
bool um_source_is_float(const um_source_tensor *t);
/* Drops the pages of a tensor that has been copied from the resident set; of a described one there are none. */
void um_source_forget(const um_source_tensor *t);
