/* Waiting for particular frames: one of a kind, or one of a kind from every rank. See link.h. */
#include "core/comm/link.h"

#include "core/base/arena.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#include <stdio.h>

/* A wait that lasts says so this often. */
enum { REPORT_SECONDS = 10 };

um_status um_link_unwanted(const um_link *l, const um_inbound *in, const char *wanted, um_err *err)
{
    char label[128];
    um_topology_label(&l->comm->topo, in->msg.peer, label);
    return UM_FAIL(err, UM_E_CORRUPT, "%s frame of %s, want %s", um_kind_name(in->frame.kind),
                   label, wanted);
}

um_status um_link_expect(um_link *l, um_inbound *out, um_kind kind, um_kind late,
                         int64_t timeout_us, um_err *err)
{
    int64_t end = um_comm_end_ns(um_now_ns(), timeout_us < 0 ? INT64_MAX : timeout_us);
    for (;;) {
        um_inbound in = {0};
        int64_t left = (end - um_now_ns()) / 1000;
        UM_TRY(um_link_next(l, &in, end == INT64_MAX ? -1 : left > 0 ? left : 0, err));
        if (in.frame.kind == kind) {
            *out = in;
            return UM_OK;
        }
        um_status st = UM_OK;
        if (late == 0 || in.frame.kind != late)
            st = um_link_unwanted(l, &in, um_kind_name(kind), err);
        um_link_release(l, &in);
        if (st != UM_OK) return st;
    }
}

/* "expert/3 (rank 4, host a) and 17 more" */
static void owed_text(char *out, size_t size, const um_link *l, const uint8_t *seen)
{
    char label[128] = "";
    int more = -1;
    for (int r = 0; r < l->comm->topo.n; r++) {
        if (seen[r]) continue;
        if (++more == 0) um_topology_label(&l->comm->topo, r, label);
    }
    if (more > 0)
        snprintf(out, size, "%s and %d more", label, more);
    else
        snprintf(out, size, "%s", label);
}

um_status um_link_collect(um_link *l, um_kind kind, um_kind late, int64_t seconds,
                          um_link_take take, void *ctx, um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    uint8_t *seen = um_zalloc((size_t)topo->n);
    char owed[160];
    um_status st = UM_OK;
    int64_t begun = um_now_ns();
    seen[l->comm->rank] = 1;
    for (int left = topo->n - 1; st == UM_OK && left > 0;) {
        um_inbound in = {0};
        st = um_link_expect(l, &in, kind, late, (int64_t)REPORT_SECONDS * 1000000, err);
        if (st == UM_E_TIMEOUT) {
            int64_t waited = (um_now_ns() - begun) / 1000000000;
            owed_text(owed, sizeof owed, l, seen);
            um_log_info("%s: after %lld s %s still to come", l->phase, (long long)waited, owed);
            st = UM_OK;
            if (seconds > 0 && waited >= seconds)
                st = UM_FAIL(err, UM_E_TIMEOUT, "%s: %s: no %s within %lld s", l->phase, owed,
                             um_kind_name(kind), (long long)seconds);
            continue;
        }
        if (st == UM_OK && seen[in.msg.peer])
            st = um_link_unwanted(l, &in, "one from each rank", err);
        if (st == UM_OK) st = take(ctx, &in, err);
        if (st == UM_OK) {
            seen[in.msg.peer] = 1;
            left--;
        }
        um_link_release(l, &in);
    }
    um_free(seen);
    return st;
}
