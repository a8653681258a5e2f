/* The tokenizer: a LLaMA SentencePiece model behind the behaviour of the reference's slow, "legacy" tokenizer (spec 1.3):
 * <s>, </s> and <unk> in a text are their ids; the text after one is encoded as a fresh string, with its own leading space mark;
 * BOS precedes every encoded string. tokenizer_sp.cc is the only door to SentencePiece. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct um_tokenizer um_tokenizer;

/* Reads model_dir/tokenizer.model. UM_E_MODEL names the path. */
um_status um_tokenizer_open(um_tokenizer **out, const char *model_dir, um_err *err);
void um_tokenizer_close(um_tokenizer *t); /* accepts NULL */
int um_tokenizer_vocab(const um_tokenizer *t);

/* BOS and the ids of text[0..n), in arena. SentencePiece decides how bytes that are not UTF-8 are encoded. Thread: any. */
um_status um_tokenizer_encode(const um_tokenizer *t, const char *text, size_t n, int32_t **ids,
                              int *count, um_arena *arena, um_err *err);
/* The same, with *at [count]: the byte of text at which what each id stands for begins; 0 for BOS. at NULL: not wanted. */
um_status um_tokenizer_encode_at(const um_tokenizer *t, const char *text, size_t n, int32_t **ids,
                                 int32_t **at, int *count, um_arena *arena, um_err *err);
/* The id that ends an answer, which </s> in a text stands for; and the id of what is not in the vocabulary. */
int32_t um_tokenizer_eos(const um_tokenizer *t);
int32_t um_tokenizer_unk(const um_tokenizer *t);
/* Maximum bytes of text that one token represents, so that a text of n bytes has at least n divided by it tokens. 0: unknown, because
 * this model may omit or merge characters. */
size_t um_tokenizer_longest(const um_tokenizer *t);
/* The text of ids: special ids and ids that are not pieces are left out, bytes that are not UTF-8 and zero bytes become U+FFFD, and
 * white space at both ends is removed (as by Python's strip()). */
char *um_tokenizer_decode(const um_tokenizer *t, const int32_t *ids, int n, um_arena *arena);
/* The same without removing white space; and the function that removes it from both ends of text (returns a part of text). */
char *um_tokenizer_decode_raw(const um_tokenizer *t, const int32_t *ids, int n, um_arena *arena);
char *um_tokenizer_strip(char *text);

/* For the text of an answer that grows (router/engine/answer.h). Whether the id adds to a text at all: it is a piece, and not special. */
bool um_tokenizer_writes(const um_tokenizer *t, int32_t id);
/* The byte that a byte piece stands for; -1 for any other id. */
int um_tokenizer_byte(const um_tokenizer *t, int32_t id);
/* As um_tokenizer_decode_raw, of ids that follow a text which is not empty: a leading space stays. */
char *um_tokenizer_decode_next(const um_tokenizer *t, const int32_t *ids, int n, um_arena *arena);
/* Length in bytes of the white space character that ends at s[n-1] (front: begins at s[0]), as defined by Python's str.strip(); 0:
 * there is none. */
size_t um_tokenizer_space(const char *s, size_t n, bool front);
