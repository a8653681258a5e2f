/* See routing.h. */
#include "router/backbone/routing.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* Maximum cells of one message: 16384 cells pack into about half a MiB. */
enum { CELLS_AT_ONCE = 16384 };

/* Time limit for each message of counters from a router that is alive. */
enum { COUNTERS_SECONDS = 600 };

struct um_routing {
    const um_model *model;
    um_routed *
        *plane; /* [phases * layers * modalities], each [experts], NULL until its first row */
    int planes;
};

uint64_t um_weight_units(float weight)
{
    double unit = (double)(UINT64_C(1) << UM_WEIGHT_BITS);
    if (!(weight > 0.0f)) return 0;
    return (uint64_t)((weight < 1.0f ? (double)weight : 1.0) * unit + 0.5);
}

um_routing *um_routing_open(const um_model *m)
{
    um_routing *r = um_zalloc(sizeof *r);
    r->model = m;
    r->planes = UM_PHASES * m->layers * UM_MODALITIES;
    r->plane = um_zalloc((size_t)r->planes * sizeof *r->plane);
    return r;
}

void um_routing_close(um_routing *r)
{
    if (r == NULL) return;
    for (int i = 0; i < r->planes; i++) um_free(r->plane[i]);
    um_free(r->plane);
    um_free(r);
}

/* Planes are ordered as in the file: phase, layer, modality. */
static int plane_of(const um_routing *r, um_phase phase, int layer, int modality)
{
    return ((int)phase * r->model->layers + layer) * UM_MODALITIES + modality;
}

static um_routed *plane_open(um_routing *r, int plane)
{
    if (r->plane[plane] == NULL)
        r->plane[plane] = um_zalloc((size_t)r->model->experts * sizeof(um_routed));
    return r->plane[plane];
}

void um_routing_count(um_routing *r, int layer, um_phase phase, const uint8_t *modality,
                      const int32_t *experts, const float *weights, int T, int K)
{
    UM_ASSERT(layer >= 0 && layer < r->model->layers);
    for (int t = 0; t < T; t++) {
        um_routed *cell = plane_open(r, plane_of(r, phase, layer, modality[t]));
        bool first = true;
        for (int k = 0; k < K; k++) {
            size_t slot = um_at((size_t)t, (size_t)k, (size_t)K);
            if (experts[slot] < 0) continue;
            UM_ASSERT(experts[slot] < r->model->experts);
            um_routed *c = &cell[experts[slot]];
            c->tokens++;
            c->first += first;
            c->weight += um_weight_units(weights[slot]);
            first = false;
        }
    }
}

um_routed um_routing_at(const um_routing *r, int layer, um_phase phase, um_modality modality,
                        int expert)
{
    const um_routed *cell = r->plane[plane_of(r, phase, layer, (int)modality)];
    return cell == NULL ? (um_routed){0} : cell[expert];
}

void um_routing_clear(um_routing *r)
{
    const size_t bytes = (size_t)r->model->experts * sizeof(um_routed);
    for (int i = 0; i < r->planes; i++)
        if (r->plane[i] != NULL) memset(r->plane[i], 0, bytes);
}

void um_routing_rows(const um_routing *r, um_phase phase, uint64_t *out)
{
    for (int l = 0; l < r->model->layers; l++) {
        if (!r->model->moe_layer[l]) continue;
        for (int m = 0; m < UM_MODALITIES; m++)
            for (int e = 0; e < r->model->experts; e++)
                *out++ = um_routing_at(r, l, phase, (um_modality)m, e).tokens;
    }
}

/* ---- between routers ---- */

/* Moves to the next nonzero cell; false at the end. */
static bool visit_next(const um_routing *r, um_routing_cursor *w)
{
    for (; w->plane < r->planes; w->plane++, w->expert = 0) {
        const um_routed *cell = r->plane[w->plane];
        for (; cell != NULL && w->expert < r->model->experts; w->expert++)
            if (cell[w->expert].tokens > 0) return true;
    }
    return false;
}

void um_routing_pack(const um_routing *r, um_routing_cursor *cursor, Um__Routing *out,
                     um_arena *arena)
{
    *out = (Um__Routing)UM__ROUTING__INIT;
    int room = um_min_int(CELLS_AT_ONCE, r->model->experts);
    bool more = visit_next(r, cursor);
    if (more) {
        int plane = cursor->plane, modalities = UM_MODALITIES;
        out->phase = (uint32_t)(plane / (r->model->layers * modalities));
        out->layer = (uint32_t)(plane / modalities % r->model->layers);
        out->modality = (uint32_t)(plane % modalities);
        out->expert = um_arena_alloc(arena, (size_t)room * sizeof *out->expert);
        out->tokens = um_arena_alloc(arena, (size_t)room * sizeof *out->tokens);
        out->first = um_arena_alloc(arena, (size_t)room * sizeof *out->first);
        out->weight = um_arena_alloc(arena, (size_t)room * sizeof *out->weight);
        size_t n = 0;
        for (; more && cursor->plane == plane && n < (size_t)room; n++) {
            const um_routed *c = &r->plane[plane][cursor->expert];
            out->expert[n] = (uint32_t)cursor->expert++;
            out->tokens[n] = c->tokens;
            out->first[n] = c->first;
            out->weight[n] = c->weight;
            more = visit_next(r, cursor);
        }
        out->n_expert = out->n_tokens = out->n_first = out->n_weight = n;
    }
    out->last = !more;
}

um_status um_routing_merge(um_routing *r, const Um__Routing *m, um_err *err)
{
    size_t n = m->n_expert;
    if (m->n_tokens != n || m->n_first != n || m->n_weight != n)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "routing counters: %zu experts, %zu counts, %zu first choices, %zu weights",
                       n, m->n_tokens, m->n_first, m->n_weight);
    if (m->phase >= UM_PHASES || m->layer >= (uint32_t)r->model->layers ||
        m->modality >= UM_MODALITIES)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "routing counters of phase %u, layer %u, kind %u, there are %d, %d, %d",
                       m->phase, m->layer, m->modality, UM_PHASES, r->model->layers, UM_MODALITIES);
    for (size_t i = 0; i < n; i++)
        if (m->expert[i] >= (uint32_t)r->model->experts)
            return UM_FAIL(err, UM_E_CORRUPT, "routing counters of expert %u, there are %d",
                           m->expert[i], r->model->experts);
    if (n == 0) return UM_OK;
    um_routed *cell =
        plane_open(r, plane_of(r, (um_phase)m->phase, (int)m->layer, (int)m->modality));
    for (size_t i = 0; i < n; i++) {
        cell[m->expert[i]].tokens += m->tokens[i];
        cell[m->expert[i]].first += m->first[i];
        cell[m->expert[i]].weight += m->weight[i];
    }
    return UM_OK;
}

um_status um_routing_send(const um_routing *r, um_link *link, int peer, um_err *err)
{
    um_arena arena;
    um_arena_init(&arena, "routing counters", 1 << 16);
    um_routing_cursor cursor = {0};
    Um__Routing m;
    um_status st = UM_OK;
    do {
        um_mark mark = um_arena_mark(&arena);
        um_routing_pack(r, &cursor, &m, &arena);
        st = um_link_control(link, peer, UM_KIND_ROUTING, &m.base, err);
        um_arena_reset(&arena, mark);
    } while (st == UM_OK && !m.last);
    um_arena_free(&arena);
    return st;
}

/* Receives one frame of the answer of rank peer. */
static um_status collect_frame(um_routing *r, um_link *link, int peer, bool *last, um_arena *arena,
                               um_err *err)
{
    um_inbound in = {0};
    ProtobufCMessage *msg = NULL;
    um_mark mark = um_arena_mark(arena);
    /* embeddings of a request that has failed in the meantime may still arrive */
    UM_TRY(um_link_expect(link, &in, UM_KIND_ROUTING, UM_KIND_ENCODED,
                          (int64_t)COUNTERS_SECONDS * 1000000, err));
    um_status st = UM_OK;
    if (in.msg.peer != peer) st = um_link_unwanted(link, &in, "those of another router", err);
    if (st == UM_OK) st = um_link_unpack(&msg, &um__routing__descriptor, &in, arena, err);
    if (st == UM_OK) {
        const Um__Routing *m = (const Um__Routing *)msg;
        *last = m->last;
        st = um_wrap(err, um_routing_merge(r, m, err), "rank %d", peer);
    }
    um_link_release(link, &in);
    um_arena_reset(arena, mark);
    return st;
}

um_status um_routing_collect(um_routing *r, um_link *link, um_err *err)
{
    const um_topology *topo = &link->comm->topo;
    um_arena arena;
    um_arena_init(&arena, "routing counters", 1 << 16);
    um_status st = UM_OK;
    link->phase = "collecting routing counters";
    for (int i = 0; st == UM_OK && i < topo->count[UM_ROLE_ROUTER]; i++) {
        int peer = topo->of_role[UM_ROLE_ROUTER][i];
        if (peer == link->comm->rank) continue;
        Um__Routing question = UM__ROUTING__INIT;
        st = um_link_control(link, peer, UM_KIND_ROUTING, &question.base, err);
        for (bool last = false; st == UM_OK && !last;)
            st = collect_frame(r, link, peer, &last, &arena, err);
    }
    um_arena_free(&arena);
    return st;
}

/* ---- the file ---- */

um_status um_routing_check(const um_model *m, const char *path, um_err *err)
{
    if (m->experts == 0)
        return UM_FAIL(err, UM_E_USAGE, "--routing: %s is dense, it has no experts to count",
                       m->dir);
    size_t n = strlen(path);
    if (n > 4 && strcmp(path + n - 4, ".svg") == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "--routing: %s: a router writes CSV; unimoe plot routing draws it", path);
    um_arena arena;
    um_arena_init(&arena, "path", 4096);
    const char *folder = um_path_dir(&arena, path);
    um_status st = UM_OK;
    if (access(folder, W_OK) != 0)
        st = UM_FAIL(err, UM_E_IO, "--routing: folder %s: %s", folder, strerror(errno));
    um_arena_free(&arena);
    return st;
}

/* The last part of the model's path, which is the same on every machine. Line breaks are replaced: they would end the comment. */
static void model_name(um_text *out, const char *dir)
{
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/') end--;
    size_t from = end;
    while (from > 0 && dir[from - 1] != '/') from--;
    for (size_t i = from; i < end; i++)
        um_text_fmt(out, "%c", (unsigned char)dir[i] < ' ' ? ' ' : dir[i]);
}

static void header_text(const um_routing *r, um_text *out, int64_t requests, int64_t failed)
{
    const um_model *m = r->model;
    um_text_fmt(out, "# unimoe routing 1\n# model: ");
    model_name(out, m->dir);
    um_text_fmt(out, "\n# variant: %s\n# layers: %d\n# moe_layers:", m->variant, m->layers);
    for (int l = 0; l < m->layers; l++)
        if (m->moe_layer[l]) um_text_fmt(out, " %d", l);
    um_text_fmt(out, "\n# experts: %d\n# top_k: %d\n# requests: %" PRId64 "\n# failed: %" PRId64,
                m->experts, m->top_k, requests, failed);
    um_text_fmt(out, "\nphase,layer,modality,expert,tokens,first_choice,weight\n");
}

void um_routing_text(const um_routing *r, um_text *out, int64_t requests, int64_t failed)
{
    header_text(r, out, requests, failed);
    int layers = r->model->layers, modalities = UM_MODALITIES;
    for (um_routing_cursor w = {0}; visit_next(r, &w); w.expert++) {
        const um_routed *c = &r->plane[w.plane][w.expert];
        um_text_fmt(out, "%s,%d,%s,%d,%" PRIu64 ",%" PRIu64 ",%.9f\n",
                    um_phase_name((um_phase)(w.plane / (layers * modalities))),
                    w.plane / modalities % layers,
                    um_modality_name((um_modality)(w.plane % modalities)), w.expert, c->tokens,
                    c->first, (double)c->weight / (double)(UINT64_C(1) << UM_WEIGHT_BITS));
    }
}

um_status um_routing_write(const um_routing *r, const char *path, int64_t requests, int64_t failed,
                           um_err *err)
{
    um_text text = {0};
    um_routing_text(r, &text, requests, failed);
    um_status st = um_file_write(path, text.s, text.n, err);
    um_text_free(&text);
    return um_wrap(err, st, "write routing counters");
}
