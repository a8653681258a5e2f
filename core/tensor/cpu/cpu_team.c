/* The one place that starts threads for the CPU kernels. Work is cut so that results do not depend on the number of parts. */
#include "core/tensor/cpu/kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif

int um_team_size(const um_dev *d, size_t work, size_t least)
{
    const size_t fed = work / least;
    if (d->st != UM_OK) return 0;
    if (d->threads <= 1 || fed <= 1) return 1;
    return fed < (size_t)d->threads ? (int)fed : d->threads;
}

void um_team_run(int team, void (*fn)(void *ctx, int part, int parts), void *ctx)
{
    if (team <= 0) return;
    if (team == 1) {
        fn(ctx, 0, 1);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
    fn(ctx, omp_get_thread_num(), omp_get_num_threads());
#else
    fn(ctx, 0, 1);
#endif
}
