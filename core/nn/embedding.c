/* See embedding.h. */
#include "core/nn/embedding.h"

#include "core/base/bytes.h"

um_status um_embedding_load(um_embedding *out, um_params *ps, um_place at, um_err *err)
{
    return um_params_want(ps, &out->table, at, UM_LEAF_WEIGHT, err);
}

static size_t width(const um_embedding *e) { return (size_t)e->table->spec.shape[1]; }

/* Rows ids[0..n-1] of the table that no negative id is among. */
static void rows_of(um_dev *d, float *out, const um_embedding *e, const int32_t *ids, int n,
                    um_arena *host, um_arena *device)
{
    const size_t D = width(e);
    const um_tensor *t = e->table->stored;
    if (e->table->trained) {
        const int32_t *index = um_dev_put_i32(d, device, ids, (size_t)n);
        d->ops->gather(d, out, e->table->master, index, n, (int)D);
        return;
    }
    float *rows = um_arena_f32(host, (size_t)n, D);
    for (int i = 0; i < n; i++)
        um_to_f32(rows + um_at((size_t)i, 0, D),
                  t->data + um_at((size_t)ids[i], 0, D) * um_dtype_size(t->dtype), t->dtype, D);
    d->ops->put(d, out, rows, um_at((size_t)n, 0, D) * sizeof *rows);
}

void um_embed_rows(um_dev *d, float *out, const um_embedding *e, const int32_t *ids, int n,
                   um_arena *host, um_arena *device)
{
    um_mark mark = um_arena_mark(host), on_device = um_arena_mark(device);
    int32_t *used = um_arena_i32(host, (size_t)n), *row = um_arena_i32(host, (size_t)n);
    int k = 0;
    for (int i = 0; i < n; i++) {
        UM_ASSERT(ids[i] < e->table->spec.shape[0]);
        if (ids[i] < 0) continue;
        used[k] = ids[i];
        row[k++] = i;
    }
    if (k == n) {
        if (n > 0) rows_of(d, out, e, used, n, host, device);
    } else if (k > 0) {
        float *rows = um_arena_f32(device, (size_t)k, width(e));
        rows_of(d, rows, e, used, k, host, device);
        const int32_t *to = um_dev_put_i32(d, device, row, (size_t)k);
        d->ops->scatter(d, out, rows, to, k, (int)width(e));
    }
    um_arena_reset(device, on_device);
    um_arena_reset(host, mark);
}

void um_embed_bwd(um_dev *d, const um_embedding *e, const float *dy, const int32_t *ids, int n,
                  um_arena *device)
{
    bool any = false;
    for (int i = 0; i < n; i++) any = any || ids[i] >= 0;
    float *grad = any ? um_param_grad(e->table) : NULL;
    if (grad == NULL) return;
    um_mark mark = um_arena_mark(device);
    const int32_t *index = um_dev_put_i32(d, device, ids, (size_t)n);
    d->ops->scatter_add(d, grad, dy, index, n, (int)width(e));
    um_arena_reset(device, mark);
}
