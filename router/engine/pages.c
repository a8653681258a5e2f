/* See pages.h. */
#include "router/engine/pages.h"

#include "core/base/bytes.h"
#include "core/base/memory.h"

#include <string.h>

static int routers_here(const um_topology *topo, int rank)
{
    int n = 0;
    for (int i = 0; i < topo->count[UM_ROLE_ROUTER]; i++) {
        int r = topo->of_role[UM_ROLE_ROUTER][i];
        n += strcmp(topo->ranks[r].hostname, topo->ranks[rank].hostname) == 0;
    }
    return um_max_int(n, 1);
}

/* Pages that the host has memory for, of `pages` that were never used. A tenth is spare. */
static int64_t untouched(const um_pages *p, int64_t pages)
{
    int64_t available = p->limited ? 0 : um_memory_available();
    if (available <= 0) return pages; /* the limit is fixed, or the system does not say */
    int64_t most = available / 10 * 9 / p->share / (int64_t)p->page_bytes;
    return most < pages ? most : pages;
}

um_status um_pages_open(um_pages *p, const um_config *cfg, const um_model *m,
                        const um_topology *topo, int rank, int active, um_dev *dev, um_err *err)
{
    um_kv_shape shape = {m->layers, m->kv_heads, m->head_dim};
    int64_t positions = um_model_positions(m);
    *p = (um_pages){.share = routers_here(topo, rank), .limited = cfg->request_memory > 0};
    if (!um_kv_page_bytes(&p->page_bytes, shape))
        return UM_FAIL(err, UM_E_LIMIT, "keys and values of %d positions do not fit into memory",
                       UM_PAGE);
    if (cfg->context > 0 && cfg->context < positions) positions = cfg->context;
    int64_t idle = cfg->prefix_cache / (int64_t)p->page_bytes;
    int64_t want = active * (positions / UM_PAGE + 1) + idle, pages = untouched(p, want);
    if (p->limited) pages = cfg->request_memory / (int64_t)p->page_bytes;
    if (pages > want) pages = want;
    if (pages > INT32_MAX / 2) pages = INT32_MAX / 2;
    p->most = (int32_t)pages;
    UM_TRY(um_kv_pool_open(&p->pool, dev, shape, um_max_int(p->most, 1), err));
    p->prefix = um_prefix_cache_open(p->pool, (int32_t)(idle < pages ? idle : pages));
    return UM_OK;
}

void um_pages_close(um_pages *p)
{
    um_prefix_cache_close(p->prefix);
    um_kv_pool_close(p->pool);
    *p = (um_pages){0};
}

int64_t um_pages_room(const um_pages *p)
{
    um_kv_counts c = um_kv_pool_count(p->pool);
    int64_t never = c.all - c.touched;
    return c.free - never + c.idle + untouched(p, never);
}
