/* The MPI transport: one turn of the pulse (pulse.h). Ranks of one host count their beats up in the memory that they share, and no
 * message is sent. To and from other hosts a beat is a message of 8 bytes under a tag of its own, sent and received by this thread: the
 * main thread, however busy, has no part in it. Thread: the pulse's. */
#include "core/comm/mpi/mpi_parts.h"

/* A beat that has not left yet is not sent a second time: a peer that reads nothing gets no heap of them. */
static void beats_send(um_mpi *t)
{
    um_mpi_beats *b = &t->beats;
    for (int i = 0; i < b->n; i++) {
        int left = 1;
        if (b->req[i] != MPI_REQUEST_NULL) MPI_Test(&b->req[i], &left, MPI_STATUS_IGNORE);
        if (!left) continue;
        b->count[i]++;
        MPI_Isend(&b->count[i], sizeof b->count[i], MPI_BYTE, b->peer[i], UM_MPI_TAG_BEAT, t->comm,
                  &b->req[i]);
    }
}

/* What has come. A beat is far below every eager limit: once it is found, receiving it does not wait. */
static void beats_receive(um_mpi *t, bool *heard)
{
    for (int i = 0; i < 2 * t->base.topo.n; i++) {
        int found = 0;
        uint64_t count;
        MPI_Status status;
        MPI_Message handle;
        if (MPI_Improbe(MPI_ANY_SOURCE, UM_MPI_TAG_BEAT, t->comm, &found, &handle, &status) !=
                MPI_SUCCESS ||
            !found)
            return;
        MPI_Mrecv(&count, sizeof count, MPI_BYTE, &handle, MPI_STATUS_IGNORE);
        if (heard != NULL) heard[status.MPI_SOURCE] = true;
    }
}

void um_mpi_beat(void *ctx, bool *heard)
{
    um_mpi *t = ctx;
    int me = t->base.rank;
    if (t->bell[me] != NULL) atomic_fetch_add(&t->bell[me]->beats, 1);
    for (int r = 0; r < t->base.topo.n; r++) {
        if (t->bell[r] == NULL) continue;
        unsigned now = atomic_load(&t->bell[r]->beats);
        heard[r] = now != t->beats.seen[r];
        t->beats.seen[r] = now;
    }
    if (t->beats.n == 0) return;
    um_mpi_enter(t);
    beats_send(t);
    beats_receive(t, heard);
    um_mpi_leave(t);
}

void um_mpi_beats_end(um_mpi *t)
{
    um_mpi_beats *b = &t->beats;
    if (b->n > 0) beats_receive(t, NULL);
    for (int i = 0; i < b->n; i++)
        if (b->req[i] != MPI_REQUEST_NULL) MPI_Request_free(&b->req[i]);
}
