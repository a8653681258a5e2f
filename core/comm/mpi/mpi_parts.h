/* What the files of the MPI transport share. They are the only ones that include mpi.h:
 *
 *   mpi_open.c       the beginning: who is who, which ranks share a host, doorbells
 *   mpi_transport.c  requests under way: sending, and looking for what has come
 *   mpi_wait.c       how a rank waits: spin, yield, sleep
 *   mpi_beat.c       the turn of the pulse
 *   mpi_close.c      the end, good or bad
 *
 * Two threads of a rank call MPI: the main thread, and the pulse when peers are on other hosts. `lock` is round every call between
 * open and close, held for the call alone, never while a rank computes or sleeps (MPI_THREAD_SERIALIZED, docs/adr/0009). Everything
 * else here belongs to the main thread, unless it says otherwise. */
#pragma once

#include "core/base/arena.h"
#include "core/comm/comm.h"
#include "core/comm/doorbell.h"
#include "core/comm/pool.h"
#include "core/comm/watch.h"

#include <mpi.h>
#include <pthread.h>

enum { UM_MPI_TAG = 1, UM_MPI_TAG_BEAT = 2 };

/* The shortest nap, and the longest one while messages may come from another host. */
enum { UM_MPI_NAP_FIRST_US = 20, UM_MPI_NAP_REMOTE_US = 5000 };

/* Time between two looks at the processes of the neighbours while waiting. */
enum { UM_MPI_WATCH_NS = 1000000000 };

/* Messages under way, oldest first. req is MPI_REQUEST_NULL for one that is complete. */
typedef struct um_mpi_requests {
    MPI_Request *req;
    um_msg *msg;
    int *which; /* room for MPI_Testsome */
    int n, cap;
    int open; /* not complete */
} um_mpi_requests;

/* Beats to and from ranks that do not share memory with this one. Thread: the pulse's, except at open and close. */
typedef struct um_mpi_beats {
    int *peer; /* [n] */
    int n;
    MPI_Request *req; /* [n] the last beat to that peer */
    uint64_t *count;  /* [n] its bytes, 8 of them, native: only its arrival counts */
    unsigned *seen;   /* [ranks] of local ranks: their beats at the last turn */
} um_mpi_beats;

/* Words that the ranks of a host share, before their doorbells. */
typedef struct um_mpi_host {
    _Alignas(128) atomic_uint ends; /* how many ranks have ended the job */
    atomic_uint claimed; /* how many have asked to report the error: the first one does */
} um_mpi_host;

typedef struct um_mpi {
    um_comm base;         /* first, so that a um_comm of this table is one of these */
    pthread_mutex_t lock; /* of MPI, see above */
    MPI_Comm comm;        /* all ranks, ours alone */
    MPI_Comm node;        /* the ranks of this host */
    MPI_Win window;
    um_doorbell **bell; /* [ranks] NULL: cannot be rung, on another host or without shared memory */
    um_doorbell *own;   /* this rank's: bell[rank], or one that only um_mpi_wake rings */
    um_mpi_host *host;  /* or NULL: alone here, or without shared memory */
    bool warned;        /* has seen host->ends rise */
    bool remote;        /* some peer cannot ring us */
    um_watch watch;
    int64_t watched; /* when um_watch_look was called last */
    um_mpi_requests out, in;
    int64_t pulled; /* bytes of open receives */
    unsigned *late; /* [ranks] == round: an earlier message of that rank is not complete */
    unsigned round;
    int64_t waiting; /* since when nothing came, over several recv; 0: something did */
    int64_t lively;  /* until then a handshake under way goes on fast */
    int64_t nap_us;
    um_mpi_beats beats;
    um_pool pool;
    um_arena arena;
} um_mpi;

extern const um_comm_vt um_mpi_table;

/* UM_OK, or UM_E_IO with the words of the MPI library. */
um_status um_mpi_checked(int code, const char *what, um_err *err);

static inline void um_mpi_enter(um_mpi *t) { pthread_mutex_lock(&t->lock); }
static inline void um_mpi_leave(um_mpi *t) { pthread_mutex_unlock(&t->lock); }

/* Completes sends that have left, then looks for a message. Open MPI looks first and makes progress afterwards, so every look is a
 * double one: after waking, a single one would always miss. */
um_status um_mpi_look(um_mpi *t, um_msg *out, bool *found, um_err *err);
/* Completes sends that have left. */
um_status um_mpi_push(um_mpi *t, um_err *err);
void um_mpi_ring(const um_mpi *t, int peer);
/* A handshake under way goes on only when the other side looks too: wakes it. */
void um_mpi_ring_partners(const um_mpi *t);
void um_mpi_requests_free(um_mpi_requests *f);

/* What ends a wait without a message; UM_OK: nothing does. asleep: the wait has lasted so long that looking around costs nothing. */
um_status um_mpi_wait_over(um_mpi *t, int64_t now, bool asleep, um_err *err);
um_status um_mpi_recv(um_comm *c, um_msg *out, int64_t timeout_us, um_err *err);
void um_mpi_wake(um_comm *c); /* thread: any */

void um_mpi_beat(void *ctx, bool *heard);
/* After the pulse has ended: nothing of it is left in MPI. */
void um_mpi_beats_end(um_mpi *t);

bool um_mpi_claim(um_comm *c);
void um_mpi_close(um_comm *c, um_status st);
void um_mpi_free(um_mpi *t);
