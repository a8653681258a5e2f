/* Prefixes that were computed before: the filled pages of keys and values (kv_pool.h) of all sequences, under what stands in them, so
 * that a prompt which begins like an earlier one starts behind what they have in common.
 *
 *   rows     | 16 rows | 16 rows | 16 rows | rest |        a row: a token id, or row r of a medium
 *   keys         k0        k1        k2                    k(i) = SHA-256(k(i-1), the 16 rows), k(-1) = 0
 *   cache       page 7 <- page 3 <- page 9                 a page is found by its key, which covers all rows before it
 *
 * The whole key is compared, so another prefix is never found; the first word of it only selects where to look. What a row of a medium
 * covers is the key of the medium's content (the same as of the media cache), the row's number and the modality. Keys and values must
 * depend on nothing else than the rows up to theirs. So the engine does not use the cache with --gate-noise (the noise is drawn for a
 * request), nor for a traced request (which records every row). Rows have the same bits in whatever batch and by whichever step they
 * were computed, so a prefix that generated tokens are part of is as good as a prompt's.
 *
 * A cached page that sequences hold stays. One that none holds is idle, and leaves when its room is needed, the longest idle first. A
 * sequence that holds a page holds all pages before it too, and releases them after it: so the oldest idle page is never followed by
 * another cached page, and no page becomes unreachable.
 *
 * A sequence:
 *   1. pushes its prompt's rows into a um_prefix_chain, then um_prefix_find: the first table.positions rows are there, it starts
 *      behind them. It may look again between steps of its prefill, while it stands at the end of a page: another sequence with the
 *      same prompt may be ahead;
 *   2. um_prefix_reserve before a step, for the positions after it;
 *   3. after the step um_page_table_advance, then um_prefix_put; pushes each generated token before the step that reads it;
 *   4. um_page_table_release at its end, or when it is put back. In the latter case it keeps its chain, and continues with um_prefix_find.
 *
 * A chain may end before the rows of its sequence do (ends): what stands behind it is neither looked for nor put. That of an answer that
 * is scored (sequence.h) does, for the logits of that answer's rows are wanted, and so the rows have to be computed.
 *
 * Cost: O(pages touched) for every function but um_prefix_cache_close and um_prefix_check. Thread: one. */
#pragma once

#include "core/base/sha256.h"
#include "core/model/modality.h"
#include "router/engine/kv_pool.h"

/* --- what stands in the rows of a sequence --- */

typedef struct um_prefix_key {
    uint64_t word[4];
} um_prefix_key;

enum { UM_PREFIX_ROW_BYTES = 1 + 4 + UM_SHA256_HEX - 1 }; /* of a row, as it is hashed */

/* Zeroed: no rows. */
typedef struct um_prefix_chain {
    um_prefix_key *keys; /* [n] of the whole pages */
    int32_t n, cap;
    int32_t rows;      /* all that were pushed */
    bool ends;         /* its sequence has further rows, which are not shared */
    size_t rest_bytes; /* of the rows behind the whole pages */
    uint8_t rest[UM_PAGE * UM_PREFIX_ROW_BYTES];
} um_prefix_chain;

/* The next row is a token; the next n rows are rows 0 .. n - 1 of a medium, made of what has this SHA-256. UM_E_MEMORY when a key could
 * not be computed: the chain then ends within the call's rows, and is of no use but to be freed. */
um_status um_prefix_token(um_prefix_chain *c, int32_t id, um_err *err);
um_status um_prefix_media(um_prefix_chain *c, const char media[UM_SHA256_HEX], um_modality modality,
                          int32_t n, um_err *err);
void um_prefix_chain_free(um_prefix_chain *c); /* zeroes it */

/* --- the cache --- */

typedef struct um_prefix_cache um_prefix_cache;

typedef struct um_prefix_counts {
    int32_t cached;      /* pages, now */
    uint64_t found, put; /* pages in all: held again by find; new from put */
    uint64_t merged;     /* pages of put that were there already, from another sequence */
    uint64_t evicted;
} um_prefix_counts;

/* most_idle: pages that may be idle, at most; 0: a prefix lasts as long as a sequence that holds it. (Idle pages use room that nobody
 * needs at the time, but it is resident memory.) */
um_prefix_cache *um_prefix_cache_open(um_kv_pool *pool, int32_t most_idle);
/* Before the pool. Pages that sequences hold stay theirs. Accepts NULL. */
void um_prefix_cache_close(um_prefix_cache *c);

/* Continues t, whose positions are rows of the chain, by the cached pages that hold the rows behind them, and returns the number of
 * positions by which it grew, whole pages. It never covers the last row of the chain: that one is to be computed, for its logits. 0 also
 * when t does not end with a whole page, or has pages that were not put. */
int32_t um_prefix_find(um_prefix_cache *c, um_page_table *t, const um_prefix_chain *chain);
/* The filled pages of t are cached from now on. Where another sequence has put the same rows, t holds that page from now on instead of
 * its own, which is released. */
void um_prefix_put(um_prefix_cache *c, um_page_table *t, const um_prefix_chain *chain);
/* Evicts idle pages until so many are free, or none is idle. Returns whether so many are free. */
bool um_prefix_evict(um_prefix_cache *c, int32_t pages);
/* um_page_table_reserve with room from idle pages. False, and nothing changed, when free and idle pages together are too few: the engine
 * puts a sequence back. */
bool um_prefix_reserve(um_prefix_cache *c, um_page_table *t, int32_t positions);
um_prefix_counts um_prefix_count(const um_prefix_cache *c);
/* Is every cached page found by its key, every page before it cached and held by as many, and the oldest idle one first in turn? O(pages
 * that were ever allocated). */
bool um_prefix_check(const um_prefix_cache *c);
