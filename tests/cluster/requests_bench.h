/* A file of requests that a whole cluster of threads answers, with two expert ranks on the model s4 unless a test says otherwise. */
#pragma once

#include "tests/cluster/cluster.h"

#include "core/base/arena.h"
#include "core/base/text.h"

#define GREEDY "\"temperature\":0,\"ignore_eos\":true"

typedef struct bench {
    cluster c;
    um_arena a;
    um_text lines;
    char *dir;
} bench;

bench *bench_open(void);
void bench_close(bench *b);
/* Answers the lines, and forgets those of the run before. */
um_status bench_try_run(bench *b);
/* The same, which must end well. */
void bench_run(bench *b);
/* The line of request id, which must be there; and the number of lines that came before it. */
const char *bench_line(const bench *b, const char *id);
int bench_place(const bench *b, const char *id);
/* The line of request id must contain text. */
void bench_says(const bench *b, const char *id, const char *text);
/* A prompt of about n tokens: words of one letter. */
const char *bench_words(bench *b, int n);
/* The whole number under a key of a line; -1: there is none. */
int64_t bench_number(const char *line, const char *key);
