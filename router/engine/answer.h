/* The text of an answer while its tokens come: what of it is certain, and where it ends.
 *
 *   ids --> whole characters --> text up to the first stop text --> white space removed at both ends --> what is shown
 *
 * A character may be divided into several tokens, a stop text may begin within one token and end within another, and white space at the
 * end is removed. So the newest part of the text is held back until it is certain: bytes that are no character yet, what may become a
 * stop text, white space. What was shown never changes; all of it together is the answer.
 * Thread: one. */
#pragma once

#include "core/base/text.h"
#include "router/request/tokenizer.h"

enum { UM_CHARACTER_BYTES = 4 };

typedef struct um_answer {
    const um_tokenizer *tok;
    const char *const *stop; /* [n_stop] */
    int n_stop;
    size_t longest;   /* stop text, in bytes */
    um_text raw;      /* of the ids so far, but for the pending ones; s NULL while it is empty */
    int32_t *pending; /* [n_pending] ids whose text is not certain yet */
    int n_pending, cap_pending;
    size_t shown; /* bytes of raw that were shown or, in front, skipped */
    bool visible; /* some were shown */
    bool begun;   /* the text is not empty: a space at its beginning has been dealt with */
    bool ended;
    um_arena scratch;
} um_answer;

/* stop and tok stay the caller's. */
void um_answer_open(um_answer *a, const um_tokenizer *tok, const char *const *stop, int n_stop);
void um_answer_close(um_answer *a); /* accepts a zeroed one */
/* The next token. True when a stop text is complete: the answer ends before it. */
bool um_answer_add(um_answer *a, int32_t id);
/* No more tokens come, and everything is certain. */
void um_answer_end(um_answer *a);
/* What became certain since the last call, "" when nothing did. Lives in arena. */
const char *um_answer_show(um_answer *a, um_arena *arena);
/* The whole answer, after um_answer_end. Lives as long as a. */
const char *um_answer_text(um_answer *a);
