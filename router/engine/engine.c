/* See engine.h. */
#include "router/engine/engine.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "router/engine/media_client.h"

#include <string.h>

struct um_engine {
    const um_config *cfg;
    const um_model *model;
    const um_tokenizer *tok;
    um_backbone *backbone;
    um_link *link;
    um_dev *dev;
    um_engine_done done;
    void *ctx;
    um_sequence **list; /* those that are not done, in order of arrival */
    int n, cap;
    int max_rows;        /* rows of a micro-batch at most */
    um_routing *routing; /* NULL unless the gates' choices are counted */
    uint64_t step;
    um_media_client *media;
    um_arena scratch;
    um_engine_stats stats;
};

um_status um_engine_open(um_engine **out, const um_config *cfg, const um_model *m,
                         const um_tokenizer *tok, um_backbone *backbone, um_link *link, um_dev *dev,
                         um_engine_done done, void *ctx, um_err *err)
{
    int rows = (int)(cfg->prefill_chunk + cfg->max_batch), credit_rows = rows;
    if (m->experts > 0) UM_TRY(um_exchange_max_rows(link, m->dim, m->top_k, &credit_rows, err));
    um_engine *e = um_zalloc(sizeof *e);
    *e = (um_engine){.cfg = cfg,
                     .model = m,
                     .tok = tok,
                     .backbone = backbone,
                     .link = link,
                     .dev = dev,
                     .done = done,
                     .ctx = ctx};
    e->media = um_media_client_open(cfg, m, link);
    e->max_rows = um_min_int(rows, credit_rows);
    um_arena_init(&e->scratch, "engine step", 4 << 20);
    *out = e;
    return UM_OK;
}

void um_engine_close(um_engine *e)
{
    if (e == NULL) return;
    for (int i = 0; i < e->n; i++) {
        um_sequence_close(e->list[i]);
        um_free(e->list[i]);
    }
    um_free(e->list);
    um_media_client_close(e->media);
    um_arena_free(&e->scratch);
    um_free(e);
}

void um_engine_add(um_engine *e, uint64_t number, const um_request *req, um_trace *trace)
{
    um_sequence *s = um_zalloc(sizeof *s);
    um_sequence_open(s, number, req, e->cfg, e->model, e->tok, trace);
    if (e->n == e->cap) {
        e->cap = e->cap == 0 ? 16 : 2 * e->cap;
        e->list = um_realloc(e->list, (size_t)e->cap * sizeof *e->list);
    }
    e->list[e->n++] = s;
}

int um_engine_unfinished(const um_engine *e) { return e->n; }
const um_engine_stats *um_engine_stats_of(const um_engine *e) { return &e->stats; }
um_media_stats um_engine_media_stats(const um_engine *e) { return um_media_client_stats(e->media); }
void um_engine_count(um_engine *e, um_routing *routing) { e->routing = routing; }

bool um_engine_runnable(const um_engine *e)
{
    int active = 0;
    for (int i = 0; i < e->n; i++)
        active += e->list[i]->state == UM_SEQ_ENCODING || e->list[i]->state == UM_SEQ_PREFILL ||
                  e->list[i]->state == UM_SEQ_DECODE;
    for (int i = 0; i < e->n; i++) {
        um_sequence_state s = e->list[i]->state;
        if (s == UM_SEQ_PREFILL || s == UM_SEQ_DECODE || s == UM_SEQ_DONE) return true;
        if (s == UM_SEQ_QUEUED && active < e->cfg->max_batch) return true;
    }
    return false;
}

static void admit(um_engine *e, um_sequence *s)
{
    s->begun_ns = um_now_ns();
    s->state = UM_SEQ_ENCODING;
    um_media_client_request(e->media, s, e->list, e->n, &e->scratch);
    if (s->state == UM_SEQ_ENCODING && s->owed == 0) um_sequence_splice(s, e->backbone, e->link);
}

um_status um_engine_encoded(um_engine *e, const um_inbound *in, um_err *err)
{
    UM_TRY(um_media_client_encoded(e->media, in, e->list, e->n, &e->scratch, err));
    for (int i = 0; i < e->n; i++)
        if (e->list[i]->state == UM_SEQ_ENCODING && e->list[i]->owed == 0)
            um_sequence_splice(e->list[i], e->backbone, e->link);
    return UM_OK;
}

/* Gives the results of those that are done, and forgets them. */
static void retire(um_engine *e)
{
    int kept = 0;
    for (int i = 0; i < e->n; i++) {
        um_sequence *s = e->list[i];
        if (s->state != UM_SEQ_DONE) {
            e->list[kept++] = s;
            continue;
        }
        s->done_ns = um_now_ns();
        e->done(e->ctx, s);
        um_sequence_close(s);
        um_free(s);
    }
    e->n = kept;
}

/* Takes rows for the next micro-batch. seqs[i] is the sequence of segment i. Returns the prefill rows among them. */
static int batch_fill(um_engine *e, um_batch *b, um_sequence **seqs)
{
    int decode_room = e->max_rows, prefill = 0;
    for (int i = 0; i < e->n && b->T < decode_room; i++) {
        if (e->list[i]->state != UM_SEQ_DECODE) continue;
        seqs[b->segs] = e->list[i];
        b->seg[b->segs++] =
            (um_segment){.kv = e->list[i]->kv, .row = b->T++, .T = 1, .phase = UM_DECODE};
    }
    for (int i = 0; i < e->n; i++) {
        um_sequence *s = e->list[i];
        int room = um_min_int((int)e->cfg->prefill_chunk - prefill, e->max_rows - b->T);
        if (s->state != UM_SEQ_PREFILL || room <= 0) continue;
        int T = um_min_int(room, s->T - s->filled);
        seqs[b->segs] = s;
        b->seg[b->segs++] = (um_segment){.kv = s->kv, .row = b->T, .T = T, .trace = s->trace};
        b->T += T;
        prefill += T;
    }
    return prefill;
}

/* Embeddings, positions, modalities and noise streams of every row. */
static void batch_rows(um_engine *e, um_batch *b, um_sequence *const *seqs)
{
    size_t T = (size_t)b->T, D = (size_t)e->model->dim;
    uint8_t *modality = um_arena_alloc(&e->scratch, T);
    uint64_t *noise = um_arena_alloc(&e->scratch, T * sizeof *noise);
    b->h = um_arena_f32(&e->scratch, T, D);
    b->pos = um_arena_i32(&e->scratch, T);
    for (int i = 0; i < b->segs; i++) {
        const um_sequence *s = seqs[i];
        for (int t = 0; t < b->seg[i].T; t++) {
            size_t row = (size_t)(b->seg[i].row + t);
            int pos = s->filled + t;
            bool prompt = pos < s->T;
            modality[row] = prompt ? s->modality[pos] : UM_TEXT;
            noise[row] = s->seed << 32 ^ (uint64_t)pos;
            b->pos[row] = pos;
            if (prompt)
                memcpy(b->h + row * D, s->embeddings + (size_t)pos * D, D * sizeof(float));
            else
                um_backbone_embed(e->backbone, b->h + row * D, s->out[pos - s->T]);
        }
        um_rope_reserve(&e->backbone->rope, s->filled + b->seg[i].T);
    }
    b->modality = modality;
    b->noise = e->cfg->gate_noise ? noise : NULL;
    b->noise_seed = (uint64_t)e->cfg->seed * 1000003u;
}

/* Logits of the rows that need them, and the next token of every sequence whose prompt is read. */
static um_status batch_tokens(um_engine *e, um_batch *b, um_sequence *const *seqs, um_err *err)
{
    size_t V = (size_t)e->model->vocab;
    int32_t *rows = um_arena_i32(&e->scratch, (size_t)b->T);
    int n = 0;
    for (int i = 0; i < b->segs; i++) {
        const um_segment *s = &b->seg[i];
        int from = s->trace != NULL ? 0 : seqs[i]->filled + s->T >= seqs[i]->T ? s->T - 1 : s->T;
        for (int t = from; t < s->T; t++) rows[n++] = s->row + t;
    }
    float *logits = um_arena_f32(&e->scratch, (size_t)n, V);
    UM_TRY(
        um_backbone_logits(e->backbone, logits, b->h, rows, n, e->link, e->dev, &e->scratch, err));
    int at = 0;
    for (int i = 0; i < b->segs; i++) {
        um_sequence *s = seqs[i];
        const um_segment *g = &b->seg[i];
        s->filled += g->T;
        bool ready = s->filled >= s->T;
        int taken = g->trace != NULL ? g->T : ready ? 1 : 0;
        um_trace_rows(g->trace, "logits", UM_F32, logits + (size_t)at * V,
                      g->trace != NULL ? taken : 0, e->model->vocab);
        at += taken;
        if (!ready) continue;
        um_sequence_take(s, logits + (size_t)(at - 1) * V, e->model, &e->scratch);
        e->stats.new_tokens++;
    }
    return UM_OK;
}

static um_status run_batch(um_engine *e, um_err *err)
{
    um_mark mark = um_arena_mark(&e->scratch);
    int64_t start = um_now_ns(), away = e->link->stats.wait_ns + e->link->stats.codec_ns;
    um_batch b = {.step = ++e->step, .routing = e->routing};
    um_sequence **seqs = um_arena_alloc(&e->scratch, (size_t)e->n * sizeof *seqs);
    b.seg = um_arena_alloc(&e->scratch, (size_t)e->n * sizeof *b.seg);
    int prefill = batch_fill(e, &b, seqs);
    um_status st = UM_OK;
    if (b.T > 0) {
        int64_t before = e->stats.new_tokens;
        batch_rows(e, &b, seqs);
        st = um_backbone_forward(e->backbone, &b, e->link, e->dev, &e->scratch, err);
        if (st == UM_OK) st = batch_tokens(e, &b, seqs, err);
        away = e->link->stats.wait_ns + e->link->stats.codec_ns - away;
        e->link->stats.compute_ns += um_now_ns() - start - away;
        e->stats.prompt_rows += prefill;
        if (prefill > 0)
            e->stats.prefill_ns += um_now_ns() - start;
        else {
            e->stats.decode_ns += um_now_ns() - start;
            e->stats.decode_tokens += e->stats.new_tokens - before;
        }
    }
    um_arena_reset(&e->scratch, mark);
    return st;
}

um_status um_engine_step(um_engine *e, um_err *err)
{
    int active = 0;
    for (int i = 0; i < e->n; i++)
        active += e->list[i]->state != UM_SEQ_QUEUED && e->list[i]->state != UM_SEQ_DONE;
    for (int i = 0; i < e->n && active < e->cfg->max_batch; i++) {
        if (e->list[i]->state != UM_SEQ_QUEUED) continue;
        admit(e, e->list[i]);
        active++;
    }
    um_status st = run_batch(e, err);
    if (st == UM_OK) retire(e);
    return st;
}
