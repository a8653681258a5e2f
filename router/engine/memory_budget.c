/* See memory_budget.h. */
#include "router/engine/memory_budget.h"

#include "core/base/status.h"

um_grant um_memory_budget_ask(const um_memory_budget *b, int64_t bytes, int64_t available,
                              int64_t *most)
{
    UM_ASSERT(bytes >= 0 && b->share > 0 && b->touched <= b->promised);
    int64_t share = available / 10 * 9 / b->share;
    int64_t room = b->limit > 0 ? b->limit - b->promised : share - (b->promised - b->touched);
    *most = b->limit > 0 ? b->limit : share + b->touched;
    if (bytes <= room || (b->limit == 0 && available <= 0)) return UM_GRANT_NOW;
    return bytes > *most || b->promised == 0 ? UM_GRANT_NEVER : UM_GRANT_WAIT;
}
