/* See memory_plan.h. */
#include "launch/job/memory_plan.h"

#include "core/options/encoders.h"
#include "core/base/bytes.h"
#include "core/base/text.h"
#include "encoder_worker/towers/tower_bytes.h"

#include <inttypes.h>
#include <string.h>

/* What a rank takes that owns nothing: program, libraries and Open MPI's own memory (resident 16 to 19 MiB, measured with six
 * ranks on one host). */
static const int64_t idle_bytes = INT64_C(18) << 20;

typedef struct counting {
    const um_config *cfg;
    const um_checkpoint *c;
    int64_t backbone; /* bytes that every router keeps */
    int64_t
        encoder[UM_MODALITIES]; /* bytes of a tower and its connector; videos share the images' */
    int64_t *expert;            /* [experts] bytes of one expert over all layers */
} counting;

/* Bytes of one element as a rank keeps it. Vectors are always f32; a matrix is kept as asked, or as the file has it. */
static int64_t element_bytes(const counting *k, const um_spec *spec, const um_tensor *t)
{
    const char *weights = k->cfg->weights;
    if (spec->rank < 2 || strcmp(weights, "f32") == 0) return 4;
    if (strcmp(weights, "bf16") == 0) return 2;
    return t != NULL && (t->dtype == UM_BF16 || t->dtype == UM_F16) ? 2 : 4;
}

static um_status count(void *ctx, const um_spec *spec, um_err *err)
{
    counting *k = ctx;
    (void)err;
    const um_tensors *set = um_checkpoint_set(k->c, spec->at.part);
    const um_tensor *t = set == NULL ? NULL : um_tensors_find(set, spec->name);
    if (t == NULL && spec->optional) return UM_OK;
    int64_t bytes = element_bytes(k, spec, t);
    for (int i = 0; i < spec->rank; i++) bytes *= spec->shape[i];
    switch (spec->at.part) {
    case UM_PART_BACKBONE:
    case UM_PART_GATE:
        k->backbone += bytes;
        break;
    case UM_PART_EXPERT:
        k->expert[spec->at.index] += bytes;
        break;
    case UM_PART_PROJECTOR:
    case UM_PART_VISION:
        k->encoder[UM_IMAGE] += bytes;
        break;
    case UM_PART_SPEECH_ALIGNER:
    case UM_PART_SPEECH:
        k->encoder[UM_SPEECH] += bytes;
        break;
    case UM_PART_SOUND_ALIGNER:
    case UM_PART_SOUND:
        k->encoder[UM_SOUND] += bytes;
        break;
    case UM_PARTS:
        break;
    }
    return UM_OK;
}

/* Keys and values of the sequences, rows of one chunk on their way through a layer, logits, frames out and back. */
static int64_t router_buffers(const um_config *cfg, const um_model *m, int64_t sequences)
{
    int64_t positions = cfg->context > 0 ? cfg->context : um_min_int(m->max_positions, 2048);
    int64_t kv = sequences * m->layers * 2 * m->kv_heads * m->head_dim * positions;
    int64_t rows =
        cfg->prefill_chunk * ((10 + 2 * (int64_t)m->dynamic.shared) * (int64_t)m->dim +
                              3 * (int64_t)um_max_int(m->ffn_dim, m->dynamic.shared_dim));
    int64_t frames = 2 * cfg->prefill_chunk * m->top_k * m->dim;
    return 4 * (kv + rows + frames + sequences * m->vocab);
}

/* A chunk's rows of every router, at worst all for this rank: in, gate, up, out. */
static int64_t expert_buffers(const um_config *cfg, const um_model *m)
{
    return 4 * cfg->routers * cfg->prefill_chunk * m->top_k *
           (3 * (int64_t)m->dim + 2 * (int64_t)m->expert_dim);
}

/* What an encoder rank holds of the modalities that it reads, and the buffers of one piece of media at a time. */
static void fill_encoder(um_memory_plan_rank *p, const counting *k)
{
    static const struct {
        uint32_t reads;
        um_modality weights, buffers; /* videos are read with the images' weights, and need more */
    } towers[] = {
        {UM_READS_VISION, UM_IMAGE, UM_VIDEO},
        {1u << UM_SPEECH, UM_SPEECH, UM_SPEECH},
        {1u << UM_SOUND, UM_SOUND, UM_SOUND},
    };
    for (size_t i = 0; i < sizeof towers / sizeof towers[0]; i++) {
        if ((p->reads & towers[i].reads) == 0) continue;
        const um_tower_bytes b = um_tower_bytes_of(&k->c->model, towers[i].buffers);
        const int64_t bytes = (int64_t)(b.host + b.device);
        p->weights += k->encoder[towers[i].weights];
        if (bytes > p->buffers) p->buffers = bytes;
    }
}

static void fill_rank(um_memory_plan_rank *p, const counting *k, int64_t sequences)
{
    const um_model *m = &k->c->model;
    int64_t E = m->experts, X = k->cfg->experts;
    switch (p->role) {
    case UM_ROLE_ROUTER:
        p->weights = k->backbone;
        p->buffers = router_buffers(k->cfg, m, sequences);
        break;
    case UM_ROLE_EXPERT:
        p->first = (int)(p->index * E / X); /* as topology.h deals them */
        p->experts = (int)((p->index + 1) * E / X) - p->first;
        for (int e = p->first; e < p->first + p->experts; e++) p->weights += k->expert[e];
        p->buffers = expert_buffers(k->cfg, m);
        break;
    case UM_ROLE_ENCODER:
        fill_encoder(p, k);
        break;
    case UM_ROLES:
        break;
    }
    p->buffers += idle_bytes;
}

/* What encoder rank i reads: groups come one after another, as mpirun_line.c composes them. */
static uint32_t reads_of(const um_encoders *e, int i)
{
    int g = 0;
    while (i >= e->group[g].ranks) i -= e->group[g++].ranks;
    return e->group[g].set;
}

um_status um_memory_plan_make(um_memory_plan *out, const um_config *cfg, const um_checkpoint *c,
                              int64_t sequences, um_arena *arena, um_err *err)
{
    um_encoders encoders;
    UM_TRY(um_encoders_parse(&encoders, cfg->encoders, arena, err));
    const int64_t counts[UM_ROLES] = {cfg->routers, cfg->experts, encoders.ranks};
    counting k = {.cfg = cfg, .c = c};
    k.expert = um_arena_zero(arena, (size_t)um_max_int(c->model.experts, 1) * sizeof *k.expert);
    UM_TRY(um_model_for_each_tensor(&c->model, count, &k, err));
    um_memory_plan plan = {0};
    plan.rank =
        um_arena_zero(arena, (size_t)(counts[0] + counts[1] + counts[2]) * sizeof *plan.rank);
    for (int r = 0; r < UM_ROLES; r++) {
        for (int i = 0; i < counts[r]; i++) {
            um_memory_plan_rank *p = &plan.rank[plan.n++];
            *p = (um_memory_plan_rank){.role = (um_role)r, .index = i};
            if (r == UM_ROLE_ENCODER) p->reads = reads_of(&encoders, i);
            fill_rank(p, &k, sequences);
        }
    }
    *out = plan;
    return UM_OK;
}

void um_memory_plan_total(const um_memory_plan *p, int64_t *weights, int64_t *buffers)
{
    *weights = *buffers = 0;
    for (int i = 0; i < p->n; i++) {
        *weights += p->rank[i].weights;
        *buffers += p->rank[i].buffers;
    }
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
                            : "a smaller --max-batch, --context or --prefill-chunk needs less");
}

void um_memory_plan_print(const um_memory_plan *p, FILE *to)
{
    int64_t weights, buffers;
    char w[32], b[32], experts[32];
    um_memory_plan_total(p, &weights, &buffers);
    fprintf(to, "%-6s %-12s %-10s %12s %12s\n", "rank", "role", "experts", "weights", "buffers");
    for (int i = 0; i < p->n; i++) {
        const um_memory_plan_rank *r = &p->rank[i];
        char role[32];
        snprintf(role, sizeof role, "%s/%d", um_role_name(r->role), r->index);
        if (r->experts == 0)
            snprintf(experts, sizeof experts, "-");
        else if (r->experts == 1)
            snprintf(experts, sizeof experts, "%d", r->first);
        else
            snprintf(experts, sizeof experts, "%d-%d", r->first, r->first + r->experts - 1);
        um_bytes_text(w, r->weights);
        um_bytes_text(b, r->buffers);
        fprintf(to, "%-6d %-12s %-10s %12s %12s\n", i, role, experts, w, b);
    }
    um_bytes_text(w, weights);
    um_bytes_text(b, buffers);
    fprintf(to, "%-6s %-12s %-10s %12s %12s\n", "all", "", "", w, b);
}
