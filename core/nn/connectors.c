/* See connectors.h. */
#include "core/nn/connectors.h"

#include "core/base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tensors of one connector: those whose names begin with prefix. */
typedef struct group {
    const um_tensors *set;
    const char *prefix;
    um_err *err;
} group;

static const um_tensor *find(const group *g, const char *rest)
{
    char name[200];
    snprintf(name, sizeof name, "%s%s", g->prefix, rest);
    return um_tensors_find(g->set, name);
}

/* The number after PREFIX REST in a name; -1 when the name does not match. */
static int number_behind(const char *name, const group *g, const char *rest, const char **tail)
{
    size_t n = strlen(g->prefix), k = strlen(rest);
    if (strncmp(name, g->prefix, n) != 0 || strncmp(name + n, rest, k) != 0) return -1;
    char *end;
    if (name[n + k] < '0' || name[n + k] > '9') return -1;
    long v = strtol(name + n + k, &end, 10);
    if (*end != '.' || v < 0 || v > UM_MAX_LAYERS) return -1;
    if (tail != NULL) *tail = end + 1;
    return (int)v;
}

/* One more than the highest number after PREFIX REST; 0 when no name matches. */
static int count(const group *g, const char *rest)
{
    int n = 0;
    for (size_t i = 0; i < um_tensors_count(g->set); i++) {
        int at = number_behind(um_tensors_at(g->set, i)->name, g, rest, NULL);
        if (at >= n) n = at + 1;
    }
    return n;
}

static um_status refuse_shape(const group *g, const um_tensor *t, const char *want)
{
    char found[96];
    um_shape_text(found, t->rank, t->shape);
    return UM_FAIL(g->err, UM_E_MODEL, "tensor %.400s: shape %s, want %s", t->name, found, want);
}

/* *out = size `axis` of the tensor, which must have `rank` sizes, the last of them D unless D is 0. When the tensor is absent, *out
 * keeps its value. */
static um_status measure(const group *g, int *out, const um_tensor *t, int rank, int axis, int D,
                         int64_t max)
{
    char want[96];
    if (t == NULL) return UM_OK;
    if (t->rank == rank && (D == 0 || t->shape[rank - 1] == D) && t->shape[axis] >= 1 &&
        t->shape[axis] <= max) {
        *out = (int)t->shape[axis];
        return UM_OK;
    }
    if (D == 0)
        snprintf(want, sizeof want, "%d sizes", rank);
    else if (rank == 3)
        snprintf(want, sizeof want, "[1,n,%d] with n from 1 to %" PRId64, D, max);
    else
        snprintf(want, sizeof want, "[n,%d] with n from 1 to %" PRId64, D, max);
    return refuse_shape(g, t, want);
}

/* Reads n from the query matrix [1, n, D]; it must equal query_tokens_size where config.json has that key. */
static um_status queries(const group *g, int *out, const char *name, int D, bool given)
{
    const um_tensor *t = um_tensors_find(g->set, name);
    int n = *out;
    UM_TRY(measure(g, &n, t, 3, 1, D, UM_MAX_ROWS));
    if (given && n != *out)
        return UM_FAIL(g->err, UM_E_MODEL,
                       "config.json query_tokens_size: %d, but the tensor %s has %d rows", *out,
                       name, n);
    *out = n;
    return UM_OK;
}

static um_status projector(const group *g, um_projector proj, int layers)
{
    const um_tensor *plain = find(g, "projector.weight");
    int n = count(g, "projector.");
    if (proj == UM_PROJ_LINEAR && n > 0)
        return UM_FAIL(g->err, UM_E_MODEL,
                       "config.json audio_projector_type: linear, but there are tensors "
                       "%sprojector.0 to .%d: must be mlp%dx_gelu",
                       g->prefix, n - 1, n / 2 + 1);
    if (proj == UM_PROJ_MLP && plain != NULL)
        return UM_FAIL(g->err, UM_E_MODEL,
                       "config.json audio_projector_type: mlp%dx_gelu, but there is a tensor %s: "
                       "must be linear",
                       layers, plain->name);
    if (proj == UM_PROJ_MLP && n > 0 && n != 2 * layers - 1)
        return UM_FAIL(g->err, UM_E_MODEL,
                       "config.json audio_projector_type: mlp%dx_gelu, but the tensors "
                       "%sprojector.0 to .%d make it mlp%dx_gelu",
                       layers, g->prefix, n - 1, n / 2 + 1);
    return UM_OK;
}

/* A Whisper decoder. The number of heads is the one in the tower's config.json, because tensors do not show it. */
static um_status settle_speech(um_speech_model *s, const um_tensors *llm, const um_tensors *tower,
                               um_err *err)
{
    group g = {llm, s->names.prefix, err};
    int layers = count(&g, "decoder.audio_decoder.layers.");
    s->encoder_prefix = tower == NULL || um_tensors_find(tower, "encoder.conv1.weight") == NULL ||
                        um_tensors_find(tower, "model.encoder.conv1.weight") != NULL;
    if (layers > 0) s->dec_layers = layers;
    UM_TRY(measure(&g, &s->dec_ffn_dim, find(&g, "decoder.audio_decoder.layers.0.fc1.weight"), 2, 0,
                   s->dim, UM_MAX_WIDTH));
    UM_TRY(measure(&g, &s->dec_positions, find(&g, "decoder.audio_decoder.embed_positions.weight"),
                   2, 0, s->dim, UM_MAX_ROWS));
    UM_TRY(queries(&g, &s->queries, s->names.queries, s->dim, s->queries_given));
    if (s->queries > s->dec_positions)
        return UM_FAIL(err, UM_E_MODEL,
                       "%d speech queries, but the connector has %d positions (%sdecoder."
                       "audio_decoder.embed_positions.weight)",
                       s->queries, s->dec_positions, s->names.prefix);
    return projector(&g, s->proj, s->proj_layers);
}

static um_status agree(const group *g, int found, int said, const char *key)
{
    if (found == said) return UM_OK;
    return UM_FAIL(g->err, UM_E_MODEL,
                   "config.json mm_audio_qformer: %s: %d, but the tensors %sqformer. have %d", key,
                   said, g->prefix, found);
}

enum { LAYER_MAX = UM_MAX_LAYERS + 1 };

/* Cross-attention must be in layers 0, f, 2f, ...; *out = f. */
static um_status resolve_cross(const group *g, int *out, int layers, bool given)
{
    static const char layer[] = "qformer.qformer.encoder.layer.";
    bool cross[LAYER_MAX] = {false};
    const char *tail = "";
    int first = -1, second = -1;
    for (size_t i = 0; i < um_tensors_count(g->set); i++) {
        int at = number_behind(um_tensors_at(g->set, i)->name, g, layer, &tail);
        if (at >= 0 && um_starts_with(tail, "crossattention.")) cross[at] = true;
    }
    for (int i = 0; i < layers; i++) {
        if (!cross[i]) continue;
        if (first < 0)
            first = i;
        else if (second < 0)
            second = i;
    }
    int f = given ? *out : second > 0 ? second : layers;
    for (int i = 0; i < layers; i++) {
        if (cross[i] == (i % f == 0)) continue;
        return UM_FAIL(g->err, UM_E_MODEL,
                       "layer %d of %sqformer. has %s cross-attention: with%s "
                       "cross_attention_frequency %d it must%s",
                       i, g->prefix, cross[i] ? "a" : "no", given ? " config.json's" : "", f,
                       cross[i] ? " not" : "");
    }
    *out = f;
    return UM_OK;
}

static um_status settle_sound(um_sound_model *s, const um_tensors *llm, um_err *err)
{
    group g = {llm, s->names.prefix, err};
    int layers = count(&g, "qformer.qformer.encoder.layer."), dim = s->q_dim, ffn = s->q_ffn_dim;
    if (layers > 0) {
        UM_TRY(measure(&g, &dim, um_tensors_find(llm, s->names.queries), 3, 2, 0, UM_MAX_WIDTH));
        UM_TRY(measure(&g, &ffn,
                       find(&g, "qformer.qformer.encoder.layer.0.intermediate_query.dense.weight"),
                       2, 0, dim, UM_MAX_WIDTH));
        if (s->qformer_given) {
            UM_TRY(agree(&g, layers, s->q_layers, "num_hidden_layers"));
            UM_TRY(agree(&g, dim, s->q_dim, "hidden_size"));
            UM_TRY(agree(&g, ffn, s->q_ffn_dim, "intermediate_size"));
        }
        s->q_layers = layers;
        s->q_dim = dim;
        s->q_ffn_dim = ffn;
        UM_TRY(resolve_cross(&g, &s->q_cross, layers, s->qformer_given));
    }
    if (s->q_dim % s->q_heads != 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "%d heads do not divide the Q-Former's width %d: config.json "
                       "mm_audio_qformer must say num_attention_heads",
                       s->q_heads, s->q_dim);
    UM_TRY(queries(&g, &s->queries, s->names.queries, s->q_dim, s->queries_given));
    return projector(&g, s->proj, s->proj_layers);
}

um_status um_connectors_resolve(um_model *m, const um_tensors *llm, const um_tensors *speech,
                                um_err *err)
{
    if (m->speech.present) UM_TRY(settle_speech(&m->speech, llm, speech, err));
    if (m->sound.present) UM_TRY(settle_sound(&m->sound, llm, err));
    return UM_OK;
}
