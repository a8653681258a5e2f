/* See sample.h. */
#include "router/data/sample.h"

#include <string.h>

/* --- names --- */

const char *um_kinds_name(unsigned kinds)
{
    static const char *const names[UM_MEDIA_SETS] = {
        "text",  "image",       "audio",       "image+audio",
        "video", "image+video", "audio+video", "image+audio+video"};
    UM_ASSERT(kinds < UM_MEDIA_SETS);
    return names[kinds];
}

const char *um_data_fault_name(um_data_fault_kind kind)
{
    static const char *const names[UM_DATA_FAULT_KINDS] = {"none",
                                                           "file",
                                                           "bad JSON",
                                                           "placeholders",
                                                           "no answer",
                                                           "media",
                                                           "too long",
                                                           "rounds left out",
                                                           "last question unanswered",
                                                           "masked by the original"};
    UM_ASSERT(kind < UM_DATA_FAULT_KINDS);
    return names[kind];
}

bool um_data_fault_usable(um_data_fault_kind kind)
{
    return kind == UM_FAULT_NONE || kind == UM_FAULT_CUT || kind == UM_FAULT_UNANSWERED ||
           kind == UM_FAULT_MASKED;
}

const char *um_sample_where(const char *file, uint64_t number, bool element, um_arena *arena)
{
    if (element) return um_arena_fmt(arena, "%s[%llu]", file, (unsigned long long)(number - 1));
    return um_arena_fmt(arena, "%s:%llu", file, (unsigned long long)number);
}

/* --- rounds --- */

/* Media that stand in the first n turns: those of a request are in the order in which they stand. */
static int items_of(const um_request *r, int n)
{
    int items = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < r->turns[i].n; k++) items += r->turns[i].parts[k].text == NULL;
    return items;
}

/* Leaves out the turns behind the last answer. Returns false when there is no answer. */
static bool unanswered_drop(um_request *r, bool *dropped)
{
    int n = r->n_turns;
    while (n > 0 && (r->turns[n - 1].human || r->turns[n - 1].n == 0)) n--;
    *dropped = n < r->n_turns;
    r->n_items = items_of(r, n);
    r->n_turns = n;
    return n > 0;
}

/* Cuts l behind its last round that ends within max ids; 0 rounds when there is none. */
static void rounds_cut(um_labelled *l, int max)
{
    if (l->n <= max) return;
    while (l->rounds > 0 && l->round_end[l->rounds - 1] > max) l->rounds--;
    l->n = l->rounds > 0 ? l->round_end[l->rounds - 1] : 0;
}

static unsigned kinds_of(const um_item *items, int n)
{
    unsigned kinds = 0;
    for (int i = 0; i < n; i++)
        kinds |= items[i].modality == UM_IMAGE   ? UM_KIND_IMAGE
                 : items[i].modality == UM_VIDEO ? UM_KIND_VIDEO
                                                 : UM_KIND_AUDIO;
    return kinds;
}

/* --- what the original would have done --- */

static int count_of(const char *text, size_t n, const char *word)
{
    int count = 0;
    size_t k = strlen(word);
    for (size_t i = 0; i + k <= n; i++) {
        if (memcmp(text + i, word, k) != 0) continue;
        count++;
        i += k - 1;
    }
    return count;
}

/* Whether the original masks all of a sample with these ids and this text: it walks over the rounds of the text, as far as each has
 * exactly one " ASSISTANT: ", and gives up when the ids of these rounds are not all ids but those that it takes for padding, the
 * unknown id (spec 1.4). */
static bool reference_masks(const um_sample_maker *maker, const um_labelled *l, const char *text)
{
    static const char end[] = "</s>";
    int32_t eos = um_tokenizer_eos(maker->tokenizer), unk = um_tokenizer_unk(maker->tokenizer);
    int walked = 1, seen = 0, at = 0;
    for (int i = 0; i < l->n; i++) seen += l->ids[i] != unk;
    while (*text != '\0') {
        const char *stop = strstr(text, end);
        size_t n = stop != NULL ? (size_t)(stop - text) : strlen(text);
        if (n == 0 || count_of(text, n, " ASSISTANT: ") != 1) break;
        int from = at;
        while (at < l->n && l->ids[at] != eos) at++;
        walked += at - from + (from > 0); /* BOS of the first round is that of the whole */
        at++;
        text += n + (stop != NULL ? strlen(end) : 0);
    }
    return walked < maker->max_ids && walked != seen;
}

/* --- the whole --- */

static um_status ids_make(um_data_sample *s, const um_sample_maker *maker, um_request *r,
                          const char *whole, um_arena *arena, um_err *err)
{
    um_labelled l = {0};
    UM_TRY(um_prompt_labelled(maker->tokenizer, r, &l, arena, err));
    int all = l.n, rounds = l.rounds;
    s->reference_masks = s->unanswered || reference_masks(maker, &l, whole);
    rounds_cut(&l, maker->max_ids);
    s->fault = UM_FAULT_LONG;
    if (l.rounds == 0)
        return UM_FAIL(err, UM_E_DATA, "%d ids%s, at most %d are allowed (model_max_length)",
                       rounds > 1 ? l.round_end[0] : all, rounds > 1 ? " in its first round" : "",
                       maker->max_ids);
    s->fault = UM_FAULT_MEDIA;
    UM_TRY(um_prompt_check(r, l.ids, l.n, maker->model, err));
    int items = 0;
    for (int i = 0; i < l.n; i++) {
        items += l.ids[i] < 0;
        s->targets += l.labels[i] != UM_LABEL_IGNORED;
    }
    UM_ASSERT(items <= r->n_items && s->targets > 0);
    r->n_items = items;
    s->ids = l.ids;
    s->labels = l.labels;
    s->n = l.n;
    s->rounds = l.rounds;
    s->cut = rounds - l.rounds;
    return UM_OK;
}

/* Of a text that is not made ids: what it would have, about. */
static int64_t ids_estimate(const um_request *r)
{
    enum { TEMPLATE = 160, BYTES_PER_ID = 4 };
    return (int64_t)(TEMPLATE + um_prompt_bytes(r)) / BYTES_PER_ID;
}

static um_status make(um_data_sample *s, const um_sample_maker *maker, um_request *r,
                      um_arena *arena, um_err *err)
{
    const char *whole = maker->tokenizer != NULL ? um_prompt_text(r, arena) : NULL;
    s->fault = UM_FAULT_ANSWER;
    if (!unanswered_drop(r, &s->unanswered))
        return UM_FAIL(err, UM_E_DATA, "no question has an answer: nothing to learn from");
    s->fault = UM_FAULT_MEDIA;
    UM_TRY(um_prompt_check(r, NULL, 0, maker->model, err));
    if (maker->tokenizer != NULL) UM_TRY(ids_make(s, maker, r, whole, arena, err));
    s->items = r->items;
    s->n_items = r->n_items;
    s->kinds = kinds_of(r->items, r->n_items);
    s->tokens = r->tokens;
    s->length = maker->tokenizer != NULL ? s->n - s->n_items
                : r->tokens >= 0         ? r->tokens
                                         : ids_estimate(r);
    s->length += um_prompt_media_rows(r, maker->model);
    s->fault = UM_FAULT_NONE;
    return UM_OK;
}

um_status um_sample_make(um_data_sample *out, const um_sample_maker *maker,
                         const um_request_source *from, const char *file, um_arena *arena,
                         um_err *err)
{
    const um_model *m = maker->model;
    um_request r = {0};
    um_request_source source = *from;
    source.answered = true;
    source.voice_is_sound = m->sound.present && !m->speech.present;
    um_data_sample s = {.where = um_sample_where(file, from->number, from->element, arena)};
    um_status st = um_request_parse(&r, &source, arena, err);
    s.fault = r.mismatched ? UM_FAULT_PLACEHOLDER : UM_FAULT_JSON;
    bool named = r.id != NULL &&
                 strcmp(r.id, um_arena_fmt(arena, "%llu", (unsigned long long)from->number)) != 0;
    s.id = named ? r.id : s.where;
    if (st == UM_OK) st = make(&s, maker, &r, arena, err);
    if (st == UM_OK)
        *out = s;
    else
        *out = (um_data_sample){.fault = s.fault, .id = s.id, .where = s.where};
    return st;
}
