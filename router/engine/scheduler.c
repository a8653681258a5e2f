/* See scheduler.h. */
#include "router/engine/scheduler.h"

#include "core/base/bytes.h"

enum { OLDEST_SHARE = 4 }; /* the oldest prompt gets at least one prefill row in so many */

static int take_generating(um_demand *d, int n, int room, unsigned *turn)
{
    int taken = 0, generating = 0;
    for (int i = 0; i < n; i++) generating += d[i].left == 0;
    unsigned from = generating > room ? *turn % (unsigned)n : 0;
    for (int k = 0; k < n && taken < room; k++) {
        unsigned i = (from + (unsigned)k) % (unsigned)n;
        if (d[i].left != 0) continue;
        d[i].take = 1;
        taken++;
        *turn = i + 1;
    }
    return taken;
}

static bool before(const um_demand *a, const um_demand *b)
{
    return a->left < b->left || (a->left == b->left && a->number < b->number);
}

/* The prompts that are being read, the one with the fewest rows left first. By insertion, for there are few: at most --max-batch.
 * Returns their number. */
static int sort_prompts(const um_demand *d, int n, int32_t *order)
{
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (d[i].left <= 0) continue;
        int at = m++;
        for (; at > 0 && before(&d[i], &d[order[at - 1]]); at--) order[at] = order[at - 1];
        order[at] = i;
    }
    return m;
}

int um_schedule(um_demand *demand, int n, int max_rows, int most_generating, int prefill_rows,
                unsigned *turn, int32_t *order)
{
    int oldest = -1;
    for (int i = 0; i < n; i++) {
        demand[i].take = 0;
        if (demand[i].left <= 0) continue;
        if (oldest < 0 || demand[i].number < demand[oldest].number) oldest = i;
    }
    int most = um_min_int(max_rows, most_generating);
    int rows = n == 0 ? 0 : take_generating(demand, n, most, turn);
    int room = um_min_int(prefill_rows, max_rows - rows), m = sort_prompts(demand, n, order);
    if (oldest >= 0 && room > 0) {
        int share = (room + OLDEST_SHARE - 1) / OLDEST_SHARE;
        demand[oldest].take = um_min_int(share, demand[oldest].left);
        room -= demand[oldest].take;
        rows += demand[oldest].take;
    }
    for (int k = 0; k < m && room > 0; k++) {
        um_demand *d = &demand[order[k]];
        int take = um_min_int(room, d->left - d->take);
        d->take += take;
        room -= take;
        rows += take;
    }
    return rows;
}
