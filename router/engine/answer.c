/* See answer.h. */
#include "router/engine/answer.h"

#include "core/base/status.h"

#include <string.h>

void um_answer_open(um_answer *a, const um_tokenizer *tok, const char *const *stop, int n_stop)
{
    *a = (um_answer){.tok = tok, .stop = stop, .n_stop = n_stop};
    for (int i = 0; i < n_stop; i++)
        if (strlen(stop[i]) > a->longest) a->longest = strlen(stop[i]);
    um_arena_init(&a->scratch, "text of new tokens", 1024);
}

void um_answer_close(um_answer *a)
{
    um_text_free(&a->raw);
    um_free(a->pending);
    um_arena_free(&a->scratch);
    *a = (um_answer){0};
}

/* --- characters --- */

/* Bytes of the character that begins with this byte; 1 for one that begins none. */
static int character_bytes(int first)
{
    return first >= 0xf0 && first < 0xf8 ? 4
           : first >= 0xe0               ? first < 0xf0 ? 3 : 1
           : first >= 0xc0               ? 2
                                         : 1;
}

/* How many of the last pending ids are the beginning of a character that later ones may complete. A decoder never joins such a
 * beginning with what stands before it. */
static int unfinished(const um_answer *a)
{
    for (int n = 1; n < UM_CHARACTER_BYTES && n <= a->n_pending; n++) {
        int byte = um_tokenizer_byte(a->tok, a->pending[a->n_pending - n]);
        if (byte < 0x80) return 0; /* no byte piece, or a character of its own */
        if (byte >= 0xc0) return n < character_bytes(byte) ? n : 0;
    }
    return 0;
}

/* Moves the text of all pending ids but the last `keep` to raw. */
static void make_certain(um_answer *a, int keep)
{
    int n = a->n_pending - keep;
    if (n == 0) return;
    um_mark mark = um_arena_mark(&a->scratch);
    const char *text = a->begun ? um_tokenizer_decode_next(a->tok, a->pending, n, &a->scratch)
                                : um_tokenizer_decode_raw(a->tok, a->pending, n, &a->scratch);
    if (text[0] !=
        '\0') { /* else they decide with the next ones whether a space is at the beginning */
        um_text_add(&a->raw, text, strlen(text));
        a->begun = true;
        memmove(a->pending, a->pending + n, (size_t)keep * sizeof *a->pending);
        a->n_pending = keep;
    }
    um_arena_reset(&a->scratch, mark);
}

static void pend(um_answer *a, int32_t id)
{
    if (a->n_pending == a->cap_pending) {
        a->cap_pending = a->cap_pending == 0 ? 8 : 2 * a->cap_pending;
        a->pending = um_realloc(a->pending, (size_t)a->cap_pending * sizeof *a->pending);
    }
    a->pending[a->n_pending++] = id;
}

/* --- the end --- */

/* Looks for the first stop text that ends behind byte `from` of raw, and cuts raw there. */
static bool cut_at_stop(um_answer *a, size_t from)
{
    const char *first = NULL;
    size_t begin = from >= a->longest ? from - a->longest + 1 : 0;
    if (a->n_stop == 0 || a->raw.s == NULL) return false;
    for (int i = 0; i < a->n_stop; i++) {
        const char *at = strstr(a->raw.s + begin, a->stop[i]);
        if (at != NULL && (first == NULL || at < first)) first = at;
    }
    if (first == NULL) return false;
    a->raw.n = (size_t)(first - a->raw.s);
    a->raw.s[a->raw.n] = '\0';
    return true;
}

bool um_answer_add(um_answer *a, int32_t id)
{
    size_t before = a->raw.n;
    UM_ASSERT(!a->ended);
    if (!um_tokenizer_writes(a->tok, id)) return false;
    pend(a, id);
    make_certain(a, unfinished(a));
    if (!cut_at_stop(a, before)) return false;
    a->n_pending = 0;
    a->ended = true;
    return true;
}

void um_answer_end(um_answer *a)
{
    size_t before = a->raw.n;
    if (a->ended) return;
    make_certain(a, 0);
    cut_at_stop(a, before);
    a->ended = true;
}

/* --- what is shown --- */

/* Bytes at the end of text that may be the beginning of a stop text. */
static size_t stop_begun(const um_answer *a)
{
    size_t n = a->raw.n, most = 0;
    for (int i = 0; i < a->n_stop; i++) {
        size_t k = strlen(a->stop[i]) - 1;
        for (k = k < n ? k : n; k > most; k--)
            if (memcmp(a->raw.s + n - k, a->stop[i], k) == 0) most = k;
    }
    return most;
}

const char *um_answer_show(um_answer *a, um_arena *arena)
{
    const char *s = a->raw.s;
    size_t end = a->raw.n;
    if (end == 0) return "";
    if (!a->visible)
        for (size_t m;
             a->shown < end && (m = um_tokenizer_space(s + a->shown, end - a->shown, true)) > 0;)
            a->shown += m;
    if (!a->ended) end -= stop_begun(a);
    for (size_t m; end > a->shown && (m = um_tokenizer_space(s, end, false)) > 0;) end -= m;
    if (end <= a->shown) return "";
    const char *out = um_arena_strn(arena, s + a->shown, end - a->shown);
    a->shown = end;
    a->visible = true;
    return out;
}

const char *um_answer_text(um_answer *a)
{
    size_t from = 0, end = a->raw.n;
    UM_ASSERT(a->ended);
    if (end == 0) return "";
    for (size_t m; end > 0 && (m = um_tokenizer_space(a->raw.s, end, false)) > 0;) end -= m;
    for (size_t m; from < end && (m = um_tokenizer_space(a->raw.s + from, end - from, true)) > 0;)
        from += m;
    a->raw.n = end;
    a->raw.s[end] = '\0';
    return a->raw.s + from;
}
