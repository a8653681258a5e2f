/* See step.h: routers. */
#include "core/train/step.h"

#include "core/base/clock.h"
#include "core/comm/join.h"
#include "core/train/reduce.h"
#include "core/train/step_message.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A message that has come and is not wanted yet. */
typedef struct letter {
    struct letter *next;
    int peer;
    um_arena arena;
    Um__StepEnd *m;
} letter;

struct um_step {
    um_link *link;
    um_params *params;
    um_optimizer *optimizer;
    um_step_saver save;
    void *save_ctx;
    int values;
    bool leads;
    um_grad_tree *tree;
    um_reduce *reduce;
    letter *box;
    uint64_t step;
    size_t trained;
    int expected, taken;   /* micro-batches of this router in the step */
    const uint64_t *count; /* [counts] of um_step_count; 0: none */
    size_t counts;
    /* what router 0 waits for */
    bool waiting;
    Um__StepPhase wanted;
    uint8_t *has; /* [ranks] has sent it */
    int64_t since_ns;
};

/* --- messages --- */

/* Called by the link with every step-end frame. */
static um_status frame_in(void *ctx, const um_inbound *in, um_err *err)
{
    um_step *s = ctx;
    const unsigned to_leader = 1u << UM__STEP_PHASE__STEP_PHASE_DONE |
                               1u << UM__STEP_PHASE__STEP_PHASE_NORMS |
                               1u << UM__STEP_PHASE__STEP_PHASE_SAVED,
                   to_others = 1u << UM__STEP_PHASE__STEP_PHASE_FINISH |
                               1u << UM__STEP_PHASE__STEP_PHASE_APPLY |
                               1u << UM__STEP_PHASE__STEP_PHASE_BEGIN;
    letter *l = um_zalloc(sizeof *l);
    l->peer = in->msg.peer;
    um_arena_init(&l->arena, "end of a step", 1 << 12);
    um_status st =
        s->leads || in->msg.peer == um_join_leader(s->link->comm)
            ? um_step_unpack(&l->m, s->link, in, s->leads ? to_leader : to_others, &l->arena, err)
            : um_link_unwanted(s->link, in, "step-end frames of router 0", err);
    if (st != UM_OK) {
        um_arena_free(&l->arena);
        um_free(l);
        return st;
    }
    letter **at = &s->box;
    while (*at != NULL) at = &(*at)->next;
    *at = l;
    return UM_OK;
}

static void letter_free(letter *l)
{
    if (l == NULL) return;
    um_arena_free(&l->arena);
    um_free(l);
}

/* The oldest letter of this phase, taken out of the box; NULL: none. */
static letter *box_take(um_step *s, Um__StepPhase phase)
{
    for (letter **at = &s->box; *at != NULL; at = &(*at)->next) {
        letter *l = *at;
        if (l->m->phase != phase) continue;
        *at = l->next;
        return l;
    }
    return NULL;
}

/* Waits for a letter of this phase, which must be of the step that ends. */
static um_status letter_next(um_step *s, letter **out, Um__StepPhase phase, um_err *err)
{
    letter *l;
    while ((l = box_take(s, phase)) == NULL) {
        um_inbound in = {0};
        UM_TRY(um_link_next_any(s->link, &in, -1, err));
        if (in.msg.data != NULL) um_link_defer(s->link, &in);
    }
    if (l->m->step == s->step || phase == UM__STEP_PHASE__STEP_PHASE_BEGIN) {
        *out = l;
        return UM_OK;
    }
    char label[128];
    um_topology_label(&s->link->comm->topo, l->peer, label);
    um_status st = UM_FAIL(
        err, UM_E_CORRUPT, "step-end frame of %s: \"%s\" of step %llu, but step %llu ends", label,
        um_step_phase_name(phase), (unsigned long long)l->m->step, (unsigned long long)s->step);
    letter_free(l);
    return st;
}

/* For the link: who owes router 0 what. */
static bool owed(void *ctx, um_owed *out)
{
    const um_step *s = ctx;
    const um_topology *topo = &s->link->comm->topo;
    for (int r = 0; s->waiting && r < topo->n; r++) {
        if (s->has[r]) continue;
        out->peer = r;
        out->since_ns = s->since_ns;
        /* a router that computes waits for expert ranks */
        if (s->wanted == UM__STEP_PHASE__STEP_PHASE_DONE) out->grace_ns = s->link->stall_ns;
        snprintf(out->what, sizeof out->what, "\"%s\" of step %llu", um_step_phase_name(s->wanted),
                 (unsigned long long)s->step);
        return true;
    }
    return false;
}

typedef um_status (*letter_fn)(um_step *s, void *ctx, const letter *l, um_err *err);

/* Router 0: a letter of this phase from every other rank that has one of these roles (bits 1 << role), in any order. */
static um_status collect(um_step *s, Um__StepPhase phase, unsigned roles, letter_fn take, void *ctx,
                         um_err *err)
{
    const um_topology *topo = &s->link->comm->topo;
    int left = 0;
    um_status st = UM_OK;
    for (int r = 0; r < topo->n; r++) {
        s->has[r] = r == s->link->comm->rank || (roles >> topo->ranks[r].role & 1) == 0;
        left += !s->has[r];
    }
    s->waiting = true;
    s->wanted = phase;
    s->since_ns = um_now_ns();
    for (; st == UM_OK && left > 0; left--) {
        letter *l = NULL;
        st = letter_next(s, &l, phase, err);
        if (st == UM_OK && s->has[l->peer])
            st = UM_FAIL(err, UM_E_CORRUPT, "step-end frame of rank %d: a second \"%s\"", l->peer,
                         um_step_phase_name(phase));
        if (st == UM_OK) {
            s->has[l->peer] = 1;
            st = take(s, ctx, l, err);
        }
        letter_free(l);
    }
    s->waiting = false;
    return st;
}

static um_status to_all(um_step *s, const Um__StepEnd *m, um_err *err)
{
    const um_comm *c = s->link->comm;
    for (int r = 0; r < c->topo.n; r++)
        if (r != c->rank) UM_TRY(um_step_send(s->link, r, m, err));
    return UM_OK;
}

/* --- open and close --- */

um_step *um_step_open(um_link *l, um_params *ps, um_optimizer *o, int values, um_step_saver save,
                      void *save_ctx)
{
    um_step *s = um_zalloc(sizeof *s);
    *s = (um_step){.link = l,
                   .params = ps,
                   .optimizer = o,
                   .values = values,
                   .save = save,
                   .save_ctx = save_ctx,
                   .leads = l->comm->rank == um_join_leader(l->comm)};
    for (size_t i = 0; i < ps->n; i++) s->trained += ps->list[i].trained;
    s->has = um_zalloc((size_t)l->comm->topo.n);
    s->tree = um_grad_tree_open(ps->how.dev, ps->n_grads, s->trained);
    s->reduce = um_reduce_open(l, ps->how.dev, ps->n_grads);
    um_link_handle(l, UM_KIND_STEP_END, frame_in, s);
    um_link_owes(l, owed, s);
    return s;
}

void um_step_close(um_step *s)
{
    if (s == NULL) return;
    um_link_handle(s->link, UM_KIND_STEP_END, NULL, NULL);
    um_link_owes_end(s->link, s);
    while (s->box != NULL) {
        letter *l = s->box;
        s->box = l->next;
        letter_free(l);
    }
    um_reduce_close(s->reduce);
    um_grad_tree_close(s->tree);
    um_free(s->has);
    um_free(s);
}

um_status um_step_begin(um_step *s, uint64_t *first, um_err *err)
{
    const um_topology *topo = &s->link->comm->topo;
    if (s->leads) {
        Um__StepEnd m = UM__STEP_END__INIT;
        m.phase = UM__STEP_PHASE__STEP_PHASE_BEGIN;
        m.step = *first;
        for (int i = 1; i < topo->count[UM_ROLE_ROUTER]; i++)
            UM_TRY(um_step_send(s->link, topo->of_role[UM_ROLE_ROUTER][i], &m, err));
        return UM_OK;
    }
    letter *l = NULL;
    UM_TRY(letter_next(s, &l, UM__STEP_PHASE__STEP_PHASE_BEGIN, err));
    *first = l->m->step;
    letter_free(l);
    return UM_OK;
}

void um_step_expect(um_step *s, int n)
{
    UM_ASSERT(s->taken == 0);
    s->expected = n;
}

void um_step_take(um_step *s, uint32_t b)
{
    UM_CHECK(s->expected == 0 || s->taken < s->expected);
    if (++s->taken == s->expected)
        um_grad_tree_lend(s->tree, b, s->params);
    else
        um_grad_tree_take(s->tree, b, s->params);
}

void um_step_count(um_step *s, const uint64_t *count, size_t n)
{
    s->count = count;
    s->counts = n;
}

/* --- finish --- */

/* What came of a step's micro-batches, at router 0. */
typedef struct gathered {
    um_arena *arena;
    Um__StepBatch *batch; /* [n] */
    int n, cap;
    uint8_t *touched; /* [trained] */
    uint64_t *count;  /* [counts] */
} gathered;

static um_status batch_add(um_step *s, gathered *g, const Um__StepBatch *b, um_err *err)
{
    if ((int)b->n_values != s->values)
        return UM_FAIL(err, UM_E_CORRUPT, "\"done\" of step %llu: %zu values, want %d",
                       (unsigned long long)s->step, b->n_values, s->values);
    if (g->n == g->cap) {
        g->cap = g->cap == 0 ? 16 : 2 * g->cap;
        g->batch = um_realloc(g->batch, (size_t)g->cap * sizeof *g->batch);
    }
    Um__StepBatch *to = &g->batch[g->n++];
    *to = *b;
    to->values = um_arena_alloc(g->arena, (size_t)s->values * sizeof(double));
    if (s->values > 0) memcpy(to->values, b->values, (size_t)s->values * sizeof(double));
    return UM_OK;
}

/* A letter_fn. */
static um_status done_in(um_step *s, void *ctx, const letter *l, um_err *err)
{
    gathered *g = ctx;
    if (l->m->touched.len != s->trained)
        return UM_FAIL(err, UM_E_CORRUPT, "\"done\" of rank %d: %zu trained parameters, want %zu",
                       l->peer, l->m->touched.len, s->trained);
    if (l->m->n_counts != s->counts)
        return UM_FAIL(err, UM_E_CORRUPT, "\"done\" of rank %d: %zu counts, want %zu", l->peer,
                       l->m->n_counts, s->counts);
    for (size_t i = 0; i < s->trained; i++) g->touched[i] |= l->m->touched.data[i] & 1;
    for (size_t i = 0; i < s->counts; i++) g->count[i] += l->m->counts[i];
    for (size_t i = 0; i < l->m->n_batches; i++) UM_TRY(batch_add(s, g, l->m->batches[i], err));
    return UM_OK;
}

/* This router's own "done". */
static void done_fill(um_step *s, Um__StepEnd *m, const um_step_batch *own, int n, um_arena *arena)
{
    m->phase = UM__STEP_PHASE__STEP_PHASE_DONE;
    m->step = s->step;
    m->touched.len = s->trained;
    m->touched.data = um_arena_zero(arena, s->trained);
    for (int i = 0; i < um_grad_tree_nodes(s->tree); i++)
        for (size_t p = 0; p < s->trained; p++)
            m->touched.data[p] |= um_grad_tree_node(s->tree, i)->touched[p];
    m->n_counts = s->counts;
    m->counts = (uint64_t *)(uintptr_t)s->count;
    m->n_batches = (size_t)n;
    m->batches = um_arena_alloc(arena, (size_t)n * sizeof *m->batches);
    for (int i = 0; i < n; i++) {
        Um__StepBatch *b = um_arena_alloc(arena, sizeof *b);
        um__step_batch__init(b);
        b->batch = own[i].batch;
        b->samples = own[i].samples;
        b->targets = own[i].targets;
        b->n_values = (size_t)s->values;
        b->values = (double *)(uintptr_t)own[i].value;
        m->batches[i] = b;
    }
}

static int by_number(const void *a, const void *b)
{
    const uint32_t x = ((const Um__StepBatch *)a)->batch, y = ((const Um__StepBatch *)b)->batch;
    return x < y ? -1 : x > y;
}

/* The sums over all micro-batches, by rising number, as the message that all ranks get. */
static um_status finish_fill(um_step *s, Um__StepEnd *m, gathered *g, um_err *err)
{
    m->phase = UM__STEP_PHASE__STEP_PHASE_FINISH;
    m->step = s->step;
    m->count = (uint32_t)g->n;
    m->touched.len = s->trained;
    m->touched.data = g->touched;
    m->n_values = (size_t)s->values;
    m->values = um_arena_zero(g->arena, (size_t)s->values * sizeof(double));
    if (g->n > 0) qsort(g->batch, (size_t)g->n, sizeof *g->batch, by_number);
    for (int i = 0; i < g->n; i++) {
        const Um__StepBatch *b = &g->batch[i];
        if (i > 0 && b->batch == b[-1].batch)
            return UM_FAIL(err, UM_E_CORRUPT,
                           "two routers have computed micro-batch %u of step %llu", b->batch,
                           (unsigned long long)s->step);
        m->samples += b->samples;
        m->targets += b->targets;
        for (int v = 0; v < s->values; v++) m->values[v] += b->values[v];
    }
    return UM_OK;
}

static void totals_fill(um_step_totals *out, const Um__StepEnd *m, int values, um_arena *arena)
{
    *out = (um_step_totals){
        .batches = m->count, .samples = m->samples, .targets = m->targets, .values = values};
    out->value = um_arena_alloc(arena, (size_t)values * sizeof(double));
    if (values > 0) memcpy(out->value, m->values, (size_t)values * sizeof(double));
}

/* Router 0: all "done"s together, and "finish" to all. */
static um_status finish_lead(um_step *s, um_step_totals *totals, Um__StepEnd *own, uint8_t *touched,
                             um_arena *arena, um_err *err)
{
    gathered g = {.arena = arena,
                  .touched = touched,
                  .count = um_arena_zero(arena, s->counts * sizeof *g.count)};
    const letter mine = {.peer = s->link->comm->rank, .m = own};
    Um__StepEnd m = UM__STEP_END__INIT;
    um_status st = done_in(s, &g, &mine, err);
    if (st == UM_OK)
        st = collect(s, UM__STEP_PHASE__STEP_PHASE_DONE, 1u << UM_ROLE_ROUTER, done_in, &g, err);
    if (st == UM_OK) st = finish_fill(s, &m, &g, err);
    if (st == UM_OK) {
        totals_fill(totals, &m, s->values, arena);
        totals->count = g.count;
        totals->counts = s->counts;
        st = to_all(s, &m, err);
    }
    um_free(g.batch);
    return st;
}

/* The other routers. */
static um_status finish_follow(um_step *s, um_step_totals *totals, const Um__StepEnd *own,
                               uint8_t *touched, um_arena *arena, um_err *err)
{
    letter *l = NULL;
    UM_TRY(um_step_send(s->link, um_join_leader(s->link->comm), own, err));
    UM_TRY(letter_next(s, &l, UM__STEP_PHASE__STEP_PHASE_FINISH, err));
    um_status st = UM_OK;
    if (l->m->touched.len != s->trained || (int)l->m->n_values != s->values) {
        st = UM_FAIL(err, UM_E_CORRUPT,
                     "\"finish\" of step %llu: %zu trained parameters and %zu sums, want %zu and "
                     "%d",
                     (unsigned long long)s->step, l->m->touched.len, l->m->n_values, s->trained,
                     s->values);
    } else {
        if (s->trained > 0) memcpy(touched, l->m->touched.data, s->trained);
        totals_fill(totals, l->m, s->values, arena);
    }
    letter_free(l);
    return st;
}

/* The gradients of the whole step into the parameters of every router. */
static um_status sum_up(um_step *s, const uint8_t *touched, um_err *err)
{
    UM_TRY(um_reduce_gather(s->reduce, s->tree, s->step, err));
    if (s->leads) um_grad_tree_root(s->tree);
    UM_TRY(um_reduce_spread(s->reduce, s->tree, s->step, err));
    um_grad_tree_give(um_grad_tree_root(s->tree), s->params);
    um_grad_tree_clear(s->tree);
    s->expected = s->taken = 0;
    for (size_t i = 0, at = 0; i < s->params->n; i++)
        if (s->params->list[i].trained) s->params->list[i].touched = touched[at++];
    return um_dev_sync(s->params->how.dev, err);
}

/* --- norms --- */

/* A square, with what its place in the sum follows from. */
typedef struct ranked {
    um_step_norm norm;
    um_role role;
    int rank;
    size_t number; /* in the rank's list */
} ranked;

typedef struct squares {
    ranked *list; /* [n] */
    size_t n;
} squares;

static void squares_add(squares *q, const Um__StepEnd *m, um_role role, int rank)
{
    q->list = um_realloc(q->list, (q->n + m->n_norms + 1) * sizeof *q->list);
    for (size_t i = 0; i < m->n_norms; i++) {
        const Um__StepNorm *e = m->norms[i];
        q->list[q->n++] = (ranked){.norm = {.part = (um_part)e->part,
                                            .layer = e->layer,
                                            .index = e->index,
                                            .squares = e->squares,
                                            .touched = e->touched},
                                   .role = role,
                                   .rank = rank,
                                   .number = i};
    }
}

/* A letter_fn. */
static um_status norms_in(um_step *s, void *ctx, const letter *l, um_err *err)
{
    (void)err;
    squares_add(ctx, l->m, s->link->comm->topo.ranks[l->peer].role, l->peer);
    return UM_OK;
}

static int compare(int64_t a, int64_t b) { return a < b ? -1 : a > b; }

/* Routers' list; experts by layer and number, whichever ranks own them; encoders by part. */
static int in_order(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    int c = compare(x->role, y->role);
    if (c == 0 && x->role == UM_ROLE_EXPERT) c = compare(x->norm.layer, y->norm.layer);
    if (c == 0 && x->role == UM_ROLE_EXPERT) c = compare(x->norm.index, y->norm.index);
    if (c == 0 && x->role == UM_ROLE_ENCODER) c = compare(x->norm.part, y->norm.part);
    if (c == 0) c = compare(x->rank, y->rank);
    return c != 0 ? c : compare((int64_t)x->number, (int64_t)y->number);
}

/* Router 0: the squares of all trained parameters of the job. */
static um_status norms_collect(um_step *s, um_step_norm **norms, int *n, double *total,
                               um_arena *arena, um_err *err)
{
    squares q = {0};
    Um__StepEnd own = UM__STEP_END__INIT;
    um_step_norms_fill(&own, s->optimizer, arena);
    squares_add(&q, &own, UM_ROLE_ROUTER, s->link->comm->rank);
    um_status st = collect(s, UM__STEP_PHASE__STEP_PHASE_NORMS,
                           1u << UM_ROLE_EXPERT | 1u << UM_ROLE_ENCODER, norms_in, &q, err);
    if (st == UM_OK) {
        qsort(q.list, q.n, sizeof *q.list, in_order);
        *norms = um_arena_alloc(arena, q.n * sizeof **norms);
        *n = (int)q.n;
        *total = 0.0;
        for (size_t i = 0; i < q.n; i++) {
            (*norms)[i] = q.list[i].norm;
            *total += q.list[i].norm.squares;
        }
    }
    um_free(q.list);
    return st;
}

um_status um_step_finish(um_step *s, uint64_t step, const um_step_batch *own, int n,
                         um_step_totals *totals, um_step_norm **norms, int *n_norms,
                         double *squares_sum, um_arena *step_arena, um_err *err)
{
    Um__StepEnd done = UM__STEP_END__INIT;
    s->step = step;
    *norms = NULL;
    *n_norms = 0;
    *squares_sum = 0.0;
    uint8_t *touched = um_arena_zero(step_arena, s->trained);
    done_fill(s, &done, own, n, step_arena);
    if (s->leads)
        UM_TRY(finish_lead(s, totals, &done, touched, step_arena, err));
    else
        UM_TRY(finish_follow(s, totals, &done, touched, step_arena, err));
    um_step_count(s, NULL, 0);
    UM_TRY(sum_up(s, touched, err));
    if (!s->leads) return UM_OK;
    return norms_collect(s, norms, n_norms, squares_sum, step_arena, err);
}

/* --- apply --- */

typedef struct written {
    um_saved_file **by_rank; /* [ranks] */
    int *n;
    const char
        *unsaved; /* why a rank could not write, or NULL: of several the first that said so */
    um_arena *arena;
} written;

static void files_add(written *w, const Um__StepEnd *m, int rank)
{
    if (m->unsaved[0] != '\0' && w->unsaved == NULL)
        w->unsaved = um_arena_str(w->arena, m->unsaved);
    w->n[rank] = (int)m->n_files;
    w->by_rank[rank] = um_arena_alloc(w->arena, m->n_files * sizeof(um_saved_file));
    for (size_t i = 0; i < m->n_files; i++)
        w->by_rank[rank][i] = (um_saved_file){.name = um_arena_str(w->arena, m->files[i]->name),
                                              .bytes = m->files[i]->bytes,
                                              .xxh3 = m->files[i]->xxh3};
}

/* A letter_fn. */
static um_status saved_in(um_step *s, void *ctx, const letter *l, um_err *err)
{
    (void)s;
    (void)err;
    files_add(ctx, l->m, l->peer);
    return UM_OK;
}

/* Router 0: the files of all ranks, by rank. */
static um_status saved_collect(um_step *s, const Um__StepEnd *own, const char **unsaved,
                               um_saved_file **files, int *n, um_arena *arena, um_err *err)
{
    const size_t ranks = (size_t)s->link->comm->topo.n;
    written w = {.by_rank = um_arena_zero(arena, ranks * sizeof(um_saved_file *)),
                 .n = um_arena_zero(arena, ranks * sizeof(int)),
                 .arena = arena};
    int all = 0;
    files_add(&w, own, s->link->comm->rank);
    UM_TRY(collect(s, UM__STEP_PHASE__STEP_PHASE_SAVED,
                   1u << UM_ROLE_ROUTER | 1u << UM_ROLE_EXPERT | 1u << UM_ROLE_ENCODER, saved_in,
                   &w, err));
    *unsaved = w.unsaved;
    for (size_t r = 0; r < ranks; r++) all += w.n[r];
    if (files == NULL) return UM_OK;
    *files = um_arena_alloc(arena, (size_t)all * sizeof **files);
    *n = 0;
    for (size_t r = 0; r < ranks; r++)
        for (int i = 0; i < w.n[r]; i++) (*files)[(*n)++] = w.by_rank[r][i];
    return UM_OK;
}

static um_status orders_send(um_step *s, const um_step_orders *o, um_err *err)
{
    Um__StepEnd m = UM__STEP_END__INIT;
    m.phase = UM__STEP_PHASE__STEP_PHASE_APPLY;
    m.step = s->step;
    m.lr = o->lr;
    m.scale = o->scale;
    m.skip = o->skip;
    m.evaluate = o->evaluate;
    m.stop = o->stop;
    m.gradients = o->gradients;
    if (o->save != NULL) m.save = (char *)(uintptr_t)o->save;
    return to_all(s, &m, err);
}

static um_status orders_receive(um_step *s, um_step_orders *o, um_arena *arena, um_err *err)
{
    letter *l = NULL;
    UM_TRY(letter_next(s, &l, UM__STEP_PHASE__STEP_PHASE_APPLY, err));
    *o = um_step_orders_of(l->m);
    if (o->save != NULL) o->save = um_arena_str(arena, o->save);
    letter_free(l);
    return UM_OK;
}

um_status um_step_apply(um_step *s, um_step_orders *orders, um_saved_file **files, int *n_files,
                        um_arena *arena, um_err *err)
{
    Um__StepEnd saved = UM__STEP_END__INIT;
    if (files != NULL) {
        *files = NULL;
        *n_files = 0;
    }
    UM_TRY(s->leads ? orders_send(s, orders, err) : orders_receive(s, orders, arena, err));
    UM_TRY(um_step_obey(&saved, orders, s->step, s->params, s->optimizer, s->save, s->save_ctx,
                        arena, err));
    if (orders->save == NULL) return UM_OK;
    if (s->leads) return saved_collect(s, &saved, &orders->unsaved, files, n_files, arena, err);
    return um_step_send(s->link, um_join_leader(s->link->comm), &saved, err);
}
