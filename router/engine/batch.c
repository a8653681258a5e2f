/* See batch.h. */
#include "router/engine/batch.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "router/engine/scheduler.h"

#include <string.h>

/* Chooses the rows of the next micro-batch. seqs[i] is the sequence of segment i. Returns the prefill rows among them. */
static int batch_fill(um_batcher *x, um_batch *b, um_sequence **seqs, um_sequence *const *list,
                      int n)
{
    um_demand *demand = um_arena_alloc(x->scratch, (size_t)n * sizeof *demand);
    int32_t *order = um_arena_i32(x->scratch, (size_t)n);
    int runs = 0, prefill = 0;
    for (int i = 0; i < n; i++) {
        if (list[i]->state != UM_SEQ_PREFILL && list[i]->state != UM_SEQ_DECODE) continue;
        if (list[i]->cancelled) continue;
        bool reading = list[i]->state == UM_SEQ_PREFILL;
        demand[runs] = (um_demand){.left = reading ? list[i]->T - list[i]->filled : 0,
                                   .number = list[i]->number};
        seqs[runs++] = list[i];
    }
    um_schedule(demand, runs, x->max_rows, (int)x->cfg->prefill_chunk, &x->turn, order);
    for (int i = 0; i < runs; i++) {
        um_sequence *s = seqs[i];
        bool reading = s->state == UM_SEQ_PREFILL;
        if (demand[i].take == 0) continue;
        s->in_flight++;
        seqs[b->segs] = s;
        b->seg[b->segs++] = (um_segment){.kv = s->kv,
                                         .row = b->T,
                                         .T = demand[i].take,
                                         .trace = reading ? s->trace : NULL,
                                         .phase = reading ? UM_PREFILL : UM_DECODE};
        b->T += demand[i].take;
        prefill += reading ? demand[i].take : 0;
    }
    UM_CHECK(b->T <= x->max_rows);
    return prefill;
}

/* The stream of gate noise of a row: the request's own and the position decide, whatever else is in the batch. */
static uint64_t noise_of(const um_sequence *s, int pos)
{
    um_rng rng = um_rng_seed(s->noise, (uint64_t)pos);
    return um_rng_u64(&rng);
}

/* Embeddings and modalities of a segment's rows. */
static void segment_rows(um_batcher *x, um_batch *b, const um_segment *g, const um_sequence *s,
                         uint8_t *modality)
{
    size_t D = (size_t)x->model->dim, first = (size_t)g->row;
    for (int t = 0; t < g->T;) {
        um_run run = um_sequence_run(s, s->filled + t, g->T - t);
        float *h = b->h + (first + (size_t)t) * D;
        memset(modality + first + t, (int)run.modality, (size_t)run.n);
        if (run.ids == NULL) memcpy(h, run.rows, (size_t)run.n * D * sizeof *h);
        for (int k = 0; run.ids != NULL && k < run.n; k++)
            um_backbone_embed(x->backbone, h + (size_t)k * D, run.ids[k]);
        t += run.n;
    }
    um_trace_rows(g->trace, "embeddings", UM_F32, b->h + first * D, g->T, x->model->dim);
}

/* Embeddings, positions, modalities and noise streams of every row. */
static void batch_rows(um_batcher *x, um_batch *b, um_sequence *const *seqs)
{
    size_t T = (size_t)b->T, D = (size_t)x->model->dim;
    uint8_t *modality = um_arena_alloc(x->scratch, T);
    uint64_t *noise = x->cfg->gate_noise ? um_arena_alloc(x->scratch, T * sizeof *noise) : NULL;
    b->h = um_arena_f32(x->scratch, T, D);
    b->pos = um_arena_i32(x->scratch, T);
    for (int i = 0; i < b->segs; i++) {
        const um_sequence *s = seqs[i];
        segment_rows(x, b, &b->seg[i], s, modality);
        for (int t = 0; t < b->seg[i].T; t++) {
            size_t row = (size_t)(b->seg[i].row + t);
            int pos = s->filled + t;
            if (noise != NULL) noise[row] = noise_of(s, pos);
            b->pos[row] = pos;
        }
        um_rope_reserve(&x->backbone->rope, s->filled + b->seg[i].T);
    }
    b->modality = modality;
    b->noise = noise;
}

/* The first row of a segment whose logits are wanted: all of a traced one, else the last row of a whole prompt or of a generating
 * sequence, and none (T) where the prompt goes on or no token is wanted. */
static int logits_from(const um_sequence *s, const um_segment *g)
{
    if (g->trace != NULL) return 0;
    return s->filled + g->T >= s->T && s->max_out > 0 ? g->T - 1 : g->T;
}

/* Logits of the rows that need them, and the next token of every sequence whose prompt is read. */
static void batch_tokens(um_batcher *x, um_batch *b, um_sequence *const *seqs)
{
    size_t V = (size_t)x->model->vocab;
    int32_t *rows = um_arena_i32(x->scratch, (size_t)b->T);
    int n = 0;
    for (int i = 0; i < b->segs; i++)
        for (int t = logits_from(seqs[i], &b->seg[i]); t < b->seg[i].T; t++)
            rows[n++] = b->seg[i].row + t;
    float *logits = um_arena_f32(x->scratch, (size_t)n, V);
    um_backbone_logits(x->backbone, logits, b->h, rows, n, x->dev, x->scratch);
    int at = 0;
    for (int i = 0; i < b->segs; i++) {
        um_sequence *s = seqs[i];
        const um_segment *g = &b->seg[i];
        int wanted = g->T - logits_from(s, g), before = s->n_out;
        if (g->trace != NULL)
            um_trace_rows(g->trace, "logits", UM_F32, logits + (size_t)at * V, wanted,
                          x->model->vocab);
        at += wanted;
        s->in_flight--;
        if (!um_sequence_advance(s, g->T, x->model)) continue;
        um_sequence_sample(s, wanted > 0 ? logits + (size_t)(at - 1) * V : NULL, x->model,
                           x->scratch);
        x->stats.new_tokens += s->n_out - before;
    }
}

static um_status run(um_batcher *x, um_batch *b, um_sequence *const *seqs, um_err *err)
{
    batch_rows(x, b, seqs);
    UM_TRY(um_backbone_forward(x->backbone, b, x->exchange, x->dev, x->scratch, err));
    batch_tokens(x, b, seqs);
    return UM_OK;
}

um_status um_batcher_run(um_batcher *x, um_sequence *const *list, int n, um_err *err)
{
    um_mark mark = um_arena_mark(x->scratch);
    um_link_stats *link = &um_exchange_link(x->exchange)->stats;
    int64_t start = um_now_ns(), away = link->wait_ns + link->codec_ns;
    um_batch b = {.step = x->step + 1, .routing = x->routing};
    um_sequence **seqs = um_arena_alloc(x->scratch, (size_t)n * sizeof *seqs);
    b.seg = um_arena_alloc(x->scratch, (size_t)n * sizeof *b.seg);
    int prefill = batch_fill(x, &b, seqs, list, n);
    um_status st = UM_OK;
    if (b.T > 0) {
        int64_t before = x->stats.new_tokens;
        x->step = b.step;
        st = run(x, &b, seqs, err);
        int64_t took = um_now_ns() - start;
        link->compute_ns += took - (link->wait_ns + link->codec_ns - away);
        x->stats.prompt_rows += prefill;
        if (prefill > 0) {
            x->stats.prefill_ns += took;
        } else {
            x->stats.decode_ns += took;
            x->stats.decode_tokens += x->stats.new_tokens - before;
        }
    }
    um_arena_reset(x->scratch, mark);
    return st;
}
