/* See training_plan.h. */
#include "launch/job/training_plan.h"

#include "core/base/bytes.h"
#include "core/base/text.h"
#include "core/nn/ffn.h"
#include "core/train/grad_tree.h"
#include "core/train/select.h"
#include "encoder_worker/towers/tower_bytes.h"
#include "router/train/loss.h"
#include "router/train/micro_batch.h"

enum { FLIGHTS = 2, VIDEO_PARTS = 8, MOMENTS = 2 };
enum { AHEAD = 3 };  /* steps whose media are asked for (router/train/trainer.c) */
enum { ENTRY = 32 }; /* bytes of a sample in the index and in the order */

typedef struct planning {
    const um_config *cfg;
    const um_checkpoint *c;
    const um_training_load *load;
    um_topology topo;
    um_select select;
    int64_t batches; /* micro-batches of a step */
} planning;

/* --- what is there from the first step --- */

/* Where backward of an encoder's modality ends. */
typedef struct lowest {
    um_part tower, connector;
    um_tower_point point;
} lowest;

enum { KINDS = 3 }; /* towers: images, speech, sound */

static void lowest_begin(lowest out[KINDS])
{
    out[0] = (lowest){UM_PART_VISION, UM_PART_PROJECTOR, UM_AT_ROWS};
    out[1] = (lowest){UM_PART_SPEECH, UM_PART_SPEECH_ALIGNER, UM_AT_ROWS};
    out[2] = (lowest){UM_PART_SOUND, UM_PART_SOUND_ALIGNER, UM_AT_ROWS};
}

static void lowest_add(lowest list[KINDS], um_part part)
{
    for (int k = 0; k < KINDS; k++) {
        const um_tower_point at = part == list[k].tower       ? UM_AT_INPUT
                                  : part == list[k].connector ? UM_AT_TOWER
                                                              : UM_AT_ROWS;
        if (at < list[k].point) list[k].point = at;
    }
}

/* Whether a gradient goes through the matrices of a part: always in the language model. */
static bool goes_back(const lowest list[KINDS], um_part part)
{
    for (int k = 0; k < KINDS; k++) {
        if (part == list[k].tower) return list[k].point == UM_AT_INPUT;
        if (part == list[k].connector) return list[k].point < UM_AT_ROWS;
    }
    return true;
}

static bool is_trained(const planning *k, const um_params *ps, const um_param *p)
{
    return um_select_trains(&k->select, &p->spec) &&
           (!p->spec.optional || um_params_has(ps, p->spec.at, p->spec.leaf));
}

/* Vectors of gradients in the tree of a rank. */
static int64_t tree_vectors(const planning *k, um_role role)
{
    const int64_t routers = k->topo.count[UM_ROLE_ROUTER];
    if (role == UM_ROLE_EXPERT) return 0; /* experts add as micro-batches come */
    if (role == UM_ROLE_ENCODER) return um_grad_tree_vectors((uint32_t)k->batches);
    const int64_t own = (k->batches + routers - 1) / routers;
    return um_grad_tree_vectors((uint32_t)own) + (routers > 1); /* that of another router */
}

/* Bytes of a rank's parameters that training adds. */
static int64_t training_bytes(const planning *k, const um_params *ps, um_role role,
                              lowest points[KINDS])
{
    int64_t grads = 0, masters = 0, transposed = 0;
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        if (!is_trained(k, ps, p)) continue;
        const int64_t bytes = (int64_t)(um_spec_values(&p->spec) * sizeof(float));
        grads += bytes;
        /* a vector is its own master, a table that was read from the file has none yet */
        if (um_spec_is_matrix(&p->spec) || p->spec.mapped) masters += bytes;
        lowest_add(points, p->spec.at.part);
    }
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        if (um_spec_is_matrix(&p->spec) && !p->spec.mapped && goes_back(points, p->spec.at.part))
            transposed += (int64_t)um_param_bytes(ps, p);
    }
    return masters + grads * (1 + MOMENTS + tree_vectors(k, role)) + transposed;
}

static um_status count_rank(um_memory_plan_rank *p, const planning *k, int rank,
                            lowest points[KINDS], um_err *err)
{
    um_params ps = {0};
    um_arena lists;
    um_arena_init(&lists, "parameters", 1 << 16);
    const um_owner who = {&k->topo, rank};
    const um_selection sel = um_topology_selection(&who, p->reads);
    const um_loading how = {.host = &lists, .keep = um_keep_from_name(k->cfg->weights)};
    um_status st = um_params_open(&ps, k->c, &sel, &how, err);
    if (st == UM_OK) st = um_select_adapt(&k->select, &ps, err);
    if (st == UM_OK) {
        size_t mapped = 0;
        p->weights = (int64_t)um_params_bytes(&ps, &mapped); /* with adapters */
        p->weights += (int64_t)mapped;
        p->training = training_bytes(k, &ps, p->role, points);
    }
    um_arena_free(&lists);
    return st;
}

/* --- what the longest samples need --- */

static int64_t router_buffers(const planning *k)
{
    const um_config *cfg = k->cfg;
    const um_model *m = &k->c->model;
    const int64_t rows = k->load->longest * cfg->micro_batch, D = m->dim;
    const int64_t batch = (int64_t)um_micro_batch_bytes(
        m, k->topo.count[UM_ROLE_EXPERT], um_recompute_from_name(cfg->recompute),
        (int)cfg->micro_batch, (int)k->load->longest);
    const int64_t slice = rows < UM_LOSS_ROWS ? rows : UM_LOSS_ROWS;
    const int64_t loss = slice * (m->vocab + 6 * D) * (int64_t)sizeof(float);
    const int64_t scratch = (int64_t)um_acts_bytes(m, k->topo.count[UM_ROLE_EXPERT], (int)rows);
    const int64_t frames = 2 * rows * m->top_k * D * (int64_t)sizeof(float);
    const int64_t own = cfg->batch / cfg->routers + cfg->micro_batch; /* samples of a step */
    const int64_t media = AHEAD * own * k->load->longest * D * (int64_t)sizeof(float);
    return FLIGHTS * (batch + frames) + loss + scratch + media + k->load->samples * ENTRY;
}

/* Of each layer, what the micro-batches in flight have sent this rank: up to twice its share of all pairs. With several routers, those of
 * later routers wait for the turns of the first one's. */
static int64_t expert_buffers(const planning *k, const um_memory_plan_rank *p)
{
    const um_config *cfg = k->cfg;
    const um_model *m = &k->c->model;
    const int64_t rows = k->load->longest * cfg->micro_batch, all = rows * m->top_k;
    const int64_t share = 2 * all * p->experts / m->experts + 1, pairs = share < all ? share : all;
    const int64_t D = m->dim, f32 = (int64_t)sizeof(float), routers = cfg->routers;
    const bool again = um_recompute_from_name(cfg->recompute) != UM_RECOMPUTE_NONE;
    um_arena a;
    um_expert_acts acts;
    um_arena_init_measure(&a, "experts");
    um_expert_acts_bind(&acts, &a, (int)pairs, m->dim, m->expert_dim, true);
    const int64_t one = (int64_t)a.peak, kept = again ? pairs * D * f32 : one;
    um_arena_free(&a);
    int64_t waiting = k->batches - (k->batches + routers - 1) / routers;
    if (waiting < 0) waiting = 0;
    int64_t entries = FLIGHTS + waiting;
    if (entries > k->batches) entries = k->batches;
    int64_t bytes = entries * m->moe_layers * kept + waiting * m->moe_layers * pairs * D * f32;
    if (cfg->activation_memory > 0 && bytes > cfg->activation_memory)
        bytes = cfg->activation_memory;
    return bytes + 2 * one + 4 * routers * pairs * D * f32;
}

/* One medium of each sample: those of a step are kept together when something behind them is trained; frozen parts lie in the cache. */
static int64_t encoder_buffers(const planning *k, const um_memory_plan *plan,
                               const um_memory_plan_rank *p, const lowest points[KINDS])
{
    static const um_modality of[] = {UM_IMAGE, UM_VIDEO, UM_SPEECH, UM_SOUND};
    const um_config *cfg = k->cfg;
    int64_t kept = 0, cached = 0, scratch = 0;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const int kind = of[i] == UM_SPEECH ? 1 : of[i] == UM_SOUND ? 2 : 0;
        const uint32_t reads = kind == 0 ? UM_READS_VISION : 1u << of[i];
        const int64_t parts = of[i] == UM_VIDEO ? VIDEO_PARTS : 1;
        int64_t ranks = 0;
        if ((p->reads & reads) == 0 || k->load->media[of[i]] == 0) continue;
        for (int r = 0; r < plan->n; r++) ranks += (plan->rank[r].reads & reads) != 0;
        const um_tower_point from = points[kind].point;
        const bool again = um_recompute_from_name(cfg->recompute) == UM_RECOMPUTE_LAYER;
        const int64_t part = (int64_t)um_tower_kept_bytes(&k->c->model, of[i], from),
                      input = (int64_t)um_tower_kept_bytes(&k->c->model, of[i], UM_AT_ROWS),
                      items = (cfg->batch + ranks - 1) / ranks;
        if (from < UM_AT_ROWS) {
            const int64_t step = items * parts * (again ? input : part);
            if (step > kept) kept = step; /* all samples of a step have the same media */
            if (part > scratch) scratch = part;
        }
        cached += k->load->media[of[i]] / ranks * parts * input;
    }
    if (cfg->activation_memory > 0 && kept > cfg->activation_memory) kept = cfg->activation_memory;
    return kept + 2 * scratch + (cached < cfg->tower_cache ? cached : cfg->tower_cache);
}

static um_status add_ranks(um_memory_plan *p, planning *k, um_err *err)
{
    lowest points[KINDS];
    lowest_begin(points);
    for (int i = 0; i < p->n; i++) {
        um_memory_plan_rank *r = &p->rank[i];
        if (r->role == UM_ROLE_ROUTER && r->index > 0) {
            r->weights = p->rank[i - 1].weights; /* all routers own the same */
            r->training = p->rank[i - 1].training;
        } else {
            UM_TRY(count_rank(r, k, i, points, err));
        }
        switch (r->role) {
        case UM_ROLE_ROUTER:
            r->buffers = um_memory_plan_idle + router_buffers(k);
            break;
        case UM_ROLE_EXPERT:
            r->buffers = um_memory_plan_idle + expert_buffers(k, r);
            break;
        case UM_ROLE_ENCODER: /* what one medium takes forward is in it already */
            r->buffers += encoder_buffers(k, p, r, points);
            break;
        case UM_ROLES:
            break;
        }
    }
    return UM_OK;
}

um_status um_training_plan_add(um_memory_plan *p, const um_config *cfg, const um_checkpoint *c,
                               const um_training_load *load, um_arena *arena, um_err *err)
{
    planning k = {.cfg = cfg, .c = c, .load = load};
    const int64_t micro = um_min_int((int)cfg->micro_batch, (int)cfg->batch);
    k.batches = (cfg->batch + micro - 1) / micro;
    UM_TRY(um_memory_plan_topology(&k.topo, p, &c->model, arena, err));
    um_status st = um_select_open(&k.select, cfg, &c->model, arena, err);
    if (st == UM_OK) st = add_ranks(p, &k, err);
    um_select_close(&k.select);
    return st;
}

um_status um_training_plan_check(const um_memory_plan *p, int64_t available, um_err *err)
{
    int64_t weights = 0, training = 0;
    char w[32], t[32], all[32], room[32];
    for (int i = 0; i < p->n; i++) {
        weights += p->rank[i].weights;
        training += p->rank[i].training;
    }
    if (available <= 0 || weights + training <= available) return UM_OK;
    um_bytes_text(w, weights);
    um_bytes_text(t, training);
    um_bytes_text(all, weights + training);
    um_bytes_text(room, available);
    return UM_FAIL(
        err, UM_E_MEMORY,
        "this training needs at least %s (weights %s; masters, gradients and moments %s), "
        "and %s are free on this machine: train less (--stage 1, 2 or 3, --freeze), "
        "keep weights as --weights bf16, or use more machines (--hostfile); --dry-run "
        "shows each rank",
        all, w, t, room);
}
