/* See requests_bench.h. */
#include "tests/cluster/requests_bench.h"

#include "core/base/file.h"
#include "core/base/json.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

bench *bench_open(void)
{
    bench *b = um_zalloc(sizeof *b);
    um_arena_init(&b->a, "test", 1 << 16);
    b->dir = folder_make();
    cluster_init(&b->c, golden_path(&b->a, "models/s4"));
    b->c.cfg.experts = 2;
    return b;
}

void bench_close(bench *b)
{
    cluster_free(&b->c);
    um_text_free(&b->lines);
    folder_remove(b->dir);
    um_free(b->dir);
    um_arena_free(&b->a);
    um_free(b);
}

um_status bench_try_run(bench *b)
{
    cluster_free(&b->c);
    b->c.all_lines = 0;
    folder_write(b->dir, "requests.jsonl", b->lines.s, b->lines.n);
    b->c.cfg.requests = um_path_join(&b->a, b->dir, "requests.jsonl");
    return cluster_run(&b->c);
}

void bench_run(bench *b)
{
    um_status st = bench_try_run(b);
    for (int r = 0; r < b->c.ranks; r++)
        if (b->c.status[r] != UM_OK) printf("rank %d: %s\n", r, b->c.err[r].msg);
    assert_int_equal(st, UM_OK);
}

/* The line of request id, which must be there. */
const char *bench_line(const bench *b, const char *id)
{
    char key[64];
    snprintf(key, sizeof key, "\"id\":\"%s\"", id);
    const char *line = cluster_line(&b->c, key);
    if (line == NULL) printf("no line of request %s\n", id);
    assert_non_null(line);
    return line;
}

/* The number of lines that came before that of request id. */
int bench_place(const bench *b, const char *id)
{
    const char *line = bench_line(b, id);
    for (int i = 0;; i++)
        if (b->c.lines[i] == line) return i;
}

void bench_says(const bench *b, const char *id, const char *text)
{
    const char *line = bench_line(b, id);
    if (strstr(line, text) == NULL) printf("want %s in %s\n", text, line);
    assert_non_null(strstr(line, text));
}

/* A prompt of about n tokens: words of one letter. */
const char *bench_words(bench *b, int n)
{
    char *s = um_arena_zero(&b->a, (size_t)(2 * n) + 1);
    for (int i = 0; i < n; i++) memcpy(s + 2 * i, "a ", 2);
    return s;
}

int64_t bench_number(const char *line, const char *key)
{
    um_json *j = NULL;
    um_err err = {0};
    assert_int_equal(um_json_parse(&j, line, strlen(line), &err), UM_OK);
    int64_t v = um_json_int(um_json_get(j, key), -1);
    um_json_free(j);
    return v;
}
