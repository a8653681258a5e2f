/* See arena.h. The only file that calls malloc. */
#include "core/base/arena.h"

#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A sanitized build leaves a gap behind every allocation, which stays poisoned. */
#if defined(__SANITIZE_ADDRESS__)
#define UM_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UM_POISON 1
#endif
#endif
#ifdef UM_POISON
#include <sanitizer/asan_interface.h>
enum { ALIGN = 64, REDZONE = 64 };
static void poison(char *p, size_t n) { ASAN_POISON_MEMORY_REGION(p, n); }
static void unpoison(char *p, size_t n) { ASAN_UNPOISON_MEMORY_REGION(p, n); }
#else
enum { ALIGN = 64, REDZONE = 0 };
static void poison(char *p, size_t n) { (void)p, (void)n; }
static void unpoison(char *p, size_t n) { (void)p, (void)n; }
#endif

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

void *um_alloc_try(size_t bytes)
{
    if (bytes > SIZE_MAX - 2 * ALIGN) return NULL;
    size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return aligned_alloc(ALIGN, rounded == 0 ? ALIGN : rounded);
}

void *um_alloc_aligned(size_t bytes)
{
    void *p = um_alloc_try(bytes);
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

void um_arena_init_device(um_arena *a, const char *name, size_t block_bytes, um_memory from)
{
    um_arena_init(a, name, block_bytes);
    a->kind = UM_ARENA_DEVICE;
    a->from = from;
}

void um_arena_init_measure(um_arena *a, const char *name)
{
    um_arena_init(a, name, 0);
    a->kind = UM_ARENA_MEASURE;
}

static void block_free(const um_arena *a, um_arena_block *b)
{
    if (b == NULL) return;
    unpoison(b->data, b->size);
    if (a->kind == UM_ARENA_DEVICE)
        a->from.free(a->from.ctx, b->data);
    else
        um_free(b->data);
    um_free(b);
}

/* Removes the newest block; the largest block ever removed stays as the spare. */
static void block_drop(um_arena *a)
{
    um_arena_block *b = a->block;
    a->block = b->older;
    if (a->spare != NULL && a->spare->size >= b->size) {
        block_free(a, b);
        return;
    }
    block_free(a, a->spare);
    poison(b->data, b->size);
    a->spare = b;
}

void um_arena_free(um_arena *a)
{
    while (a->block != NULL) block_drop(a);
    block_free(a, a->spare);
    a->spare = NULL;
    a->used = 0;
}

static um_arena_block *block_new(const um_arena *a, size_t size)
{
    char *data = a->kind == UM_ARENA_DEVICE ? a->from.alloc(a->from.ctx, size) : um_alloc_try(size);
    if (data == NULL) return NULL;
    UM_ASSERT((uintptr_t)data % ALIGN == 0);
    um_arena_block *b = um_zalloc(sizeof *b);
    b->size = size;
    b->data = data;
    poison(data, size);
    return b;
}

/* The first block of an arena that was empty holds all that the arena has held at a time, so that it soon owns one block of its peak, and
 * no longer calls malloc. A spare that is too small is let go. False: out of memory. */
static bool block_add(um_arena *a, size_t bytes)
{
    um_arena_block *b = a->spare;
    const size_t least = bytes > a->block_bytes ? bytes : a->block_bytes;
    const size_t size = a->block == NULL && a->peak > least ? a->peak : least;
    a->spare = NULL;
    if (b != NULL && b->size < (a->block == NULL ? size : bytes)) {
        block_free(a, b);
        b = NULL;
    }
    if (b == NULL) b = block_new(a, size);
    if (b == NULL && size > bytes) b = block_new(a, bytes);
    if (b == NULL) return false;
    b->offset = 0;
    b->older = a->block;
    a->block = b;
    return true;
}

static size_t rounded_up(size_t bytes)
{
    return (bytes == 0 ? ALIGN : (bytes + ALIGN - 1) / ALIGN * ALIGN) + REDZONE;
}

bool um_arena_reserve(um_arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return false;
    if (a->kind == UM_ARENA_MEASURE) return true;
    size_t need = rounded_up(bytes);
    bool fits = a->block != NULL && a->block->size - a->block->offset >= need;
    if (fits) return true;
    /* an arena that is empty need not hold the blocks that have become too small */
    while (a->used == 0 && a->block != NULL) block_drop(a);
    return block_add(a, need);
}

/* The address of everything in a measuring arena: in no page that can be read. */
static char *const nowhere = (char *)(uintptr_t)ALIGN;

void *um_arena_alloc(um_arena *a, size_t bytes)
{
    if (!um_arena_reserve(a, bytes)) out_of_memory(a->name, bytes);
    char *p = nowhere;
    if (a->kind != UM_ARENA_MEASURE) {
        p = a->block->data + a->block->offset;
        a->block->offset += rounded_up(bytes);
        unpoison(p, bytes);
    }
    a->used += rounded_up(bytes);
    if (a->used > a->peak) a->peak = a->used;
    return p;
}

void *um_arena_zero(um_arena *a, size_t bytes)
{
    UM_CHECK(a->kind != UM_ARENA_DEVICE);
    void *p = um_arena_alloc(a, bytes);
    return a->kind == UM_ARENA_MEASURE ? p : memset(p, 0, bytes);
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
    UM_CHECK(a->kind == UM_ARENA_HOST);
    char *p = um_arena_alloc(a, n + 1);
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *um_arena_str(um_arena *a, const char *s) { return um_arena_strn(a, s, strlen(s)); }

char *um_arena_fmt(um_arena *a, const char *fmt, ...)
{
    UM_CHECK(a->kind == UM_ARENA_HOST);
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

/* What is dropped leaves its largest block as the spare, so that a repeated step does not call malloc again. */
void um_arena_reset(um_arena *a, um_mark m)
{
    while (a->block != NULL && a->block != m.block) block_drop(a);
    if (a->block != NULL) {
        a->block->offset = m.offset;
        poison(a->block->data + a->block->offset, a->block->size - a->block->offset);
    }
    a->used = m.used;
}
