/* See join.h. */
#include "core/comm/join.h"

#include "core/options/encoders.h"
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/process.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/tensor/ops.h"

#include <string.h>
#include <sys/resource.h>

/* For ranks that live but do not say hello, or get no answer: opening a large model on a cold disk may take minutes. */
enum { JOIN_SECONDS = 1800 };

int um_join_leader(const um_comm *comm) { return comm->topo.of_role[UM_ROLE_ROUTER][0]; }

int um_join_threads(const um_comm *comm, int64_t threads)
{
    const um_topology *topo = &comm->topo;
    const um_rank *me = &topo->ranks[comm->rank];
    int same = 0;
    for (int r = 0; r < topo->n; r++)
        same += topo->ranks[r].host == me->host && topo->ranks[r].role == me->role;
    return um_max_int(1, (int)((threads > 0 ? threads : um_cpus_allowed()) / same));
}

static int wire_dtype(const char *name)
{
    return strcmp(name, "bf16") == 0 ? UM_BF16 : strcmp(name, "f32") == 0 ? UM_F32 : -1;
}

/* Router 0 while the Hellos come in. */
typedef struct lobby {
    um_link *link;
    const um_model *model;
    um_weight_prints prints; /* its own */
} lobby;

/* Names the first weight file that is another one there than here. */
static um_status weights_check(const lobby *b, const char *label, const Um__Hello *h, um_err *err)
{
    const um_weight_prints *own = &b->prints;
    if (h->n_weights != (size_t)own->n)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s reads a model of %zu weight files, router 0 one of %d: give all ranks "
                       "the same --model",
                       label, h->n_weights, own->n);
    for (int i = 0; i < own->n; i++)
        if (h->weights[i] != own->print[i])
            return UM_FAIL(err, UM_E_MODEL,
                           "%s reads other weights than router 0: its %s differs in size, header "
                           "or data; copy the same model to every host",
                           label, own->path[i]);
    return UM_OK;
}

/* Checks one Hello against ours. */
static um_status hello_check(const lobby *b, int rank, const Um__Hello *h, um_err *err)
{
    const um_topology *topo = &b->link->comm->topo;
    const um_rank *is = &topo->ranks[rank];
    char label[128];
    um_topology_label(topo, rank, label);
    if (h->wire_version != UM_WIRE_VERSION || strcmp(h->build, UM_VERSION) != 0)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "%s is unimoe %s with wire version %u, router 0 is unimoe %s with wire "
                       "version %d: install the same build everywhere",
                       label, h->build, h->wire_version, UM_VERSION, UM_WIRE_VERSION);
    if ((um_role)h->role != is->role || (int)h->index != is->index)
        return UM_FAIL(err, UM_E_CORRUPT, "%s says that it is %s/%u", label,
                       um_role_name((um_role)h->role), h->index);
    if (h->fingerprint != b->model->fingerprint)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s reads another model than router 0 (fingerprint %016llx, want %016llx): "
                       "give all ranks the same --model",
                       label, (unsigned long long)h->fingerprint,
                       (unsigned long long)b->model->fingerprint);
    UM_TRY(weights_check(b, label, h, err));
    um_log_info("%s on %s, pid %u, %s, %.1f GiB free", label, h->host, h->pid, h->isa,
                (double)h->memory_bytes / 1073741824.0);
    return UM_OK;
}

static um_status hello_in(void *ctx, const um_inbound *in, um_err *err)
{
    lobby *b = ctx;
    um_arena scratch;
    um_arena_init(&scratch, "hello", 4096);
    ProtobufCMessage *msg = NULL;
    um_status st = um_link_unpack(&msg, &um__hello__descriptor, in, &scratch, err);
    const Um__Hello *h = (const Um__Hello *)msg;
    if (st == UM_OK) st = hello_check(b, in->msg.peer, h, err);
    if (st == UM_OK) b->link->comm->topo.ranks[in->msg.peer].modalities = h->modalities;
    um_arena_free(&scratch);
    return st;
}

static um_status hellos_collect(um_link *l, const um_checkpoint *ck, um_err *err)
{
    um_arena own;
    um_arena_init(&own, "weight prints", 4096);
    lobby b = {.link = l, .model = &ck->model};
    um_checkpoint_prints(ck, &b.prints, &own);
    l->phase = "waiting for every rank to say hello";
    um_status st = um_link_collect(l, UM_KIND_HELLO, 0, JOIN_SECONDS, hello_in, &b, err);
    um_arena_free(&own);
    return st == UM_E_PEER ? st : um_wrap(err, st, "joining");
}

static Um__Placement *placement_pack(const um_placement *p, um_arena *arena)
{
    Um__Placement *out = um_arena_alloc(arena, sizeof *out);
    um__placement__init(out);
    out->experts = (uint32_t)p->experts;
    out->n_layers = (size_t)p->layers;
    out->layers = um_arena_alloc(arena, (size_t)p->layers * sizeof *out->layers);
    for (int l = 0; l < p->layers; l++) {
        const int32_t *at = um_placement_list(p, l), *owner = p->owner + at[0];
        size_t E = (size_t)p->experts, n = (size_t)(at[E] - at[0]);
        Um__ExpertOwners *list = um_arena_alloc(arena, sizeof *list);
        um__expert_owners__init(list);
        list->n_owner = n;
        list->owner = um_arena_alloc(arena, n * sizeof *list->owner);
        for (size_t i = 0; i < n; i++) list->owner[i] = (uint32_t)owner[i];
        bool one_each = n == E;
        for (size_t e = 0; one_each && e < E; e++) one_each = at[e + 1] == at[e] + 1;
        list->n_count = one_each ? 0 : E;
        list->count = um_arena_alloc(arena, list->n_count * sizeof *list->count);
        for (size_t e = 0; e < list->n_count; e++) list->count[e] = (uint32_t)(at[e + 1] - at[e]);
        out->layers[l] = list;
    }
    return out;
}

static um_status config_send(um_link *l, const um_config *cfg, um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    um_arena scratch;
    um_arena_init(&scratch, "job config", 1 << 16);
    Um__JobConfig job = UM__JOB_CONFIG__INIT;
    job.epoch = 1;
    job.n_ranks = (size_t)topo->n;
    job.ranks = um_arena_alloc(&scratch, (size_t)topo->n * sizeof *job.ranks);
    for (int r = 0; r < topo->n; r++) {
        Um__RankInfo *info = um_arena_alloc(&scratch, sizeof *info);
        um__rank_info__init(info);
        info->role = (Um__Role)topo->ranks[r].role;
        info->index = (uint32_t)topo->ranks[r].index;
        info->host = topo->ranks[r].hostname;
        info->modalities = topo->ranks[r].modalities;
        job.ranks[r] = info;
    }
    job.placement = placement_pack(&topo->place, &scratch);
    job.wire = (char *)(uintptr_t)cfg->wire;
    job.codec = (char *)(uintptr_t)cfg->codec;
    job.zstd_level = (int32_t)cfg->zstd_level;
    job.credit_bytes = (uint64_t)cfg->credit;
    job.deadline_ms = (uint32_t)cfg->deadline_ms;
    job.stall_ms = (uint32_t)cfg->stall_ms;
    um_status st = UM_OK;
    for (int r = 0; st == UM_OK && r < topo->n; r++)
        if (r != l->comm->rank) st = um_link_control(l, r, UM_KIND_CONFIG, &job.base, err);
    um_arena_free(&scratch);
    return st;
}

static um_status placement_decide(um_topology *topo, const um_config *cfg, const um_model *m,
                                  um_arena *place, um_err *err)
{
    int X = topo->count[UM_ROLE_EXPERT];
    um_placement p = {0};
    if (cfg->placer != NULL)
        UM_TRY(cfg->placer(&p, m->layers, m->experts, X, place, err));
    else
        UM_TRY(um_placement_blocks(&p, m->layers, m->experts, X, place, err));
    UM_TRY(um_placement_check(&p, m->layers, m->experts, X, m->moe_layer, err));
    topo->place = p;
    return UM_OK;
}

um_status um_join_lead(um_link *l, const um_config *cfg, const um_checkpoint *ck, um_arena *place,
                       um_err *err)
{
    int wire = wire_dtype(cfg->wire), codec = um_codec_from_name(cfg->codec);
    if (wire < 0) return UM_FAIL(err, UM_E_USAGE, "--wire %s: f32 or bf16", cfg->wire);
    if (codec < 0) return UM_FAIL(err, UM_E_USAGE, "--codec %s: none or zstd", cfg->codec);
    UM_TRY(placement_decide(&l->comm->topo, cfg, &ck->model, place, err));
    UM_TRY(hellos_collect(l, ck, err));
    UM_TRY(config_send(l, cfg, err));
    um_link_stall(l, cfg->stall_ms);
    return um_link_agree(l, (um_dtype)wire, (um_codec_id)codec, (int)cfg->zstd_level,
                         (uint64_t)cfg->credit, cfg->deadline_ms, 1, err);
}

um_status um_join_modalities(uint32_t *set, const um_config *cfg, const um_model *m, um_err *err)
{
    uint32_t wanted = 0, there = 0;
    UM_TRY(um_modalities_parse(&wanted, cfg->modalities, err));
    if (m->vision.present) there |= UM_READS_VISION;
    if (m->speech.present) there |= 1u << UM_SPEECH;
    if (m->sound.present) there |= 1u << UM_SOUND;
    *set = wanted & there;
    return UM_OK;
}

static um_status hello_send(um_link *l, const um_config *cfg, const um_checkpoint *ck, um_isa isa,
                            um_err *err)
{
    const um_model *m = &ck->model;
    const um_rank *me = &l->comm->topo.ranks[l->comm->rank];
    Um__Hello h = UM__HELLO__INIT;
    uint32_t set = 0;
    if (me->role == UM_ROLE_ENCODER) UM_TRY(um_join_modalities(&set, cfg, m, err));
    h.modalities = set;
    h.wire_version = UM_WIRE_VERSION;
    h.role = (Um__Role)me->role;
    h.index = (uint32_t)me->index;
    h.host = (char *)(uintptr_t)me->hostname;
    h.pid = (uint32_t)me->pid;
    h.fingerprint = m->fingerprint;
    h.memory_bytes = (uint64_t)um_memory_available();
    h.build = (char *)(uintptr_t)UM_VERSION;
    h.isa = (char *)(uintptr_t)um_isa_name(isa);
    um_arena own;
    um_weight_prints prints;
    um_arena_init(&own, "weight prints", 4096);
    um_checkpoint_prints(ck, &prints, &own);
    h.n_weights = (size_t)prints.n;
    h.weights = prints.print;
    um_status st = um_link_control(l, um_join_leader(l->comm), UM_KIND_HELLO, &h.base, err);
    um_arena_free(&own);
    return st;
}

/* The owners of one layer, from owner[n] on. */
static um_status owners_unpack(um_placement *p, int32_t *at, int32_t n,
                               const Um__ExpertOwners *list, um_err *err)
{
    size_t E = (size_t)p->experts, used = 0;
    if (list->n_count != 0 && list->n_count != E)
        return UM_FAIL(err, UM_E_CORRUPT, "placement: numbers of owners of %zu experts, want %zu",
                       list->n_count, E);
    for (size_t e = 0; e < E; e++) {
        size_t count = list->n_count == 0 ? 1 : list->count[e];
        at[e] = n + (int32_t)used;
        if (count > list->n_owner - used)
            return UM_FAIL(err, UM_E_CORRUPT, "placement: %zu owners are too few", list->n_owner);
        used += count;
    }
    at[E] = n + (int32_t)used;
    if (used != list->n_owner)
        return UM_FAIL(err, UM_E_CORRUPT, "placement: %zu owners, %zu belong to experts",
                       list->n_owner, used);
    for (size_t i = 0; i < used; i++)
        p->owner[(size_t)n + i] = list->owner[i] > INT32_MAX ? -1 : (int32_t)list->owner[i];
    return UM_OK;
}

/* What router 0 decided, checked against the model and the job. */
static um_status placement_unpack(um_topology *topo, const Um__Placement *from, const um_model *m,
                                  um_arena *place, um_err *err)
{
    int X = topo->count[UM_ROLE_EXPERT];
    size_t owners = 0, E = (size_t)m->experts;
    if (from == NULL) return UM_FAIL(err, UM_E_CORRUPT, "it places no experts");
    if (from->experts != (uint32_t)m->experts ||
        (from->n_layers != 1 && from->n_layers != (size_t)m->layers))
        return UM_FAIL(err, UM_E_CORRUPT,
                       "placement: %u experts in lists of %zu layers, the model has %d in %d",
                       from->experts, from->n_layers, m->experts, m->layers);
    for (size_t l = 0; l < from->n_layers; l++) owners += from->layers[l]->n_owner;
    if (owners > INT32_MAX) return UM_FAIL(err, UM_E_CORRUPT, "placement: %zu owners", owners);
    um_placement p = {.experts = m->experts, .ranks = X, .layers = (int)from->n_layers};
    p.at = um_arena_i32(place, from->n_layers * (E + 1));
    p.owner = um_arena_i32(place, owners);
    int32_t n = 0;
    for (size_t l = 0; l < from->n_layers; l++) {
        int32_t *at = p.at + l * (E + 1);
        UM_TRY(owners_unpack(&p, at, n, from->layers[l], err));
        n = at[E];
    }
    UM_TRY(um_placement_check(&p, m->layers, m->experts, X, m->moe_layer, err));
    topo->place = p;
    return UM_OK;
}

/* Applies what router 0 says. */
static um_status config_apply(um_link *l, const Um__JobConfig *job, const um_model *m,
                              um_arena *place, um_err *err)
{
    um_topology *topo = &l->comm->topo;
    int wire = wire_dtype(job->wire), codec = um_codec_from_name(job->codec);
    if (wire < 0 || codec < 0)
        return UM_FAIL(err, UM_E_CORRUPT, "job config: wire %s, codec %s", job->wire, job->codec);
    if (job->n_ranks != (size_t)topo->n)
        return UM_FAIL(err, UM_E_CORRUPT, "job config: %zu ranks, this job has %d", job->n_ranks,
                       topo->n);
    UM_TRY(um_wrap(err, placement_unpack(topo, job->placement, m, place, err), "job config"));
    for (int r = 0; r < topo->n; r++) topo->ranks[r].modalities = job->ranks[r]->modalities;
    um_link_stall(l, job->stall_ms);
    return um_link_agree(l, (um_dtype)wire, (um_codec_id)codec, job->zstd_level, job->credit_bytes,
                         job->deadline_ms, job->epoch, err);
}

um_status um_join_follow(um_link *l, const um_config *cfg, const um_checkpoint *ck, um_isa isa,
                         um_arena *place, um_err *err)
{
    um_arena scratch;
    um_inbound in = {0};
    ProtobufCMessage *msg = NULL;
    um_arena_init(&scratch, "job config", 4096);
    um_status st = hello_send(l, cfg, ck, isa, err);
    l->phase = "waiting for router 0's answer to hello";
    if (st == UM_OK)
        st = um_link_expect(l, &in, UM_KIND_CONFIG, 0, (int64_t)JOIN_SECONDS * 1000000, err);
    if (st == UM_OK && in.msg.peer != um_join_leader(l->comm))
        st = um_link_unwanted(l, &in, "it of router 0", err);
    if (st == UM_OK) st = um_link_unpack(&msg, &um__job_config__descriptor, &in, &scratch, err);
    if (st == UM_OK) st = config_apply(l, (const Um__JobConfig *)msg, &ck->model, place, err);
    um_link_release(l, &in);
    um_arena_free(&scratch);
    return st == UM_E_PEER ? st : um_wrap(err, st, "joining");
}

um_status um_join_ready(um_link *l, uint64_t weight_bytes, int experts, um_err *err)
{
    Um__Ready ready = UM__READY__INIT;
    ready.weight_bytes = weight_bytes;
    ready.experts = (uint32_t)experts;
    return um_link_control(l, um_join_leader(l->comm), UM_KIND_READY, &ready.base, err);
}

static um_status ready_in(void *ctx, const um_inbound *in, um_err *err)
{
    (void)ctx;
    (void)in;
    (void)err;
    return UM_OK;
}

um_status um_join_all_ready(um_link *l, um_err *err)
{
    l->phase = "waiting for the others to load";
    return um_link_collect(l, UM_KIND_READY, 0, 0, ready_in, NULL, err);
}

void um_join_stats(const um_link *l, Um__Stats *out)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    um__stats__init(out);
    out->rows_in = l->stats.rows;
    out->pairs = l->stats.pairs;
    out->raw_bytes = l->stats.raw_bytes;
    out->wire_bytes = l->stats.wire_bytes;
    out->frames = l->stats.frames;
    out->compute_us = (uint64_t)(l->stats.compute_ns / 1000);
    out->codec_us = (uint64_t)(l->stats.codec_ns / 1000);
    out->wait_us = (uint64_t)(l->stats.wait_ns / 1000);
    out->cpu_us = (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000 +
                  (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    um_memory_self(&out->resident_bytes, &out->peak_bytes);
}
