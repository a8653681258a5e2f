/* See test_support.h. */
#include "tests/support/test_support.h"

#include "core/base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>

char *golden_path(um_arena *arena, const char *fmt, ...)
{
    char rest[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    return um_arena_fmt(arena, "%s/golden/%s", UM_TEST_DATA, rest);
}

um_json *golden_json(const char *path)
{
    um_arena arena;
    um_err err = {0};
    uint8_t *text = NULL;
    size_t n = 0;
    um_json *root = NULL;
    um_arena_init(&arena, "golden", 1 << 16);
    um_status st = um_file_read(&text, &n, path, (size_t)1 << 24, &arena, &err);
    if (st == UM_OK) {
        for (char *z = (char *)text; (z = strstr(z, "\\u0000")) != NULL;) z[2] = 'E';
        st = um_json_parse(&root, text, n, &err);
    }
    um_arena_free(&arena);
    if (st != UM_OK) fail_msg("%s", err.msg);
    return root;
}

int32_t *golden_ids(const char *path, const char *name, int *n, um_arena *arena)
{
    um_tensors *set = NULL;
    um_err err = {0};
    if (um_tensors_open(&set, path, &err) != UM_OK) fail_msg("%s", err.msg);
    const um_tensor *t = um_tensors_find(set, name);
    if (t == NULL || t->dtype != UM_I32) fail_msg("%s: no i32 tensor %s", path, name);
    int32_t *ids = um_arena_i32(arena, t->bytes / 4);
    memcpy(ids, t->data, t->bytes);
    *n = (int)(t->bytes / 4);
    um_tensors_close(set);
    return ids;
}

void ids_equal(const char *what, const int32_t *got, int n_got, const int32_t *want, int n_want)
{
    for (int i = 0; i < n_got && i < n_want; i++)
        if (got[i] != want[i]) fail_msg("%s: id %d is %d, want %d", what, i, got[i], want[i]);
    if (n_got != n_want) fail_msg("%s: %d ids, want %d", what, n_got, n_want);
}

float distance(const float *got, const float *want, size_t n)
{
    float off = 0.0f, most = 0.0f;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) return INFINITY;
        off = fmaxf(off, fabsf(got[i] - want[i]));
        most = fmaxf(most, fabsf(want[i]));
    }
    return off / most;
}
