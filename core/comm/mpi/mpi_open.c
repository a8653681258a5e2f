/* The MPI transport: the beginning. Everything here is collective over all ranks, and before the pulse, so without the lock. */
#include "core/comm/mpi/mpi_parts.h"

#include "core/base/bytes.h"
#include "core/base/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* How long a waiting rank yields before it sleeps, unless --yield-us says otherwise. */
enum { YIELD_US = 500 };

/* What a rank says of itself:
 *   off size field
 *     0   4  role
 *     4   4  pid
 *     8   4  lowest rank of its host
 *    12   4  0
 *    16   8  when its process was started (alive.h)
 *    24  64  host name, padded with 0 */
enum { RECORD = 88, RECORD_NAME = 24 };

static void record_put(uint8_t *p, um_role role, int lowest)
{
    memset(p, 0, RECORD);
    um_put_u32(p, (uint32_t)role);
    um_put_u32(p + 4, (uint32_t)getpid());
    um_put_u32(p + 8, (uint32_t)lowest);
    um_put_u64(p + 16, um_alive_started((int)getpid()));
    gethostname((char *)p + RECORD_NAME, RECORD - RECORD_NAME - 1);
}

/* Hosts are numbered in the order of their lowest ranks. */
static um_status topology_read(um_mpi *t, const uint8_t *records, int n, um_err *err)
{
    um_rank *ranks = um_arena_zero(&t->arena, (size_t)n * sizeof *ranks);
    int hosts = 0;
    for (int r = 0; r < n; r++) {
        const uint8_t *p = records + um_at((size_t)r, 0, RECORD);
        int lowest = (int)um_get_u32(p + 8);
        if (lowest < 0 || lowest > r)
            return UM_FAIL(err, UM_E_CORRUPT, "rank %d says that its host begins with rank %d", r,
                           lowest);
        ranks[r].role = (um_role)um_get_u32(p);
        ranks[r].pid = (int)um_get_u32(p + 4);
        ranks[r].host = lowest == r ? hosts++ : ranks[lowest].host;
        memcpy(ranks[r].hostname, p + RECORD_NAME, sizeof ranks[r].hostname);
    }
    t->remote = hosts > 1;
    return um_topology_build(&t->base.topo, ranks, n, &t->arena, err);
}

/* Routers watch the processes of all ranks of their host, the others those of the routers: with hundreds of ranks, everybody watching
 * everybody would take a core. Not across containers that number their processes themselves: there a pid means another process. */
static void neighbours_find(um_mpi *t, const uint8_t *records)
{
    const um_topology *topo = &t->base.topo;
    const um_rank *me = &topo->ranks[t->base.rank];
    t->watch = (um_watch){.topo = topo,
                          .near = um_arena_zero(&t->arena, (size_t)topo->n * sizeof(um_neighbour))};
    for (int r = 0; r < topo->n; r++) {
        if (r == t->base.rank || topo->ranks[r].host != me->host) continue;
        uint64_t started = um_get_u64(records + um_at((size_t)r, 16, RECORD));
        if (um_alive_look(topo->ranks[r].pid, started) == UM_ALIVE_GONE) started = 0;
        t->watch.near[t->watch.n++] =
            (um_neighbour){.rank = r,
                           .rarely = !um_topology_watches(topo, t->base.rank, r),
                           .started = started,
                           .bell = t->bell[r]};
    }
}

/* The words that the host shares, and one doorbell for each of its ranks. Without shared memory waiting ranks take naps and send
 * their beats as messages: not an error. */
static um_status doorbells_open(um_mpi *t, um_err *err)
{
    const um_topology *topo = &t->base.topo;
    int host = topo->ranks[t->base.rank].host, n = 0, place = 0, unit = 0;
    uint8_t *base = NULL;
    MPI_Aint bytes = 0;
    MPI_Comm_rank(t->node, &place);
    MPI_Comm_size(t->node, &n);
    t->bell = um_arena_zero(&t->arena, (size_t)topo->n * sizeof(um_doorbell *));
    t->window = MPI_WIN_NULL;
    if (n == 1) return UM_OK;
    bytes =
        place == 0 ? (MPI_Aint)(sizeof(um_mpi_host) + (size_t)(n + 1) * sizeof(um_doorbell)) : 0;
    int code = MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, t->node, &base, &t->window);
    if (code != MPI_SUCCESS) {
        um_err why;
        um_mpi_checked(code, "MPI_Win_allocate_shared", &why);
        um_log_warn("no shared memory for doorbells: waiting ranks take naps instead (%s)",
                    why.msg);
        t->window = MPI_WIN_NULL;
        t->remote = true;
        return UM_OK;
    }
    UM_TRY(um_mpi_checked(MPI_Win_shared_query(t->window, 0, &bytes, &unit, &base),
                          "MPI_Win_shared_query", err));
    base += -(uintptr_t)base & (_Alignof(um_doorbell) - 1);
    um_doorbell *bells = (um_doorbell *)(void *)(base + sizeof(um_mpi_host));
    if (place == 0) memset(base, 0, sizeof(um_mpi_host) + (size_t)n * sizeof *bells);
    t->host = (um_mpi_host *)(void *)base;
    for (int r = 0, at = 0; r < topo->n; r++)
        if (topo->ranks[r].host == host) t->bell[r] = &bells[at++];
    return um_mpi_checked(MPI_Barrier(t->node), "MPI_Barrier", err);
}

/* Between routers and all others liveness is watched; those of them that share no memory with this rank get messages. */
static void beats_find(um_mpi *t)
{
    um_mpi_beats *b = &t->beats;
    size_t n = (size_t)t->base.topo.n;
    *b = (um_mpi_beats){.peer = um_arena_zero(&t->arena, n * sizeof *b->peer),
                        .req = um_arena_zero(&t->arena, n * sizeof *b->req),
                        .count = um_arena_zero(&t->arena, n * sizeof *b->count),
                        .seen = um_arena_zero(&t->arena, n * sizeof *b->seen)};
    for (int r = 0; r < t->base.topo.n; r++) {
        if (t->bell[r] != NULL || !um_topology_watches(&t->base.topo, t->base.rank, r)) continue;
        b->req[b->n] = MPI_REQUEST_NULL;
        b->peer[b->n++] = r;
    }
}

/* Collective. What everybody knows of everybody. */
static um_status meet(um_mpi *t, um_role role, um_err *err)
{
    int n = 0, lowest = t->base.rank;
    uint8_t own[RECORD];
    MPI_Comm_size(t->comm, &n);
    UM_TRY(um_mpi_checked(
        MPI_Comm_split_type(t->comm, MPI_COMM_TYPE_SHARED, t->base.rank, MPI_INFO_NULL, &t->node),
        "MPI_Comm_split_type", err));
    UM_TRY(um_mpi_checked(MPI_Bcast(&lowest, 1, MPI_INT, 0, t->node), "MPI_Bcast", err));
    record_put(own, role, lowest);
    uint8_t *records = um_arena_alloc(&t->arena, (size_t)n * RECORD);
    UM_TRY(um_mpi_checked(MPI_Allgather(own, RECORD, MPI_BYTE, records, RECORD, MPI_BYTE, t->comm),
                          "MPI_Allgather", err));
    UM_TRY(topology_read(t, records, n, err));
    UM_TRY(doorbells_open(t, err));
    t->own = t->bell[t->base.rank];
    if (t->own == NULL) { /* nobody else can ring it; arenas align to less than a doorbell needs */
        uint8_t *room = um_arena_zero(&t->arena, 2 * sizeof *t->own);
        room += -(uintptr_t)room & (_Alignof(um_doorbell) - 1);
        t->own = (um_doorbell *)(void *)room;
    }
    neighbours_find(t, records);
    beats_find(t);
    t->late = um_arena_zero(&t->arena, (size_t)n * sizeof *t->late);
    return UM_OK;
}

/* Open MPI sends up to 4 KiB at once between ranks of one host and asks the receiver first above that. A frame of a few rows is a
 * little larger, and asking costs it more than half of its time: 11 us there and back at 4 KiB, 4 us at once. Open MPI takes its
 * settings from the environment; one that was given (mpirun --mca) stays. The name is vader in Open MPI 4, sm in 5. */
static void tune(void)
{
    setenv("OMPI_MCA_btl_vader_eager_limit", "32768", 0);
    setenv("OMPI_MCA_btl_sm_eager_limit", "32768", 0);
}

um_status um_comm_mpi_open(um_comm **out, int *argc, char ***argv, um_role role, um_err *err)
{
    int level = 0;
    tune();
    UM_TRY(um_mpi_checked(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &level),
                          "MPI_Init_thread", err));
    if (level < MPI_THREAD_SERIALIZED)
        return UM_FAIL(err, UM_E_USAGE,
                       "this MPI library does not let a second thread call it (thread level %d): "
                       "install one with MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE",
                       level);
    um_mpi *t = um_zalloc(sizeof *t);
    um_arena_init(&t->arena, "transport", 1 << 14);
    pthread_mutex_init(&t->lock, NULL);
    t->base = (um_comm){.vt = &um_mpi_table, .yield_us = YIELD_US};
    MPI_Comm_rank(MPI_COMM_WORLD, &t->base.rank);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    /* the copy inherits the error handler */
    um_status st = um_mpi_checked(MPI_Comm_dup(MPI_COMM_WORLD, &t->comm), "MPI_Comm_dup", err);
    if (st == UM_OK) st = meet(t, role, err);
    if (st == UM_E_USAGE) MPI_Finalize(); /* a wrong mix of roles: all ranks see the same */
    if (st != UM_OK) {
        um_mpi_free(t);
        return um_wrap(err, st, "starting MPI");
    }
    /* nanoseconds: naps of 20 us would else last 70 */
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    *out = &t->base;
    return UM_OK;
}
