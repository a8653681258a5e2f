/* See expert_train.h. */
#include "expert_worker/expert_train.h"

#include "core/base/bytes.h"
#include "core/base/log.h"

#include <string.h>

/* What is kept of one dispatch frame. */
typedef struct entry {
    int peer;
    bool used;
    bool answered;           /* its gradient has come, and dy waits for its turn */
    um_dispatch_batch batch; /* x and pair_row only with recompute */
    um_expert_acts acts;     /* unless recompute */
    float *dy;               /* device [pairs,D] once answered */
    uint64_t bytes;
    um_arena host, device;
} entry;

/* The last gradients that a router was sent: it may ask for them again. */
typedef struct answer {
    bool used;
    um_exchange_key key;
    int pairs;
    float *dx; /* device [pairs,D] */
    um_arena device;
} answer;

/* Of one layer with experts, in the step that is under way. */
typedef struct turns {
    uint32_t next;  /* the micro-batch whose turn it is */
    uint8_t *added; /* [cap] bits: whose gradients are added */
    size_t cap;     /* bytes */
} turns;

struct um_expert_train {
    const um_experts *experts;
    um_link *link;
    um_dev *dev;
    um_lora *lora;
    um_expert_train_settings how;
    entry **list; /* [n]; those that are not used keep their memory */
    int n;
    turns *turn;   /* [moe layers] */
    answer *again; /* [ranks] */
    uint64_t bytes, peak;
};

/* --- the table --- */

um_expert_train *um_expert_train_open(const um_experts *e, um_link *l, um_dev *dev, um_lora *lora,
                                      const um_expert_train_settings *s)
{
    um_expert_train *k = um_zalloc(sizeof *k);
    *k = (um_expert_train){.experts = e, .link = l, .dev = dev, .lora = lora, .how = *s};
    k->turn = um_zalloc((size_t)e->model->moe_layers * sizeof *k->turn + 1);
    k->again = um_zalloc((size_t)l->comm->topo.n * sizeof *k->again);
    for (int r = 0; r < l->comm->topo.n; r++)
        um_dev_arena(&k->again[r].device, dev, "gradients that were sent", 1 << 16);
    return k;
}

void um_expert_train_close(um_expert_train *k)
{
    if (k == NULL) return;
    for (int i = 0; i < k->n; i++) {
        um_arena_free(&k->list[i]->host);
        um_arena_free(&k->list[i]->device);
        um_free(k->list[i]);
    }
    for (int i = 0; i < k->experts->model->moe_layers; i++) um_free(k->turn[i].added);
    for (int r = 0; r < k->link->comm->topo.n; r++) um_arena_free(&k->again[r].device);
    um_free(k->list);
    um_free(k->turn);
    um_free(k->again);
    um_free(k);
}

static bool same_key(um_exchange_key a, um_exchange_key b)
{
    return a.step == b.step && a.layer == b.layer && a.batch == b.batch;
}

static entry *find(const um_expert_train *k, um_exchange_key key)
{
    for (int i = 0; i < k->n; i++)
        if (k->list[i]->used && same_key(k->list[i]->batch.key, key)) return k->list[i];
    return NULL;
}

static turns *turns_of(const um_expert_train *k, um_exchange_key key)
{
    return &k->turn[k->experts->moe_index[key.layer]];
}

static bool is_added(const turns *t, uint32_t b)
{
    return b / 8 < t->cap && (t->added[b / 8] >> b % 8 & 1) != 0;
}

static void mark_added(turns *t, uint32_t b)
{
    if (b / 8 >= t->cap) {
        size_t cap = 2 * (size_t)(b / 8) + 8;
        t->added = um_realloc(t->added, cap);
        memset(t->added + t->cap, 0, cap - t->cap);
        t->cap = cap;
    }
    t->added[b / 8] |= (uint8_t)(1u << b % 8);
    while (is_added(t, t->next)) t->next++;
}

static entry *entry_new(um_expert_train *k)
{
    for (int i = 0; i < k->n; i++)
        if (!k->list[i]->used) return k->list[i];
    k->list = um_realloc(k->list, ((size_t)k->n + 1) * sizeof(entry *));
    entry *e = um_zalloc(sizeof *e);
    um_arena_init(&e->host, "kept pairs", 1 << 10);
    um_dev_arena(&e->device, k->dev, "kept activations", 1 << 12);
    k->list[k->n++] = e;
    return e;
}

static void entry_end(um_expert_train *k, entry *e)
{
    um_arena_reset(&e->host, (um_mark){0});
    um_arena_reset(&e->device, (um_mark){0});
    k->bytes -= e->bytes;
    e->bytes = 0;
    e->used = e->answered = false;
}

/* Counts bytes more for an entry, if they are within the bound. */
static um_status charge(um_expert_train *k, entry *e, uint64_t bytes, um_err *err)
{
    if (k->how.memory > 0 && k->bytes + bytes > k->how.memory)
        return UM_FAIL(err, UM_E_LIMIT,
                       "activations kept for the backward pass would take %.1f MiB with those of "
                       "layer %u, micro-batch %u; --activation-memory allows %.1f MiB: raise it, "
                       "%suse more expert ranks, or lower --micro-batch",
                       (double)(k->bytes + bytes) / 1048576.0, e->batch.key.layer,
                       e->batch.key.batch, (double)k->how.memory / 1048576.0,
                       k->how.recompute ? "" : "use --recompute ffn, ");
    e->bytes += bytes;
    k->bytes += bytes;
    if (k->bytes > k->peak) k->peak = k->bytes;
    return UM_OK;
}

int um_expert_train_entries(const um_expert_train *k)
{
    int n = 0;
    for (int i = 0; i < k->n; i++) n += k->list[i]->used;
    return n;
}

uint64_t um_expert_train_bytes(const um_expert_train *k, uint64_t *peak)
{
    *peak = k->peak;
    return k->bytes;
}

/* --- numerics --- */

static void acts_bind(um_expert_acts *a, um_arena *device, const um_expert_train *k, int pairs,
                      bool keep)
{
    const um_model *m = k->experts->model;
    um_expert_acts_bind(a, device, pairs, m->dim, m->expert_dim, keep);
}

/* What branches drop depends on the micro-batch; nothing does when nobody learns from it. */
static void dropout_set(const um_expert_train *k, um_exchange_key key, bool learns)
{
    if (k->lora == NULL) return;
    k->lora->dropout = learns ? k->how.dropout : 0.0f;
    k->lora->seed = um_lora_seed(k->how.seed, key.step, key.batch);
}

/* The activations of an entry, as forward left them: kept, or computed again into device. */
static void acts_of(um_expert_acts *out, const um_expert_train *k, const entry *e, bool again,
                    const um_ffn_group *group, int groups, um_arena *host, um_arena *device)
{
    const um_dispatch_batch *b = &e->batch;
    const um_ops *ops = k->dev->ops;
    if (!k->how.recompute && !again) {
        *out = e->acts;
        return;
    }
    acts_bind(out, device, k, b->pairs, true);
    if (k->how.recompute)
        ops->gather(k->dev, out->x, b->x, b->pair_row, b->pairs, b->D);
    else
        ops->copy(k->dev, out->x, e->acts.x, (size_t)b->pairs * (size_t)b->D * sizeof(float));
    float *y = um_arena_f32(device, (size_t)b->pairs, (size_t)b->D);
    um_ffn_grouped_fwd(k->dev, y, out, group, groups, b->pairs, host);
}

/* dx [pairs,D] = the gradient of every pair's row. acts are then as um_ffn_group_grads wants them. */
static void rows_bwd(float *dx, um_expert_acts *acts, const um_expert_train *k, const entry *e,
                     bool again, const um_ffn_group *group, int groups, const float *dy,
                     um_arena *host, um_arena *device)
{
    acts_of(acts, k, e, again, group, groups, host, device);
    um_ffn_grouped_bwd(k->dev, dx, acts, group, groups, dy, e->batch.pairs, host, device);
}

/* Adds the gradients of the weights of an entry, and forgets it. acts: as rows_bwd left them. */
static void add(um_expert_train *k, entry *e, const um_expert_acts *acts, const um_ffn_group *group,
                int groups, const float *dy, um_arena *device)
{
    for (int i = 0; i < groups; i++) um_ffn_group_grads(k->dev, acts, &group[i], dy, device);
    mark_added(turns_of(k, e->batch.key), e->batch.key.batch);
    entry_end(k, e);
}

/* The groups of an entry. */
static um_ffn_group *groups_of(int *n, const um_expert_train *k, const um_dispatch_batch *b,
                               um_arena *host)
{
    um_ffn_group *group = um_arena_alloc(host, (size_t)b->pairs * sizeof *group);
    *n = um_experts_groups(group, k->experts, b, 0, b->pairs);
    return group;
}

/* The same for one whose gradient came before its turn. */
static void add_late(um_expert_train *k, entry *e, um_arena *host, um_arena *device)
{
    um_mark h = um_arena_mark(host), d = um_arena_mark(device);
    int groups;
    um_ffn_group *group = groups_of(&groups, k, &e->batch, host);
    um_expert_acts acts = e->acts;
    dropout_set(k, e->batch.key, true);
    if (k->how.recompute) {
        float *dx = um_arena_f32(device, (size_t)e->batch.pairs, (size_t)e->batch.D);
        rows_bwd(dx, &acts, k, e, false, group, groups, e->dy, host, device);
    }
    add(k, e, &acts, group, groups, e->dy, device);
    um_arena_reset(device, d);
    um_arena_reset(host, h);
}

/* Adds those of a layer that have waited for their turn. */
static void drain(um_expert_train *k, um_exchange_key key, um_arena *host, um_arena *device)
{
    for (;;) {
        key.batch = turns_of(k, key)->next;
        entry *e = find(k, key);
        if (e == NULL || !e->answered) return;
        add_late(k, e, host, device);
    }
}

/* --- frames --- */

/* Passes the rows of a batch through their experts, and sends the results. */
static um_status answer_rows(const um_expert_train *k, int peer, const um_dispatch_batch *b,
                             um_expert_acts *acts, bool learns, um_arena *host, um_arena *device,
                             um_err *err)
{
    float *y = um_arena_f32(device, (size_t)b->pairs, (size_t)b->D);
    dropout_set(k, b->key, learns);
    UM_TRY(um_experts_run(k->experts, y, b, acts, k->dev, host, err));
    return um_dispatch_batch_answer(k->link, peer, b, y, k->dev, host, err);
}

/* Of a frame of which nothing is kept, or nothing new. */
static um_status answer_only(um_expert_train *k, const um_inbound *in, bool learns, um_arena *host,
                             um_arena *device, um_err *err)
{
    um_dispatch_batch b;
    um_expert_acts acts;
    UM_TRY(
        um_dispatch_batch_read(&b, k->link, in, k->experts->model->dim, k->dev, host, device, err));
    /* a branch drops by the row's number among those of its expert: all at once, if it learns */
    acts_bind(&acts, device, k, b.pairs, learns);
    return answer_rows(k, in->msg.peer, &b, &acts, learns, host, device, err);
}

/* Bytes that an entry for a frame takes. */
static uint64_t entry_bytes(const um_expert_train *k, const um_frame *f)
{
    um_arena a;
    um_expert_acts acts;
    const size_t pairs = f->meta_bytes / UM_PAIR_BYTES, D = (size_t)k->experts->model->dim;
    um_arena_init_measure(&a, "kept activations");
    if (k->how.recompute) {
        um_arena_f32(&a, f->rows, D);
        um_arena_i32(&a, pairs);
    } else {
        acts_bind(&acts, &a, k, (int)pairs, true);
    }
    uint64_t bytes = a.peak;
    um_arena_free(&a);
    return bytes;
}

/* A frame that is new: its results, and what backward needs of them. */
static um_status enter(um_expert_train *k, const um_inbound *in, um_arena *host, um_arena *device,
                       um_err *err)
{
    entry *e = entry_new(k);
    const int D = k->experts->model->dim;
    e->used = true;
    e->peer = in->msg.peer;
    e->batch = (um_dispatch_batch){.key = um_exchange_key_of(&in->frame)};
    um_status st = charge(k, e, entry_bytes(k, &in->frame), err);
    um_arena *rows = k->how.recompute ? &e->device : device;
    if (st == UM_OK)
        st = um_dispatch_batch_read(&e->batch, k->link, in, D, k->dev, &e->host, rows, err);
    if (st == UM_OK) {
        acts_bind(&e->acts, k->how.recompute ? device : &e->device, k, e->batch.pairs, true);
        st = answer_rows(k, e->peer, &e->batch, &e->acts, true, host, device, err);
    }
    if (st != UM_OK) entry_end(k, e);
    return st;
}

um_status um_expert_train_dispatch(um_expert_train *k, const um_inbound *in, um_arena *host,
                                   um_arena *device, um_err *err)
{
    const um_exchange_key key = um_exchange_key_of(&in->frame);
    const bool learns = key.step > 0 && (key.batch & UM_BATCH_FORWARD) == 0;
    um_mark h = um_arena_mark(host), d = um_arena_mark(device);
    um_status st = um_experts_layer(k->experts, key.layer, err);
    const entry *e = st == UM_OK && learns ? find(k, key) : NULL;
    if (st == UM_OK && learns && key.batch >= UM_BATCHES_MAX)
        st = UM_FAIL(err, UM_E_LIMIT, "dispatch frame: micro-batch %u, a step has at most %d",
                     key.batch, UM_BATCHES_MAX);
    else if (e != NULL && e->peer != in->msg.peer)
        st = UM_FAIL(err, UM_E_CORRUPT,
                     "dispatch frame of rank %d: step %llu, layer %u, micro-batch %u is rank %d's",
                     in->msg.peer, (unsigned long long)key.step, key.layer, key.batch, e->peer);
    else if (st == UM_OK && learns && e == NULL && !is_added(turns_of(k, key), key.batch))
        st = enter(k, in, host, device, err);
    else if (st == UM_OK)
        st = answer_only(k, in, learns, host, device, err);
    um_arena_reset(device, d);
    um_arena_reset(host, h);
    return st;
}

static um_status send(um_expert_train *k, int peer, um_exchange_key key, const float *dx, int pairs,
                      um_arena *host, um_err *err)
{
    return um_dispatch_grad_answer(k->link, peer, key, dx, pairs, k->experts->model->dim, k->dev,
                                   host, err);
}

/* A gradient that is in the sums already, and whose activations are gone. */
static um_status answer_again(um_expert_train *k, const um_inbound *in, um_exchange_key key,
                              um_arena *host, um_err *err)
{
    const answer *a = &k->again[in->msg.peer];
    if (a->used && same_key(a->key, key))
        return send(k, in->msg.peer, key, a->dx, a->pairs, host, err);
    um_log_debug(
        "a repeated dispatch-grad frame of step %llu, layer %u, micro-batch %u is dropped: "
        "it was answered long ago",
        (unsigned long long)key.step, key.layer, key.batch);
    return UM_OK;
}

static void remember(um_expert_train *k, int peer, um_exchange_key key, const float *dx, int pairs)
{
    answer *a = &k->again[peer];
    const size_t n = (size_t)pairs * (size_t)k->experts->model->dim;
    um_arena_reset(&a->device, (um_mark){0});
    a->used = true;
    a->key = key;
    a->pairs = pairs;
    a->dx = um_arena_f32(&a->device, 1, n);
    if (n > 0) k->dev->ops->copy(k->dev, a->dx, dx, n * sizeof(float));
}

/* The gradient of an entry: the rows' is answered, the weights' is added, now or in its turn. */
static um_status gradient(um_expert_train *k, entry *e, const um_inbound *in, um_arena *host,
                          um_arena *device, um_err *err)
{
    const um_dispatch_batch *b = &e->batch;
    const size_t n = (size_t)b->pairs * (size_t)b->D;
    const um_exchange_key key = b->key;
    const bool again = e->answered, now = turns_of(k, key)->next == key.batch;
    int groups;
    um_ffn_group *group = groups_of(&groups, k, b, host);
    um_expert_acts acts;
    if (!now && !again) UM_TRY(charge(k, e, um_round_up(n * sizeof(float), 64), err));
    float *dy = um_arena_f32(now || again ? device : &e->device, 1, n),
          *dx = um_arena_f32(device, 1, n);
    UM_TRY(um_dispatch_grad_read(dy, b->pairs, k->link, in, b->D, k->dev, host, err));
    dropout_set(k, key, true);
    rows_bwd(dx, &acts, k, e, again, group, groups, dy, host, device);
    UM_TRY(send(k, e->peer, key, dx, b->pairs, host, err));
    if (again) return UM_OK;
    remember(k, e->peer, key, dx, b->pairs);
    if (now) {
        add(k, e, &acts, group, groups, dy, device);
        drain(k, key, host, device);
        return UM_OK;
    }
    e->answered = true;
    e->dy = dy;
    return UM_OK;
}

um_status um_expert_train_gradient(um_expert_train *k, const um_inbound *in, um_arena *host,
                                   um_arena *device, um_err *err)
{
    const um_exchange_key key = um_exchange_key_of(&in->frame);
    um_mark h = um_arena_mark(host), d = um_arena_mark(device);
    um_status st = um_experts_layer(k->experts, key.layer, err);
    if (st != UM_OK) return st;
    entry *e = find(k, key);
    if (e == NULL && is_added(turns_of(k, key), key.batch))
        st = answer_again(k, in, key, host, err);
    else if (e == NULL || e->peer != in->msg.peer)
        st = UM_FAIL(err, UM_E_CORRUPT,
                     "dispatch-grad frame of rank %d: nothing is kept for step %llu, layer %u, "
                     "micro-batch %u of it",
                     in->msg.peer, (unsigned long long)key.step, key.layer, key.batch);
    else
        st = gradient(k, e, in, host, device, err);
    um_arena_reset(device, d);
    um_arena_reset(host, h);
    return st;
}

/* The lowest micro-batch of a layer that waits, whatever its number. */
static entry *lowest(const um_expert_train *k, int moe)
{
    entry *low = NULL;
    for (int i = 0; i < k->n; i++) {
        entry *e = k->list[i];
        if (!e->used || !e->answered || k->experts->moe_index[e->batch.key.layer] != moe) continue;
        if (low == NULL || e->batch.key.batch < low->batch.key.batch) low = e;
    }
    return low;
}

void um_expert_train_finish(um_expert_train *k, um_arena *host, um_arena *device)
{
    for (int moe = 0; moe < k->experts->model->moe_layers; moe++) {
        entry *e;
        while ((e = lowest(k, moe)) != NULL) add_late(k, e, host, device);
        turns *t = &k->turn[moe];
        t->next = 0;
        if (t->cap > 0) memset(t->added, 0, t->cap);
    }
    for (int i = 0; i < k->n; i++)
        if (k->list[i]->used) entry_end(k, k->list[i]);
    for (int r = 0; r < k->link->comm->topo.n; r++) k->again[r].used = false;
}
