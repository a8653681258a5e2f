/* See reduce.h. */
#include "core/train/reduce.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"

#include <stdio.h>

/* A piece holds at most PIECE_VALUES (1 MiB), and AHEAD pieces may be under way. */
enum { PIECE_VALUES = 1 << 18, AHEAD = 4 };

/* Levels that no node has. */
#define LEVEL_END UINT32_MAX         /* the sender has no more nodes */
#define LEVEL_ROOM (UINT32_MAX - 1u) /* the other direction: room for more */

/* How many values a router lets us have sent of a step. What is left over when a step's sums are through is worth nothing later. */
typedef struct room {
    uint64_t step, values;
} room;

struct um_reduce {
    um_link *link;
    um_dev *dev;
    size_t values;
    int me, routers;
    room *room;       /* [routers] */
    um_arena staging; /* host: what codecs need */
    /* what is received now */
    int from; /* router, -1: nobody */
    um_grad_tree *tree;
    um_grad_node node;
    bool open;              /* a node is under way */
    size_t at;              /* its values that have come */
    uint64_t came, granted; /* values that have come; that the sender may have sent */
    bool ended;             /* no more nodes */
    uint64_t step;
    int64_t since_ns;
    int waits; /* ranks that the sender may wait for one after another */
};

static int rank_of(const um_reduce *r, int router)
{
    return r->link->comm->topo.of_role[UM_ROLE_ROUTER][router];
}

static size_t piece_values(const um_reduce *r)
{
    size_t most = (size_t)(r->link->credit / sizeof(float));
    return most == 0 ? 1 : most < PIECE_VALUES ? most : PIECE_VALUES;
}

/* A frame without rows. */
static um_status signal_send(um_reduce *r, int router, uint32_t level, uint64_t number, um_err *err)
{
    uint8_t meta[8];
    um_put_u64(meta, number);
    um_data_frame f = {.kind = UM_KIND_REDUCE,
                       .layer = level,
                       .step = r->step,
                       .meta = meta,
                       .meta_bytes = sizeof meta};
    return um_link_send_rows(r->link, rank_of(r, router), &f, &r->staging, err);
}

/* Lets the sender go on when half of its room is used up. */
static um_status grant(um_reduce *r, um_err *err)
{
    const uint64_t ahead = (uint64_t)AHEAD * piece_values(r);
    if (r->granted - r->came > ahead / 2) return UM_OK;
    r->granted = r->came + ahead;
    return signal_send(r, r->from, LEVEL_ROOM, r->granted, err);
}

/* A piece of a node: it is the one that is under way, or the first of the next. */
static um_status piece_in(um_reduce *r, const um_inbound *in, const char *label, um_err *err)
{
    const um_frame *f = &in->frame;
    const uint64_t at = um_get_u64(f->payload), want = r->open ? r->at : 0;
    bool fits = f->rows == 1 && at == want && f->cols > 0 && f->cols <= r->values - want;
    if (r->open) fits = fits && f->layer == r->node.level && f->batch == r->node.index;
    if (!fits || f->layer > 31)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "reduce frame of %s: %u x %u values at %llu of node %u of level %u do not "
                       "follow",
                       label, f->rows, f->cols, (unsigned long long)at, f->batch, f->layer);
    if (!r->open && !um_grad_tree_fits(r->tree, f->layer, f->batch))
        return UM_FAIL(err, UM_E_CORRUPT,
                       "reduce frame of %s: node %u of level %u has micro-batches that are here "
                       "already",
                       label, f->batch, f->layer);
    if (!r->open) {
        r->node = um_grad_tree_new(r->tree, f->layer, f->batch);
        r->open = true;
        r->at = 0;
    }
    UM_TRY(um_link_rows_in(r->link, r->dev, r->node.sum + r->at, in, &r->staging, err));
    r->at += f->cols;
    r->came += f->cols;
    r->since_ns = um_now_ns();
    if (r->at == r->values) {
        um_grad_tree_put(r->tree, r->node);
        r->open = false;
    }
    return grant(r, err);
}

/* Called by the link with every reduce frame. */
static um_status frame_in(void *ctx, const um_inbound *in, um_err *err)
{
    um_reduce *r = ctx;
    const um_topology *topo = &r->link->comm->topo;
    const um_rank *from = &topo->ranks[in->msg.peer];
    char label[128];
    um_topology_label(topo, in->msg.peer, label);
    if (from->role != UM_ROLE_ROUTER)
        return UM_FAIL(err, UM_E_CORRUPT, "reduce frame of %s, which has no sums", label);
    if (in->frame.rows == 0 && in->frame.layer == LEVEL_ROOM) {
        r->room[from->index] = (room){in->frame.step, um_get_u64(in->frame.payload)};
        return UM_OK;
    }
    if (from->index != r->from || in->frame.step != r->step)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "reduce frame of %s: nobody has asked for its sums of step %llu", label,
                       (unsigned long long)in->frame.step);
    if (in->frame.rows == 0 && in->frame.layer == LEVEL_END) {
        const uint64_t sent = um_get_u64(in->frame.payload);
        if (r->open || sent != r->came)
            return UM_FAIL(err, UM_E_CORRUPT,
                           "reduce frame of %s: %llu values of step %llu have come, it sent %llu",
                           label, (unsigned long long)r->came, (unsigned long long)r->step,
                           (unsigned long long)sent);
        r->ended = true;
        return UM_OK;
    }
    return piece_in(r, in, label, err);
}

/* For the link: who owes sums. */
static bool owed(void *ctx, um_owed *out)
{
    const um_reduce *r = ctx;
    if (r->from < 0) return false;
    out->peer = rank_of(r, r->from);
    out->since_ns = r->since_ns;
    out->grace_ns = r->waits * r->link->stall_ns;
    snprintf(out->what, sizeof out->what, "the sums of gradients of step %llu",
             (unsigned long long)r->step);
    return true;
}

um_reduce *um_reduce_open(um_link *l, um_dev *dev, size_t values)
{
    um_reduce *r = um_zalloc(sizeof *r);
    const um_topology *topo = &l->comm->topo;
    *r = (um_reduce){.link = l,
                     .dev = dev,
                     .values = values,
                     .me = topo->ranks[l->comm->rank].index,
                     .routers = topo->count[UM_ROLE_ROUTER],
                     .from = -1};
    r->room = um_zalloc((size_t)r->routers * sizeof *r->room);
    um_arena_init(&r->staging, "sums of gradients", 1 << 16);
    um_link_handle(l, UM_KIND_REDUCE, frame_in, r);
    um_link_owes(l, owed, r);
    return r;
}

void um_reduce_close(um_reduce *r)
{
    if (r == NULL) return;
    um_link_handle(r->link, UM_KIND_REDUCE, NULL, NULL);
    um_link_owes_end(r->link, r);
    um_arena_free(&r->staging);
    um_free(r->room);
    um_free(r);
}

/* Receives one frame: a reduce frame has then been dealt with, any other is kept for later. */
static um_status receive(um_reduce *r, um_err *err)
{
    um_inbound in = {0};
    UM_TRY(um_link_next_any(r->link, &in, -1, err));
    if (in.msg.data != NULL) um_link_defer(r->link, &in);
    return UM_OK;
}

/* Waits until a router lets us have sent so many values of this step. */
static um_status room_wait(um_reduce *r, int router, uint64_t values, um_err *err)
{
    const room *w = &r->room[router];
    while (w->step != r->step || w->values < values) UM_TRY(receive(r, err));
    return UM_OK;
}

/* sent: values that the receiver has been sent of this step. */
static um_status node_send(um_reduce *r, const um_grad_node *node, int router, uint64_t *sent,
                           um_err *err)
{
    uint8_t meta[8];
    for (size_t at = 0, n; at < r->values; at += n) {
        n = r->values - at < piece_values(r) ? r->values - at : piece_values(r);
        *sent += n;
        UM_TRY(room_wait(r, router, *sent, err));
        um_put_u64(meta, at);
        um_data_frame f = {.kind = UM_KIND_REDUCE,
                           .layer = node->level,
                           .batch = node->index,
                           .step = r->step,
                           .meta = meta,
                           .meta_bytes = sizeof meta,
                           .dev = r->dev,
                           .rows = node->sum + at,
                           .n = 1,
                           .cols = (uint32_t)n};
        UM_TRY(um_link_send_rows(r->link, rank_of(r, router), &f, &r->staging, err));
    }
    return UM_OK;
}

/* All nodes of a tree to another router. */
static um_status nodes_send(um_reduce *r, const um_grad_tree *t, int router, um_err *err)
{
    uint64_t sent = 0;
    UM_TRY(room_wait(r, router, 1, err)); /* it listens */
    for (int i = 0; i < um_grad_tree_nodes(t); i++)
        UM_TRY(node_send(r, um_grad_tree_node(t, i), router, &sent, err));
    return signal_send(r, router, LEVEL_END, sent, err);
}

/* And from it into a tree. */
static um_status nodes_receive(um_reduce *r, um_grad_tree *t, int router, um_err *err)
{
    r->from = router;
    r->tree = t;
    r->open = r->ended = false;
    r->came = r->granted = 0;
    r->since_ns = um_now_ns();
    um_status st = grant(r, err);
    while (st == UM_OK && !r->ended) st = receive(r, err);
    if (st != UM_OK && r->open) um_grad_tree_drop(t, r->node);
    r->from = -1;
    return st;
}

/* A message about a peer begins with its name; every other says where it comes from. */
static um_status in_context(um_err *err, um_status st)
{
    return st == UM_E_PEER ? st : um_wrap(err, st, "sums of gradients");
}

um_status um_reduce_gather(um_reduce *r, um_grad_tree *t, uint64_t step, um_err *err)
{
    r->step = step;
    r->waits = 0;
    for (int s = 1; s < r->routers && r->values > 0; s *= 2, r->waits++) {
        if (r->me % (2 * s) == s) return in_context(err, nodes_send(r, t, r->me - s, err));
        if (r->me + s < r->routers) UM_TRY(in_context(err, nodes_receive(r, t, r->me + s, err)));
    }
    return UM_OK;
}

um_status um_reduce_spread(um_reduce *r, um_grad_tree *t, uint64_t step, um_err *err)
{
    int s = 1;
    r->step = step;
    if (r->values == 0) return UM_OK;
    UM_ASSERT(r->me > 0 || um_grad_tree_nodes(t) <= 1);
    if (r->me > 0) um_grad_tree_clear(t);
    while (s < r->routers) s *= 2;
    for (s /= 2; s > 0; s /= 2, r->waits++) {
        if (r->me % (2 * s) == s)
            UM_TRY(in_context(err, nodes_receive(r, t, r->me - s, err)));
        else if (r->me % (2 * s) == 0 && r->me + s < r->routers)
            UM_TRY(in_context(err, nodes_send(r, t, r->me + s, err)));
    }
    return UM_OK;
}
