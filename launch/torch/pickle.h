/* Reader of the pickles inside torch.save files: it executes the opcodes that torch writes (protocol 2 to 5), builds a tree of
 * plain values and calls nothing. A pickle that names a function or class outside the list in pickle.c is refused; the error names it.
 *
 * Values may be shared, and a hostile file can make one contain itself: code that walks the tree must bound its depth. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/tensor/dtype.h"

#include <stdint.h>

enum { UM_PICKLE_DIMS = 8 };

typedef enum um_value_kind {
    UM_VALUE_NONE,
    UM_VALUE_BOOL,
    UM_VALUE_INT,
    UM_VALUE_REAL,
    UM_VALUE_TEXT,
    UM_VALUE_LIST, /* list or tuple */
    UM_VALUE_DICT, /* item[2 * i] is a key, item[2 * i + 1] its value */
    UM_VALUE_GLOBAL,
    UM_VALUE_STORAGE,
    UM_VALUE_TENSOR,
} um_value_kind;

typedef struct um_value um_value;
struct um_value {
    um_value_kind kind;
    bool flag;        /* value of a bool; of a list: true when it is a tuple */
    int64_t number;   /* an int; a storage's number of values; a tensor's offset in values */
    double real;      /* value of a real */
    const char *text; /* of a text or global; of a storage: its key */
    um_dtype dtype;   /* of a storage */
    um_value **item;  /* of a list or dict */
    size_t n, cap;    /* of a list: number of items; of a dict: number of pairs */
    int rank;         /* of a tensor */
    int64_t shape[UM_PICKLE_DIMS], stride[UM_PICKLE_DIMS];
    const um_value *storage; /* of a tensor */
};

/* UM_E_DATA when the pickle uses what is not allowed, UM_E_CORRUPT when it violates the format. The tree lives in arena. */
um_status um_pickle_read(const um_value **out, const uint8_t *data, size_t size, um_arena *arena,
                         um_err *err);
/* dict[key], the last value that was set; NULL when absent. */
const um_value *um_value_get(const um_value *dict, const char *key);
