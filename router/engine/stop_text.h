/* Texts that end an answer. They are looked for in the text, not among the tokens: one may begin within a token and end within
 * another. */
#pragma once

#include "router/request/tokenizer.h"

/* The text of ids[0..n) before the first of the n_stop stop texts in it, white space at both ends removed; NULL when it holds none. To be
 * called after every new token. Memory: arena. */
const char *um_stop_text(const um_tokenizer *tok, const int32_t *ids, int n,
                         const char *const *stop, int n_stop, um_arena *arena);
