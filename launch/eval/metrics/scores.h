/* Scores of one answer, between 0 and 1 where nothing else is said. References are what people answered. scratch is for the call. */
#pragma once

#include "core/base/arena.h"

#include <stdbool.h>

/* The answer is one of the references, both as um_answer_normal makes them. */
bool um_exact_match(const char *answer, const char *const *refs, int n, um_arena *scratch);
/* The answer holds one of the references as whole words one behind another, both as um_answer_normal makes them. A reference of which
 * that leaves nothing, as the letter "A", must stand there in the same capitals. */
bool um_holds_match(const char *answer, const char *const *refs, int n, um_arena *scratch);
/* VQA accuracy (Antol et al. 2015): over all ways of leaving one reference out, the mean of min(1, references equal to the answer / 3).
 * With a single reference: exact match. */
double um_vqa_accuracy(const char *answer, const char *const *refs, int n, um_arena *scratch);
/* F1 of the words that the answer and a reference share (Rajpurkar et al. 2016); the best reference counts. */
double um_token_f1(const char *answer, const char *const *refs, int n, um_arena *scratch);

/* Which of n options an answer names, 0..n-1, or -1: by its letter ("B", "(b)", "B. a dog", "The answer is B"), else by the text of the
 * one option that it is or, as a whole phrase, contains. options may be NULL: by letter only. */
int um_choice_of(const char *answer, const char *const *options, int n, um_arena *scratch);
/* Whether an answer says yes (1) or no (0, also "not"), by the first such word; -1: neither, which the evaluation of POPE counts as yes. */
int um_yes_no_of(const char *answer, um_arena *scratch);

/* Answers to yes-or-no questions, of which "yes" is what is looked for (Li et al. 2023, POPE). */
typedef struct um_yes_no {
    long true_yes, false_yes, true_no, false_no;
} um_yes_no;
double um_yes_no_precision(const um_yes_no *c); /* 0 when nothing was answered yes */
double um_yes_no_recall(const um_yes_no *c);
double um_yes_no_f1(const um_yes_no *c);

/* Words that must be put in, left out or exchanged to make the reference of the answer (Levenshtein 1966), and the words of the
 * reference: the word error rate is errors / words, added over all answers first. It may exceed 1. */
typedef struct um_word_errors {
    long errors, words;
} um_word_errors;
um_word_errors um_word_errors_of(const char *answer, const char *ref, um_arena *scratch);
