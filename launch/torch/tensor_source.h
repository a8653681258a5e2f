/* Tensors of released checkpoints, whatever files they stand in: safetensors or torch.save, one file or the shards of an index.
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
    int64_t shape[UM_MAX_DIMS], stride[UM_MAX_DIMS]; /* stride in values */
    bool dense;                                      /* row-major, without gaps */
    size_t values;
    const uint8_t *data;
    const um_tensors *set; /* where it is mapped: one of these two */
    const um_torch *torch;
    /* what became of it, written by the converter */
    const char *used;   /* names it was used as, or NULL */
    const char *unused; /* why not, or NULL */
} um_source_tensor;

typedef struct um_source_list {
    um_source_tensor *item; /* sorted by name */
    size_t n;
} um_source_list;

/* Everything opened, until um_sources_close. */
typedef struct um_sources {
    um_arena arena;
    um_tensors **set;
    um_torch **torch;
    size_t sets, torches;
    um_source_list **list; /* all lists, in the order they were opened: the report walks them */
    size_t lists;
    const char **path; /* every file that was opened */
    size_t paths;
} um_sources;

void um_sources_open(um_sources *s);
void um_sources_close(um_sources *s);

/* dir/stem.safetensors, dir/stem.safetensors.index.json, dir/stem.bin or dir/stem.bin.index.json, the first that is there; with
 * either ("model" and "pytorch_model") as stem where stem is NULL. *out is NULL when there is none. */
um_status um_source_find(um_sources *s, const um_source_list **out, const char *dir,
                         const char *stem, um_err *err);
/* One file, by its ending .safetensors, .bin or .pt. */
um_status um_source_file(um_sources *s, const um_source_list **out, const char *path, um_err *err);
/* The tensors of a dict of a torch file that is open already, under the file's name. */
um_status um_source_dict(um_sources *s, const um_source_list **out, const um_torch *f,
                         const um_value *dict, const char *file, um_err *err);
/* Opens a torch file that s closes. */
um_status um_source_torch(um_sources *s, const um_torch **out, const char *path, um_err *err);

/* true when the file was opened by this path. */
bool um_source_opened(const um_sources *s, const char *path);

um_source_tensor *um_source_get(const um_source_list *list,
                                const char *name); /* NULL when absent */

/* n values from value `from` on, in row-major order: as they are, or as f32 (float types only). */
void um_source_read(void *out, const um_source_tensor *t, size_t from, size_t n);
void um_source_read_f32(float *out, const um_source_tensor *t, size_t from, size_t n);
bool um_source_is_float(const um_source_tensor *t);
/* The pages of a tensor that has been copied leave the resident set. */
void um_source_forget(const um_source_tensor *t);
