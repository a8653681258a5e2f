/* LoRA adapters beside linear layers (um_params_adapt, see params.h): their places in the list and how they begin. Hu et al. 2021,
 * arXiv 2106.09685; names and first values as the PEFT library has them. */
#include "core/nn/params.h"

#include "core/base/bytes.h"
#include "core/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t um_name_stream(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a; um_rng_seed mixes it */
    for (; *name != 0; name++) h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h;
}

uint64_t um_lora_seed(uint64_t seed, uint64_t step, uint64_t batch)
{
    um_rng of_step = um_rng_seed(seed, step);
    um_rng of_batch = um_rng_seed(um_rng_u64(&of_step), batch);
    return um_rng_u64(&of_batch);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool is_listed(const um_adapter_rules *r, const char *name)
{
    return r->names > 0 && bsearch(&name, r->name, r->names, sizeof name, by_name) != NULL;
}

const char *um_adapter_name(um_arena *arena, const um_spec *s, const char *factor)
{
    static const char ending[] = ".weight";
    const size_t n = strlen(s->name), tail = sizeof ending - 1;
    if (n <= tail || strcmp(s->name + n - tail, ending) != 0) return NULL;
    return um_arena_fmt(arena, "%.*s.%s.weight", (int)(n - tail), s->name, factor);
}

/* Whether the rules put an adapter beside the tensor: the weight of a linear layer. */
static bool is_adapted(const um_adapter_rules *r, const um_spec *s, um_arena *scratch)
{
    if (s->leaf != UM_LEAF_WEIGHT || s->rank != 2 || !um_spec_is_matrix(s)) return false;
    if (s->at.slot == UM_SLOT_EMBED) return false;
    um_mark mark = um_arena_mark(scratch);
    const char *name = um_adapter_name(scratch, s, "lora_A");
    const bool chosen =
        name != NULL &&
        ((r->parts >> s->at.part & 1 && r->slots >> s->at.slot & 1) || is_listed(r, name));
    um_arena_reset(scratch, mark);
    return chosen;
}

static um_param factor_of(const um_params *ps, const um_param *w, const um_adapter_rules *r,
                          um_leaf leaf)
{
    const bool first = leaf == UM_LEAF_ADAPTER_A;
    um_param p = {.spec = w->spec, .set = w->set, .adapter = r, .dev = w->dev};
    p.spec.name = um_adapter_name(ps->how.host, &w->spec, first ? "lora_A" : "lora_B");
    p.spec.leaf = leaf;
    p.spec.shape[first ? 0 : 1] = r->r;
    p.spec.optional = false;
    p.spec.exact = true;
    p.spec.init = first ? UM_INIT_NORMAL : UM_INIT_ZEROS;
    return p;
}

/* The matrices of places with an adapter have no trained LoRA of their own. */
static um_status no_two_branches(const um_params *ps, um_err *err)
{
    static const um_leaf leaf[] = {UM_LEAF_WEIGHT, UM_LEAF_LORA_A, UM_LEAF_LORA_B};
    if (ps->how.trained == NULL) return UM_OK;
    for (size_t i = 0; i < ps->n; i++) {
        const um_spec *s = &ps->list[i].spec;
        if (s->leaf != UM_LEAF_ADAPTER_A || !um_params_has(ps, s->at, UM_LEAF_LORA_A)) continue;
        for (int k = 0; k < 3; k++) {
            const um_param *p = um_params_find(ps, s->at, leaf[k]);
            if (p == NULL || !ps->how.trained(ps->how.trained_ctx, &p->spec)) continue;
            return UM_FAIL(err, UM_E_USAGE,
                           "tensor %s cannot be trained beside the adapter %s: the model's own "
                           "LoRA is merged there; train one of the two",
                           p->spec.name, s->name);
        }
    }
    return UM_OK;
}

um_status um_params_adapt(um_params *ps, const um_adapter_rules *rules, um_err *err)
{
    um_arena *host = ps->how.host;
    size_t n = 0;
    UM_ASSERT(rules->r > 0 && (int)UM_SLOTS <= 64);
    um_adapter_rules *r = um_arena_alloc(host, sizeof *r);
    const char **name = um_arena_alloc(host, rules->names * sizeof *name);
    for (size_t i = 0; i < rules->names; i++) name[i] = um_arena_str(host, rules->name[i]);
    if (rules->names > 0) qsort(name, rules->names, sizeof *name, by_name);
    *r = *rules;
    r->name = name;
    um_arena scratch;
    um_arena_init(&scratch, "names of adapters", 1 << 10);
    for (size_t i = 0; i < ps->n; i++) {
        UM_ASSERT(!ps->list[i].loaded && ps->list[i].adapter == NULL);
        if (is_adapted(r, &ps->list[i].spec, &scratch)) n++;
    }
    um_param *list = um_arena_alloc(host, (ps->n + 2 * n) * sizeof *list), *to = list;
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        *to++ = *p;
        if (!is_adapted(r, &p->spec, &scratch)) continue;
        *to++ = factor_of(ps, p, r, UM_LEAF_ADAPTER_A);
        *to++ = factor_of(ps, p, r, UM_LEAF_ADAPTER_B);
    }
    um_arena_free(&scratch);
    ps->list = list;
    ps->n += 2 * n;
    um_params_index(ps);
    return no_two_branches(ps, err);
}

/* A begins uniform in +-1/sqrt(K): Kaiming's bound for a = sqrt 5 (He et al. 2015, arXiv 1502.01852). */
static void draw(const um_param *p, float *host)
{
    const size_t n = um_spec_values(&p->spec);
    const double bound = 1.0 / sqrt((double)p->spec.shape[1]);
    um_rng rng = um_rng_seed(p->adapter->seed, um_name_stream(p->spec.name));
    for (size_t i = 0; i < n; i++) host[i] = (float)((2.0 * um_rng_uniform(&rng) - 1.0) * bound);
}

void um_param_initial(const um_param *p, float *host)
{
    if (p->stored != NULL) {
        um_tensor_to_f32(host, p->stored);
        um_tensors_forget(p->set, p->stored);
    } else if (p->adapter != NULL && p->spec.leaf == UM_LEAF_ADAPTER_A) {
        draw(p, host);
    } else {
        memset(host, 0, um_spec_values(&p->spec) * sizeof *host);
    }
}
