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
    void (*answer)(
        void *ctx,
        bool
            begins); /* an answer begins behind what came so far, or ends there; NULL: nobody asks */
    void *ctx;
} sink;

static void mark(const sink *to, bool begins)
{
    if (to->answer != NULL) to->answer(to->ctx, begins);
}

/* The template, byte for byte (spec 1.2). */
static void compose(const um_request *r, const sink *to)
{
    const char *system = r->system != NULL ? r->system : SYSTEM;
    to->text(to->ctx, system);
    if (system[0] != '\0') to->text(to->ctx, " ");
    for (int i = 0; i < r->n_turns; i++) {
        const um_turn *t = &r->turns[i];
        to->text(to->ctx, t->human ? "USER:" : "ASSISTANT:");
        if (!t->human && t->n > 0) mark(to, true);
        if (t->n > 0) to->text(to->ctx, " ");
        for (int k = 0; k < t->n; k++) {
            if (t->parts[k].text != NULL)
                to->text(to->ctx, t->parts[k].text);
            else
                to->medium(to->ctx, r->items[t->parts[k].item].modality);
        }
        if (t->n > 0) to->text(to->ctx, t->human ? " " : "</s>");
        if (!t->human && t->n > 0) mark(to, false);
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
    compose(r, &(sink){.text = write_text, .medium = write_medium, .ctx = &text});
    char *out = um_arena_strn(arena, text.s, text.n);
    um_text_free(&text);
    return out;
}

/* Where the answers of a conversation begin and end, in turn: first as bytes of the piece that is being written, then, once it is
 * encoded, as places in ids. */
typedef struct answer_marks {
    size_t *at; /* [n], room for two a turn */
    size_t n, placed;
} answer_marks;

/* Ids in the making. Grown by doubling, so that a text of nothing but placeholders costs no more than its length. */
typedef struct encoding {
    const um_tokenizer *tok;
    um_text part; /* since the last medium */
    um_arena *arena;
    int32_t *ids;
    size_t n, cap;
    um_status st;
    um_err *err;
    answer_marks *marks; /* NULL: labels are not wanted */
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

/* The answers among the ids [from, e->n), which begin at the bytes at[] of the piece: their places become places in ids. */
static void answers_find(encoding *e, size_t from, const int32_t *at)
{
    answer_marks *m = e->marks;
    size_t i = from;
    for (; m->placed < m->n; m->placed++) {
        size_t byte = m->at[m->placed];
        while (i < e->n && (size_t)at[i - from] < byte) i++;
        m->at[m->placed] = i;
    }
}

/* Every part is encoded alone and comes back with BOS, which stands only once (spec 1.3). */
static void piece_encode(encoding *e)
{
    int n = 0, skip = e->n == 0 ? 0 : 1;
    int32_t *ids = NULL, *at = NULL;
    size_t from = e->n;
    if (e->st != UM_OK) return;
    e->st = um_tokenizer_encode_at(e->tok, e->part.s == NULL ? "" : e->part.s, e->part.n, &ids,
                                   e->marks != NULL ? &at : NULL, &n, e->arena, e->err);
    if (e->st == UM_OK) grow(e, ids + skip, (size_t)(n - skip));
    if (e->st == UM_OK && e->marks != NULL) answers_find(e, from, at + skip);
    e->part.n = 0;
}

static void encode_text(void *ctx, const char *text) { write_text(&((encoding *)ctx)->part, text); }
static void encode_medium(void *ctx, um_modality modality)
{
    int32_t id = um_prompt_id(modality);
    piece_encode(ctx);
    grow(ctx, &id, 1);
}

static void encode_answer(void *ctx, bool begins)
{
    encoding *e = ctx;
    (void)begins; /* where asserts are off */
    UM_ASSERT((e->marks->n % 2 == 0) == begins);
    e->marks->at[e->marks->n++] = e->part.n;
}

um_status um_prompt_ids(const um_tokenizer *t, const um_request *r, int32_t **ids, int *n,
                        um_arena *arena, um_err *err)
{
    encoding e = {.tok = t, .arena = arena, .err = err};
    compose(r, &(sink){.text = encode_text, .medium = encode_medium, .ctx = &e});
    piece_encode(&e);
    um_text_free(&e.part);
    if (e.st != UM_OK) return e.st;
    *ids = e.ids;
    *n = (int)e.n;
    return UM_OK;
}

um_status um_prompt_labelled(const um_tokenizer *t, const um_request *r, um_labelled *out,
                             um_arena *arena, um_err *err)
{
    answer_marks marks = {um_arena_alloc(arena, 2 * (size_t)r->n_turns * sizeof(size_t)), 0, 0};
    encoding e = {.tok = t, .arena = arena, .err = err, .marks = &marks};
    compose(r, &(sink){encode_text, encode_medium, encode_answer, &e});
    piece_encode(&e);
    um_text_free(&e.part);
    if (e.st != UM_OK) return e.st;
    UM_ASSERT(marks.placed == marks.n && marks.n % 2 == 0);
    um_labelled l = {.ids = e.ids, .n = (int)e.n, .rounds = (int)(marks.n / 2)};
    l.labels = um_arena_i32(arena, e.n);
    l.round_end = um_arena_i32(arena, (size_t)l.rounds);
    for (int i = 0; i < l.n; i++) l.labels[i] = UM_LABEL_IGNORED;
    for (int k = 0; k < l.rounds; k++) {
        l.round_end[k] = (int)marks.at[2 * k + 1];
        for (int i = (int)marks.at[2 * k]; i < l.round_end[k]; i++)
            if (l.ids[i] >= 0) l.labels[i] = l.ids[i];
    }
    *out = l;
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
