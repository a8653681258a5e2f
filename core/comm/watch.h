/* Watching the processes of the other ranks of this host. A peer that was killed sends nothing, and MPI does not report it
 * either; but the process of a neighbour can be looked up, and a rank that ends the job by itself leaves a note at its doorbell. */
#pragma once

#include "core/comm/doorbell.h"
#include "core/comm/topology.h"

typedef struct um_neighbour {
    int rank;
    bool rarely;       /* looked up only when another one is gone: see um_watch_look */
    uint64_t started;  /* see alive.h; 0: cannot be watched, for example in another container */
    um_doorbell *bell; /* or NULL */
    int halted;        /* looks in a row at which it was halted */
} um_neighbour;

typedef struct um_watch {
    const um_topology *topo;
    um_neighbour *near; /* [n] the other ranks of this host */
    int n;
    bool reported; /* what um_watch_look found: a rank that ended the job and says itself why */
} um_watch;

/* UM_E_PEER when a neighbour is gone without having said why: "expert/1 (rank 2, host a, pid 77) is gone". Else UM_E_PEER when one
 * ended the job with an error of its own, which it reports itself (reported is set). Else UM_OK. A
 * neighbour that is looked up rarely is named with the others: mpirun kills the rest when one dies, so the first found is not always
 * the first that died. */
um_status um_watch_look(um_watch *w, um_err *err);
/* UM_E_PEER when a neighbour was found halted (by a signal or a debugger) at `looks` calls in a row. */
um_status um_watch_stopped(um_watch *w, int looks, um_err *err);
