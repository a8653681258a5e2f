/* See expert_load.h. */
#include "core/train/expert_load.h"

#include "core/base/bytes.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>

size_t um_expert_load_cells(const um_model *m)
{
    const size_t planes = (size_t)m->moe_layers * UM_MODALITIES, experts = (size_t)m->experts;
    if (experts == 0 || planes > UM_LOAD_CELLS / experts) return 0;
    return planes * experts;
}

/* The figures of a layer. rows: [UM_MODALITIES, E] */
static um_layer_load layer_of(int layer, const uint64_t *rows, int E)
{
    um_layer_load out = {.layer = layer, .max_over_mean = NAN, .entropy = NAN};
    double all = 0, most = 0, sum = 0;
    for (int e = 0; e < E; e++) {
        double n = 0;
        for (int m = 0; m < UM_MODALITIES; m++)
            n += (double)rows[um_at((size_t)m, (size_t)e, (size_t)E)];
        out.idle += n == 0;
        all += n;
        if (n > most) most = n;
        if (n > 0) sum += n * log(n);
    }
    for (int m = 0; m < UM_MODALITIES && E <= UM_LOAD_EXPERTS; m++) {
        const uint64_t *of = rows + um_at((size_t)m, 0, (size_t)E);
        bool any = false;
        for (int e = 0; e < E; e++) any = any || of[e] > 0;
        if (any) out.rows[m] = of;
    }
    if (all == 0) return out;
    out.max_over_mean = most * E / all;
    /* -sum p log p = log all - (sum n log n) / all */
    out.entropy = E == 1 ? 1.0 : fmax(0.0, fmin(1.0, (log(all) - sum / all) / log(E)));
    return out;
}

void um_expert_load_of(um_expert_load *out, const um_model *m, const uint64_t *rows,
                       um_arena *arena)
{
    um_expert_load l = {.experts = m->experts};
    l.layer = um_arena_alloc(arena, (size_t)m->moe_layers * sizeof *l.layer);
    for (int i = 0; i < m->layers; i++) {
        if (!m->moe_layer[i]) continue;
        const size_t at = (size_t)l.layers * UM_MODALITIES;
        l.layer[l.layers++] = layer_of(i, rows + at * (size_t)m->experts, m->experts);
    }
    *out = l;
}

double um_expert_load_max_over_mean(const um_expert_load *l)
{
    double most = NAN;
    for (int i = 0; i < l->layers; i++) most = fmax(most, l->layer[i].max_over_mean);
    return most;
}

double um_expert_load_entropy(const um_expert_load *l)
{
    double sum = 0;
    int n = 0;
    for (int i = 0; i < l->layers; i++) {
        if (isnan(l->layer[i].entropy)) continue;
        sum += l->layer[i].entropy;
        n++;
    }
    return n > 0 ? sum / n : NAN;
}

int um_expert_load_idle(const um_expert_load *l)
{
    int n = 0;
    for (int i = 0; i < l->layers; i++) n += l->layer[i].idle;
    return n;
}

/* --- JSON --- */

static void figure(um_text *out, const char *key, double v)
{
    if (isnan(v))
        um_text_fmt(out, ",\"%s\":null", key);
    else
        um_text_fmt(out, ",\"%s\":%.9g", key, v);
}

void um_expert_load_json(um_text *out, const um_expert_load *l)
{
    um_text_fmt(out, "[");
    for (int i = 0; i < l->layers; i++) {
        const um_layer_load *y = &l->layer[i];
        um_text_fmt(out, "%s{\"layer\":%d", i > 0 ? "," : "", y->layer);
        figure(out, "max_over_mean", y->max_over_mean);
        figure(out, "entropy", y->entropy);
        um_text_fmt(out, ",\"idle\":%d", y->idle);
        for (int m = 0; m < UM_MODALITIES; m++) {
            if (y->rows[m] == NULL) continue;
            um_text_fmt(out, ",\"%s\":", um_modality_name((um_modality)m));
            for (int e = 0; e < l->experts; e++)
                um_text_fmt(out, "%c%" PRIu64, e == 0 ? '[' : ',', y->rows[m][e]);
            um_text_fmt(out, "]");
        }
        um_text_fmt(out, "}");
    }
    um_text_fmt(out, "]");
}

/* The rows of a modality; NULL: not listed, or not as many as `experts`, which the first list sets. */
static const uint64_t *rows_read(const um_json *list, int *experts, um_arena *arena)
{
    const size_t n = um_json_size(list);
    if (um_json_kind_of(list) != UM_JSON_ARRAY || n == 0 || n > UM_LOAD_EXPERTS) return NULL;
    if (*experts > 0 && n != (size_t)*experts) return NULL;
    uint64_t *out = um_arena_alloc(arena, n * sizeof *out);
    for (size_t e = 0; e < n; e++) {
        const int64_t v = um_json_int(um_json_at(list, e), 0);
        out[e] = v > 0 ? (uint64_t)v : 0;
    }
    *experts = (int)n;
    return out;
}

void um_expert_load_read(um_expert_load *out, const um_json *j, um_arena *arena)
{
    const size_t n = um_json_kind_of(j) == UM_JSON_ARRAY ? um_json_size(j) : 0;
    um_expert_load l = {0};
    if (n > 0 && n <= UM_LOAD_CELLS) l.layer = um_arena_zero(arena, n * sizeof *l.layer);
    for (size_t i = 0; i < n && l.layer != NULL; i++) {
        const um_json *from = um_json_at(j, i);
        const int64_t layer = um_json_int(um_json_get(from, "layer"), -1),
                      idle = um_json_int(um_json_get(from, "idle"), 0);
        um_layer_load *y = &l.layer[l.layers++];
        y->layer = layer < 0 || layer > INT_MAX ? 0 : (int)layer;
        y->idle = idle < 0 || idle > UM_LOAD_CELLS ? 0 : (int)idle;
        y->max_over_mean = um_json_num(um_json_get(from, "max_over_mean"), NAN);
        y->entropy = um_json_num(um_json_get(from, "entropy"), NAN);
        for (int m = 0; m < UM_MODALITIES; m++)
            y->rows[m] =
                rows_read(um_json_get(from, um_modality_name((um_modality)m)), &l.experts, arena);
    }
    *out = l;
}
