/* See trace.h. */
#include "router/backbone/trace.h"

#include "core/base/arena.h"
#include "core/nn/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct item {
    char name[256];
    um_dtype dtype;
    int64_t rows, cols, groups;
    int64_t shape[UM_MAX_DIMS]; /* of a tensor that came all at once */
    int rank;                   /* of it; 0: it came in rows */
    uint8_t *data;
    size_t bytes, cap;
} item;

struct um_trace {
    item *items;
    int n;
};

um_trace *um_trace_open(void) { return um_zalloc(sizeof(um_trace)); }

void um_trace_close(um_trace *t)
{
    if (t == NULL) return;
    for (int i = 0; i < t->n; i++) um_free(t->items[i].data);
    um_free(t->items);
    um_free(t);
}

static item *item_of(um_trace *t, const char *name, um_dtype dtype, int64_t cols)
{
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->items[i].name, name) == 0) return &t->items[i];
    t->items = um_realloc(t->items, (size_t)(t->n + 1) * sizeof *t->items);
    item *it = &t->items[t->n++];
    *it = (item){.dtype = dtype, .cols = cols};
    snprintf(it->name, sizeof it->name, "%s", name);
    return it;
}

void um_trace_rows(um_trace *t, const char *name, um_dtype dtype, const void *rows, int64_t n,
                   int64_t cols)
{
    if (t == NULL) return;
    item *it = item_of(t, name, dtype, cols);
    size_t bytes = (size_t)n * (size_t)(cols == 0 ? 1 : cols) * um_dtype_size(dtype);
    UM_ASSERT(it->dtype == dtype && it->cols == cols);
    if (it->bytes + bytes > it->cap) {
        it->cap = 2 * (it->bytes + bytes);
        it->data = um_realloc(it->data, it->cap);
    }
    if (bytes > 0) memcpy(it->data + it->bytes, rows, bytes);
    it->bytes += bytes;
    it->rows += n;
}

void um_trace_layer(um_trace *t, int layer, const char *name, um_dtype dtype, const void *rows,
                    int64_t n, int64_t cols)
{
    char full[64];
    snprintf(full, sizeof full, "layers.%d.%s", layer, name);
    um_trace_rows(t, full, dtype, rows, n, cols);
}

void um_trace_group(um_trace *t, const char *name, int64_t groups)
{
    for (int i = 0; t != NULL && i < t->n; i++)
        if (strcmp(t->items[i].name, name) == 0) t->items[i].groups = groups;
}

void um_trace_tensor(um_trace *t, const char *name, um_dtype dtype, const void *data, int rank,
                     const int64_t *shape)
{
    int64_t n = 1;
    if (t == NULL) return;
    UM_ASSERT(rank > 0 && rank <= UM_MAX_DIMS);
    for (int i = 0; i < rank; i++) n *= shape[i];
    um_trace_rows(t, name, dtype, data, n, 0);
    item *it = item_of(t, name, dtype, 0);
    it->rank = rank;
    memcpy(it->shape, shape, (size_t)rank * sizeof *shape);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const um_tensor *)a)->name, ((const um_tensor *)b)->name);
}

um_status um_trace_write(const um_trace *t, const char *path, um_err *err)
{
    um_arena a;
    um_arena_init(&a, "trace", 4096);
    um_tensor *list = um_arena_zero(&a, (size_t)t->n * sizeof *list);
    for (int i = 0; i < t->n; i++) {
        const item *it = &t->items[i];
        um_tensor *x = &list[i];
        *x =
            (um_tensor){.name = it->name, .dtype = it->dtype, .data = it->data, .bytes = it->bytes};
        if (it->rank > 0) {
            x->rank = it->rank;
            memcpy(x->shape, it->shape, (size_t)it->rank * sizeof *it->shape);
            continue;
        }
        if (it->groups > 0) x->shape[x->rank++] = it->groups;
        x->shape[x->rank++] = it->groups > 0 ? it->rows / it->groups : it->rows;
        if (it->cols > 0) x->shape[x->rank++] = it->cols;
    }
    qsort(list, (size_t)t->n, sizeof *list, by_name);
    um_status st = um_tensors_write(path, list, (size_t)t->n, NULL, err);
    um_arena_free(&a);
    return um_wrap(err, st, "write trace");
}
