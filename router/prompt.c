/* See prompt.h. */
#include "router/prompt.h"

#include "core/base/json.h"

#include <string.h>

#define SYSTEM                                                                                     \
    "A chat between a curious user and an artificial intelligence assistant. "                     \
    "The assistant gives helpful, detailed, and polite answers to the user's questions."

char *um_prompt_text(const um_request *r, um_arena *arena)
{
    um_text text = {0};
    um_text_fmt(&text, "%s ", SYSTEM);
    for (int i = 0; i < r->n_turns; i++) {
        const char *role = r->turns[i].human ? "USER" : "ASSISTANT",
                   *after = r->turns[i].human ? " " : "</s>";
        if (r->turns[i].text[0] == '\0')
            um_text_fmt(&text, "%s:", role);
        else
            um_text_fmt(&text, "%s: %s%s", role, r->turns[i].text, after);
    }
    if (r->turns[r->n_turns - 1].human)
        um_text_fmt(&text, "ASSISTANT:"); /* the answer that is wanted */
    char *out = um_arena_strn(arena, text.s, text.n);
    um_text_free(&text);
    return out;
}

int um_prompt_kind(int32_t id)
{
    return id == UM_ID_IMAGE   ? UM_MEDIA_IMAGE
           : id == UM_ID_AUDIO ? UM_MEDIA_AUDIO
           : id == UM_ID_VIDEO ? UM_MEDIA_VIDEO
                               : -1;
}

/* The first placeholder in text, its kind and length; NULL when there is none. */
static const char *placeholder(const char *text, int *kind, size_t *bytes)
{
    for (const char *at = strchr(text, '<'); at != NULL; at = strchr(at + 1, '<')) {
        for (int k = 0; k < UM_MEDIA_KINDS; k++) {
            const char *mark = um_media_placeholder((um_media_kind)k);
            *bytes = strlen(mark);
            *kind = k;
            if (strncmp(at, mark, *bytes) == 0) return at;
        }
    }
    return NULL;
}

/* The ids so far, in an arena: grown by doubling, so that a text of nothing but placeholders costs no more than its length. */
typedef struct growing {
    um_arena *arena;
    int32_t *ids;
    size_t n, cap;
} growing;

static void grow(growing *g, const int32_t *ids, size_t n)
{
    if (g->n + n > g->cap) {
        int32_t *old = g->ids;
        g->cap = 2 * (g->n + n);
        g->ids = um_arena_i32(g->arena, g->cap);
        if (g->n > 0) memcpy(g->ids, old, g->n * sizeof *old);
    }
    if (n > 0) memcpy(g->ids + g->n, ids, n * sizeof *ids);
    g->n += n;
}

um_status um_prompt_ids(const um_tokenizer *t, const char *text, int32_t **ids, int *n,
                        um_arena *arena, um_err *err)
{
    static const int32_t id_of[] = {UM_ID_IMAGE, UM_ID_AUDIO, UM_ID_VIDEO};
    growing all = {.arena = arena};
    for (;;) {
        int kind = -1, piece_n = 0;
        size_t bytes = 0;
        int32_t *piece = NULL;
        const char *mark = placeholder(text, &kind, &bytes);
        size_t len = mark != NULL ? (size_t)(mark - text) : strlen(text);
        UM_TRY(um_tokenizer_encode(t, text, len, &piece, &piece_n, arena, err));
        int skip = all.n == 0 ? 0 : 1; /* BOS only once */
        grow(&all, piece + skip, (size_t)(piece_n - skip));
        if (mark == NULL) break;
        grow(&all, &id_of[kind], 1);
        text = mark + bytes;
    }
    *ids = all.ids;
    *n = (int)all.n;
    return UM_OK;
}

um_status um_prompt_check(const um_request *r, const int32_t *ids, int n, const um_model *m,
                          um_err *err)
{
    static const char *const what[] = {"picture", "audio file", "video"};
    for (int kind = 0; kind < UM_MEDIA_KINDS; kind++) {
        int marks = 0, given = r->n_media[kind];
        if (given > 0 && kind != UM_MEDIA_IMAGE)
            return UM_FAIL(err, UM_E_DATA, "%s: this version reads text and pictures, no %ss",
                           r->media[kind][0], what[kind]);
        for (int i = 0; i < n; i++) marks += um_prompt_kind(ids[i]) == kind;
        if (marks != given)
            return UM_FAIL(err, UM_E_DATA,
                           "%d %s placeholder%s, but %d %s%s given: every %s in the text needs one",
                           marks, um_media_placeholder((um_media_kind)kind), marks == 1 ? "" : "s",
                           given, what[kind], given == 1 ? "" : "s",
                           um_media_placeholder((um_media_kind)kind));
        if (given > 0 && !m->vision.present)
            return UM_FAIL(err, UM_E_DATA, "%s: the model has no vision tower", r->media[kind][0]);
    }
    for (int i = 0; i < n; i++)
        if (um_prompt_kind(ids[i]) < 0 && ids[i] >= m->vocab)
            return UM_FAIL(err, UM_E_MODEL,
                           "tokenizer.model gives token %d, the model's vocabulary ends at %d",
                           ids[i], m->vocab - 1);
    return UM_OK;
}
