/* See join.h. */
#include "core/comm/join.h"

#include "core/options/encoders.h"
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/tensor/ops.h"

#include <sched.h>
#include <string.h>
#include <sys/resource.h>

enum { JOIN_SECONDS = 120 };

int um_join_leader(const um_comm *comm) { return comm->topo.of_role[UM_ROLE_ROUTER][0]; }

int um_join_threads(const um_comm *comm, int64_t threads)
{
    const um_topology *topo = &comm->topo;
    const um_rank *me = &topo->ranks[comm->rank];
    int same = 0;
    for (int r = 0; r < topo->n; r++)
        same += topo->ranks[r].host == me->host && topo->ranks[r].role == me->role;
    cpu_set_t set;
    int64_t cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return um_max_int(1, (int)((threads > 0 ? threads : cores) / same));
}

static int wire_dtype(const char *name)
{
    return strcmp(name, "bf16") == 0 ? UM_BF16 : strcmp(name, "f32") == 0 ? UM_F32 : -1;
}

/* Checks one Hello against ours. */
static um_status hello_check(const um_topology *topo, int rank, const Um__Hello *h,
                             const um_model *m, um_err *err)
{
    char label[128];
    um_topology_label(topo, rank, label);
    if (h->wire_version != UM_WIRE_VERSION)
        return UM_FAIL(
            err, UM_E_CORRUPT,
            "%s speaks wire version %u, router 0 speaks %d: install the same build everywhere",
            label, h->wire_version, UM_WIRE_VERSION);
    if (h->fingerprint != m->fingerprint)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s reads another model than router 0 (fingerprint %016llx, want %016llx): "
                       "give all ranks the same --model",
                       label, (unsigned long long)h->fingerprint,
                       (unsigned long long)m->fingerprint);
    um_log_info("%s on %s, pid %u, %s, %.1f GiB free", label, h->host, h->pid, h->isa,
                (double)h->memory_bytes / 1073741824.0);
    return UM_OK;
}

static um_status hellos_collect(um_link *l, const um_model *m, um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    um_arena scratch;
    um_arena_init(&scratch, "hello", 4096);
    uint8_t *seen = um_arena_zero(&scratch, (size_t)topo->n);
    um_status st = UM_OK;
    int64_t end = um_now_ns() + (int64_t)JOIN_SECONDS * 1000000000;
    for (int owed = topo->n - 1; st == UM_OK && owed > 0; owed--) {
        um_inbound in = {0};
        ProtobufCMessage *msg = NULL;
        int64_t left = (end - um_now_ns()) / 1000;
        st = um_link_next(l, &in, left < 0 ? 0 : left, err);
        if (st == UM_OK && (in.frame.kind != UM_KIND_HELLO || seen[in.msg.peer]))
            st = UM_FAIL(err, UM_E_CORRUPT, "%s frame of rank %d while waiting for hellos",
                         um_kind_name(in.frame.kind), in.msg.peer);
        if (st == UM_OK) st = um_link_unpack(&msg, &um__hello__descriptor, &in, &scratch, err);
        if (st == UM_OK) st = hello_check(topo, in.msg.peer, (const Um__Hello *)msg, m, err);
        if (st == UM_OK) {
            seen[in.msg.peer] = 1;
            l->comm->topo.ranks[in.msg.peer].modalities = ((const Um__Hello *)msg)->modalities;
        }
        um_link_release(l, &in);
    }
    um_arena_free(&scratch);
    return um_wrap(err, st, "waiting for every rank to say hello");
}

static um_status plan_send(um_link *l, const um_config *cfg, um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    um_arena scratch;
    um_arena_init(&scratch, "plan", 1 << 16);
    Um__Plan plan = UM__PLAN__INIT;
    plan.epoch = 1;
    plan.n_ranks = (size_t)topo->n;
    plan.ranks = um_arena_alloc(&scratch, (size_t)topo->n * sizeof *plan.ranks);
    for (int r = 0; r < topo->n; r++) {
        Um__RankInfo *info = um_arena_alloc(&scratch, sizeof *info);
        um__rank_info__init(info);
        info->role = (Um__Role)topo->ranks[r].role;
        info->index = (uint32_t)topo->ranks[r].index;
        info->host = topo->ranks[r].hostname;
        info->modalities = topo->ranks[r].modalities;
        plan.ranks[r] = info;
    }
    plan.n_expert_owner = (size_t)topo->experts;
    plan.expert_owner = um_arena_alloc(&scratch, (size_t)topo->experts * sizeof(uint32_t));
    for (int e = 0; e < topo->experts; e++) plan.expert_owner[e] = (uint32_t)topo->owner[e];
    plan.wire = (char *)(uintptr_t)cfg->wire;
    plan.codec = (char *)(uintptr_t)cfg->codec;
    plan.zstd_level = (int32_t)cfg->zstd_level;
    plan.credit_bytes = (uint64_t)cfg->credit;
    plan.deadline_ms = (uint32_t)cfg->deadline_ms;
    um_status st = UM_OK;
    for (int r = 0; st == UM_OK && r < topo->n; r++)
        if (r != l->comm->rank) st = um_link_control(l, r, UM_KIND_PLAN, &plan.base, err);
    um_arena_free(&scratch);
    return st;
}

um_status um_join_lead(um_link *l, const um_config *cfg, const um_model *m, um_arena *place,
                       um_err *err)
{
    int wire = wire_dtype(cfg->wire), codec = um_codec_from_name(cfg->codec);
    if (wire < 0) return UM_FAIL(err, UM_E_USAGE, "--wire %s: f32 or bf16", cfg->wire);
    if (codec < 0) return UM_FAIL(err, UM_E_USAGE, "--codec %s: none or zstd", cfg->codec);
    UM_TRY(um_topology_place(&l->comm->topo, m->experts, place, err));
    UM_TRY(hellos_collect(l, m, err));
    UM_TRY(plan_send(l, cfg, err));
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

static um_status hello_send(um_link *l, const um_config *cfg, const um_model *m, um_err *err)
{
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
    return um_link_control(l, um_join_leader(l->comm), UM_KIND_HELLO, &h.base, err);
}

/* Takes over what the plan says; the placement must be the one this rank works out itself. */
static um_status plan_apply(um_link *l, const Um__Plan *plan, um_err *err)
{
    um_topology *topo = &l->comm->topo;
    int wire = wire_dtype(plan->wire), codec = um_codec_from_name(plan->codec);
    if (wire < 0 || codec < 0)
        return UM_FAIL(err, UM_E_CORRUPT, "plan: wire %s, codec %s", plan->wire, plan->codec);
    bool same = plan->n_expert_owner == (size_t)topo->experts && plan->n_ranks == (size_t)topo->n;
    for (size_t e = 0; same && e < plan->n_expert_owner; e++)
        same = plan->expert_owner[e] == (uint32_t)topo->owner[e];
    if (!same)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "plan: places %zu experts on %zu ranks otherwise than this rank does",
                       plan->n_expert_owner, plan->n_ranks);
    for (int r = 0; r < topo->n; r++) topo->ranks[r].modalities = plan->ranks[r]->modalities;
    return um_link_agree(l, (um_dtype)wire, (um_codec_id)codec, plan->zstd_level,
                         plan->credit_bytes, plan->deadline_ms, plan->epoch, err);
}

um_status um_join_follow(um_link *l, const um_config *cfg, const um_model *m, um_arena *place,
                         um_err *err)
{
    um_arena scratch;
    um_inbound in = {0};
    um_arena_init(&scratch, "plan", 4096);
    um_status st = um_topology_place(&l->comm->topo, m->experts, place, err);
    if (st == UM_OK) st = hello_send(l, cfg, m, err);
    if (st == UM_OK) st = um_link_next(l, &in, (int64_t)JOIN_SECONDS * 1000000, err);
    if (st == UM_OK && in.frame.kind != UM_KIND_PLAN)
        st = UM_FAIL(err, UM_E_CORRUPT, "%s frame of rank %d, want the plan",
                     um_kind_name(in.frame.kind), in.msg.peer);
    ProtobufCMessage *msg = NULL;
    if (st == UM_OK) st = um_link_unpack(&msg, &um__plan__descriptor, &in, &scratch, err);
    if (st == UM_OK) st = plan_apply(l, (const Um__Plan *)msg, err);
    um_link_release(l, &in);
    um_arena_free(&scratch);
    return um_wrap(err, st, "joining the job");
}

um_status um_join_ready(um_link *l, uint64_t weight_bytes, int experts, um_err *err)
{
    Um__Ready ready = UM__READY__INIT;
    ready.weight_bytes = weight_bytes;
    ready.experts = (uint32_t)experts;
    return um_link_control(l, um_join_leader(l->comm), UM_KIND_READY, &ready.base, err);
}

um_status um_join_all_ready(um_link *l, um_err *err)
{
    l->phase = "waiting for the others to load";
    for (int owed = l->comm->topo.n - 1; owed > 0; owed--) {
        um_inbound in = {0};
        UM_TRY(um_link_next(l, &in, -1, err));
        um_kind kind = in.frame.kind;
        int peer = in.msg.peer;
        um_link_release(l, &in);
        if (kind != UM_KIND_READY)
            return UM_FAIL(err, UM_E_CORRUPT, "%s frame of rank %d, want ready", um_kind_name(kind),
                           peer);
    }
    return UM_OK;
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
