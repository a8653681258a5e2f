/* See report.h. */
#include "router/report.h"

static double seconds(int64_t ns) { return (double)ns * 1e-9; }

static void ids_list(um_text *out, const int32_t *ids, size_t n)
{
    um_text_fmt(out, ",\"ids\":[");
    for (size_t i = 0; i < n; i++) um_text_fmt(out, i > 0 ? ",%d" : "%d", ids[i]);
    um_text_add(out, "]", 1);
}

/* Nine digits, so that reading them gives the same float. */
static void logprobs_list(um_text *out, const float *logprobs, size_t n)
{
    um_text_fmt(out, ",\"logprobs\":[");
    for (size_t i = 0; i < n; i++) um_text_fmt(out, i > 0 ? ",%.9g" : "%.9g", (double)logprobs[i]);
    um_text_add(out, "]", 1);
}

static double logprobs_sum(const Um__Result *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->n_logprobs; i++) sum += (double)r->logprobs[i];
    return sum;
}

static const char *finish_name(Um__Finish finish)
{
    return finish == UM__FINISH__FINISH_STOP     ? "stop"
           : finish == UM__FINISH__FINISH_LENGTH ? "length"
                                                 : "cancelled";
}

void um_report_result(um_text *out, const Um__Result *r)
{
    um_request from = {.id = r->name, .number = r->number, .element = r->element};
    if (r->status != UM_OK) {
        um_request_error(out, &from, r->error);
        return;
    }
    um_request_head(out, &from, "result");
    um_text_fmt(out, ",\"answer\":");
    um_text_json(out, r->text);
    if (r->scored) um_text_fmt(out, ",\"score\":%.9g", logprobs_sum(r));
    ids_list(out, r->ids, r->n_ids);
    um_text_fmt(out,
                ",\"prompt_tokens\":%u,\"new_tokens\":%zu,\"finish\":\"%s\",\"prefill_seconds\":%."
                "6f,\"decode_seconds\":%.6f",
                r->prompt_rows, r->scored ? 0 : r->n_ids, finish_name(r->finish),
                seconds(r->prefill_ns), seconds(r->decode_ns));
    if (r->n_logprobs > 0) logprobs_list(out, r->logprobs, r->n_logprobs);
    um_text_add(out, "}", 1);
}

void um_report_token(um_text *out, const um_request *from, const Um__Token *t)
{
    um_request_head(out, from, "token");
    um_text_fmt(out, ",\"token\":{\"index\":%u", t->index);
    ids_list(out, t->ids, t->n_ids);
    um_text_fmt(out, ",\"text\":");
    um_text_json(out, t->text);
    if (t->n_logprobs == 1)
        um_text_fmt(out, ",\"logprob\":%.9g", (double)t->logprobs[0]);
    else if (t->n_logprobs > 1)
        logprobs_list(out, t->logprobs, t->n_logprobs);
    um_text_add(out, "}}", 2);
}

static double rate(int64_t n, int64_t ns) { return ns > 0 ? (double)n / seconds(ns) : 0.0; }

/* Most of a counter over the ranks of one role. */
static uint64_t most(const um_report *r, const um_topology *topo, um_role role,
                     uint64_t (*get)(const Um__Stats *))
{
    uint64_t top = 0;
    for (int i = 0; i < topo->n; i++)
        if (topo->ranks[i].role == role && get(&r->ranks[i]) > top) top = get(&r->ranks[i]);
    return top;
}
static uint64_t get_compute(const Um__Stats *s) { return s->compute_us; }
static uint64_t get_codec(const Um__Stats *s) { return s->codec_us; }

static void shares(um_text *out, const um_report *r, const um_topology *topo)
{
    double total = (double)r->busy_ns * 1e-3;
    double compute = (double)(most(r, topo, UM_ROLE_ROUTER, get_compute) +
                              most(r, topo, UM_ROLE_EXPERT, get_compute));
    double exchange = (double)(most(r, topo, UM_ROLE_ROUTER, get_codec) +
                               most(r, topo, UM_ROLE_EXPERT, get_codec));
    if (total < compute + exchange) total = compute + exchange;
    if (total <= 0) total = 1;
    um_text_fmt(out, ",\"compute_share\":%.4f,\"exchange_share\":%.4f,\"wait_share\":%.4f",
                compute / total, exchange / total, 1.0 - (compute + exchange) / total);
}

/* Sums over the routers; times are those of the slowest, since routers work side by side. */
static Um__Stats routers_sum(const um_report *r, const um_topology *topo)
{
    Um__Stats sum = UM__STATS__INIT;
    for (int i = 0; i < topo->n; i++) {
        const Um__Stats *s = &r->ranks[i];
        if (topo->ranks[i].role != UM_ROLE_ROUTER) continue;
        sum.raw_bytes += s->raw_bytes;
        sum.wire_bytes += s->wire_bytes;
        sum.prompt_rows += s->prompt_rows;
        sum.new_tokens += s->new_tokens;
        sum.decode_tokens += s->decode_tokens;
        sum.media_encoded += s->media_encoded;
        sum.media_cached += s->media_cached;
        sum.reused_rows += s->reused_rows;
        sum.put_back += s->put_back;
        if (s->prefill_us > sum.prefill_us) sum.prefill_us = s->prefill_us;
        if (s->decode_us > sum.decode_us) sum.decode_us = s->decode_us;
    }
    return sum;
}

void um_report_summary(um_text *out, const um_report *r, const um_topology *topo)
{
    Um__Stats sum = routers_sum(r, topo);
    um_text_fmt(out,
                "{\"kind\":\"summary\",\"requests\":%lld,\"errors\":%lld,\"prompt_tokens\":%lld,"
                "\"new_tokens\":%lld",
                (long long)r->requests, (long long)r->errors,
                (long long)(sum.prompt_rows + sum.reused_rows), (long long)sum.new_tokens);
    um_text_fmt(out, ",\"reused_tokens\":%lld,\"put_back\":%lld", (long long)sum.reused_rows,
                (long long)sum.put_back);
    um_text_fmt(out, ",\"prefill_tokens_per_second\":%.2f,\"decode_tokens_per_second\":%.2f",
                rate((int64_t)sum.prompt_rows, (int64_t)sum.prefill_us * 1000),
                rate((int64_t)sum.decode_tokens, (int64_t)sum.decode_us * 1000));
    um_text_fmt(out, ",\"seconds\":%.6f,\"raw_bytes\":%llu,\"wire_bytes\":%llu",
                seconds(r->busy_ns), (unsigned long long)sum.raw_bytes,
                (unsigned long long)sum.wire_bytes);
    um_text_fmt(out, ",\"media_encoded\":%llu,\"media_cached\":%llu",
                (unsigned long long)sum.media_encoded, (unsigned long long)sum.media_cached);
    shares(out, r, topo);
    um_text_fmt(out, ",\"ranks\":[");
    for (int i = 0; i < topo->n; i++) {
        const Um__Stats *s = &r->ranks[i];
        um_text_fmt(out, "%s{\"rank\":%d,\"role\":\"%s\",\"index\":%d,\"host\":", i > 0 ? "," : "",
                    i, um_role_name(topo->ranks[i].role), topo->ranks[i].index);
        um_text_json(out, topo->ranks[i].hostname);
        um_text_fmt(
            out,
            ",\"resident_bytes\":%llu,\"peak_bytes\":%llu,\"cpu_seconds\":%.3f,\"compute_seconds\":"
            "%.6f,\"codec_seconds\":%.6f,\"wait_seconds\":%.6f,\"frames\":%llu,\"rows\":%llu}",
            (unsigned long long)s->resident_bytes, (unsigned long long)s->peak_bytes,
            (double)s->cpu_us * 1e-6, (double)s->compute_us * 1e-6, (double)s->codec_us * 1e-6,
            (double)s->wait_us * 1e-6, (unsigned long long)s->frames,
            (unsigned long long)s->rows_in);
    }
    um_text_fmt(out, "]}");
}

void um_report_progress(um_text *out, const um_report_state *s)
{
    um_text_fmt(out, "{\"kind\":\"progress\",\"phase\":\"%s\"", s->phase);
    if (s->engine != NULL)
        um_text_fmt(out,
                    ",\"answered\":%lld,\"requests\":%lld,\"encoding\":%lld,"
                    "\"prompt_tokens\":%lld,\"new_tokens\":%lld",
                    (long long)s->answered, (long long)s->requests, (long long)s->waiting,
                    (long long)s->engine->prompt_rows, (long long)s->engine->new_tokens);
    um_text_add(out, "}", 1);
}
