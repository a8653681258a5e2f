/* Arenas: memory by lifetime. Three lifetimes exist: `model` (the process), `step` (one forward), `scratch` (one call);
 * the parameter name says how long a result lives. An arena grows by whole blocks and never moves what it has allocated.
 * Nothing is freed one by one: take a mark, work, go back to the mark.
 *
 * malloc is called only in arena.c (um_alloc and friends for the few long-lived objects with open/close).
 * Allocation never returns NULL: when memory runs out the process prints how much was requested and for which arena, and aborts.
 * Sizes that come from outside are checked first, with um_arena_reserve where the memory of the process is bounded.
 *
 * Three kinds. A host arena (um_arena_init) is for the programs' own data. A device arena (um_dev_arena in core/tensor/ops.h) takes its
 * blocks from an op table: what lies there is reached by ops alone, and the functions that write into memory (zero, str, fmt) refuse
 * it. A measuring arena (um_arena_init_measure) hands out addresses that nobody may follow, and counts: a function that binds
 * buffers is run on it to learn how many bytes they take. So a size stands in one place, where it is bound.
 *
 * Under AddressSanitizer what is free is poisoned, and 64 bytes after every allocation stay so: one tensor that runs into the next is
 * reported like any other overflow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct um_arena_block um_arena_block;

/* Where an arena's blocks come from. alloc returns NULL when there is no memory. */
typedef struct um_memory {
    void *(*alloc)(void *ctx, size_t bytes);
    void (*free)(void *ctx, void *p);
    void *ctx;
} um_memory;

typedef enum um_arena_kind { UM_ARENA_HOST, UM_ARENA_DEVICE, UM_ARENA_MEASURE } um_arena_kind;

typedef struct um_arena {
    um_arena_kind kind;
    um_memory from;        /* of a device arena */
    um_arena_block *block; /* the newest block */
    um_arena_block *spare; /* the largest block that a reset released, kept for reuse */
    size_t block_bytes;    /* minimum size of a block */
    size_t used, peak;     /* bytes allocated now, and their peak */
    const char *name;      /* for messages */
} um_arena;

typedef struct um_mark {
    um_arena_block *block;
    size_t offset, used;
} um_mark;

void um_arena_init(um_arena *a, const char *name, size_t block_bytes);
/* Blocks come from a device. from.ctx must outlive the arena. */
void um_arena_init_device(um_arena *a, const char *name, size_t block_bytes, um_memory from);
/* Nothing is allocated: `peak` becomes the bytes that the same calls would take in one block of another arena. */
void um_arena_init_measure(um_arena *a, const char *name);
void um_arena_free(um_arena *a); /* accepts a zeroed arena */

/* Makes room for one allocation of bytes, which then cannot fail; false when there is no memory for it. For sizes that come from
 * outside in a process whose memory is bounded. */
bool um_arena_reserve(um_arena *a, size_t bytes);
/* bytes, 64-byte aligned, not cleared. Zero bytes give a valid unique pointer. */
void *um_arena_alloc(um_arena *a, size_t bytes);
void *um_arena_zero(um_arena *a, size_t bytes);
/* rows*cols elements, checked product. */
float *um_arena_f32(um_arena *a, size_t rows, size_t cols);
int32_t *um_arena_i32(um_arena *a, size_t n);
char *um_arena_str(um_arena *a, const char *s);
char *um_arena_strn(um_arena *a, const char *s, size_t n);
char *um_arena_fmt(um_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

um_mark um_arena_mark(const um_arena *a);
void um_arena_reset(um_arena *a, um_mark m);

/* For long-lived objects with open/close. Never NULL; um_zalloc clears; um_alloc_aligned gives 64-byte alignment (free with
 * um_free too). um_realloc keeps min(old,new) bytes. */
void *um_zalloc(size_t bytes);
void *um_alloc_aligned(size_t bytes);
void *um_alloc_try(size_t bytes); /* the same, or NULL when there is no memory */
void *um_realloc(void *p, size_t bytes);
void um_free(void *p);
char *um_strdup(const char *s);
