/* What all op tables share: arenas in device memory, and errors that wait for a sync. See ops.h. */
#include "core/tensor/ops.h"

#include <stdarg.h>
#include <stdio.h>

static void *dev_alloc(void *ctx, size_t bytes)
{
    um_dev *d = ctx;
    return d->ops->alloc(d, bytes);
}

static void dev_free(void *ctx, void *p)
{
    um_dev *d = ctx;
    d->ops->free(d, p);
}

void um_dev_arena(um_arena *a, um_dev *d, const char *name, size_t block_bytes)
{
    um_arena_init_device(a, name, block_bytes, (um_memory){dev_alloc, dev_free, d});
}

um_status um_dev_sync(um_dev *d, um_err *err)
{
    d->ops->sync(d);
    um_status st = d->st;
    if (st != UM_OK && err != NULL) *err = d->why;
    d->st = UM_OK;
    return st;
}

um_status um_dev_fail(um_dev *d, um_status st, const char *fmt, ...)
{
    va_list ap;
    if (d->st != UM_OK) return d->st;
    d->st = st;
    d->why = (um_err){0};
    va_start(ap, fmt);
    vsnprintf(d->why.msg, sizeof d->why.msg, fmt, ap);
    va_end(ap);
    return st;
}

float *um_dev_put_f32(um_dev *d, um_arena *device, const float *host, size_t n)
{
    float *p = um_arena_f32(device, 1, n);
    d->ops->put(d, p, host, n * sizeof *p);
    return p;
}

int32_t *um_dev_put_i32(um_dev *d, um_arena *device, const int32_t *host, size_t n)
{
    int32_t *p = um_arena_i32(device, n);
    d->ops->put(d, p, host, n * sizeof *p);
    return p;
}
