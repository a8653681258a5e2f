/* Trained parameters: masters, gradients, and what is packed from them. See params.h. */
#include "core/base/bytes.h"
#include "core/nn/params.h"

/* Copies a parameter's tensor, in f32, to device memory. */
static void put_stored(float *device, const um_param *p, um_dev *dev)
{
    um_arena scratch;
    const size_t n = um_spec_values(&p->spec);
    um_arena_init(&scratch, "master weights", n * sizeof(float));
    float *values = um_arena_f32(&scratch, 1, n);
    um_tensor_to_f32(values, p->stored);
    dev->ops->put(dev, device, values, n * sizeof *values);
    um_arena_free(&scratch);
}

static float *zeroed(um_dev *dev, um_arena *device, size_t n)
{
    float *x = um_arena_f32(device, 1, n);
    dev->ops->fill(dev, x, 0.0f, n);
    return x;
}

static void train_matrix(um_param *p, um_dev *dev, um_arena *device)
{
    um_weight *w = p->weight;
    const size_t K = (size_t)w->w.K;
    if (w->master == NULL) {
        const size_t n = (size_t)w->w.N * K;
        w->master = um_arena_f32(device, 1, n);
        w->grad = zeroed(dev, device, n);
        for (int i = 0; i < w->parts; i++) {
            um_param *q = w->part[i];
            put_stored(w->master + (size_t)q->row * K, q, dev);
        }
    }
    p->master = w->master + (size_t)p->row * K;
    p->grad = w->grad + (size_t)p->row * K;
}

/* A table whose rows are read from the file: from now on they are in device memory. */
static void train_mapped(um_param *p, um_dev *dev, um_arena *device)
{
    const size_t n = um_spec_values(&p->spec);
    p->master = um_arena_f32(device, 1, n);
    p->grad = zeroed(dev, device, n);
    put_stored(p->master, p, dev);
}

static void train_vector(um_param *p, um_dev *dev, um_arena *device)
{
    um_weight *w = p->weight;
    p->master = p->vector;
    if (w == NULL) {
        p->grad = zeroed(dev, device, um_spec_values(&p->spec));
        return;
    }
    if (w->bias_grad == NULL) w->bias_grad = zeroed(dev, device, (size_t)w->w.N);
    p->grad = w->bias_grad + p->row;
}

um_status um_param_train(um_param *p, um_dev *dev, um_arena *device, um_err *err)
{
    const bool matrix = um_spec_is_matrix(&p->spec);
    if (p->trained) return UM_OK;
    if (p->derived)
        return UM_FAIL(err, UM_E_USAGE,
                       "tensor %s cannot be trained: the programs keep what they have computed "
                       "from it",
                       p->spec.name);
    if (!p->loaded || (matrix ? p->weight == NULL && !p->spec.mapped : p->vector == NULL))
        return UM_FAIL(err, UM_E_USAGE, "tensor %s cannot be trained: it is not loaded",
                       p->spec.name);
    if (p->spec.mapped)
        train_mapped(p, dev, device);
    else if (matrix)
        train_matrix(p, dev, device);
    else
        train_vector(p, dev, device);
    p->trained = true;
    return UM_OK;
}

void um_param_changed(um_param *p)
{
    UM_ASSERT(p->trained);
    if (um_spec_is_matrix(&p->spec) && p->weight != NULL) p->weight->changed = true;
}

void um_params_repack(um_params *ps)
{
    um_dev *dev = ps->how.dev;
    for (size_t i = 0; i < ps->n; i++) {
        um_weight *w = ps->list[i].weight;
        if (!ps->list[i].trained || w == NULL || !w->changed) continue;
        dev->ops->pack_device(dev, &w->w, w->master, w->w.K, false);
        w->changed = false;
        w->stale = true;
    }
}

void um_params_zero_grads(um_params *ps)
{
    um_dev *dev = ps->how.dev;
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        if (p->trained) dev->ops->fill(dev, p->grad, 0.0f, um_spec_values(&p->spec));
    }
}

const um_matrix *um_weight_transposed(um_dev *dev, um_weight *w)
{
    um_matrix *t = &w->transposed;
    if (t->data != NULL && !w->stale) return t;
    if (t->data == NULL) {
        *t = (um_matrix){.dtype = w->w.dtype, .N = w->w.K, .K = w->w.N};
        t->data = um_arena_alloc(w->device, um_matrix_bytes(t->dtype, t->N, t->K));
    }
    dev->ops->pack_transpose(dev, t, &w->w);
    w->stale = false;
    return t;
}
