/* Where the keys and values of all sequences lie: one pool of pages of UM_PAGE positions over all layers of the model, and for each
 * sequence a table of the pages that it holds.
 *
 *   memory   | page 0: layer 0 | layer 1 | ... | page 1: layer 0 | layer 1 | ... | page 2 ...      one allocation of the device
 *   table    of a sequence: page numbers, entry i has its positions 16 i .. 16 i + 15              on the host
 *
 * Page after page, each with all its layers: what is resident is what was ever in use at once, as one piece from the start, and a page
 * is one piece to copy or to send elsewhere. Within a layer, attention reads runs of um_kv_page_floats floats, some 10 KiB and more,
 * which are long enough that it does not matter how far apart they stand. The whole is reserved when the pool is opened; on the CPU a
 * page takes memory when it is first written.
 *
 *            alloc                  last release, cached
 *   free -----------> used (refs) -----------------------> idle      refs: sequences that hold the page
 *     ^                |    ^                               | |      idle pages keep a prefix that a later prompt may
 *     +----------------+    +----------- retain ------------+ |      begin with (prefix_cache.h); they are in the order
 *     |  last release, not cached                             |      in which their last sequence released them
 *     +------------------------- uncache ---------------------+
 *
 * A page that several sequences hold, or that is cached, is read only: prefixes are shared in whole filled pages, so a sequence writes
 * into pages of its own alone.
 *
 * When pages run out. A sequence reserves pages as it grows (um_prefix_reserve), all that a step needs or none. When it gets none, the
 * engine puts the youngest sequence back: releases its table, keeps its generated tokens and the state of its sampler, and queues it
 * before all that have not started. When pages are free again it begins like a prompt of its old prompt and its tokens, finds
 * what is still cached of them, and recomputes the rest, with the same bits; nothing is sampled twice. So that the oldest can always
 * finish, the engine refuses a request that needs more pages than the pool has (um_kv_pages_of), and nothing else for lack of pages.
 *
 * A step under way still reads the pages of its sequences: a table may be released, and pages put into the cache, only while no step
 * with its sequence is under way.
 *
 * Cost: O(pages touched) for every function but um_kv_pool_check. Thread: one. */
#pragma once

#include "core/tensor/ops.h"

typedef struct um_kv_pool um_kv_pool;

enum { UM_NO_PAGE = -1 };

typedef struct um_kv_shape {
    int layers, kv_heads, head_dim; /* of the model; all at least 1 */
} um_kv_shape;

/* Pages by what they are; free + used + idle = all. */
typedef struct um_kv_counts {
    int32_t all;
    int32_t free;
    int32_t used;    /* of at least one sequence */
    int32_t shared;  /* of these: of more than one */
    int32_t idle;    /* cached, and of no sequence */
    int32_t peak;    /* most that were used at once */
    int32_t touched; /* that were ever allocated: what may be resident */
} um_kv_counts;

/* Bytes of one page over all layers; false when size_t cannot hold them. */
bool um_kv_page_bytes(size_t *bytes, um_kv_shape shape);
/* Pages that hold so many positions. */
int32_t um_kv_pages_of(int32_t positions);

/* Reserves memory for `pages` pages from dev, which must outlive the pool. UM_E_LIMIT: 0 pages, or more than the numbers of pages or
 * bytes can count; UM_E_MEMORY: the device has no room. */
um_status um_kv_pool_open(um_kv_pool **out, um_dev *dev, um_kv_shape shape, int64_t pages,
                          um_err *err);
void um_kv_pool_close(um_kv_pool *pool); /* accepts NULL */
/* The pages of one layer, as ops take them. table: device memory. */
um_kv um_kv_pool_layer(const um_kv_pool *pool, int layer, const int32_t *table);
um_kv_counts um_kv_pool_count(const um_kv_pool *pool);
/* Is every page free, used or idle, and counted as such? O(pages that were ever allocated). */
bool um_kv_pool_check(const um_kv_pool *pool);

/* --- one page --- */

/* A page for one sequence, its content undefined (NaN in check builds); UM_NO_PAGE when none is free. */
int32_t um_kv_pool_alloc(um_kv_pool *pool);
/* One more sequence holds a used or an idle page. */
void um_kv_pool_retain(um_kv_pool *pool, int32_t page);
/* One sequence fewer holds it; after the last one it is free, or idle if it is cached. */
void um_kv_pool_release(um_kv_pool *pool, int32_t page);
uint32_t um_kv_pool_refs(const um_kv_pool *pool, int32_t page); /* 0: free or idle */
/* The prefix cache knows a used page from now on. */
void um_kv_pool_cache(um_kv_pool *pool, int32_t page);
/* It no longer does: an idle page is free now. */
void um_kv_pool_uncache(um_kv_pool *pool, int32_t page);
bool um_kv_pool_cached(const um_kv_pool *pool, int32_t page);
/* The page that has been idle for longest; UM_NO_PAGE when none is. */
int32_t um_kv_pool_oldest(const um_kv_pool *pool);

/* --- the pages of one sequence --- */

/* Zeroed: no pages. Read the fields, change them by the functions. */
typedef struct um_page_table {
    int32_t *pages; /* [n] */
    int32_t n, cap;
    int32_t positions; /* filled; at most n * UM_PAGE */
    int32_t cached;    /* pages at the front that the prefix cache knows, kept by prefix_cache.c */
} um_page_table;

/* Pages that t lacks to hold so many positions. */
int32_t um_page_table_missing(const um_page_table *t, int32_t positions);
/* Allocates what is missing to hold so many positions. False, and nothing changed, when fewer are free. */
bool um_page_table_reserve(um_kv_pool *pool, um_page_table *t, int32_t positions);
/* May rows be written at positions from .. from + rows - 1: are their pages there, and t's alone? */
bool um_page_table_writable(const um_kv_pool *pool, const um_page_table *t, int32_t from,
                            int32_t rows);
/* The next `rows` positions are filled; they are writable. */
void um_page_table_advance(um_kv_pool *pool, um_page_table *t, int32_t rows);
/* Holds `page`, used or idle and filled, for the next UM_PAGE positions; whole pages are filled so far. A page that was reserved for them
 * is released. */
void um_page_table_share(um_kv_pool *pool, um_page_table *t, int32_t page);
/* Holds `page` instead of its page i; both have the same content. */
void um_page_table_replace(um_kv_pool *pool, um_page_table *t, int32_t i, int32_t page);
/* Releases all pages, the last one first, so that of a prefix its end is idle for longest. t is zeroed. */
void um_page_table_release(um_kv_pool *pool, um_page_table *t);
