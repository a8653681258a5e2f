/* See sequence.h. */
#include "router/engine/sequence.h"

#include "core/base/clock.h"
#include "core/base/memory.h"
#include "router/request/prompt.h"

#include <stdio.h>
#include <string.h>

/* Ids that are spliced between two signs of life. */
enum { BEAT_IDS = 4096 };

/* Request, then command line, then generation_config.json. A trace is greedy. */
static void options(um_sequence *s, const um_config *cfg, const um_model *m)
{
    const um_request *r = s->req;
    s->max_out = (int)(r->max_new_tokens > 0 ? r->max_new_tokens : cfg->max_new_tokens);
    s->ignore_eos = r->has_ignore_eos ? r->ignore_eos : cfg->ignore_eos;
    s->seed = (uint64_t)(r->has_seed ? r->seed : cfg->seed);
    s->rng = um_rng_seed(s->seed, 0);
    double fallback = m->do_sample ? (double)m->temperature : 0;
    s->sampling.temperature = r->temperature >= 0     ? r->temperature
                              : cfg->temperature >= 0 ? cfg->temperature
                                                      : fallback;
    s->sampling.top_p = r->top_p > 0 ? r->top_p : cfg->top_p > 0 ? cfg->top_p : (double)m->top_p;
    s->sampling.top_k = (int)(r->top_k >= 0     ? r->top_k
                              : cfg->top_k >= 0 ? cfg->top_k
                                                : m->gen_top_k);
    if (s->trace != NULL) s->sampling.temperature = 0;
}

static void features_list(um_sequence *s)
{
    const um_request *r = s->req;
    s->n_features = r->n_items;
    s->features = um_arena_zero(&s->arena, (size_t)r->n_items * sizeof *s->features);
    for (int i = 0; i < r->n_items; i++)
        s->features[i] = (um_feature){.modality = r->items[i].modality, .item = &r->items[i]};
}

void um_sequence_open(um_sequence *s, uint64_t number, const um_request *req, const um_config *cfg,
                      const um_model *m, const um_tokenizer *tok, um_trace *trace)
{
    um_err why = {0};
    *s = (um_sequence){.number = number, .req = req, .trace = trace};
    um_arena_init(&s->arena, "sequence", 1 << 16);
    options(s, cfg, m);
    um_status st = um_prompt_ids(tok, req, &s->ids, &s->n_ids, &s->arena, &why);
    if (st == UM_OK) st = um_prompt_check(req, s->ids, s->n_ids, m, &why);
    if (st == UM_OK && cfg->context > 0 && s->n_ids + s->max_out > cfg->context)
        st = UM_FAIL(&why, UM_E_DATA, "%d prompt tokens and %d new ones, --context is %lld",
                     s->n_ids, s->max_out, (long long)cfg->context);
    if (st != UM_OK) {
        um_sequence_fail(s, st, &why);
        return;
    }
    um_trace_rows(trace, "input_ids", UM_I32, s->ids, s->n_ids, 0);
    features_list(s);
}

void um_sequence_close(um_sequence *s) { um_arena_free(&s->arena); }

void um_sequence_fail(um_sequence *s, um_status st, const um_err *why)
{
    s->status = st;
    s->why = *why;
    s->state = UM_SEQ_DONE;
}

void um_sequence_feature(um_sequence *s, int i, const float *rows, int n, int D)
{
    um_feature *f = &s->features[i];
    f->rows = um_arena_f32(&s->arena, (size_t)n, (size_t)D);
    f->n = n;
    memcpy(f->rows, rows, (size_t)n * (size_t)D * sizeof(float));
}

/* Keys, values and embeddings must fit into what is free now: a request that is too long fails, not the rank. */
static um_status memory_check(const um_sequence *s, const um_model *m, um_err *err)
{
    double kv = (double)um_kv_floats(m->kv_heads, m->head_dim, s->cap) * m->layers;
    double need = 4 * (kv + (double)s->T * m->dim), available = (double)um_memory_available();
    if (available <= 0 || need < 0.9 * available) return UM_OK;
    return UM_FAIL(
        err, UM_E_DATA,
        "%d prompt rows and %d new tokens need %.1f GiB for keys and values, %.1f GiB are "
        "free: lower max_new_tokens",
        s->T, s->max_out, need / 1073741824.0, available / 1073741824.0);
}

static void cache_bind(um_sequence *s, const um_model *m)
{
    size_t floats = um_kv_floats(m->kv_heads, m->head_dim, s->cap);
    s->kv = um_arena_alloc(&s->arena, (size_t)m->layers * sizeof *s->kv);
    for (int l = 0; l < m->layers; l++)
        um_kv_bind(&s->kv[l], um_arena_f32(&s->arena, 1, floats), m->kv_heads, m->head_dim, s->cap);
}

/* The features of each kind, all items of it in order: [images or videos, rows, D], or for audio [windows, queries, D]. */
static void trace_features(const um_sequence *s, const um_model *m)
{
    for (int k = UM_IMAGE; k < UM_MODALITIES; k++) {
        char name[32];
        int64_t items = 0, rows = 0;
        int queries = k == UM_SPEECH ? m->speech.queries : k == UM_SOUND ? m->sound.queries : 0;
        snprintf(name, sizeof name, "%s_features", um_modality_name((um_modality)k));
        for (int i = 0; i < s->n_features; i++) {
            const um_feature *f = &s->features[i];
            if (f->modality != (um_modality)k) continue;
            um_trace_rows(s->trace, name, UM_F32, f->rows, f->n, m->dim);
            items++;
            rows += f->n;
        }
        um_trace_group(s->trace, name, queries > 0 ? rows / queries : items);
    }
}

void um_sequence_splice(um_sequence *s, const um_backbone *backbone, um_link *link)
{
    const um_model *m = backbone->model;
    size_t D = (size_t)m->dim;
    s->T = s->n_ids - s->n_features;
    for (int i = 0; i < s->n_features; i++) s->T += s->features[i].n;
    s->cap = s->T + s->max_out;
    um_err why = {0};
    um_status st = memory_check(s, m, &why);
    if (st != UM_OK) {
        um_sequence_fail(s, st, &why);
        return;
    }
    s->embeddings = um_arena_f32(&s->arena, (size_t)s->T, D);
    s->modality = um_arena_zero(&s->arena, (size_t)s->T); /* UM_TEXT is 0 */
    s->out = um_arena_i32(&s->arena, (size_t)s->max_out);
    for (int i = 0, row = 0, next = 0; i < s->n_ids; i++) {
        if (i % BEAT_IDS == BEAT_IDS - 1)
            um_link_heartbeat(link, &why); /* who cannot be told now is noticed later */
        if (s->ids[i] >= 0) {
            um_backbone_embed(backbone, s->embeddings + (size_t)row++ * D, s->ids[i]);
            continue;
        }
        const um_feature *f = &s->features[next++];
        memcpy(s->embeddings + (size_t)row * D, f->rows, (size_t)f->n * D * sizeof(float));
        memset(s->modality + row, (int)f->modality, (size_t)f->n);
        row += f->n;
    }
    cache_bind(s, m);
    trace_features(s, m);
    um_trace_rows(s->trace, "embeddings", UM_F32, s->embeddings, s->T, m->dim);
    s->state = UM_SEQ_PREFILL;
}

void um_sequence_take(um_sequence *s, const float *logits, const um_model *m, um_arena *scratch)
{
    um_err why = {0};
    int32_t id = 0;
    um_status st = um_sample(&id, logits, m->vocab, &s->sampling, &s->rng, scratch, &why);
    if (st != UM_OK) {
        um_sequence_fail(s, st, &why);
        return;
    }
    if (s->n_out == 0) s->first_ns = um_now_ns();
    um_trace_rows(s->trace, "greedy_ids", UM_I32, &id, 1, 0);
    um_trace_rows(s->trace, "greedy_logits", UM_F32, logits, 1, m->vocab);
    s->out[s->n_out++] = id;
    s->state = UM_SEQ_DECODE;
    if (id == m->eos && !s->ignore_eos)
        s->finish = "stop";
    else if (s->n_out == s->max_out)
        s->finish = "length";
    if (s->finish != NULL) s->state = UM_SEQ_DONE;
}
