/* See encoder_train.h. */
#include "encoder_worker/encoder_train.h"

#include "core/base/bytes.h"
#include "encoder_worker/tower_cache.h"

#include <inttypes.h>
#include <string.h>

/* An item between its rows and their gradient. */
typedef struct kept {
    um_item_key key;
    um_medium *medium;   /* its parts; their values only with recompute */
    um_tower_acts *acts; /* [groups] or NULL: recompute */
    float *drows;        /* device [rows, D] */
    bool arrived, used;  /* its gradient has come; it has rows */
    um_arena host, device;
} kept;

struct um_encoder_train {
    const um_encode *e;
    um_params *ps;
    um_lora *lora;
    um_encoder_settings how;
    um_tower_point lowest[UM_MODALITIES]; /* where training begins */
    um_tower_cache *cache;
    um_grad_tree *tree; /* NULL: nothing is trained */
    /* [n] that are kept, in the order in which they came; behind them [spare] to be used again */
    kept **list;
    int n, spare, cap;
    um_encoder_counts counts;
};

um_encoder_train *um_encoder_train_open(const um_encode *e, um_params *ps, um_lora *lora,
                                        const um_encoder_settings *how)
{
    um_encoder_train *t = um_zalloc(sizeof *t);
    size_t trained = 0;
    *t = (um_encoder_train){.e = e, .ps = ps, .lora = lora, .how = *how};
    for (int m = UM_IMAGE; m < UM_MODALITIES; m++) {
        const um_tower tower = um_medium_tower(e, (um_modality)m);
        t->lowest[m] = um_tower_lowest(&tower, ps);
    }
    for (size_t i = 0; i < ps->n; i++) trained += ps->list[i].trained;
    t->cache = um_tower_cache_open(how->tower_cache);
    if (trained > 0) t->tree = um_grad_tree_open(e->dev, ps->n_grads, ps->n);
    return t;
}

static void kept_close(kept *k)
{
    um_arena_free(&k->device);
    um_arena_free(&k->host);
    um_free(k);
}

void um_encoder_train_close(um_encoder_train *t)
{
    if (t == NULL) return;
    for (int i = 0; i < t->n + t->spare; i++) kept_close(t->list[i]);
    um_free(t->list);
    um_grad_tree_close(t->tree);
    um_tower_cache_close(t->cache);
    um_free(t);
}

/* --- the list --- */

/* An item to be kept, at the end of the list. */
static kept *kept_new(um_encoder_train *t, um_item_key key)
{
    if (t->spare == 0) {
        if (t->n == t->cap) {
            t->cap = t->cap == 0 ? 16 : 2 * t->cap;
            t->list = um_realloc(t->list, (size_t)t->cap * sizeof *t->list);
        }
        kept *k = um_zalloc(sizeof *k);
        um_arena_init(&k->host, "kept media", 1 << 16);
        um_dev_arena(&k->device, t->e->dev, "kept activations", 1 << 16);
        t->list[t->n] = k;
        t->spare = 1;
    }
    kept *k = t->list[t->n];
    t->spare--;
    t->n++;
    k->key = key;
    k->medium = NULL;
    k->acts = NULL;
    k->arrived = k->used = false;
    return k;
}

static void kept_drop(um_encoder_train *t, int i)
{
    kept *k = t->list[i];
    t->counts.kept -= k->device.used + k->host.used;
    um_arena_reset(&k->device, (um_mark){0});
    um_arena_reset(&k->host, (um_mark){0});
    memmove(&t->list[i], &t->list[i + 1], (size_t)(t->n - 1 - i) * sizeof *t->list);
    t->list[--t->n] = k;
    t->spare++;
}

static kept *kept_find(const um_encoder_train *t, um_item_key key)
{
    for (int i = 0; i < t->n; i++) {
        const um_item_key *k = &t->list[i]->key;
        if (k->step == key.step && k->batch == key.batch && k->item == key.item) return t->list[i];
    }
    return NULL;
}

int um_encoder_train_open_items(const um_encoder_train *t)
{
    int open = 0;
    for (int i = 0; i < t->n; i++) open += !t->list[i]->arrived;
    return open;
}

/* --- forward --- */

/* The values of a request at the point where training begins: from the cache, or computed into host. */
static um_status frozen(um_encoder_train *t, um_medium *out, const Um__EncodeRequest *req,
                        um_arena *host, um_err *err)
{
    UM_TRY(um_encode_check(t->e, req, err));
    const um_medium *known = um_tower_cache_get(t->cache, req->key);
    if (known != NULL) {
        t->counts.cached++;
        *out = *known;
        return UM_OK;
    }
    t->counts.computed++;
    UM_TRY(um_medium_read(out, t->e, t->lowest[req->modality], req, host, err));
    um_tower_cache_put(t->cache, req->key, out);
    return UM_OK;
}

void um_encoder_train_ahead(um_encoder_train *t, const Um__EncodeRequest *req, um_arena *step)
{
    um_medium m;
    um_err why = {0};
    const um_mark mark = um_arena_mark(step);
    if (t->how.tower_cache > 0) (void)frozen(t, &m, req, step, &why); /* it will be read again */
    um_arena_reset(step, mark);
}

/* Parts of a medium that go through the tower together: n from number `from`. The next group: from is behind them. */
typedef struct group {
    int number, from, n;
} group;

static group group_next(const um_tower *tower, const um_medium *m, group g)
{
    const int from = g.from + g.n;
    return (group){.number = g.n > 0 ? g.number + 1 : 0,
                   .from = from,
                   .n = um_min_int(um_tower_at_once(tower), m->parts - from)};
}

static group group_first(const um_tower *tower, const um_medium *m)
{
    return group_next(tower, m, (group){0});
}

/* rows of a group's parts, from their values. */
static void group_fwd(const um_encoder_train *t, float *rows, const um_tower *tower,
                      um_tower_acts *a, const um_medium *m, group g)
{
    um_dev *dev = t->e->dev;
    float *at = um_tower_at(a, tower, m->at);
    for (int i = 0; i < g.n; i++) {
        const um_medium_part *p = &m->part[g.from + i];
        if (m->at == UM_AT_INPUT)
            memcpy(at, p->value, p->values * sizeof *at);
        else
            dev->ops->put(dev, at, p->value, p->values * sizeof *at);
        at += p->values;
    }
    um_tower_fwd(rows, tower, a, m->at, UM_AT_ROWS, m->part[g.from].real, dev);
}

/* The rows of a medium, in e->device. acts [groups]: bound, and kept; NULL: bound here for one group after another. */
static const float *parts_fwd(const um_encoder_train *t, const um_medium *m, um_tower_acts *acts)
{
    const um_encode *e = t->e;
    const um_tower tower = um_medium_tower(e, m->modality);
    um_part_rows rows;
    um_arena host;
    um_arena_init(&host, "media", 1 << 16);
    um_part_rows_begin(&rows, e, m);
    for (group g = group_first(&tower, m); g.n > 0; g = group_next(&tower, m, g)) {
        const um_mark mark = um_arena_mark(e->device), there = um_arena_mark(&host);
        um_tower_acts own;
        float *made = um_arena_f32(e->device, (size_t)g.n, rows.one);
        if (acts == NULL)
            um_tower_acts_bind_parts(&own, g.n, &tower, &host, e->device, m->at, false);
        group_fwd(t, made, &tower, acts == NULL ? &own : &acts[g.number], m, g);
        for (int i = 0; i < g.n; i++) {
            e->dev->ops->copy(e->dev, rows.next, made + (size_t)i * rows.one,
                              rows.one * sizeof *made);
            um_part_rows_add(&rows);
        }
        um_arena_reset(&host, there);
        um_arena_reset(e->device, mark);
    }
    um_arena_free(&host);
    return um_part_rows_end(&rows);
}

/* Device memory of the activations of a medium. */
static size_t acts_bytes(const um_tower *tower, const um_medium *m)
{
    um_arena host, device;
    um_tower_acts a;
    um_arena_init(&host, "measured", 1 << 16);
    um_arena_init_measure(&device, "measured");
    for (group g = group_first(tower, m); g.n > 0; g = group_next(tower, m, g))
        um_tower_acts_bind_parts(&a, g.n, tower, &host, &device, m->at, true);
    const size_t bytes = device.peak;
    um_arena_free(&host);
    um_arena_free(&device);
    return bytes;
}

/* Checks that an item may be kept, and binds what it will need. */
static um_status keep(um_encoder_train *t, kept *k, const um_medium *m, const char *name,
                      um_err *err)
{
    const um_tower tower = um_medium_tower(t->e, m->modality);
    const bool back = m->at != UM_AT_ROWS, again = back && t->how.recompute, acts = back && !again;
    const size_t rows = (size_t)m->rows * (size_t)tower.model->dim, most = t->how.activation_memory;
    const size_t device = rows * sizeof(float) + 64 + (acts ? acts_bytes(&tower, m) : 0),
                 more = device + (again ? um_medium_bytes(m) : 0);
    if (most > 0 && t->counts.kept + more > most)
        return UM_FAIL(err, UM_E_LIMIT,
                       "%s: its activations take %.1f MiB, %.1f MiB are kept already, "
                       "--activation-memory is %.1f MiB: raise it, use --recompute layer, or make "
                       "--micro-batch smaller",
                       name, (double)more / 1048576.0, (double)t->counts.kept / 1048576.0,
                       (double)most / 1048576.0);
    (void)um_arena_reserve(&k->device, device); /* one block, which the next item will find */
    k->medium = um_medium_in(m, &k->host, again);
    k->drows = um_arena_f32(&k->device, 1, rows);
    if (acts) {
        k->acts = um_arena_zero(&k->host, (size_t)m->parts * sizeof *k->acts);
        for (group g = group_first(&tower, m); g.n > 0; g = group_next(&tower, m, g))
            um_tower_acts_bind_parts(&k->acts[g.number], g.n, &tower, &k->host, &k->device, m->at,
                                     true);
    }
    t->counts.kept += k->device.used + k->host.used;
    return UM_OK;
}

/* What is dropped depends on the micro-batch alone; nothing is where nothing goes backward. */
static void draw(um_encoder_train *t, um_item_key key, bool back)
{
    if (t->lora == NULL) return;
    t->lora->dropout = back ? t->how.dropout : 0.0f;
    t->lora->seed = um_lora_seed(t->how.seed, key.step, key.batch);
}

static um_status rows_of(um_encoder_train *t, float **rows, const um_medium *m, kept *k,
                         um_arena *step, um_err *err)
{
    um_dev *dev = t->e->dev;
    const size_t n = (size_t)m->rows * (size_t)t->e->towers.model->dim;
    *rows = um_arena_f32(step, 1, n);
    if (m->at == UM_AT_ROWS) {
        memcpy(*rows, m->part[0].value, n * sizeof **rows);
        return UM_OK;
    }
    const um_mark mark = um_arena_mark(t->e->device);
    const float *made = parts_fwd(t, m, k != NULL ? k->acts : NULL);
    dev->ops->get(dev, *rows, made, n * sizeof **rows);
    um_arena_reset(t->e->device, mark);
    return um_dev_sync(dev, err);
}

um_status um_encoder_train_rows(um_encoder_train *t, float **rows, int *n, um_status *item,
                                um_err *why, const Um__EncodeRequest *req, um_arena *step,
                                um_err *err)
{
    const Um__EncodeTraining *train = req->train;
    const um_item_key key = {train->step, train->batch, train->item};
    um_medium m = {0};
    kept *k = NULL;
    *item = frozen(t, &m, req, step, why);
    if (*item != UM_OK) return UM_OK;
    if (train->keep) {
        if (kept_find(t, key) != NULL)
            return UM_FAIL(err, UM_E_CORRUPT,
                           "%s: item %" PRIu32 " of micro-batch %" PRIu32 " of step %" PRIu64
                           " is kept already",
                           req->name, key.item, key.batch, key.step);
        k = kept_new(t, key);
        UM_TRY(keep(t, k, &m, req->name, err));
    }
    draw(t, key, train->keep);
    *item = rows_of(t, rows, &m, k, step, why);
    *n = m.rows;
    if (*item != UM_OK && k != NULL) kept_drop(t, t->n - 1);
    return UM_OK;
}

/* --- backward --- */

um_status um_encoder_train_room(um_encoder_train *t, float **rows, um_item_key key, int n,
                                um_err *err)
{
    kept *k = kept_find(t, key);
    if (k == NULL || k->arrived || (n != 0 && n != k->medium->rows))
        return UM_FAIL(err, UM_E_CORRUPT,
                       "gradient of %d rows for item %" PRIu32 " of micro-batch %" PRIu32
                       " of step %" PRIu64 ", %s",
                       n, key.item, key.batch, key.step,
                       k == NULL    ? "which is not kept"
                       : k->arrived ? "which has come already"
                                    : "which has another number of rows");
    k->used = n > 0;
    *rows = n > 0 ? k->drows : NULL;
    return UM_OK;
}

/* The gradients of the rows of a group's parts: drows is that of all parts or, of a video, that of each. */
static const float *group_drows(const um_encoder_train *t, const float *drows, size_t one,
                                bool video, group g)
{
    if (!video) return drows + (size_t)g.from * one;
    float *all = um_arena_f32(t->e->device, (size_t)g.n, one);
    t->e->dev->ops->copy_2d(t->e->dev, all, (int)one, drows, 0, g.n, (int)one);
    return all;
}

/* Forward was the rows of one part after another or, of a video, their mean. */
static void item_bwd(um_encoder_train *t, const kept *k)
{
    const um_encode *e = t->e;
    const um_medium *m = k->medium;
    const um_tower tower = um_medium_tower(e, m->modality);
    const size_t one = (size_t)um_tower_rows(&tower) * (size_t)tower.model->dim;
    const bool video = m->modality == UM_VIDEO;
    um_arena host;
    um_arena_init(&host, "media", 1 << 16);
    if (video) e->dev->ops->divide(e->dev, k->drows, (float)m->parts, one);
    for (group g = group_first(&tower, m); g.n > 0; g = group_next(&tower, m, g)) {
        const um_mark mark = um_arena_mark(e->device), there = um_arena_mark(&host);
        um_tower_acts own;
        if (k->acts == NULL) {
            um_tower_acts_bind_parts(&own, g.n, &tower, &host, e->device, m->at, true);
            group_fwd(t, um_arena_f32(e->device, (size_t)g.n, one), &tower, &own, m, g);
        }
        um_tower_bwd(&tower, k->acts == NULL ? &own : &k->acts[g.number], m->at,
                     m->part[g.from].real, group_drows(t, k->drows, one, video, g), e->dev,
                     e->device);
        um_arena_reset(&host, there);
        um_arena_reset(e->device, mark);
    }
    um_arena_free(&host);
}

static bool same_batch(const kept *k, um_item_key key)
{
    return k->key.step == key.step && k->key.batch == key.batch;
}

/* The item of the micro-batch with the lowest number that is at least `from`; NULL: none. */
static kept *next_item(const um_encoder_train *t, um_item_key key, uint64_t from)
{
    kept *next = NULL;
    for (int i = 0; i < t->n; i++) {
        kept *k = t->list[i];
        if (same_batch(k, key) && k->key.item >= from &&
            (next == NULL || k->key.item < next->key.item))
            next = k;
    }
    return next;
}

um_status um_encoder_train_grad(um_encoder_train *t, um_item_key key, um_err *err)
{
    bool used = false;
    kept_find(t, key)->arrived = true;
    for (int i = 0; i < t->n; i++)
        if (same_batch(t->list[i], key) && !t->list[i]->arrived) return UM_OK;
    draw(t, key, true);
    for (kept *k = next_item(t, key, 0); k != NULL;
         k = next_item(t, key, (uint64_t)k->key.item + 1)) {
        if (!k->used || k->medium->at == UM_AT_ROWS) continue;
        item_bwd(t, k);
        used = true;
    }
    for (int i = t->n - 1; i >= 0; i--)
        if (same_batch(t->list[i], key)) kept_drop(t, i);
    if (!used) return UM_OK;
    if (t->e->towers.sound != NULL) UM_TRY(um_sound_grads(t->e->towers.sound, err));
    um_grad_tree_take(t->tree, key.batch, t->ps);
    return um_dev_sync(t->e->dev, err);
}

void um_encoder_train_sum(um_encoder_train *t)
{
    UM_ASSERT(um_encoder_train_open_items(t) == 0);
    if (t->tree != NULL) um_grad_tree_give(um_grad_tree_root(t->tree), t->ps);
}

um_status um_encoder_train_next(um_encoder_train *t, um_err *err)
{
    if (t->tree == NULL) return UM_OK;
    um_grad_tree_clear(t->tree);
    return um_encode_prepare(t->e, err);
}

um_encoder_counts um_encoder_train_counts(const um_encoder_train *t) { return t->counts; }
