/* See made_params.h. */
#include "tests/support/made_params.h"

#include "core/base/rng.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

um_params params_of(const um_checkpoint *ck, uint32_t parts, const char *keep, um_dev *dev,
                    um_arena *host, um_arena *device)
{
    um_params ps = {0};
    um_err err = {0};
    const um_selection sel = {.parts = parts};
    const um_loading how = {
        .dev = dev, .host = host, .device = device, .keep = um_keep_from_name(keep)};
    if (um_params_open(&ps, ck, &sel, &how, &err) != UM_OK) fail_msg("%s", err.msg);
    return ps;
}

um_place made_at(um_slot slot) { return um_place_of(UM_PART_BACKBONE, slot, -1, -1); }

const float *made_add(made_params *m, um_slot slot, um_leaf leaf, um_dtype type, int64_t a,
                      int64_t b, int64_t c)
{
    static const char *const leaves[] = {"weight", "bias", "lora_A", "lora_B"};
    um_tensor *t = &m->tensor[m->n];
    um_spec *s = &m->spec[m->n];
    const int64_t shape[] = {a, b, c};
    size_t n = 1;
    um_rng rng = um_rng_seed(41, m->n);
    assert_true(m->n++ < sizeof m->spec / sizeof *m->spec);
    *t = (um_tensor){.dtype = type, .name = um_arena_fmt(m->a, "s%d.%s", (int)slot, leaves[leaf])};
    *s = (um_spec){.name = t->name, .at = made_at(slot), .leaf = leaf};
    s->exact = leaf == UM_LEAF_LORA_A || leaf == UM_LEAF_LORA_B;
    while (t->rank < 3 && shape[t->rank] != 0) {
        n *= (size_t)shape[t->rank];
        s->shape[t->rank] = t->shape[t->rank] = shape[t->rank];
        s->rank = ++t->rank;
    }
    float *values = um_arena_f32(m->a, 1, n);
    um_rng_normal_f32(&rng, values, n, 0.5f);
    t->bytes = n * um_dtype_size(type);
    void *stored = um_arena_alloc(m->a, t->bytes);
    um_from_f32(stored, type, values, n);
    um_to_f32(values, stored, type, n);
    t->data = stored;
    return values;
}

void made_open(made_params *m, const char *dir, const um_loading *how)
{
    um_err err = {0};
    const char *path = um_arena_fmt(m->a, "%s/made.safetensors", dir);
    if (um_tensors_write(path, m->tensor, m->n, NULL, &err) != UM_OK ||
        um_tensors_open(&m->set, path, &err) != UM_OK)
        fail_msg("%s", err.msg);
    m->ps = (um_params){.ck = &m->ck, .how = *how, .n = m->n};
    m->ps.list = um_arena_zero(how->host, m->n * sizeof *m->ps.list);
    for (size_t i = 0; i < m->n; i++)
        m->ps.list[i] = (um_param){.spec = m->spec[i],
                                   .set = m->set,
                                   .stored = um_tensors_find(m->set, m->spec[i].name),
                                   .dev = how->dev};
    um_params_index(&m->ps);
}

bool trains_all(const void *ctx, const um_spec *s)
{
    (void)ctx;
    (void)s;
    return true;
}

bool trains_name(const void *ctx, const um_spec *s) { return strcmp(s->name, ctx) == 0; }

void train(um_params *ps, um_trained_fn trained, const void *ctx)
{
    um_err err = {0};
    if (um_params_train(ps, trained, ctx, &err) != UM_OK) fail_msg("%s", err.msg);
}

void made_close(made_params *m) { um_tensors_close(m->set); }
