/* Reader of the pickles inside torch.save files: a machine for the opcodes that torch writes (protocol 2 to 5), which builds a tree
 * of plain values and calls nothing. Whatever names a function or class outside the list in pickle.c is refused by that name.
 *
 * Values may be shared, and a hostile file can make one contain itself: whoever walks the tree bounds his depth. */
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
    bool flag;        /* of a bool; of a list: it is a tuple */
    int64_t number;   /* of an int; of a storage: its values; of a tensor: its offset in values */
    double real;      /* of a real */
    const char *text; /* of a text or global; of a storage: its key */
    um_dtype dtype;   /* of a storage */
    um_value **item;  /* of a list or dict */
    size_t n, cap;    /* of a list: items; of a dict: pairs */
    int rank;         /* of a tensor */
    int64_t shape[UM_PICKLE_DIMS], stride[UM_PICKLE_DIMS];
    const um_value *storage; /* of a tensor */
};

/* UM_E_DATA when the pickle wants more than it may, UM_E_CORRUPT when it breaks its format. The tree lives in arena. */
um_status um_pickle_read(const um_value **out, const uint8_t *data, size_t size, um_arena *arena,
                         um_err *err);
/* dict[key], the last one set, or NULL. */
const um_value *um_value_get(const um_value *dict, const char *key);
