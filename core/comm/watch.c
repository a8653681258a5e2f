/* See watch.h. */
#include "core/comm/watch.h"

#include "core/comm/alive.h"

#include <stdio.h>

/* The status a neighbour ended the job with, UM_OK while it has not. */
static um_status ended(const um_neighbour *n)
{
    unsigned note = n->bell == NULL ? 0 : atomic_load(&n->bell->ended);
    return note == 0 ? UM_OK : (um_status)(note - 1);
}

/* "expert/1 (rank 2, host a, pid 77)" behind what is in text already. */
static void add_name(char *text, size_t size, const um_topology *topo, int rank)
{
    char label[128];
    size_t used = 0;
    while (used < size && text[used] != '\0') used++;
    um_topology_label(topo, rank, label);
    label[sizeof label - 1] = '\0';
    for (char *p = label; *p != '\0'; p++)
        if (*p == ')' && p[1] == '\0') *p = '\0';
    snprintf(text + used, size - used, "%s%s, pid %d)", used == 0 ? "" : ", ", label,
             topo->ranks[rank].pid);
}

static bool is_gone(const um_watch *w, const um_neighbour *n)
{
    return n->started != 0 && ended(n) == UM_OK &&
           um_alive_look(w->topo->ranks[n->rank].pid, n->started) == UM_ALIVE_GONE;
}

static bool any_gone(const um_watch *w)
{
    for (int i = 0; i < w->n; i++)
        if (!w->near[i].rarely && is_gone(w, &w->near[i])) return true;
    return false;
}

um_status um_watch_look(um_watch *w, um_err *err)
{
    char gone[512] = "", failed[512] = "", followed[512] = "";
    int n_gone = 0;
    w->reported = false;
    bool all = any_gone(w);
    for (int i = 0; i < w->n; i++) {
        const um_neighbour *n = &w->near[i];
        um_status st = ended(n);
        if (st == UM_E_PEER)
            add_name(followed, sizeof followed, w->topo, n->rank);
        else if (st != UM_OK && st != UM_E_STOPPED)
            add_name(failed, sizeof failed, w->topo, n->rank);
        if (!all || !is_gone(w, n)) continue;
        add_name(gone, sizeof gone, w->topo, n->rank);
        n_gone++;
    }
    if (n_gone > 0)
        return UM_FAIL(
            err, UM_E_PEER,
            "%s %s gone: killed or crashed, see the messages of mpirun and the kernel's log", gone,
            n_gone == 1 ? "is" : "are");
    /* who merely followed is not to blame */
    const char *ended_by = failed[0] != '\0' ? failed : followed;
    w->reported = ended_by[0] != '\0';
    if (w->reported) return UM_FAIL(err, UM_E_PEER, "%s ended the job, see its message", ended_by);
    return UM_OK;
}

um_status um_watch_stopped(um_watch *w, int looks, um_err *err)
{
    char halted[512] = "";
    for (int i = 0; i < w->n; i++) {
        um_neighbour *n = &w->near[i];
        bool is = !n->rarely && n->started != 0 &&
                  um_alive_look(w->topo->ranks[n->rank].pid, n->started) == UM_ALIVE_HALTED;
        n->halted = is ? n->halted + 1 : 0;
        if (n->halted >= looks) add_name(halted, sizeof halted, w->topo, n->rank);
    }
    if (halted[0] != '\0')
        return UM_FAIL(err, UM_E_PEER, "%s was stopped by a signal or a debugger", halted);
    return UM_OK;
}
