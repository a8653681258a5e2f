/* Trained parameters: masters, gradients, and what is packed from them. See params.h. */
#include "core/base/bytes.h"
#include "core/nn/params.h"

/* --- layouts --- */

/* A convolution's [N,C,taps], as it is in the file, to or from [N,taps,C]. */
static void permute(float *to, const float *from, const um_spec *s, bool to_file)
{
    const size_t C = (size_t)s->shape[1], taps = (size_t)s->shape[2], row = C * taps;
    const size_t n = um_spec_values(s);
    for (size_t at = 0; at < n; at += row)
        for (size_t c = 0; c < C; c++)
            for (size_t tap = 0; tap < taps; tap++) {
                const size_t file = at + c * taps + tap, memory = at + tap * C + c;
                if (to_file)
                    to[file] = from[memory];
                else
                    to[memory] = from[file];
            }
}

void um_param_permute(const um_param *p, float *to, const float *from)
{
    permute(to, from, &p->spec, false);
}

void um_param_store(const um_param *p, float *device, const float *host)
{
    um_arena scratch;
    const size_t n = um_spec_values(&p->spec);
    um_arena_init(&scratch, "values in another order", 1 << 10);
    if (p->conv) {
        float *moved = um_arena_f32(&scratch, 1, n);
        permute(moved, host, &p->spec, false);
        host = moved;
    }
    p->dev->ops->put(p->dev, device, host, n * sizeof *host);
    um_arena_free(&scratch);
}

void um_param_fetch(const um_param *p, float *host, const float *device)
{
    um_arena scratch;
    const size_t n = um_spec_values(&p->spec);
    um_arena_init(&scratch, "values in another order", 1 << 10);
    float *to = p->conv ? um_arena_f32(&scratch, 1, n) : host;
    p->dev->ops->get(p->dev, to, device, n * sizeof *host);
    if (p->conv) permute(host, to, &p->spec, true);
    um_arena_free(&scratch);
}

void um_param_read(const um_param *p, float *host)
{
    if (p->trained)
        um_param_fetch(p, host, p->master);
    else
        um_param_initial(p, host);
}

void um_param_write(um_param *p, const float *host)
{
    um_param_store(p, p->master, host);
    um_param_changed(p);
}

/* --- what becomes trainable --- */

static void put_initial(const um_param *p, float *device)
{
    um_arena scratch;
    const size_t n = um_spec_values(&p->spec);
    um_arena_init(&scratch, "master weights", n * sizeof(float));
    float *values = um_arena_f32(&scratch, 1, n);
    um_param_initial(p, values);
    um_param_store(p, device, values);
    um_arena_free(&scratch);
}

/* The masters of a stack are adjacent, so that it can be packed as one. */
static void master_of_stack(um_weight *w, um_arena *device)
{
    const size_t K = (size_t)w->w.K;
    if (w->master != NULL) return;
    w->master = um_arena_f32(device, (size_t)w->w.N, K);
    for (int i = 0; i < w->parts; i++)
        put_initial(w->part[i], w->master + (size_t)w->part[i]->row * K);
}

static um_status can_train(const um_param *p, um_err *err)
{
    const bool matrix = um_spec_is_matrix(&p->spec);
    if (p->derived)
        return UM_FAIL(err, UM_E_USAGE,
                       "tensor %s cannot be trained: it is loaded as a sum with a LoRA",
                       p->spec.name);
    if (p->loaded && (p->spec.mapped || p->computed)) return UM_OK;
    if (p->loaded && (matrix ? p->weight != NULL : p->vector != NULL)) return UM_OK;
    return UM_FAIL(err, UM_E_USAGE, "tensor %s cannot be trained: it is not loaded", p->spec.name);
}

static void make_master(um_param *p, um_arena *device)
{
    if (um_spec_is_matrix(&p->spec) && p->weight != NULL) {
        master_of_stack(p->weight, device);
        p->master = p->weight->master + (size_t)p->row * (size_t)p->weight->w.K;
    } else if (p->vector != NULL) {
        p->master = p->vector;
    } else {
        p->master = um_arena_f32(device, 1, um_spec_values(&p->spec));
        put_initial(p, p->master);
    }
}

um_status um_params_train(um_params *ps, um_trained_fn trained, const void *ctx, um_err *err)
{
    UM_ASSERT(ps->grads == NULL);
    for (size_t i = 0; i < ps->n; i++) {
        um_param *p = &ps->list[i];
        if (!trained(ctx, &p->spec)) continue;
        if (p->spec.optional && !um_params_has(ps, p->spec.at, p->spec.leaf)) continue;
        UM_TRY(can_train(p, err));
        p->trained = true;
        ps->n_grads += um_spec_values(&p->spec);
    }
    ps->grads = um_arena_f32(ps->how.device, 1, ps->n_grads);
    float *grad = ps->grads;
    for (size_t i = 0; i < ps->n; i++) {
        um_param *p = &ps->list[i];
        if (!p->trained) continue;
        make_master(p, ps->how.device);
        p->grad = grad;
        grad += um_spec_values(&p->spec);
    }
    um_params_zero_grads(ps);
    return UM_OK;
}

um_status um_params_start(um_params *ps, const um_tensors *values, um_err *err)
{
    um_arena scratch;
    um_status st = UM_OK;
    um_arena_init(&scratch, "first values", 1 << 16);
    for (size_t i = 0; i < ps->n && st == UM_OK; i++) {
        um_param *p = &ps->list[i];
        const um_tensor *t = NULL;
        if (!p->trained) continue;
        st = um_tensors_want(values, &t, p->spec.name, p->spec.rank, p->spec.shape, err);
        if (st != UM_OK) break;
        um_mark mark = um_arena_mark(&scratch);
        float *host = um_arena_f32(&scratch, 1, um_spec_values(&p->spec));
        um_tensor_to_f32(host, t);
        um_param_write(p, host);
        um_arena_reset(&scratch, mark);
    }
    um_arena_free(&scratch);
    if (st == UM_OK) um_params_repack(ps);
    return st;
}

/* --- the steps of training --- */

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
    if (ps->n_grads > 0) ps->how.dev->ops->fill(ps->how.dev, ps->grads, 0.0f, ps->n_grads);
    for (size_t i = 0; i < ps->n; i++) ps->list[i].touched = false;
}

float *um_param_grad(um_param *p)
{
    if (p == NULL || !p->trained) return NULL;
    p->touched = true;
    return p->grad;
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
