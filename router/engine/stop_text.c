/* See stop_text.h. */
#include "router/engine/stop_text.h"

#include <string.h>

/* Tokens at the end of a long answer that are looked at after each new one. Almost every token makes at least one byte, so twice the
 * longest stop text and some more tokens hold any stop text that the newest token has completed. */
enum { TAIL_TOKENS = 256 };

/* Where the first stop text begins in text; NULL when there is none. */
static char *find(char *text, const char *const *stop, int n_stop)
{
    char *first = NULL;
    for (int i = 0; i < n_stop; i++) {
        char *at = strstr(text, stop[i]);
        if (at != NULL && (first == NULL || at < first)) first = at;
    }
    return first;
}

const char *um_stop_text(const um_tokenizer *tok, const int32_t *ids, int n,
                         const char *const *stop, int n_stop, um_arena *arena)
{
    um_arena scratch;
    size_t longest = 0;
    const char *answer = NULL;
    if (n_stop == 0) return NULL;
    um_arena_init(&scratch, "stop texts", 4096);
    for (int i = 0; i < n_stop; i++)
        if (strlen(stop[i]) > longest) longest = strlen(stop[i]);
    size_t tail = TAIL_TOKENS + 2 * longest;
    int from = (size_t)n > tail ? n - (int)tail : 0;
    char *text = um_tokenizer_decode_raw(tok, ids + from, n - from, &scratch);
    char *at = find(text, stop, n_stop);
    if (at != NULL && from > 0) { /* where it stands in the whole */
        text = um_tokenizer_decode_raw(tok, ids, n, &scratch);
        at = find(text, stop, n_stop);
    }
    if (at != NULL) {
        *at = '\0';
        answer = um_arena_str(arena, um_tokenizer_strip(text));
    }
    um_arena_free(&scratch);
    return answer;
}
