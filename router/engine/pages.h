/* The pages of a router (kv_pool.h) and how many of them requests may have: memory is limited by --request-memory, or by what is free on
 * the host now, shared with the other routers there. */
#pragma once

#include "core/comm/topology.h"
#include "core/model/model.h"
#include "core/options/config.h"
#include "router/engine/kv_pool.h"
#include "router/engine/prefix_cache.h"

typedef struct um_pages {
    um_kv_pool *pool;
    um_prefix_cache *prefix;
    int32_t most;      /* pages that requests may have together */
    size_t page_bytes; /* of one of them, all layers */
    int share;         /* routers of this host */
    bool limited;      /* by --request-memory */
} um_pages;

/* Reserves what `active` sequences of the longest kind could use at once, and --prefix-cache beside it; less where memory is short.
 * dev must outlive it. Close after an error too. */
um_status um_pages_open(um_pages *p, const um_config *cfg, const um_model *m,
                        const um_topology *topo, int rank, int active, um_dev *dev, um_err *err);
void um_pages_close(um_pages *p); /* accepts a zeroed one */
/* Pages that are free or idle, as far as there is memory behind them now. */
int64_t um_pages_room(const um_pages *p);
