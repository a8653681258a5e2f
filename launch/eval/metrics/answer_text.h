/* Answers made comparable. Each rule is that of a published measure; letters beyond ASCII stay as they are. Results live in arena. */
#pragma once

#include "core/base/arena.h"

#include <stdbool.h>

/* A letter or digit of ASCII, or a byte of any other character: what a word is made of. */
bool um_is_word_char(char c);

/* As the evaluation of VQA does (Antol et al. 2015; visualqa.org/evaluation): lower case, numbers up to ten as digits, no articles, no
 * full stops but in numbers, apostrophes in contractions put back, other punctuation removed or made blanks. */
char *um_answer_normal(const char *text, um_arena *arena);
/* As the evaluation of SQuAD does (Rajpurkar et al. 2016): lower case, no punctuation, no articles, single blanks. */
char *um_answer_plain(const char *text, um_arena *arena);

/* Words of a text, for error rates and n-grams. */
typedef struct um_words {
    const char **word; /* [n] */
    int n;
} um_words;
/* The text cut at blanks. */
um_words um_words_split(const char *text, um_arena *arena);
/* What is said, without how it is written: lower case, no punctuation but apostrophes within words; hyphens and dashes part words. */
um_words um_words_spoken(const char *text, um_arena *arena);
/* As captions are cut for CIDEr (the Penn Treebank's way, punctuation left out): lower case; 's, n't, 'll ... are words of their own. */
um_words um_words_caption(const char *text, um_arena *arena);
