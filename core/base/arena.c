/* See arena.h. The only file that calls malloc. */
#include "core/base/arena.h"

#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

struct um_arena_block {
    um_arena_block *older;
    size_t size, offset; /* bytes of data, first free byte */
    char *data;
};

static void out_of_memory(const char *who, size_t bytes)
{
    fprintf(stderr, "unimoe: out of memory: arena %s requested %zu bytes\n", who, bytes);
    abort();
}

static void *aligned_or_null(size_t bytes)
{
    if (bytes > SIZE_MAX - 2 * ALIGN) return NULL;
    size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return aligned_alloc(ALIGN, rounded == 0 ? ALIGN : rounded);
}

void *um_alloc_aligned(size_t bytes)
{
    void *p = aligned_or_null(bytes);
    if (p == NULL) out_of_memory("a buffer", bytes);
    return p;
}

void *um_zalloc(size_t bytes)
{
    void *p = calloc(1, bytes == 0 ? 1 : bytes);
    if (p == NULL) out_of_memory("an object", bytes);
    return p;
}

void *um_realloc(void *p, size_t bytes)
{
    void *q = realloc(p, bytes == 0 ? 1 : bytes);
    if (q == NULL) out_of_memory("a list", bytes);
    return q;
}

void um_free(void *p) { free(p); }

char *um_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(um_zalloc(n), s, n);
}

void um_arena_init(um_arena *a, const char *name, size_t block_bytes)
{
    *a = (um_arena){.name = name, .block_bytes = block_bytes < 4096 ? 4096 : block_bytes};
}

static void block_free(um_arena_block *b)
{
    if (b != NULL) um_free(b->data);
    um_free(b);
}

/* Removes the newest block; the largest block ever removed stays as the spare. */
static void block_drop(um_arena *a)
{
    um_arena_block *b = a->block;
    a->block = b->older;
    if (a->spare != NULL && a->spare->size >= b->size) {
        block_free(b);
        return;
    }
    block_free(a->spare);
    a->spare = b;
}

void um_arena_free(um_arena *a)
{
    while (a->block != NULL) block_drop(a);
    block_free(a->spare);
    a->spare = NULL;
    a->used = 0;
}

/* After a few resets an arena owns one block that holds its peak and no longer calls malloc. False: out of memory. */
static bool block_add(um_arena *a, size_t bytes)
{
    um_arena_block *b = a->spare;
    size_t size = bytes > a->block_bytes ? bytes : a->block_bytes;
    if (b != NULL && b->size >= bytes) {
        a->spare = NULL;
    } else {
        if (b != NULL && a->peak > size) size = a->peak;
        char *data = aligned_or_null(size);
        if (data == NULL) return false;
        b = um_zalloc(sizeof *b);
        b->size = size;
        b->data = data;
    }
    b->offset = 0;
    b->older = a->block;
    a->block = b;
    return true;
}

static size_t rounded_up(size_t bytes)
{
    return bytes == 0 ? ALIGN : (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

bool um_arena_reserve(um_arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return false;
    size_t need = rounded_up(bytes);
    bool fits = a->block != NULL && a->block->size - a->block->offset >= need;
    return fits || block_add(a, need);
}

void *um_arena_alloc(um_arena *a, size_t bytes)
{
    if (!um_arena_reserve(a, bytes)) out_of_memory(a->name, bytes);
    void *p = a->block->data + a->block->offset;
    a->block->offset += rounded_up(bytes);
    a->used += rounded_up(bytes);
    if (a->used > a->peak) a->peak = a->used;
    return p;
}

void *um_arena_zero(um_arena *a, size_t bytes)
{
    return memset(um_arena_alloc(a, bytes), 0, bytes);
}

float *um_arena_f32(um_arena *a, size_t rows, size_t cols)
{
    size_t n = 0;
    if (__builtin_mul_overflow(rows, cols, &n) || n > SIZE_MAX / 8)
        out_of_memory(a->name, SIZE_MAX);
    return um_arena_alloc(a, n * sizeof(float));
}

int32_t *um_arena_i32(um_arena *a, size_t n)
{
    if (n > SIZE_MAX / 8) out_of_memory(a->name, SIZE_MAX);
    return um_arena_alloc(a, n * sizeof(int32_t));
}

char *um_arena_strn(um_arena *a, const char *s, size_t n)
{
    char *p = um_arena_alloc(a, n + 1);
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *um_arena_str(um_arena *a, const char *s) { return um_arena_strn(a, s, strlen(s)); }

char *um_arena_fmt(um_arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = um_arena_alloc(a, n < 0 ? 1 : (size_t)n + 1);
    p[0] = '\0';
    if (n >= 0) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

um_mark um_arena_mark(const um_arena *a)
{
    return (um_mark){a->block, a->block == NULL ? 0 : a->block->offset, a->used};
}

/* A mark from before the first block keeps the oldest block, so that a repeated step does not call malloc again. */
void um_arena_reset(um_arena *a, um_mark m)
{
    while (a->block != NULL && a->block != m.block && (m.block != NULL || a->block->older != NULL))
        block_drop(a);
    if (a->block != NULL) a->block->offset = m.block != NULL ? m.offset : 0;
    a->used = m.used;
}
