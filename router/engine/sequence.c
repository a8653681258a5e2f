/* See sequence.h. */
#include "router/engine/sequence.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "router/request/prompt.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- from text to ids --- */

void um_sequence_close(um_sequence *s)
{
    UM_ASSERT(s->wanted == NULL && s->in_flight == 0 && s->pages.n == 0);
    for (int i = 0; i < s->n_features; i++) um_media_rows_drop(s->features[i].media);
    um_prefix_chain_free(&s->chain);
    um_answer_close(&s->answer);
    um_arena_free(&s->arena);
}

void um_sequence_fail(um_sequence *s, um_status st, const um_err *why)
{
    s->status = st;
    s->why = *why;
    s->state = UM_SEQ_DONE;
}

void um_sequence_cancel(um_sequence *s)
{
    s->cancelled = true;
    if (s->state == UM_SEQ_DONE || s->in_flight > 0) return;
    s->finish = UM__FINISH__FINISH_CANCELLED;
    s->state = UM_SEQ_DONE;
}

bool um_sequence_wanted(const um_sequence *s) { return !s->cancelled && s->state != UM_SEQ_DONE; }

/* A seed of the request's own gives the same draws wherever the request stands; else the job's seed and the request's number
 * decide, so that equal prompts without a seed do not get equal draws. */
static void seed(um_sequence *s, const um_config *cfg)
{
    const um_request *r = &s->req;
    uint64_t from = r->has_seed ? r->seed : (uint64_t)cfg->seed;
    uint64_t stream = r->has_seed ? 0 : s->number;
    um_rng noise = um_rng_seed(from, ~stream); /* apart from the stream of the sampler */
    s->rng = um_rng_seed(from, stream);
    s->noise = um_rng_u64(&noise);
}

/* Request, then command line, then generation_config.json. A trace is greedy. */
static void options(um_sequence *s, const um_config *cfg, const um_model *m)
{
    const um_request *r = &s->req;
    s->max_out = (int)(r->score != NULL         ? 0
                       : r->max_new_tokens >= 0 ? r->max_new_tokens
                                                : cfg->max_new_tokens);
    s->ignore_eos = r->has_ignore_eos ? r->ignore_eos : cfg->ignore_eos;
    seed(s, cfg);
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

/* The prompt has at least `rows` rows. Refuses one that is longer than the model's positions or, with its new tokens, than --context.
 * behind stands behind the number in the message. */
static um_status length_check(const um_sequence *s, int64_t rows, const char *behind,
                              const um_config *cfg, const um_model *m, um_err *err)
{
    if (rows > um_model_positions(m))
        return UM_FAIL(err, UM_E_DATA,
                       "the prompt has %lld rows%s, the model has %lld positions "
                       "(max_position_embeddings): shorten the prompt",
                       (long long)rows, behind, (long long)um_model_positions(m));
    if (cfg->context > 0 && rows + s->max_out > cfg->context)
        return UM_FAIL(err, UM_E_DATA,
                       "%lld prompt rows%s and %d new tokens do not fit --context %lld: raise it, "
                       "lower max_new_tokens or shorten the prompt",
                       (long long)rows, behind, s->max_out, (long long)cfg->context);
    return UM_OK;
}

/* Before tokenising, which takes long for long texts: a token stands for um_tokenizer_longest bytes at most, and a medium for so many
 * rows at least. */
static um_status bytes_check(um_sequence *s, const um_config *cfg, const um_model *m,
                             const um_tokenizer *tok, um_err *err)
{
    size_t bytes = um_prompt_bytes(&s->req), longest = um_tokenizer_longest(tok);
    char behind[96];
    if (longest == 0) return UM_OK;
    snprintf(behind, sizeof behind, " or more (%zu bytes of text, at most %zu a token%s)", bytes,
             longest, s->req.n_items > 0 ? "; media counted" : "");
    int64_t rows = (int64_t)(bytes / longest) + um_prompt_media_rows(&s->req, m);
    UM_TRY(length_check(s, rows, behind, cfg, m, err));
    s->T = (int)rows;
    return UM_OK;
}

um_status um_sequence_open(um_sequence *s, uint64_t number, const um_request_source *from,
                           um_trace *trace, const um_config *cfg, const um_model *m,
                           const um_tokenizer *tok, um_err *err)
{
    *s = (um_sequence){.number = number, .trace = trace, .text_bytes = from->n};
    um_arena_init(&s->arena, "sequence", 4096);
    UM_TRY(um_request_parse(&s->req, from, &s->arena, err));
    options(s, cfg, m);
    um_answer_open(&s->answer, tok, s->req.stop, s->req.n_stop);
    UM_TRY(bytes_check(s, cfg, m, tok, err));
    return UM_OK;
}

static void features_list(um_sequence *s)
{
    const um_request *r = &s->req;
    s->n_features = r->n_items;
    s->features = um_arena_zero(&s->arena, (size_t)r->n_items * sizeof *s->features);
    for (int i = 0; i < r->n_items; i++)
        s->features[i] = (um_feature){.modality = r->items[i].modality, .item = &r->items[i]};
}

/* Where the rows of each medium stand in the prompt. */
static void features_place(um_sequence *s)
{
    int next = 0, at = 0;
    for (int i = 0; i < s->n_ids; i++) {
        if (s->ids[i] >= 0) {
            at++;
            continue;
        }
        um_feature *f = &s->features[next++];
        f->at = at;
        f->id = i;
        at += f->n;
    }
    UM_CHECK(next == s->n_features && at == s->T);
}

/* All rows are known: fits the answer to the positions that are left. The last token is never read back, so it needs none. */
static void make_ready(um_sequence *s, const um_model *m)
{
    features_place(s);
    int64_t room = um_model_positions(m) - s->T + 1;
    s->shortened = s->max_out > room;
    if (s->shortened) s->max_out = (int)room;
    s->state = UM_SEQ_READY;
}

/* The ids of the prompt. The answer of one that is scored is encoded as in training (um_prompt_labelled), with its </s>. */
static um_status ids_make(um_sequence *s, const um_tokenizer *tok, um_err *err)
{
    um_labelled l;
    if (s->req.score == NULL)
        return um_prompt_ids(tok, &s->req, &s->ids, &s->n_ids, &s->arena, err);
    UM_TRY(um_prompt_labelled(tok, &s->req, &l, &s->arena, err));
    s->ids = l.ids;
    s->n_ids = l.n;
    while (s->scored < l.n && l.labels[l.n - 1 - s->scored] != UM_LABEL_IGNORED) s->scored++;
    return UM_OK;
}

void um_sequence_begin(um_sequence *s, const um_config *cfg, const um_model *m,
                       const um_tokenizer *tok)
{
    um_err why = {0};
    s->begun_ns = um_now_ns();
    um_status st = ids_make(s, tok, &why);
    if (st == UM_OK) st = um_prompt_check(&s->req, s->ids, s->n_ids, m, &why);
    if (st == UM_OK)
        st = length_check(s, s->n_ids, s->req.n_items > 0 ? " or more" : "", cfg, m, &why);
    if (st != UM_OK) {
        um_sequence_fail(s, st, &why);
        return;
    }
    um_trace_rows(s->trace, "input_ids", UM_I32, s->ids, s->n_ids, 0);
    features_list(s);
    s->T = s->n_ids - s->n_features;
    s->dim = m->dim;
    s->state = UM_SEQ_ENCODING;
    if (s->n_features == 0) make_ready(s, m);
}

/* --- media --- */

void um_sequence_feature(um_sequence *s, int i, const um_media_rows *rows, const um_config *cfg,
                         const um_model *m)
{
    um_err why = {0};
    um_feature *f = &s->features[i];
    UM_CHECK(s->state == UM_SEQ_ENCODING && f->media == NULL);
    bool last = ++s->n_encoded == s->n_features;
    int64_t T =
        (int64_t)s->T + rows->n; /* a frame bounds n; the sum is checked before it is kept */
    um_status st =
        length_check(s, T + s->n_features - s->n_encoded,
                     last ? " (media counted)" : " or more (media counted)", cfg, m, &why);
    if (st != UM_OK) {
        um_sequence_fail(s, st, &why);
        return;
    }
    s->T = (int)T;
    f->media = um_media_rows_hold(rows);
    f->rows = rows->rows;
    f->n = rows->n;
    if (last) make_ready(s, m);
}

/* The features of each kind, all items of it in order: [images or videos, rows, D], or for audio [windows, queries, D]. */
static void trace_features(const um_sequence *s, const um_model *m)
{
    for (int k = UM_IMAGE; s->trace != NULL && k < UM_MODALITIES; k++) {
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

/* --- memory and prompt --- */

int um_sequence_positions(const um_sequence *s, const um_model *m)
{
    return s->T + um_min_int(s->max_out, (int)(um_model_positions(m) - s->T + 1));
}

void um_sequence_grant(um_sequence *s, const um_model *m)
{
    UM_CHECK(s->state == UM_SEQ_READY);
    s->out = um_arena_i32(&s->arena, (size_t)s->max_out);
    if (s->req.logprobs) s->logprob = um_arena_f32(&s->arena, 1, (size_t)s->max_out);
    if (s->scored > 0) s->logprob = um_arena_f32(&s->arena, 1, (size_t)s->scored);
    trace_features(s, m);
    s->state = UM_SEQ_PREFILL;
}

/* The last medium that begins at or before pos; -1: none does. */
static int feature_before(const um_sequence *s, int pos)
{
    int low = 0, high = s->n_features; /* features[..low) begin at or before pos, [high..) behind */
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (s->features[mid].at <= pos)
            low = mid + 1;
        else
            high = mid;
    }
    return low - 1;
}

um_run um_sequence_run(const um_sequence *s, int pos, int most)
{
    UM_CHECK(pos >= 0 && most > 0 && pos < s->T + s->n_out);
    if (pos >= s->T) {
        int made = s->T + s->n_out - pos;
        return (um_run){
            .n = made < most ? made : most, .ids = s->out + (pos - s->T), .feature = -1};
    }
    int i = feature_before(s, pos);
    const um_feature *f = i < 0 ? NULL : &s->features[i];
    if (f != NULL && pos < f->at + f->n) {
        int first = pos - f->at, left = f->n - first;
        const float *rows = f->rows + (size_t)first * (size_t)s->dim;
        return (um_run){left < most ? left : most, NULL, rows, f->modality, i, first};
    }
    int end = i + 1 < s->n_features ? s->features[i + 1].at : s->T;
    int id = f == NULL ? pos : f->id + 1 + (pos - f->at - f->n);
    return (um_run){.n = end - pos < most ? end - pos : most, .ids = s->ids + id, .feature = -1};
}

/* --- the answer --- */

static um_status token_add(um_sequence *s, const float *logits, const um_model *m,
                           um_arena *scratch, um_err *err)
{
    int32_t id = 0;
    UM_TRY(um_sample(&id, logits, m->vocab, &s->sampling, &s->rng, scratch, err));
    um_trace_rows(s->trace, "greedy_ids", UM_I32, &id, 1, 0);
    um_trace_rows(s->trace, "greedy_logits", UM_F32, logits, 1, m->vocab);
    UM_CHECK(s->n_out < s->max_out);
    if (s->logprob != NULL) s->logprob[s->n_out] = um_sample_logprob(logits, m->vocab, id);
    s->out[s->n_out++] = id;
    bool stopped = um_answer_add(&s->answer, id);
    if (stopped || (um_model_is_eos(m, id) && !s->ignore_eos)) s->finish = UM__FINISH__FINISH_STOP;
    return UM_OK;
}

void um_sequence_sample(um_sequence *s, const float *logits, const um_model *m, um_arena *scratch)
{
    um_err why = {0};
    um_status st = UM_OK;
    if (s->cancelled || s->state == UM_SEQ_DONE) return; /* done: its scores are no numbers */
    if (s->n_out == 0) s->first_ns = um_now_ns();
    s->state = UM_SEQ_DECODE;
    if (s->max_out > 0) st = token_add(s, logits, m, scratch, &why);
    if (st != UM_OK) {
        um_sequence_fail(s, st, &why);
        return;
    }
    if (s->finish == UM__FINISH__FINISH_NONE && s->n_out == s->max_out)
        s->finish = UM__FINISH__FINISH_LENGTH;
    if (s->finish == UM__FINISH__FINISH_NONE) return;
    um_answer_end(&s->answer);
    s->state = UM_SEQ_DONE;
}

void um_sequence_score_rows(const um_sequence *s, int *from, int *to)
{
    *to = s->scored > 0 ? s->T - 1
                        : 0; /* a token's likelihood stands in the logits of the row before it */
    *from = *to - s->scored;
}

void um_sequence_score(um_sequence *s, int row, const float *logits, const um_model *m)
{
    int k = row - (s->T - 1 - s->scored);
    um_err why = {0};
    UM_CHECK(k >= 0 && k < s->scored);
    s->logprob[k] = um_sample_logprob(logits, m->vocab, s->ids[s->n_ids - s->scored + k]);
    if (isfinite(s->logprob[k])) return;
    UM_FAIL(&why, UM_E_CORRUPT, "the likelihood of token %d of the answer is not a number", k);
    um_sequence_fail(s, UM_E_CORRUPT, &why);
}

/* --- what is reported --- */

bool um_sequence_token(um_sequence *s, Um__Token *out, um_arena *arena)
{
    if (s->status != UM_OK) return false;
    if (s->state == UM_SEQ_DONE) um_answer_end(&s->answer);
    const char *text = um_answer_show(&s->answer, arena);
    int n = s->n_out - s->told;
    if (s->scored > 0 || (n == 0 && text[0] == '\0')) return false;
    um__token__init(out);
    out->id = s->number;
    out->index = (uint32_t)s->told;
    out->n_ids = (size_t)n;
    out->ids = s->out + s->told;
    out->text = (char *)(uintptr_t)text;
    out->n_logprobs = s->logprob != NULL ? (size_t)n : 0;
    out->logprobs = s->logprob != NULL ? s->logprob + s->told : NULL;
    s->told = s->n_out;
    return true;
}

void um_sequence_refusal(const um_sequence *s, um_status st, const um_err *why, Um__Result *out,
                         um_arena *arena)
{
    um__result__init(out);
    out->id = s->number;
    out->status = (uint32_t)st;
    out->error = um_arena_str(arena, why->msg);
    out->name = (char *)(uintptr_t)s->req.id;
    out->number = s->req.number;
    out->element = s->req.element;
    out->n_ignored = (size_t)s->req.n_ignored;
    out->ignored = (char **)(uintptr_t)s->req.ignored;
}

void um_sequence_result(um_sequence *s, Um__Result *out, um_arena *arena)
{
    UM_ASSERT(s->state == UM_SEQ_DONE);
    um_sequence_refusal(s, s->status, &s->why, out, arena);
    if (s->status != UM_OK) return;
    um_answer_end(&s->answer);
    /* one that was cancelled may not have come so far */
    int64_t begun = s->begun_ns > 0 ? s->begun_ns : s->done_ns;
    int64_t first = s->first_ns > 0 ? s->first_ns : s->done_ns;
    out->text = (char *)(uintptr_t)um_answer_text(&s->answer);
    out->n_ids = (size_t)s->n_out;
    out->ids = s->out;
    out->finish = s->finish;
    out->prompt_rows = s->begun_ns > 0 ? (uint32_t)s->T : 0;
    out->prefill_ns = first - begun;
    out->decode_ns = s->done_ns - first;
    out->n_logprobs = s->logprob != NULL ? (size_t)s->n_out : 0;
    out->logprobs = s->logprob;
    out->scored = s->scored > 0;
    if (s->scored == 0 || s->cancelled) return;
    out->text = (char *)(uintptr_t)s->req.score;
    out->ids = s->ids + (s->n_ids - s->scored);
    out->n_ids = out->n_logprobs = (size_t)s->scored;
}
