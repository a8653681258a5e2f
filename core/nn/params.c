/* See params.h: the list. What becomes of a parameter when it is loaded is in linear.c, when it is trained in params_train.c; adapters
 * are in adapters.c. */
#include "core/nn/params.h"

#include "core/base/bytes.h"

#include <string.h>

um_keep um_keep_from_name(const char *name)
{
    if (strcmp(name, "f32") == 0) return UM_KEEP_F32;
    return strcmp(name, "bf16") == 0 ? UM_KEEP_BF16 : UM_KEEP_STORED;
}

bool um_lora_is_live(const char *name) { return strcmp(name, "live") == 0; }

um_dtype um_kept_dtype(um_keep keep, um_dtype stored)
{
    if (keep == UM_KEEP_F32) return UM_F32;
    if (keep == UM_KEEP_BF16) return UM_BF16;
    return stored == UM_BF16 || stored == UM_F16 ? stored : UM_F32;
}

/* --- what a spec says --- */

size_t um_spec_values(const um_spec *s)
{
    size_t n = 1;
    for (int i = 0; i < s->rank; i++) n *= (size_t)s->shape[i];
    return n;
}

bool um_spec_is_matrix(const um_spec *s)
{
    if (s->rank < 2 || s->leaf == UM_LEAF_BIAS) return false;
    switch (s->at.slot) {
    case UM_SLOT_QUERIES:
    case UM_SLOT_POSITIONS:
    case UM_SLOT_POS_CONV_G:
    case UM_SLOT_POS_CONV_V:
    case UM_SLOT_RELATIVE_BIAS:
    case UM_SLOT_GREP_A:
        return false;
    default:
        return true;
    }
}

/* --- the list --- */

/* A place and a leaf as one number: indices of experts and layers are below their maxima (model.h). */
static uint64_t key_of(um_place at, um_leaf leaf)
{
    uint64_t k = (uint64_t)at.part;
    k = k << 8 | (uint64_t)at.slot;
    k = k << 3 | (uint64_t)leaf;
    k = k << 16 | (uint64_t)(uint32_t)(at.layer + 1);
    return k << 24 | (uint64_t)(uint32_t)(at.index + 1);
}

/* Where a key's entry is, or the empty entry where it would be. */
static size_t entry_of(const um_params *ps, uint64_t key)
{
    const size_t mask = ps->table_size - 1;
    size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & mask;
    while (ps->table[i] != 0) {
        const um_spec *s = &ps->list[ps->table[i] - 1].spec;
        if (key_of(s->at, s->leaf) == key) break;
        i = (i + 1) & mask;
    }
    return i;
}

um_param *um_params_find(const um_params *ps, um_place at, um_leaf leaf)
{
    const uint32_t found = ps->table[entry_of(ps, key_of(at, leaf))];
    return found == 0 ? NULL : &ps->list[found - 1];
}

bool um_params_has(const um_params *ps, um_place at, um_leaf leaf)
{
    const um_param *p = um_params_find(ps, at, leaf);
    return p != NULL && (p->stored != NULL || p->adapter != NULL || p->begins);
}

static bool will_train(const um_params *ps, um_place at, um_leaf leaf)
{
    const um_param *p = um_params_find(ps, at, leaf);
    return p != NULL && ps->how.trained != NULL && ps->how.trained(ps->how.trained_ctx, &p->spec);
}

bool um_params_lora_merges(const um_params *ps, um_place at)
{
    if (!um_params_has(ps, at, UM_LEAF_LORA_A)) return false;
    if (um_params_has(ps, at, UM_LEAF_ADAPTER_A)) return true;
    return !ps->how.lora_live && !will_train(ps, at, UM_LEAF_WEIGHT) &&
           !will_train(ps, at, UM_LEAF_LORA_A) && !will_train(ps, at, UM_LEAF_LORA_B);
}

um_status um_params_want(um_params *ps, um_param **out, um_place at, um_leaf leaf, um_err *err)
{
    um_param *p = um_params_find(ps, at, leaf);
    const um_tensor *t = NULL;
    if (p == NULL)
        return UM_FAIL(err, UM_E_MODEL,
                       "the model has no tensor at part %d, slot %d, leaf %d, layer %d, index %d, "
                       "or another rank owns it",
                       (int)at.part, (int)at.slot, (int)leaf, at.layer, at.index);
    if (p->adapter == NULL && !p->begins)
        UM_TRY(um_tensors_want(p->set, &t, p->spec.name, p->spec.rank, p->spec.shape, err));
    p->loaded = true;
    *out = p;
    return UM_OK;
}

typedef struct building {
    um_params *ps;
    size_t cap;
} building;

/* An um_spec_fn. */
static um_status add(void *ctx, const um_spec *s, um_err *err)
{
    building *b = ctx;
    um_params *ps = b->ps;
    (void)err;
    const um_tensors *set = um_checkpoint_set(ps->ck, s->at.part);
    const um_tensor *stored = set == NULL ? NULL : um_tensors_find(set, s->name);
    if (s->idle) return UM_OK;
    if (ps->n == b->cap) {
        b->cap = b->cap == 0 ? 256 : b->cap * 2;
        ps->list = um_realloc(ps->list, b->cap * sizeof *ps->list);
    }
    um_param *p = &ps->list[ps->n++];
    *p = (um_param){.spec = *s, .set = set, .stored = stored, .dev = ps->how.dev};
    p->begins = stored == NULL && s->at.slot == UM_SLOT_GATE_BIAS && s->optional;
    p->spec.name = stored != NULL ? stored->name : um_arena_str(ps->how.host, s->name);
    return UM_OK;
}

void um_params_index(um_params *ps)
{
    ps->table_size = 16;
    while (ps->table_size < 2 * ps->n) ps->table_size *= 2;
    ps->table = um_arena_zero(ps->how.host, ps->table_size * sizeof *ps->table);
    for (size_t i = 0; i < ps->n; i++) {
        const um_spec *s = &ps->list[i].spec;
        const size_t at = entry_of(ps, key_of(s->at, s->leaf));
        UM_ASSERT(ps->table[at] == 0); /* no two tensors have one place */
        ps->table[at] = (uint32_t)i + 1;
    }
}

um_status um_params_open(um_params *out, const um_checkpoint *ck, const um_selection *sel,
                         const um_loading *how, um_err *err)
{
    um_params ps = {.ck = ck, .how = *how};
    building b = {.ps = &ps};
    um_status st = um_model_for_each_selected(&ck->model, sel, add, &b, err);
    UM_ASSERT(ps.n < UINT32_MAX);
    um_param *list = um_arena_alloc(how->host, ps.n * sizeof *list);
    if (ps.n > 0) memcpy(list, ps.list, ps.n * sizeof *list);
    um_free(ps.list);
    ps.list = list;
    if (st != UM_OK) return st;
    um_params_index(&ps);
    *out = ps;
    return UM_OK;
}

/* --- memory --- */

size_t um_param_bytes(const um_params *ps, const um_param *p)
{
    const um_spec *s = &p->spec;
    const bool lora = s->leaf == UM_LEAF_LORA_A || s->leaf == UM_LEAF_LORA_B;
    const bool merges = um_params_lora_merges(ps, s->at);
    const um_keep keep = s->exact || merges ? UM_KEEP_F32 : ps->how.keep;
    const um_dtype stored = p->stored == NULL ? UM_F32 : p->stored->dtype;
    if ((p->stored == NULL && s->optional && !p->begins) || (lora && merges)) return 0;
    if (!um_spec_is_matrix(s)) return um_spec_values(s) * sizeof(float);
    return um_matrix_bytes(um_kept_dtype(keep, stored), (int)s->shape[0],
                           (int)(um_spec_values(s) / (size_t)s->shape[0]));
}

size_t um_params_bytes(const um_params *ps, size_t *mapped)
{
    size_t device = 0;
    *mapped = 0;
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        if (!p->spec.mapped)
            device += um_round_up(um_param_bytes(ps, p), 64); /* as the arena places them */
        else if (p->stored != NULL)
            *mapped += p->stored->bytes;
    }
    return device;
}
