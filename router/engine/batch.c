/* See batch.h. */
#include "router/engine/batch.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "router/engine/scheduler.h"

#include <string.h>

void um_batcher_open(um_batcher *x)
{
    for (int i = 0; i < x->flights; i++) {
        um_arena_init(&x->flight[i].host, "micro-batch", 1 << 16);
        um_dev_arena(&x->flight[i].device, x->dev, "micro-batch", 1 << 20);
    }
}

void um_batcher_close(um_batcher *x)
{
    for (int i = 0; i < x->flights; i++) {
        const um_flight *f = &x->flight[i];
        for (int k = 0; f->busy && k < f->batch.segs; k++) f->seqs[k]->in_flight--;
        um_arena_free(&x->flight[i].host);
        um_arena_free(&x->flight[i].device);
    }
}

bool um_batcher_busy(const um_batcher *x)
{
    for (int i = 0; i < x->flights; i++)
        if (x->flight[i].busy) return true;
    return false;
}

/* --- pages --- */

bool um_batcher_shares(const um_batcher *x, const um_sequence *s)
{
    return !x->cfg->gate_noise && x->routing == NULL && s->trace == NULL &&
           x->cfg->prefix_cache > 0;
}

/* Continues s behind what is cached of its rows. No micro-batch may hold rows of it. */
static void prefix_find(um_batcher *x, um_sequence *s)
{
    UM_ASSERT(s->in_flight == 0 && s->sent == s->filled);
    if (!um_batcher_shares(x, s)) return;
    int rows = um_prefix_find(x->prefix, &s->pages, &s->chain);
    s->filled += rows;
    s->sent = s->filled;
    x->stats.reused_rows += rows;
}

um_status um_batcher_begin(um_batcher *x, um_sequence *s, um_err *err)
{
    if (!um_batcher_shares(x, s)) return UM_OK;
    s->chain.ends = s->scored > 0; /* see prefix_cache.h */
    for (int pos = s->chain.rows, n = s->T - s->scored + s->n_out; pos < n;) {
        um_run run = um_sequence_run(s, pos, n - pos);
        if (run.ids == NULL)
            UM_TRY(um_prefix_media(&s->chain, s->features[run.feature].media->key, run.modality,
                                   run.n, err));
        for (int i = 0; run.ids != NULL && i < run.n; i++)
            UM_TRY(um_prefix_token(&s->chain, run.ids[i], err));
        pos += run.n;
    }
    prefix_find(x, s);
    return UM_OK;
}

void um_batcher_release(um_batcher *x, um_sequence *s)
{
    UM_CHECK(s->in_flight == 0);
    um_page_table_release(x->pool, &s->pages);
}

/* Takes the pages of a sequence; its rows are read again, as one prompt with its new tokens. */
static void put_back(um_batcher *x, um_sequence *s)
{
    um_batcher_release(x, s);
    s->read = um_max_int(s->read, s->filled);
    s->filled = s->sent = 0;
    x->stats.put_back++;
}

/* The youngest sequence behind list[i] that has pages and no rows in flight; -1: there is none. */
static int youngest(um_sequence *const *list, int n, int i)
{
    int best = -1;
    for (int k = i + 1; k < n; k++)
        if (list[k]->pages.n > 0 && list[k]->in_flight == 0 &&
            (best < 0 || list[k]->number > list[best]->number))
            best = k;
    return best;
}

/* Rows of a sequence that wait to be read, those in flight not counted. */
static int waiting(const um_sequence *s)
{
    if (s->state != UM_SEQ_PREFILL && s->state != UM_SEQ_DECODE) return 0;
    return s->cancelled ? 0 : s->T + s->n_out - s->sent;
}

static bool generating(const um_sequence *s) { return s->n_out > 0 && waiting(s) == 1; }

/* Pages for `rows` more rows of list[i]; puts younger sequences back when it must. False: it has to wait. */
static bool reserve(um_batcher *x, um_sequence *const *list, int n, int i, int rows)
{
    um_sequence *s = list[i];
    while (!um_prefix_reserve(x->prefix, &s->pages, s->sent + rows)) {
        int y = youngest(list, n, i);
        if (y < 0) return false;
        put_back(x, list[y]);
    }
    return true;
}

/* --- rows of a micro-batch --- */

static bool same_key(const um_sequence *a, const um_sequence *b, int page)
{
    return page < a->chain.n && page < b->chain.n &&
           memcmp(&a->chain.keys[page], &b->chain.keys[page], sizeof *a->chain.keys) == 0;
}

/* Is the next page of s being computed for another sequence, by a micro-batch in flight? Then s waits, and shares it. */
static bool comes(const um_batcher *x, const um_sequence *s)
{
    int page = s->sent / UM_PAGE;
    if (!um_batcher_shares(x, s) || s->in_flight > 0 || s->sent % UM_PAGE != 0) return false;
    for (int i = 0; i < x->flights; i++) {
        const um_flight *f = &x->flight[i];
        for (int k = 0; f->busy && k < f->batch.segs; k++) {
            const um_span *g = &f->batch.span[k];
            if (f->seqs[k] == s || g->pos / UM_PAGE > page || (g->pos + g->T - 1) / UM_PAGE < page)
                continue;
            if (same_key(f->seqs[k], s, page)) return true;
        }
    }
    return false;
}

/* Is the next page of s that of one before it in the list, which is read first? */
static bool follows(const um_batcher *x, const um_sequence *s, um_sequence *const *list, int n)
{
    if (!um_batcher_shares(x, s) || s->in_flight > 0 || s->sent % UM_PAGE != 0) return false;
    for (int i = 0; i < n; i++)
        if (list[i]->sent / UM_PAGE == s->sent / UM_PAGE && waiting(list[i]) > 0 &&
            same_key(list[i], s, s->sent / UM_PAGE))
            return true;
    return false;
}

/* Fills demand with what every sequence of the list could read now. Returns whether there is anything. */
static bool demands(um_batcher *x, um_demand *demand, um_sequence *const *list, int n)
{
    bool any = false;
    for (int i = 0; i < n; i++) {
        um_sequence *s = list[i];
        int left = waiting(s);
        demand[i] = (um_demand){.left = -1, .number = s->number};
        if (left == 0) continue;
        if (!generating(s)) {
            if (s->in_flight == 0) prefix_find(x, s);
            left = waiting(s);
            if (comes(x, s) || follows(x, s, list, i)) continue;
        }
        demand[i].left = generating(s) ? 0 : left;
        any = true;
    }
    return any;
}

/* Adds rows of a sequence to the micro-batch. */
static void segment_add(um_batcher *x, um_flight *f, um_sequence *s, int rows)
{
    um_batch *b = &f->batch;
    bool reading = !generating(s);
    int counted = um_min_int(rows, um_max_int(0, s->read - s->sent));
    f->seqs[b->segs] = s;
    f->span[b->segs] = (um_span){.row = b->T, .T = rows, .pos = s->sent, .n = s->sent + rows};
    b->seg[b->segs++] = (um_segment){.row = b->T,
                                     .T = rows,
                                     .trace = reading ? s->trace : NULL,
                                     .phase = reading ? UM_PREFILL : UM_DECODE,
                                     .counted = counted};
    b->T += rows;
    f->prefill += reading ? rows : 0;
    f->fresh += reading ? rows - counted : 0;
    s->sent += rows;
    s->in_flight++;
    UM_CHECK(b->T <= x->max_rows);
}

/* Chooses the rows of the next micro-batch and reserves their pages. */
static void choose(um_batcher *x, um_flight *f, um_sequence *const *list, int n)
{
    um_mark mark = um_arena_mark(x->scratch);
    um_demand *demand = um_arena_alloc(x->scratch, (size_t)n * sizeof *demand);
    int32_t *order = um_arena_i32(x->scratch, (size_t)n);
    f->span = um_arena_alloc(&f->host, (size_t)n * sizeof *f->span);
    f->batch.span = f->span;
    f->seqs = um_arena_alloc(&f->host, (size_t)n * sizeof *f->seqs);
    f->batch.seg = um_arena_alloc(&f->host, (size_t)n * sizeof *f->batch.seg);
    if (demands(x, demand, list, n)) {
        um_schedule(demand, n, x->max_rows, (int)x->cfg->max_batch, (int)x->cfg->prefill_chunk,
                    &x->turn, order);
        for (int i = 0; i < n; i++) {
            int rows = um_min_int(demand[i].take, waiting(list[i])); /* unless it was put back */
            if (rows > 0 && reserve(x, list, n, i, rows)) segment_add(x, f, list[i], rows);
        }
    }
    um_arena_reset(x->scratch, mark);
}

/* The stream of gate noise of a row: the request's own and the position decide, whatever else is in the batch. */
static uint64_t noise_of(const um_sequence *s, int pos)
{
    um_rng rng = um_rng_seed(s->noise, (uint64_t)pos);
    return um_rng_u64(&rng);
}

/* Embeddings h[T,D] and modalities of a segment's rows, on the host. */
static void rows_of(const um_batcher *x, float *h, uint8_t *modality, const um_segment *g,
                    const um_span *span, const um_sequence *s)
{
    size_t D = (size_t)x->model->dim;
    for (int t = 0; t < g->T;) {
        um_run run = um_sequence_run(s, span->pos + t, g->T - t);
        float *to = h + (size_t)(g->row + t) * D;
        memset(modality + g->row + t, (int)run.modality, (size_t)run.n);
        if (run.ids == NULL) memcpy(to, run.rows, (size_t)run.n * D * sizeof *to);
        for (int k = 0; run.ids != NULL && k < run.n; k++)
            um_backbone_embed(x->backbone, to + (size_t)k * D, run.ids[k]);
        t += run.n;
    }
    um_trace_rows(g->trace, "embeddings", UM_F32, h + (size_t)g->row * D, g->T, x->model->dim);
}

/* Embeddings, positions, modalities and noise streams of every row; the ones that ops read go to the device. */
static void batch_rows(um_batcher *x, um_flight *f)
{
    um_batch *b = &f->batch;
    size_t T = (size_t)b->T, D = (size_t)x->model->dim;
    um_mark mark = um_arena_mark(x->scratch);
    float *h = um_arena_f32(x->scratch, T, D);
    int32_t *pos = um_arena_i32(x->scratch, T);
    uint64_t *noise = um_arena_alloc(x->scratch, T * sizeof *noise), *to;
    uint8_t *modality = um_arena_alloc(&f->host, T);
    for (int i = 0; i < b->segs; i++) {
        const um_span *g = &b->span[i];
        rows_of(x, h, modality, &b->seg[i], g, f->seqs[i]);
        for (int t = 0; t < g->T; t++) {
            pos[g->row + t] = g->pos + t;
            noise[g->row + t] = x->cfg->gate_noise ? noise_of(f->seqs[i], g->pos + t) : 0;
        }
        um_rope_reserve(&x->backbone->rope, g->n);
    }
    b->modality = modality;
    b->h = um_dev_put_f32(x->dev, &f->device, h, T * D);
    b->pos = um_dev_put_i32(x->dev, &f->device, pos, T);
    if (x->cfg->gate_noise) {
        to = um_arena_alloc(&f->device, T * sizeof *to);
        x->dev->ops->put(x->dev, to, noise, T * sizeof *to);
        b->noise = to;
    }
    if (x->model->fm_block) um_batch_modalities(b, x->dev, &f->device, x->scratch);
    um_arena_reset(x->scratch, mark);
}

/* The page tables of all segments, one after another, on the device; and the pages of every layer. */
static void batch_pages(um_batcher *x, um_flight *f)
{
    um_batch *b = &f->batch;
    um_mark mark = um_arena_mark(x->scratch);
    size_t n = 0, layers = (size_t)x->model->layers;
    for (int i = 0; i < b->segs; i++) n += (size_t)f->seqs[i]->pages.n;
    int32_t *table = um_arena_i32(x->scratch, n);
    um_kv *kv = um_arena_alloc(&f->host, layers * sizeof *kv);
    n = 0;
    for (int i = 0; i < b->segs; i++) {
        const um_page_table *t = &f->seqs[i]->pages;
        f->span[i].page = (int32_t)n;
        memcpy(table + n, t->pages, (size_t)t->n * sizeof *table);
        n += (size_t)t->n;
    }
    const int32_t *there = um_dev_put_i32(x->dev, &f->device, table, n);
    for (size_t l = 0; l < layers; l++) kv[l] = um_kv_pool_layer(x->pool, (int)l, there);
    b->kv = kv;
    um_arena_reset(x->scratch, mark);
}

/* Begins a micro-batch in a free place, if there are rows for it. */
static um_status begin(um_batcher *x, um_flight *f, um_sequence *const *list, int n, um_err *err)
{
    const um_topology *topo = &x->link->comm->topo;
    f->batch =
        (um_batch){.step = x->steps + 1, .micro = (uint32_t)(f - x->flight), .routing = x->routing};
    f->prefill = f->fresh = 0;
    choose(x, f, list, n);
    if (f->batch.T == 0) return UM_OK;
    x->steps++;
    f->busy = true;
    batch_rows(x, f);
    batch_pages(x, f);
    um_acts_bind(&f->acts, (um_acts_arenas){&f->host, &f->device}, x->model,
                 topo->count[UM_ROLE_EXPERT], f->batch.h, f->batch.T, false);
    f->pass = (um_pass){.backbone = x->backbone,
                        .batch = &f->batch,
                        .acts = &f->acts,
                        .exchange = x->exchange,
                        .dev = x->dev,
                        .host = x->scratch,
                        .device = x->device};
    return um_pass_run(&f->pass, err);
}

/* --- tokens --- */

/* The first row of a segment whose logits are wanted: all of a traced one, else the last row when nothing is left to read, and none (T)
 * where the prompt goes on or no token is wanted. */
static int logits_from(const um_sequence *s, const um_segment *g)
{
    if (s->cancelled) return g->T;
    if (g->trace != NULL) return 0;
    return s->filled + g->T >= s->T + s->n_out && s->max_out > 0 ? g->T - 1 : g->T;
}

/* A row whose logits tell how likely a token of a scored answer is. */
typedef struct scored_row {
    um_sequence *seq;
    int pos, row; /* in its sequence; in the micro-batch */
} scored_row;

enum { SCORED_ROWS = 64 }; /* whose logits are there at a time, for an answer may be long */

static um_status rows_score(um_batcher *x, const um_flight *f, const scored_row *list, int n,
                            um_err *err)
{
    size_t V = (size_t)x->model->vocab;
    um_mark mark = um_arena_mark(x->scratch), dev_mark = um_arena_mark(x->device);
    int32_t *rows = um_arena_i32(x->scratch, (size_t)n);
    float *logits = um_arena_f32(x->scratch, (size_t)n, V);
    for (int i = 0; i < n; i++) rows[i] = list[i].row;
    const int32_t *there = um_dev_put_i32(x->dev, x->device, rows, (size_t)n);
    um_status st = um_backbone_logits(x->backbone, logits, um_pass_out(&f->pass), there, n, x->dev,
                                      x->device, err);
    for (int i = 0; i < n && st == UM_OK; i++)
        um_sequence_score(list[i].seq, list[i].pos, logits + (size_t)i * V, x->model);
    um_arena_reset(x->device, dev_mark);
    um_arena_reset(x->scratch, mark);
    return st;
}

/* The likelihood of the tokens of answers that are scored. */
static um_status scores(um_batcher *x, const um_flight *f, um_err *err)
{
    const um_batch *b = &f->batch;
    um_mark mark = um_arena_mark(x->scratch);
    scored_row *list = um_arena_alloc(x->scratch, (size_t)b->T * sizeof *list);
    um_status st = UM_OK;
    int n = 0;
    for (int i = 0; i < b->segs; i++) {
        const um_span *g = &b->span[i];
        int from = 0, to = 0;
        if (!f->seqs[i]->cancelled) um_sequence_score_rows(f->seqs[i], &from, &to);
        for (int p = um_max_int(from, g->pos); p < um_min_int(to, g->n); p++)
            list[n++] = (scored_row){f->seqs[i], p, g->row + p - g->pos};
    }
    for (int at = 0; at < n && st == UM_OK; at += SCORED_ROWS)
        st = rows_score(x, f, list + at, um_min_int(n - at, SCORED_ROWS), err);
    um_arena_reset(x->scratch, mark);
    return st;
}

/* One segment is read: pages are filled, and when all is read the next token is drawn from the last of its logits. */
static um_status segment_end(um_batcher *x, um_sequence *s, const um_segment *g,
                             const float *logits, um_err *err)
{
    int before = s->n_out;
    s->in_flight--;
    s->filled += g->T;
    um_page_table_advance(x->pool, &s->pages, g->T);
    if (s->in_flight == 0 && um_batcher_shares(x, s))
        um_prefix_put(x->prefix, &s->pages, &s->chain);
    if (s->cancelled || s->filled < s->T + s->n_out) return UM_OK;
    um_sequence_sample(s, logits, x->model, x->scratch);
    x->stats.new_tokens += s->n_out - before;
    if (s->n_out > before && um_batcher_shares(x, s))
        return um_prefix_token(&s->chain, s->out[s->n_out - 1], err);
    return UM_OK;
}

/* Logits of the rows that need them, and the next token of every sequence whose rows are all read. */
static um_status tokens(um_batcher *x, um_flight *f, um_err *err)
{
    um_batch *b = &f->batch;
    size_t V = (size_t)x->model->vocab;
    um_mark mark = um_arena_mark(x->scratch), dev_mark = um_arena_mark(x->device);
    int32_t *rows = um_arena_i32(x->scratch, (size_t)b->T);
    int n = 0, at = 0;
    for (int i = 0; i < b->segs; i++)
        for (int t = logits_from(f->seqs[i], &b->seg[i]); t < b->seg[i].T; t++)
            rows[n++] = b->seg[i].row + t;
    float *logits = um_arena_f32(x->scratch, (size_t)n, V);
    const int32_t *there = um_dev_put_i32(x->dev, x->device, rows, (size_t)n);
    um_status st = um_backbone_logits(x->backbone, logits, um_pass_out(&f->pass), there, n, x->dev,
                                      x->device, err);
    for (int i = 0; st == UM_OK && i < b->segs; i++) {
        um_sequence *s = f->seqs[i];
        const um_segment *g = &b->seg[i];
        int wanted = g->T - logits_from(s, g);
        if (g->trace != NULL)
            um_trace_rows(g->trace, "logits", UM_F32, logits + (size_t)at * V, wanted,
                          x->model->vocab);
        at += wanted;
        st = segment_end(x, s, g, wanted > 0 ? logits + (size_t)(at - 1) * V : NULL, err);
    }
    um_arena_reset(x->device, dev_mark);
    um_arena_reset(x->scratch, mark);
    return st;
}

/* A micro-batch is through: its place is free. */
static um_status end(um_batcher *x, um_flight *f, um_err *err)
{
    um_status st = scores(x, f, err);
    if (st == UM_OK) st = tokens(x, f, err);
    f->busy = false;
    um_arena_reset(&f->host, (um_mark){0});
    um_arena_reset(&f->device, (um_mark){0});
    x->stats.prompt_rows += f->fresh;
    UM_ASSERT_SLOW(um_kv_pool_check(x->pool));
    return st;
}

/* --- in flight --- */

/* The place whose turn it is goes one stop further. */
static um_status advance(um_batcher *x, um_err *err)
{
    um_flight *f = &x->flight[x->oldest];
    x->oldest = (x->oldest + 1) % x->flights;
    if (!um_pass_done(&f->pass)) UM_TRY(um_pass_run(&f->pass, err));
    return um_pass_done(&f->pass) ? end(x, f, err) : UM_OK;
}

um_status um_batcher_step(um_batcher *x, um_sequence *const *list, int n, um_err *err)
{
    um_link_stats *link = &x->link->stats;
    int64_t start = um_now_ns(), away = link->wait_ns + link->codec_ns;
    int64_t before = x->stats.new_tokens;
    /* free places behind the busy ones: a new micro-batch is the last in turn */
    for (int i = 0; i < x->flights; i++) {
        um_flight *f = &x->flight[(x->oldest + i) % x->flights];
        if (!f->busy) UM_TRY(begin(x, f, list, n, err));
    }
    for (int i = 0; i < x->flights && !x->flight[x->oldest].busy; i++)
        x->oldest = (x->oldest + 1) % x->flights;
    if (!x->flight[x->oldest].busy) return UM_OK;
    bool prefill = x->flight[x->oldest].prefill > 0;
    UM_TRY(advance(x, err));
    int64_t took = um_now_ns() - start;
    link->compute_ns += took - (link->wait_ns + link->codec_ns - away);
    if (prefill) {
        x->stats.prefill_ns += took;
    } else {
        x->stats.decode_ns += took;
        x->stats.decode_tokens += x->stats.new_tokens - before;
    }
    return UM_OK;
}
