/* See prompt.h. */
#include "router/request/prompt.h"

#include "core/base/json.h"
#include "router/request/placeholder.h"

#include <string.h>

#define SYSTEM                                                                                     \
    "A chat between a curious user and an artificial intelligence assistant. "                     \
    "The assistant gives helpful, detailed, and polite answers to the user's questions."

/* Where the template's texts and media go. */
typedef struct sink {
    void (*text)(void *ctx, const char *text);
    void (*medium)(void *ctx, um_modality modality);
    void *ctx;
} sink;

/* The template, byte for byte (spec 1.2). */
static void compose(const um_request *r, const sink *to)
{
    const char *system = r->system != NULL ? r->system : SYSTEM;
    to->text(to->ctx, system);
    if (system[0] != '\0') to->text(to->ctx, " ");
    for (int i = 0; i < r->n_turns; i++) {
        const um_turn *t = &r->turns[i];
        to->text(to->ctx, t->human ? "USER" : "ASSISTANT");
        to->text(to->ctx, t->n == 0 ? ":" : ": ");
        for (int k = 0; k < t->n; k++) {
            if (t->parts[k].text != NULL)
                to->text(to->ctx, t->parts[k].text);
            else
                to->medium(to->ctx, r->items[t->parts[k].item].modality);
        }
        if (t->n > 0) to->text(to->ctx, t->human ? " " : "</s>");
    }
    if (r->turns[r->n_turns - 1].human) to->text(to->ctx, "ASSISTANT:"); /* the answer wanted */
}

static void write_text(void *ctx, const char *text) { um_text_add(ctx, text, strlen(text)); }
static void write_medium(void *ctx, um_modality modality)
{
    write_text(ctx, um_media_placeholder(modality));
}

char *um_prompt_text(const um_request *r, um_arena *arena)
{
    um_text text = {0};
    compose(r, &(sink){write_text, write_medium, &text});
    char *out = um_arena_strn(arena, text.s, text.n);
    um_text_free(&text);
    return out;
}

/* Ids in the making. Grown by doubling, so that a text of nothing but placeholders costs no more than its length. */
typedef struct encoding {
    const um_tokenizer *tok;
    um_text part; /* since the last medium */
    um_arena *arena;
    int32_t *ids;
    size_t n, cap;
    um_status st;
    um_err *err;
} encoding;

static void grow(encoding *e, const int32_t *ids, size_t n)
{
    if (e->n + n > e->cap) {
        int32_t *old = e->ids;
        e->cap = 2 * (e->n + n);
        e->ids = um_arena_i32(e->arena, e->cap);
        if (e->n > 0) memcpy(e->ids, old, e->n * sizeof *old);
    }
    if (n > 0) memcpy(e->ids + e->n, ids, n * sizeof *ids);
    e->n += n;
}

/* Every part is encoded alone and comes back with BOS, which stands only once (spec 1.3). */
static void piece_encode(encoding *e)
{
    int n = 0, skip = e->n == 0 ? 0 : 1;
    int32_t *ids = NULL;
    if (e->st != UM_OK) return;
    e->st = um_tokenizer_encode(e->tok, e->part.s == NULL ? "" : e->part.s, e->part.n, &ids, &n,
                                e->arena, e->err);
    if (e->st == UM_OK) grow(e, ids + skip, (size_t)(n - skip));
    e->part.n = 0;
}

static void encode_text(void *ctx, const char *text) { write_text(&((encoding *)ctx)->part, text); }
static void encode_medium(void *ctx, um_modality modality)
{
    int32_t id = um_prompt_id(modality);
    piece_encode(ctx);
    grow(ctx, &id, 1);
}

um_status um_prompt_ids(const um_tokenizer *t, const um_request *r, int32_t **ids, int *n,
                        um_arena *arena, um_err *err)
{
    encoding e = {.tok = t, .arena = arena, .err = err};
    compose(r, &(sink){encode_text, encode_medium, &e});
    piece_encode(&e);
    um_text_free(&e.part);
    if (e.st != UM_OK) return e.st;
    *ids = e.ids;
    *n = (int)e.n;
    return UM_OK;
}

size_t um_prompt_bytes(const um_request *r)
{
    size_t n = 0;
    for (int i = 0; i < r->n_turns; i++)
        for (int k = 0; k < r->turns[i].n; k++)
            if (r->turns[i].parts[k].text != NULL) n += strlen(r->turns[i].parts[k].text);
    return n;
}

int64_t um_prompt_media_rows(const um_request *r, const um_model *m)
{
    int64_t rows = 0;
    for (int i = 0; i < r->n_items; i++) {
        um_modality k = r->items[i].modality;
        bool audio = k == UM_SPEECH || k == UM_SOUND;
        int of = k == UM_SPEECH ? m->speech.queries : k == UM_SOUND ? m->sound.queries : 0;
        if (!audio && m->vision.present) of = um_vision_rows(&m->vision);
        rows += of > 0 ? of : 1;
    }
    return rows;
}

int32_t um_prompt_id(um_modality modality)
{
    return modality == UM_IMAGE ? UM_ID_IMAGE : modality == UM_VIDEO ? UM_ID_VIDEO : UM_ID_AUDIO;
}

um_status um_prompt_check(const um_request *r, const int32_t *ids, int n, const um_model *m,
                          um_err *err)
{
    for (int i = 0; i < r->n_items; i++) {
        um_modality k = r->items[i].modality;
        bool there = k == UM_SPEECH  ? m->speech.present
                     : k == UM_SOUND ? m->sound.present
                                     : m->vision.present;
        if (!there)
            return UM_FAIL(err, UM_E_DATA, "%s: the model has no %s tower", r->items[i].paths[0],
                           k == UM_SPEECH || k == UM_SOUND ? um_modality_name(k) : "vision");
    }
    for (int i = 0; i < n; i++)
        if (ids[i] >= m->vocab)
            return UM_FAIL(err, UM_E_MODEL,
                           "tokenizer.model gives token %d, the model's vocabulary ends at %d",
                           ids[i], m->vocab - 1);
    return UM_OK;
}
