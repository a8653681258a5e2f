/* See exchange.h. */
#include "core/comm/exchange.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#include <stdio.h>
#include <string.h>

/* Keys that ended last: a frame for one of them is a repeat. Between two ranks frames keep their order, so a repeat comes before the
 * answers of what was dispatched after it, and few suffice. */
enum { REMEMBERED = 64 };

/* Of an entry, with one peer. */
enum { NOT_SENT, SENT, ANSWERED };

/* The two ways a plan is used. */
typedef enum way { FORWARD, BACKWARD } way;
static const um_kind sent_kind[] = {UM_KIND_DISPATCH, UM_KIND_DISPATCH_GRAD},
                     answer_kind[] = {UM_KIND_COMBINE, UM_KIND_COMBINE_GRAD};

/* What stands in the table. */
typedef struct ticket {
    way way;
    um_exchange_key key;
} ticket;

/* What was dispatched and is not combined yet. */
typedef struct entry {
    ticket id;
    const um_dispatch_plan *plan;
    float *rows;     /* device */
    int owed;        /* peers that have not answered */
    uint8_t *state;  /* [peers] */
    int64_t sent_ns; /* when the last of its frames was sent */
} entry;

struct um_exchange {
    um_link *link;
    um_dev *dev;
    int D, peers;
    bool sparse; /* frames without rows are not sent */
    entry *open; /* [n_open]; the lists of those behind are kept */
    int n_open, cap_open;
    ticket ended[REMEMBERED];
    uint64_t n_ended, repeats;
    uint64_t *under_way; /* [peers] bytes of rows */
    int64_t *came_ns;    /* [peers] when an answer came last */
    um_arena staging;    /* host: what codecs need */
    um_arena device;     /* ones, and a sum on its way into dx */
    float *ones, *sum;   /* device [ones_n], [sum_n] */
    size_t ones_n, sum_n;
};

static bool same(ticket a, ticket b)
{
    return a.way == b.way && a.key.step == b.key.step && a.key.layer == b.key.layer &&
           a.key.batch == b.key.batch;
}

static entry *find(const um_exchange *x, ticket id)
{
    for (int i = 0; i < x->n_open; i++)
        if (same(x->open[i].id, id)) return &x->open[i];
    return NULL;
}

static bool has_ended(const um_exchange *x, ticket id)
{
    for (uint64_t i = 0; i < REMEMBERED && i < x->n_ended; i++)
        if (same(x->ended[i], id)) return true;
    return false;
}

static uint64_t frame_bytes(const um_exchange *x, const um_dispatch_plan *plan, int peer)
{
    return (uint64_t)plan->pairs_n[peer] * (uint64_t)x->D * um_dtype_size(x->link->wire);
}

um_exchange_key um_exchange_key_of(const um_frame *f)
{
    return (um_exchange_key){.step = f->step, .layer = f->layer, .batch = f->batch};
}

/* --- the table --- */

static entry *enter(um_exchange *x, const um_dispatch_plan *plan, float *rows, ticket id)
{
    UM_CHECK(find(x, id) == NULL && plan->peers == x->peers);
    if (x->n_open == x->cap_open) {
        int cap = x->cap_open == 0 ? 4 : 2 * x->cap_open;
        x->open = um_realloc(x->open, (size_t)cap * sizeof *x->open);
        for (int i = x->cap_open; i < cap; i++)
            x->open[i] = (entry){.state = um_zalloc((size_t)x->peers)};
        x->cap_open = cap;
    }
    entry *e = &x->open[x->n_open++];
    *e = (entry){.id = id, .plan = plan, .rows = rows, .owed = x->peers, .state = e->state};
    memset(e->state, NOT_SENT, (size_t)x->peers);
    return e;
}

static void leave(um_exchange *x, entry *e)
{
    entry gone = *e, *last = &x->open[--x->n_open];
    x->ended[x->n_ended++ % REMEMBERED] = gone.id;
    *e = *last;
    *last = gone; /* for its list */
}

/* --- answers --- */

/* Puts the rows of one answer in their place. */
static um_status take_in(um_exchange *x, entry *e, const um_inbound *in, const char *label,
                         um_err *err)
{
    const um_frame *f = &in->frame;
    const um_dispatch_plan *plan = e->plan;
    int peer = x->link->comm->topo.ranks[in->msg.peer].index, n = plan->pairs_n[peer];
    if ((int)f->rows != n || (n > 0 && (int)f->cols != x->D))
        return UM_FAIL(err, UM_E_CORRUPT, "%s frame of %s: %u rows x %u, want %d x %d",
                       um_kind_name(f->kind), label, f->rows, f->cols, n, x->D);
    float *to = e->rows + um_at((size_t)plan->pair_at[peer], 0, (size_t)x->D);
    UM_TRY(um_wrap(err, um_link_rows_in(x->link, x->dev, to, in, &x->staging, err),
                   "%s frame of %s", um_kind_name(f->kind), label));
    e->state[peer] = ANSWERED;
    x->came_ns[peer] = um_now_ns();
    e->owed--;
    x->under_way[peer] -= frame_bytes(x, plan, peer);
    return UM_OK;
}

/* Called by the link with every answer, of either way. */
static um_status answer_in(void *ctx, const um_inbound *in, um_err *err)
{
    um_exchange *x = ctx;
    const um_topology *topo = &x->link->comm->topo;
    const um_frame *f = &in->frame;
    const um_rank *from = &topo->ranks[in->msg.peer];
    const char *kind = um_kind_name(f->kind);
    char label[128];
    um_topology_label(topo, in->msg.peer, label);
    if (from->role != UM_ROLE_EXPERT)
        return UM_FAIL(err, UM_E_CORRUPT, "%s frame of %s, which owns no experts", kind, label);
    ticket id = {f->kind == UM_KIND_COMBINE ? FORWARD : BACKWARD, um_exchange_key_of(f)};
    entry *e = find(x, id);
    if (e == NULL ? !has_ended(x, id) : e->state[from->index] == NOT_SENT)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "%s frame of %s: step %llu, layer %u, micro-batch %u was not dispatched",
                       kind, label, (unsigned long long)f->step, f->layer, f->batch);
    if (e == NULL || e->state[from->index] == ANSWERED) {
        x->repeats++;
        um_log_debug("%s: a repeated %s frame of step %llu, layer %u, micro-batch %u is dropped",
                     label, kind, (unsigned long long)f->step, f->layer, f->batch);
        return UM_OK;
    }
    return take_in(x, e, in, label, err);
}

/* For the link: the answer that is owed for the longest time. An expert rank works on one frame after another, so its time for the next
 * begins when the one before has come. */
static bool owed(void *ctx, um_owed *out)
{
    const um_exchange *x = ctx;
    bool found = false;
    for (int i = 0; i < x->n_open; i++) {
        const entry *e = &x->open[i];
        for (int peer = 0; e->owed > 0 && peer < x->peers; peer++) {
            int64_t since = e->sent_ns > x->came_ns[peer] ? e->sent_ns : x->came_ns[peer];
            if (e->state[peer] != SENT || (found && since >= out->since_ns)) continue;
            found = true;
            out->peer = x->link->comm->topo.of_role[UM_ROLE_EXPERT][peer];
            out->since_ns = since;
            snprintf(out->what, sizeof out->what,
                     "the %s frame of step %llu, layer %u, micro-batch %u",
                     um_kind_name(answer_kind[e->id.way]), (unsigned long long)e->id.key.step,
                     e->id.key.layer, e->id.key.batch);
        }
    }
    return found;
}

/* Receives one frame: an answer has then been taken in, any other is kept for later. UM_E_TIMEOUT: none came. */
static um_status receive(um_exchange *x, int64_t timeout_us, um_err *err)
{
    um_inbound in = {0};
    um_status st = um_link_next_any(x->link, &in, timeout_us, err);
    if (st == UM_OK && in.msg.data != NULL) um_link_defer(x->link, &in);
    return st;
}

/* Receives until answers of peer have made room for bytes more. */
static um_status wait_for_credit(um_exchange *x, int peer, uint64_t bytes, um_err *err)
{
    while (x->under_way[peer] > 0 && x->under_way[peer] + bytes > x->link->credit)
        UM_TRY(receive(x, -1, err));
    return UM_OK;
}

/* A message about a peer begins with its name; every other says where it comes from. */
static um_status in_context(um_err *err, um_status st)
{
    return st == UM_E_PEER ? st : um_wrap(err, st, "exchange");
}

/* --- open and close --- */

um_exchange *um_exchange_open(um_link *l, um_dev *dev, int D)
{
    um_exchange *x = um_zalloc(sizeof *x);
    *x = (um_exchange){.link = l, .dev = dev, .D = D, .peers = l->comm->topo.count[UM_ROLE_EXPERT]};
    x->under_way = um_zalloc((size_t)x->peers * sizeof *x->under_way);
    um_arena_init(&x->staging, "frames", 1 << 16);
    x->came_ns = um_zalloc((size_t)x->peers * sizeof *x->came_ns);
    um_dev_arena(&x->device, dev, "gradients of rows", 1 << 16);
    for (int w = FORWARD; w <= BACKWARD; w++) um_link_handle(l, answer_kind[w], answer_in, x);
    um_link_owes(l, owed, x);
    return x;
}

void um_exchange_close(um_exchange *x)
{
    if (x == NULL) return;
    for (int w = FORWARD; w <= BACKWARD; w++) um_link_handle(x->link, answer_kind[w], NULL, NULL);
    um_link_owes_end(x->link, x);
    for (int i = 0; i < x->cap_open; i++) um_free(x->open[i].state);
    um_free(x->open);
    um_free(x->under_way);
    um_free(x->came_ns);
    um_arena_free(&x->staging);
    um_arena_free(&x->device);
    um_free(x);
}

void um_exchange_sparse(um_exchange *x) { x->sparse = true; }
um_link *um_exchange_link(const um_exchange *x) { return x->link; }
uint64_t um_exchange_repeats(const um_exchange *x) { return x->repeats; }

static bool is_answered(const um_exchange *x, ticket id)
{
    const entry *e = find(x, id);
    return e != NULL && e->owed == 0;
}

bool um_exchange_answered(const um_exchange *x, um_exchange_key key)
{
    return is_answered(x, (ticket){FORWARD, key});
}

bool um_exchange_answered_grad(const um_exchange *x, um_exchange_key key)
{
    return is_answered(x, (ticket){BACKWARD, key});
}

/* --- dispatch and combine --- */

/* The part of a frame that only one of the two ways has: forward sends each row once, and says which pairs it has; backward sends a row
 * for each pair, which the expert knows. */
static um_data_frame frame_for(const um_exchange *x, const entry *e, int peer, const float *input)
{
    const um_dispatch_plan *plan = e->plan;
    const size_t pair = (size_t)plan->pair_at[peer];
    um_data_frame f = {.kind = sent_kind[e->id.way],
                       .layer = e->id.key.layer,
                       .step = e->id.key.step,
                       .batch = e->id.key.batch,
                       .dev = x->dev,
                       .cols = (uint32_t)x->D};
    if (e->id.way == BACKWARD) {
        f.rows = input + um_at(pair, 0, (size_t)x->D);
        f.n = (uint32_t)plan->pairs_n[peer];
        return f;
    }
    f.meta = plan->meta + pair * UM_PAIR_BYTES;
    f.meta_bytes = (uint32_t)plan->pairs_n[peer] * UM_PAIR_BYTES;
    f.rows = input;
    f.index = plan->device_row + plan->row_at[peer];
    f.n = (uint32_t)plan->rows_n[peer];
    return f;
}

static um_status send_to(um_exchange *x, ticket id, int peer, const float *input, um_err *err)
{
    entry *e = find(x, id);
    int rank = x->link->comm->topo.of_role[UM_ROLE_EXPERT][peer];
    um_data_frame f = frame_for(x, e, peer, input);
    uint64_t bytes = frame_bytes(x, e->plan, peer);
    UM_TRY(wait_for_credit(x, peer, bytes, err));
    e->state[peer] = SENT;
    e->sent_ns = um_now_ns();
    x->under_way[peer] += bytes;
    x->link->stats.pairs += (uint64_t)e->plan->pairs_n[peer];
    return um_link_send_rows(x->link, rank, &f, &x->staging, err);
}

static void skip(um_exchange *x, ticket id, int peer)
{
    entry *e = find(x, id);
    e->state[peer] = ANSWERED;
    e->owed--;
}

static um_status dispatch(um_exchange *x, const um_dispatch_plan *plan, float *rows,
                          const float *input, ticket id, um_err *err)
{
    um_status st = UM_OK;
    enter(x, plan, rows, id);
    for (int peer = 0; st == UM_OK && peer < x->peers; peer++) {
        if (x->sparse && plan->pairs_n[peer] == 0)
            skip(x, id, peer);
        else
            st = send_to(x, id, peer, input, err);
    }
    return in_context(err, st);
}

um_status um_exchange_dispatch(um_exchange *x, const um_dispatch_plan *plan, float *rows,
                               const float *input, um_exchange_key key, um_err *err)
{
    return dispatch(x, plan, rows, input, (ticket){FORWARD, key}, err);
}

um_status um_exchange_dispatch_grad(um_exchange *x, const um_dispatch_plan *plan, float *dinput,
                                    const float *drows, um_exchange_key key, um_err *err)
{
    return dispatch(x, plan, dinput, drows, (ticket){BACKWARD, key}, err);
}

/* y = the answers of an entry, added up with weights; the entry ends. */
static um_status combine(um_exchange *x, float *y, const float *weights, ticket id, um_err *err)
{
    entry *e = find(x, id);
    UM_CHECK(e != NULL);
    while (e->owed > 0) UM_TRY(in_context(err, receive(x, -1, err)));
    const um_dispatch_plan *p = e->plan;
    x->dev->ops->combine(x->dev, y, e->rows, p->device_slot, weights, p->T, p->K, x->D);
    leave(x, e);
    return UM_OK;
}

um_status um_exchange_combine(um_exchange *x, float *y, const float *weights, um_exchange_key key,
                              um_err *err)
{
    return combine(x, y, weights, (ticket){FORWARD, key}, err);
}

/* Room for T rows on their way into dx, and a weight of one for each of their slots. */
static void room_for(um_exchange *x, size_t T, size_t K)
{
    const size_t D = (size_t)x->D;
    if (T * K <= x->ones_n && T * D <= x->sum_n) return;
    um_arena_free(&x->device);
    um_dev_arena(&x->device, x->dev, "gradients of rows", 1 << 16);
    x->ones_n = T * K > x->ones_n ? T * K : x->ones_n;
    x->sum_n = T * D > x->sum_n ? T * D : x->sum_n;
    x->ones = um_arena_f32(&x->device, 1, x->ones_n);
    x->sum = um_arena_f32(&x->device, 1, x->sum_n);
    x->dev->ops->fill(x->dev, x->ones, 1.0f, x->ones_n);
}

um_status um_exchange_combine_grad(um_exchange *x, float *dx, um_exchange_key key, um_err *err)
{
    const ticket id = {BACKWARD, key};
    const entry *e = find(x, id);
    UM_CHECK(e != NULL);
    const size_t T = (size_t)e->plan->T;
    room_for(x, T, (size_t)e->plan->K);
    UM_TRY(combine(x, x->sum, x->ones, id, err));
    x->dev->ops->add(x->dev, dx, x->sum, T * (size_t)x->D);
    return UM_OK;
}

um_status um_exchange_max_rows(const um_link *l, int D, int K, int *rows, um_err *err)
{
    uint64_t size = um_dtype_size(l->wire), row = (uint64_t)D * size * (uint64_t)K;
    /* beside its rows a dispatch frame holds its pairs: counted as if they took of the same room, though --credit leaves them out */
    uint64_t most = um_link_values_max(l) * size, n = most / (row + (uint64_t)K * UM_PAIR_BYTES);
    if (n == 0 && row <= most) n = 1;
    if (n == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "--credit %llu is too small for a single token: %d values x %d experts need "
                       "%llu bytes",
                       (unsigned long long)l->credit, D, K, (unsigned long long)row);
    *rows = n > (1 << 20) ? 1 << 20 : (int)n;
    return UM_OK;
}

/* --- the expert's side --- */

/* Row and expert of every pair, checked. */
static um_status pairs_read(int32_t *row, int32_t *expert, const um_frame *f, int pairs,
                            const um_comm *c, um_err *err)
{
    const um_placement *place = &c->topo.place;
    int me = c->topo.ranks[c->rank].index;
    if (place->layers > 1 && f->layer >= (uint32_t)place->layers)
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: layer %u of %d", f->layer,
                       place->layers);
    for (int i = 0; i < pairs; i++) {
        uint32_t r = um_get_u32(f->payload + (size_t)i * UM_PAIR_BYTES),
                 e = um_get_u32(f->payload + (size_t)i * UM_PAIR_BYTES + 4);
        if (r >= f->rows)
            return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: pair %d names row %u of %u", i, r,
                           f->rows);
        if (e >= (uint32_t)place->experts || !um_placement_owns(place, me, (int)f->layer, (int)e))
            return UM_FAIL(err, UM_E_CORRUPT,
                           "dispatch frame: pair %d names expert %u, which is not mine", i, e);
        if (i > 0 && (int32_t)e < expert[i - 1])
            return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: pair %d is out of order", i);
        row[i] = (int32_t)r;
        expert[i] = (int32_t)e;
    }
    return UM_OK;
}

um_status um_dispatch_batch_read(um_dispatch_batch *out, um_link *l, const um_inbound *in, int D,
                                 um_dev *dev, um_arena *step, um_arena *device_step, um_err *err)
{
    const um_frame *f = &in->frame;
    um_dispatch_batch b = {.rows = (int)f->rows,
                           .pairs = (int)(f->meta_bytes / UM_PAIR_BYTES),
                           .D = D,
                           .key = um_exchange_key_of(f)};
    size_t value = um_dtype_size(l->wire), pairs = (size_t)b.pairs;
    if (f->rows > 0 && f->cols != (uint32_t)D)
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: %u columns, want %d", f->cols, D);
    if ((uint64_t)f->rows * (uint64_t)D * value > l->credit ||
        (uint64_t)pairs * (uint64_t)D * value > l->credit)
        return UM_FAIL(
            err, UM_E_LIMIT,
            "dispatch frame: %d rows, %d pairs of %d values are over the credit of %llu bytes",
            b.rows, b.pairs, D, (unsigned long long)l->credit);
    int32_t *row = um_arena_i32(step, pairs), *expert = um_arena_i32(step, pairs);
    UM_TRY(pairs_read(row, expert, f, b.pairs, l->comm, err));
    b.pair_row = um_dev_put_i32(dev, device_step, row, pairs);
    b.x = um_arena_f32(device_step, f->rows, (size_t)D);
    UM_TRY(um_wrap(err, um_link_rows_in(l, dev, b.x, in, step, err), "dispatch frame"));
    b.expert = expert;
    *out = b;
    return UM_OK;
}

/* Sends a row of D values for each pair back to peer. */
static um_status answer(um_link *l, int peer, um_kind kind, um_exchange_key key, const float *rows,
                        int pairs, int D, um_dev *dev, um_arena *scratch, um_err *err)
{
    um_data_frame f = {.kind = kind,
                       .layer = key.layer,
                       .step = key.step,
                       .batch = key.batch,
                       .dev = dev,
                       .rows = rows,
                       .n = (uint32_t)pairs,
                       .cols = (uint32_t)D};
    return um_link_send_rows(l, peer, &f, scratch, err);
}

um_status um_dispatch_batch_answer(um_link *l, int peer, const um_dispatch_batch *batch,
                                   const float *y, um_dev *dev, um_arena *scratch, um_err *err)
{
    return answer(l, peer, UM_KIND_COMBINE, batch->key, y, batch->pairs, batch->D, dev, scratch,
                  err);
}

um_status um_dispatch_grad_read(float *dy, int pairs, um_link *l, const um_inbound *in, int D,
                                um_dev *dev, um_arena *scratch, um_err *err)
{
    const um_frame *f = &in->frame;
    if (f->rows != (uint32_t)pairs || (pairs > 0 && f->cols != (uint32_t)D))
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch-grad frame: %u rows x %u, want %d x %d",
                       f->rows, f->cols, pairs, D);
    return um_wrap(err, um_link_rows_in(l, dev, dy, in, scratch, err), "dispatch-grad frame");
}

um_status um_dispatch_grad_answer(um_link *l, int peer, um_exchange_key key, const float *dx,
                                  int pairs, int D, um_dev *dev, um_arena *scratch, um_err *err)
{
    return answer(l, peer, UM_KIND_COMBINE_GRAD, key, dx, pairs, D, dev, scratch, err);
}
