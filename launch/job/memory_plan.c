/* See memory_plan.h. */
#include "launch/job/memory_plan.h"

#include "core/base/bytes.h"
#include "core/base/text.h"
#include "core/nn/ffn.h"
#include "core/nn/params.h"
#include "core/options/encoders.h"
#include "encoder_worker/towers/tower_bytes.h"
#include "router/backbone/backbone.h"
#include "router/engine/kv_pool.h"

#include <inttypes.h>
#include <string.h>

/* The job as it will be: who is who, and which experts each rank gets. */
typedef struct counting {
    const um_config *cfg;
    const um_checkpoint *c;
    um_topology topo;
} counting;

/* Bytes of the parameters of a rank, those that stay in the mapped file counted: they are in memory once they have been read. */
static um_status count_weights(int64_t *bytes, const counting *k, int rank, uint32_t reads,
                               um_err *err)
{
    um_params ps = {0};
    um_arena lists;
    size_t mapped = 0;
    um_arena_init(&lists, "parameters", 1 << 16);
    const um_owner who = {&k->topo, rank};
    const um_selection sel = um_topology_selection(&who, reads);
    const um_loading how = {.host = &lists,
                            .keep = um_keep_from_name(k->cfg->weights),
                            .lora_live = um_lora_is_live(k->cfg->lora)};
    um_status st = um_params_open(&ps, k->c, &sel, &how, err);
    if (st == UM_OK) {
        *bytes = (int64_t)um_params_bytes(&ps, &mapped);
        *bytes += (int64_t)mapped;
    }
    um_arena_free(&lists);
    return st;
}

/* Micro-batches in flight, as the routers will decide (router/engine/engine.c): two when there are other hosts. */
static int64_t flights_of(const um_config *cfg)
{
    if (cfg->micro_batches > 0) return cfg->micro_batches;
    return cfg->hostfile[0] != '\0' ? 2 : 1;
}

/* Pages of keys and values of the sequences, the activations of the micro-batches, logits on both sides, and frames out and back. */
static int64_t router_buffers(const um_config *cfg, const um_model *m, int64_t sequences)
{
    const um_kv_shape shape = {m->layers, m->kv_heads, m->head_dim};
    int64_t positions = cfg->context > 0 ? cfg->context : um_min_int(m->max_positions, 2048);
    int64_t rows = cfg->prefill_chunk + cfg->max_batch;
    int64_t acts = (int64_t)um_acts_bytes(m, (int)cfg->experts, (int)rows);
    int64_t frames = 2 * rows * m->top_k * m->dim * (int64_t)sizeof(float);
    int64_t most = flights_of(cfg) * cfg->max_batch;
    if (sequences > most) sequences = most;
    int64_t logits = 2 * sequences * m->vocab * (int64_t)sizeof(float);
    size_t page = 0;
    (void)um_kv_page_bytes(&page, shape); /* the model's limits keep it far below what can fail */
    return sequences * um_kv_pages_of((int32_t)positions) * (int64_t)page +
           flights_of(cfg) * (acts + frames) + logits;
}

/* A chunk's rows, at worst all for this rank: of one router on their way through the experts, of every router in frames in and out. */
static int64_t expert_buffers(const um_config *cfg, const um_model *m)
{
    int64_t pairs = cfg->prefill_chunk * m->top_k, frames = 2 * cfg->routers * pairs * m->dim;
    um_arena a;
    um_expert_acts acts;
    um_arena_init_measure(&a, "experts");
    um_arena_f32(&a, (size_t)cfg->prefill_chunk, (size_t)m->dim);
    um_arena_f32(&a, (size_t)pairs, (size_t)m->dim);
    um_expert_acts_bind(&acts, &a, (int)(pairs < UM_EXPERT_ROWS ? pairs : UM_EXPERT_ROWS), m->dim,
                        m->expert_dim, false);
    int64_t bytes = (int64_t)a.peak;
    um_arena_free(&a);
    return 4 * frames + bytes;
}

/* The buffers of one piece of media at a time, of the modality that needs the most. */
static int64_t encoder_buffers(const um_model *m, uint32_t reads)
{
    static const struct {
        uint32_t reads;
        um_modality most; /* videos are read by the images' tower, and need more */
    } towers[] = {
        {UM_READS_VISION, UM_VIDEO}, {1u << UM_SPEECH, UM_SPEECH}, {1u << UM_SOUND, UM_SOUND}};
    int64_t most = 0;
    for (size_t i = 0; i < sizeof towers / sizeof towers[0]; i++) {
        if ((reads & towers[i].reads) == 0) continue;
        const um_tower_bytes b = um_tower_bytes_of(m, towers[i].most);
        const int64_t bytes = (int64_t)(b.host + b.device);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* Which experts a rank has, as one range. */
static void expert_range(um_memory_plan_rank *p, const um_placement *place)
{
    for (int e = 0; e < place->experts; e++) {
        if (!um_placement_owns(place, p->index, 0, e)) continue;
        if (p->experts++ == 0) p->first = e;
    }
}

static um_status fill_rank(um_memory_plan_rank *p, const counting *k, int rank, int64_t sequences,
                           um_err *err)
{
    const um_model *m = &k->c->model;
    switch (p->role) {
    case UM_ROLE_ROUTER:
        p->buffers = router_buffers(k->cfg, m, sequences);
        break;
    case UM_ROLE_EXPERT:
        expert_range(p, &k->topo.place);
        p->buffers = expert_buffers(k->cfg, m);
        break;
    case UM_ROLE_ENCODER:
        p->buffers = encoder_buffers(m, p->reads);
        break;
    case UM_ROLES:
        break;
    }
    p->buffers += um_memory_plan_idle;
    if (p->role == UM_ROLE_ROUTER && p->index > 0) {
        p->weights = p[-1].weights; /* all routers own the same */
        return UM_OK;
    }
    return count_weights(&p->weights, k, rank, p->reads, err);
}

/* What encoder rank i reads: groups come one after another, as mpirun_line.c composes them. */
static uint32_t reads_of(const um_encoders *e, int i)
{
    int g = 0;
    while (i >= e->group[g].ranks) i -= e->group[g++].ranks;
    return e->group[g].set;
}

/* Roles as mpirun_line.c starts them; where the ranks run does not matter here. */
um_status um_memory_plan_topology(um_topology *out, const um_memory_plan *p, const um_model *m,
                                  um_arena *arena, um_err *err)
{
    um_rank *ranks = um_arena_zero(arena, (size_t)p->n * sizeof *ranks);
    for (int i = 0; i < p->n; i++) ranks[i].role = p->rank[i].role;
    UM_TRY(um_topology_build(out, ranks, p->n, arena, err));
    return um_placement_blocks(&out->place, m->layers, m->experts, out->count[UM_ROLE_EXPERT],
                               arena, err); /* as router 0 will decide */
}

um_status um_memory_plan_make(um_memory_plan *out, const um_config *cfg, const um_checkpoint *c,
                              int64_t sequences, um_arena *arena, um_err *err)
{
    um_encoders encoders;
    UM_TRY(um_encoders_parse(&encoders, cfg->encoders, arena, err));
    const int64_t counts[UM_ROLES] = {cfg->routers, cfg->experts, encoders.ranks};
    counting k = {.cfg = cfg, .c = c};
    um_memory_plan plan = {0};
    plan.rank =
        um_arena_zero(arena, (size_t)(counts[0] + counts[1] + counts[2]) * sizeof *plan.rank);
    for (int r = 0; r < UM_ROLES; r++)
        for (int i = 0; i < counts[r]; i++) {
            um_memory_plan_rank *p = &plan.rank[plan.n++];
            *p = (um_memory_plan_rank){.role = (um_role)r, .index = i};
            if (r == UM_ROLE_ENCODER) p->reads = reads_of(&encoders, i);
        }
    UM_TRY(um_memory_plan_topology(&k.topo, &plan, &c->model, arena, err));
    for (int i = 0; i < plan.n; i++) UM_TRY(fill_rank(&plan.rank[i], &k, i, sequences, err));
    *out = plan;
    return UM_OK;
}

void um_memory_plan_total(const um_memory_plan *p, int64_t *weights, int64_t *buffers)
{
    *weights = *buffers = 0;
    for (int i = 0; i < p->n; i++) {
        *weights += p->rank[i].weights + p->rank[i].training;
        *buffers += p->rank[i].buffers;
    }
}

static bool trains(const um_memory_plan *p)
{
    int64_t training = 0;
    for (int i = 0; i < p->n; i++) training += p->rank[i].training;
    return training > 0;
}

const char *um_memory_plan_shortage(const um_memory_plan *p, int64_t available, um_arena *arena)
{
    int64_t weights, buffers;
    char w[32], b[32], all[32], room[32];
    um_memory_plan_total(p, &weights, &buffers);
    if (available <= 0 || weights + buffers <= available) return "";
    um_bytes_text(w, weights);
    um_bytes_text(b, buffers);
    um_bytes_text(all, weights + buffers);
    um_bytes_text(room, available);
    return um_arena_fmt(
        arena,
        "the ranks need about %s (weights %s, buffers up to %s), and %s are free on "
        "this machine: %s",
        all, w, b, room,
        weights > available ? "more machines (--hostfile) or --weights bf16 would hold the weights"
        : trains(p) ? "--recompute ffn or layer, a smaller --micro-batch or a smaller --max-length "
                      "needs less, where samples are as long as the longest"
                    : "a smaller --max-batch, --context or --prefill-chunk needs less");
}

/* One line of the plan; the column of training only where something trains. */
static void print_line(FILE *to, const char *rank, const char *role, const char *experts,
                       const um_memory_plan_rank *r, bool training)
{
    char w[32], t[32], b[32];
    um_bytes_text(w, r->weights);
    um_bytes_text(t, r->training);
    um_bytes_text(b, r->buffers);
    fprintf(to, "%-6s %-12s %-10s %12s", rank, role, experts, w);
    if (training) fprintf(to, " %12s", t);
    fprintf(to, " %12s\n", b);
}

void um_memory_plan_print(const um_memory_plan *p, FILE *to)
{
    um_memory_plan_rank all = {0};
    char rank[16], role[32], experts[32];
    const bool training = trains(p);
    fprintf(to, "%-6s %-12s %-10s %12s%s %12s\n", "rank", "role", "experts", "weights",
            training ? "     training" : "", "buffers");
    for (int i = 0; i < p->n; i++) {
        const um_memory_plan_rank *r = &p->rank[i];
        all.weights += r->weights;
        all.training += r->training;
        all.buffers += r->buffers;
        snprintf(rank, sizeof rank, "%d", i);
        snprintf(role, sizeof role, "%s/%d", um_role_name(r->role), r->index);
        if (r->experts == 0)
            snprintf(experts, sizeof experts, "-");
        else if (r->experts == 1)
            snprintf(experts, sizeof experts, "%d", r->first);
        else
            snprintf(experts, sizeof experts, "%d-%d", r->first, r->first + r->experts - 1);
        print_line(to, rank, role, experts, r, training);
    }
    print_line(to, "all", "", "", &all, training);
}
