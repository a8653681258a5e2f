/* See state.h. */
#include "core/train/state.h"

#include "core/base/file.h"

#include <string.h>

/* Read are all but gradients, which come last where there are any. */
enum { MASTER, M, V, STEPS, READ, GRAD = READ, PARTS };

static const char *const part_name[PARTS] = {"master.", "m.", "v.", "steps.", "grad."};

/* Parts that the file has of a parameter. */
static int parts_of(const um_param *p, bool gradients)
{
    return gradients && p->touched ? PARTS : READ;
}

/* What the file will hold of one parameter. Returns the number of entries. */
static int describe(um_tensor *out, const um_param *p, bool gradients, um_arena *arena)
{
    const size_t n = um_spec_values(&p->spec);
    const int parts = parts_of(p, gradients);
    for (int i = 0; i < parts; i++) {
        out[i] = (um_tensor){.name = um_arena_fmt(arena, "%s%s", part_name[i], p->spec.name),
                             .dtype = i == STEPS ? UM_I64 : UM_F32,
                             .rank = 1,
                             .shape = {i == STEPS ? 1 : (int64_t)n}};
        if (i == MASTER || i == GRAD) {
            out[i].rank = p->spec.rank;
            memcpy(out[i].shape, p->spec.shape, sizeof p->spec.shape);
        }
        out[i].bytes = i == STEPS ? sizeof(int64_t) : n * sizeof(float);
    }
    return parts;
}

/* The values of parameter i, in the order of describe. */
static um_status write_values(const um_state *s, size_t i, bool gradients, um_tensors_writer *w,
                              um_arena *scratch, um_err *err)
{
    const um_param *p = um_optimizer_param(s->optimizer, i);
    const size_t n = um_spec_values(&p->spec);
    um_mark mark = um_arena_mark(scratch);
    float *x = um_arena_f32(scratch, 1, n), *m = um_arena_f32(scratch, 1, n),
          *v = um_arena_f32(scratch, 1, n);
    uint64_t steps = 0;
    um_param_read(p, x);
    um_optimizer_read(s->optimizer, i, m, v, &steps);
    int64_t count = (int64_t)steps;
    um_status st = um_tensors_writer_add(w, x, n * sizeof *x, err);
    if (st == UM_OK) st = um_tensors_writer_add(w, m, n * sizeof *m, err);
    if (st == UM_OK) st = um_tensors_writer_add(w, v, n * sizeof *v, err);
    if (st == UM_OK) st = um_tensors_writer_add(w, &count, sizeof count, err);
    if (st == UM_OK && parts_of(p, gradients) > GRAD) {
        um_param_fetch(p, x, p->grad);
        st = um_tensors_writer_add(w, x, n * sizeof *x, err);
    }
    um_arena_reset(scratch, mark);
    return st;
}

static um_status write_file(const um_state *s, const char *path, bool gradients, um_arena *arena,
                            um_err *err)
{
    const size_t n = um_optimizer_params(s->optimizer);
    um_tensor *list = um_arena_zero(arena, n * PARTS * sizeof *list);
    um_tensors_writer *w = NULL;
    size_t entries = 0;
    for (size_t i = 0; i < n; i++)
        entries +=
            (size_t)describe(&list[entries], um_optimizer_param(s->optimizer, i), gradients, arena);
    UM_TRY(um_tensors_writer_open(&w, path, list, entries, NULL, err));
    um_status st = UM_OK;
    for (size_t i = 0; i < n && st == UM_OK; i++) st = write_values(s, i, gradients, w, arena, err);
    if (st == UM_OK) st = um_tensors_writer_finish(w, err);
    um_tensors_writer_close(w);
    return st;
}

um_status um_state_save(void *ctx, const um_step_orders *orders, uint64_t step,
                        um_saved_file **files, int *n, um_arena *arena, um_err *err)
{
    const um_state *s = ctx;
    um_arena scratch;
    (void)step;
    *n = 0;
    if (s->optimizer == NULL || s->name == NULL || um_optimizer_params(s->optimizer) == 0)
        return UM_OK;
    um_saved_file f = {.name = um_arena_fmt(arena, "%s.safetensors", s->name)};
    um_arena_init(&scratch, "state", 1 << 20);
    const char *path = um_path_join(&scratch, orders->save, f.name);
    um_status st = write_file(s, path, orders->gradients, &scratch, err);
    if (st == UM_OK) st = um_saved_measure(&f, orders->save, err);
    um_arena_free(&scratch);
    UM_TRY(um_wrap(err, st, "the checkpoint cannot be written"));
    *files = um_arena_alloc(arena, sizeof **files);
    **files = f;
    *n = 1;
    return UM_OK;
}

/* --- reading --- */

/* The tensor of a parameter; shape: rank and sizes that it must have. */
static um_status find(const um_tensor **out, const um_saved *from, int part, const um_param *p,
                      um_err *err)
{
    const um_tensor *t = um_saved_tensor(from, part_name[part], p->spec.name);
    um_dtype dtype = part == STEPS ? UM_I64 : UM_F32;
    size_t n = part == STEPS ? 1 : um_spec_values(&p->spec);
    if (t == NULL)
        return UM_FAIL(err, UM_E_DATA,
                       "checkpoint %s has no %s%s: it was made with other options of what trains",
                       from->folder, part_name[part], p->spec.name);
    if (t->dtype != dtype || um_tensor_values(t) != n ||
        (part == MASTER &&
         (t->rank != p->spec.rank ||
          memcmp(t->shape, p->spec.shape, (size_t)t->rank * sizeof *t->shape) != 0)))
        return UM_FAIL(err, UM_E_DATA, "checkpoint %s: %s has another shape than the model's",
                       from->folder, t->name);
    *out = t;
    return UM_OK;
}

static um_status read_param(const um_state *s, size_t i, const um_saved *from, um_arena *scratch,
                            um_err *err)
{
    const um_tensor *t[READ];
    um_param *p = um_optimizer_param(s->optimizer, i);
    const size_t n = um_spec_values(&p->spec);
    um_mark mark = um_arena_mark(scratch);
    float *value[STEPS];
    int64_t steps = 0;
    for (int k = 0; k < READ; k++) UM_TRY(find(&t[k], from, k, p, err));
    for (int k = 0; k < STEPS; k++) {
        value[k] = um_arena_f32(scratch, 1, n);
        um_tensor_to_f32(value[k], t[k]);
    }
    memcpy(&steps, t[STEPS]->data, sizeof steps);
    um_param_write(p, value[MASTER]);
    um_optimizer_write(s->optimizer, i, value[M], value[V], (uint64_t)steps);
    um_arena_reset(scratch, mark);
    return UM_OK;
}

um_status um_state_load(const um_state *s, const um_saved *from, um_err *err)
{
    um_arena scratch;
    um_status st = UM_OK;
    if (s->optimizer == NULL) return UM_OK;
    um_arena_init(&scratch, "state", 1 << 20);
    for (size_t i = 0; i < um_optimizer_params(s->optimizer) && st == UM_OK; i++)
        st = read_param(s, i, from, &scratch, err);
    um_params_repack(s->params);
    um_arena_free(&scratch);
    return st;
}
