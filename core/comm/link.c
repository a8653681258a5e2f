/* See link.h. */
#include "core/comm/link.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/clock.h"

#include <string.h>

/* A wait is cut into slices, so that this rank looks at the silence of the others meanwhile. */
enum { IDLE_SLICE_US = 200000 };

/* Beats within one deadline, and the longest time between two. */
enum { BEATS = 8, BEAT_MAX_US = 250000 };

/* So long after the last frame of work a rank still expects the next at any moment, and yields before it sleeps. */
#define WORK_NEAR_NS 50000000

void um_link_open(um_link *l, um_comm *comm)
{
    *l = (um_link){.comm = comm,
                   .wire = UM_F32,
                   .credit = UM_FRAME_MAX,
                   .phase = "start",
                   .yield_us = comm->yield_us};
}

void um_link_close(um_link *l)
{
    for (int i = 0; i < l->n_kept; i++) um_comm_release(l->comm, &l->kept[i].msg);
    um_free(l->kept);
    um_codec_close(l->codec);
    *l = (um_link){0};
}

um_status um_link_agree(um_link *l, um_dtype wire, um_codec_id codec, int zstd_level,
                        uint64_t credit, int64_t deadline_ms, uint32_t epoch, um_err *err)
{
    UM_TRY(um_codec_open(&l->codec, codec, zstd_level, err));
    l->wire = wire;
    l->credit = credit;
    l->epoch = epoch;
    return um_link_watch(l, deadline_ms, err);
}

/* What ends the sentence: what the system says of the process of a silent peer. */
static const char *process_text(um_alive state)
{
    switch (state) {
    case UM_ALIVE_HALTED:
        return "; its process was stopped by a signal or a debugger";
    case UM_ALIVE_GONE:
        return "; its process is gone";
    default:
        return "";
    }
}

/* Which peer has shown no sign of life for the deadline? */
static um_status silence(um_link *l, um_err *err)
{
    const um_topology *topo = &l->comm->topo;
    for (int r = 0; l->deadline_ns > 0 && r < topo->n; r++) {
        if (!um_topology_watches(topo, l->comm->rank, r)) continue;
        int64_t silent = um_comm_silent_ns(l->comm, r);
        if (silent <= l->deadline_ns) continue;
        char label[128];
        um_topology_label(topo, r, label);
        return UM_FAIL(err, UM_E_PEER,
                       "%s is silent: no sign of life for %lld ms (deadline %lld ms)%s; noticed "
                       "while %s, step %llu, layer %u",
                       label, (long long)(silent / 1000000), (long long)(l->deadline_ns / 1000000),
                       process_text(um_comm_process(l->comm, r)), l->phase,
                       (unsigned long long)l->step, l->layer);
    }
    return UM_OK;
}

um_status um_link_watch(um_link *l, int64_t deadline_ms, um_err *err)
{
    int64_t period_us = deadline_ms * 1000 / BEATS;
    if (period_us > BEAT_MAX_US) period_us = BEAT_MAX_US;
    UM_ASSERT(deadline_ms > 0);
    UM_TRY(um_comm_watch(l->comm, period_us, err));
    l->deadline_ns = deadline_ms * 1000000;
    return UM_OK;
}

void um_link_stall(um_link *l, int64_t stall_ms) { l->stall_ns = stall_ms * 1000000; }

void um_link_owes(um_link *l, um_link_owed owed, void *ctx)
{
    int i = 0;
    while (i < UM_LINK_WAITERS && l->waiter[i] != NULL) i++;
    UM_CHECK(i < UM_LINK_WAITERS);
    l->waiter[i] = owed;
    l->waiter_ctx[i] = ctx;
}

void um_link_owes_end(um_link *l, const void *ctx)
{
    for (int i = 0; i < UM_LINK_WAITERS; i++)
        if (l->waiter_ctx[i] == ctx) {
            l->waiter[i] = NULL;
            l->waiter_ctx[i] = NULL;
        }
}

/* How long a wait may last before the next look at what is owed. */
static int64_t slice_us(const um_link *l)
{
    int64_t part = l->stall_ns / 4000;
    return l->stall_ns > 0 && part < IDLE_SLICE_US ? part : IDLE_SLICE_US;
}

/* Which peer has owed an answer for too long? A rank that did not look for a while, because it was itself stopped or computed for long,
 * blames nobody for that time: all have the full time again. */
static um_status progress(um_link *l, um_err *err)
{
    int64_t now = um_now_ns();
    if (l->stall_ns == 0) return UM_OK;
    if (now - l->looked_ns > l->stall_ns / 2) l->present_ns = now;
    l->looked_ns = now;
    if (now - l->present_ns <= l->stall_ns) return UM_OK;
    for (int i = 0; i < UM_LINK_WAITERS; i++) {
        um_owed o = {0};
        if (l->waiter[i] == NULL || !l->waiter[i](l->waiter_ctx[i], &o)) continue;
        int64_t since = o.since_ns > l->present_ns ? o.since_ns : l->present_ns;
        if (now - since <= l->stall_ns + o.grace_ns) continue;
        char label[128];
        um_topology_label(&l->comm->topo, o.peer, label);
        return UM_FAIL(err, UM_E_PEER,
                       "%s has owed %s for %lld ms (--stall-ms %lld), though it is alive", label,
                       o.what, (long long)((now - since) / 1000000),
                       (long long)(l->stall_ns / 1000000));
    }
    return UM_OK;
}

/* Checks a message that came in. */
static um_status inspect(um_link *l, um_inbound *in, um_err *err)
{
    char label[128];
    um_topology_label(&l->comm->topo, in->msg.peer, label);
    um_status st = um_frame_get(&in->frame, in->msg.data, in->msg.size, err);
    if (st == UM_OK && in->frame.source != (uint32_t)in->msg.peer)
        st = UM_FAIL(err, UM_E_CORRUPT, "frame: source %u, came from rank %d", in->frame.source,
                     in->msg.peer);
    if (st == UM_OK && l->epoch != 0 && in->frame.epoch != l->epoch &&
        in->frame.kind != UM_KIND_ERROR)
        st = UM_FAIL(err, UM_E_CORRUPT, "frame: epoch %u, want %u", in->frame.epoch, l->epoch);
    if (st != UM_OK) return um_wrap(err, st, "frame of %s", label);
    if (in->frame.kind != UM_KIND_ERROR) return UM_OK;
    um_arena scratch;
    um_arena_init(&scratch, "error message", 4096);
    ProtobufCMessage *m = NULL;
    st = um_link_unpack(&m, &um__error__descriptor, in, &scratch, err);
    if (st == UM_OK) {
        const Um__Error *e = (const Um__Error *)m;
        st = e->status > 0 && e->status <= UM_E_STOPPED ? (um_status)e->status : UM_E_PEER;
        UM_FAIL(err, st, "%s: %s", label, e->text);
        l->comm->follows = true;
    }
    um_arena_free(&scratch);
    return st;
}

/* Gives a frame to its taker, if there is one. */
static um_status hand_over(um_link *l, um_inbound *in, bool *taken, um_err *err)
{
    um_kind kind = in->frame.kind;
    *taken = l->taker[kind] != NULL;
    if (!*taken) return UM_OK;
    um_status st = l->taker[kind](l->taker_ctx[kind], in, err);
    um_link_release(l, in);
    return st;
}

/* What ends a wait beside a frame and its time limit. */
typedef enum until {
    UNTIL_FRAME,
    UNTIL_TAKEN, /* a frame that went to its taker: *out is then empty */
    UNTIL_WOKEN, /* um_comm_wake. Other waits go on, and um_comm.woken stays */
} until;

static um_status receive(um_link *l, um_inbound *out, int64_t timeout_us, until what, um_err *err)
{
    int64_t start = um_now_ns(), end = timeout_us < 0 ? INT64_MAX : start + timeout_us * 1000;
    um_status st;
    for (;;) {
        int64_t now = um_now_ns(), most = slice_us(l);
        int64_t left = end == INT64_MAX ? most : (end - now) / 1000;
        int64_t slice = left < 0 ? 0 : left > most ? most : left;
        if (what == UNTIL_WOKEN && l->comm->woken) slice = 0;
        um_inbound in = {0};
        l->comm->yield_us = now - l->worked < WORK_NEAR_NS ? l->yield_us : 0;
        st = um_comm_recv(l->comm, &in.msg, slice, err);
        if (st == UM_OK) {
            bool taken = false;
            st = inspect(l, &in, err);
            l->worked = um_now_ns();
            if (st == UM_OK) st = hand_over(l, &in, &taken, err);
            if (st == UM_OK) st = progress(l, err); /* others come, but does what is owed? */
            if (st == UM_OK && taken && what != UNTIL_TAKEN) continue;
            if (st == UM_OK)
                *out = in;
            else
                um_link_release(l, &in);
            break;
        }
        if (st == UM_E_TIMEOUT) st = silence(l, err);
        if (st == UM_OK) st = progress(l, err);
        if (st != UM_OK) break;
        if (what == UNTIL_WOKEN && l->comm->woken) {
            l->comm->woken = false;
            st = UM_FAIL(err, UM_E_TIMEOUT, "woken while waiting for a frame");
            break;
        }
        if (um_now_ns() >= end) {
            st = UM_FAIL(err, UM_E_TIMEOUT, "nothing came within %lld us", (long long)timeout_us);
            break;
        }
    }
    l->stats.wait_ns += um_now_ns() - start;
    return st;
}

um_status um_link_next_received(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err)
{
    return receive(l, out, timeout_us, UNTIL_FRAME, err);
}

void um_link_handle(um_link *l, um_kind kind, um_link_take take, void *ctx)
{
    l->taker[kind] = take;
    l->taker_ctx[kind] = ctx;
}

um_status um_link_next_any(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err)
{
    return receive(l, out, timeout_us, UNTIL_TAKEN, err);
}

/* The oldest frame that was put aside. */
static bool take_kept(um_link *l, um_inbound *out)
{
    if (l->n_kept == 0) return false;
    *out = l->kept[0];
    memmove(l->kept, l->kept + 1, (size_t)--l->n_kept * sizeof *l->kept);
    return true;
}

um_status um_link_next(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err)
{
    return take_kept(l, out) ? UM_OK : receive(l, out, timeout_us, UNTIL_FRAME, err);
}

um_status um_link_wait(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err)
{
    return take_kept(l, out) ? UM_OK : receive(l, out, timeout_us, UNTIL_WOKEN, err);
}

void um_link_defer(um_link *l, um_inbound *in)
{
    if (l->n_kept == l->cap_kept) {
        l->cap_kept = l->cap_kept == 0 ? 8 : 2 * l->cap_kept;
        l->kept = um_realloc(l->kept, (size_t)l->cap_kept * sizeof *l->kept);
    }
    l->kept[l->n_kept++] = *in;
    *in = (um_inbound){0};
}

void um_link_release(um_link *l, um_inbound *in)
{
    if (in->msg.data != NULL) um_comm_release(l->comm, &in->msg);
    *in = (um_inbound){0};
}

um_status um_link_control(um_link *l, int peer, um_kind kind, const ProtobufCMessage *m,
                          um_err *err)
{
    size_t n = um_control_size(m);
    um_msg msg = {0};
    if (n > UM_CONTROL_MAX) /* what the receiver accepts */
        return UM_FAIL(err, UM_E_LIMIT, "%s message of %zu bytes, at most %zu can be sent",
                       um_kind_name(kind), n, UM_CONTROL_MAX);
    UM_TRY(um_comm_buffer(l->comm, &msg, UM_FRAME_HEADER + n, err));
    um_control_pack(m, msg.data + UM_FRAME_HEADER);
    um_frame f = {.kind = kind,
                  .dtype = UM_F32,
                  .epoch = l->epoch,
                  .source = (uint32_t)l->comm->rank,
                  .meta_bytes = (uint32_t)n,
                  .payload_bytes = (uint32_t)n};
    um_frame_put(msg.data, &f);
    return um_comm_send(l->comm, peer, &msg, err);
}

um_status um_link_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type,
                         const um_inbound *in, um_arena *arena, um_err *err)
{
    return um_control_unpack(out, type, in->frame.payload, in->frame.meta_bytes, arena, err);
}

size_t um_link_values_max(const um_link *l)
{
    uint64_t frame = UM_FRAME_MAX - UM_FRAME_MAX / 64, most = l->credit < frame ? l->credit : frame;
    return (size_t)most / um_dtype_size(l->wire);
}

um_dtype um_link_type(const um_link *l, um_kind kind)
{
    return kind == UM_KIND_REDUCE ? UM_F32 : l->wire;
}

/* Encodes the rows of a frame at `to`; returns their bytes. With codec none they go there straight from the device. */
static size_t rows_encode(um_link *l, uint8_t *to, const um_data_frame *f, um_arena *scratch)
{
    const um_dtype wire = um_link_type(l, f->kind);
    size_t values = (size_t)f->n * f->cols, raw = values * um_dtype_size(wire);
    bool plain = um_codec_id_of(l->codec) == UM_CODEC_NONE;
    const void *src = f->rows;
    if (f->dev != NULL || wire != UM_F32) {
        void *rounded = plain ? to : um_arena_alloc(scratch, raw);
        if (f->dev != NULL)
            f->dev->ops->rows_out(f->dev, rounded, wire, f->rows, f->index, (int)f->n,
                                  (int)f->cols);
        else
            um_from_f32(rounded, wire, f->rows, values);
        if (plain) return raw;
        src = rounded;
    }
    return um_codec_encode(l->codec, to, src, wire, values);
}

um_status um_link_send_rows(um_link *l, int peer, const um_data_frame *f, um_arena *scratch,
                            um_err *err)
{
    const um_dtype wire = um_link_type(l, f->kind);
    size_t values = (size_t)f->n * f->cols, raw = values * um_dtype_size(wire);
    size_t room = UM_FRAME_HEADER + (size_t)f->meta_bytes + um_codec_bound(wire, values);
    if (raw > l->credit || room > UM_FRAME_MAX)
        return UM_FAIL(err, UM_E_LIMIT,
                       "%s frame of %u rows x %u is %zu bytes, the credit is %llu: raise --credit "
                       "or lower --prefill-chunk",
                       um_kind_name(f->kind), f->n, f->cols, raw, (unsigned long long)l->credit);
    int64_t start = um_now_ns();
    um_mark mark = um_arena_mark(scratch);
    um_msg msg = {0};
    UM_TRY(um_comm_buffer(l->comm, &msg, room, err));
    uint8_t *p = msg.data + UM_FRAME_HEADER;
    if (f->meta_bytes > 0) memcpy(p, f->meta, f->meta_bytes);
    size_t coded = values == 0 ? 0 : rows_encode(l, p + f->meta_bytes, f, scratch);
    um_status st = f->dev == NULL || f->dev->st == UM_OK ? UM_OK : um_dev_sync(f->dev, err);
    if (st != UM_OK) { /* what stands in the frame is not what was meant */
        um_comm_release(l->comm, &msg);
        um_arena_reset(scratch, mark);
        return st;
    }
    um_frame h = {.kind = f->kind,
                  .dtype = wire,
                  .codec = (uint8_t)um_codec_id_of(l->codec),
                  .epoch = l->epoch,
                  .source = (uint32_t)l->comm->rank,
                  .layer = f->layer,
                  .step = f->step,
                  .batch = f->batch,
                  .rows = f->n,
                  .cols = f->cols,
                  .meta_bytes = f->meta_bytes,
                  .payload_bytes = (uint32_t)(f->meta_bytes + coded)};
    msg.size = UM_FRAME_HEADER + h.payload_bytes;
    um_frame_put(msg.data, &h);
    um_arena_reset(scratch, mark);
    l->worked = um_now_ns();
    l->stats.rows += f->n;
    l->stats.raw_bytes += raw;
    l->stats.wire_bytes += msg.size;
    l->stats.frames++;
    st = um_comm_send(l->comm, peer, &msg, err);
    l->stats.codec_ns += um_now_ns() - start;
    return st;
}

/* Decodes into to: f32 of the device when dev is given, else of the host. */
static um_status rows_decode(um_link *l, um_dev *dev, float *to, const um_frame *f,
                             um_arena *scratch, um_err *err)
{
    const um_dtype wire = um_link_type(l, f->kind);
    size_t values = (size_t)f->rows * f->cols, coded = f->payload_bytes - f->meta_bytes;
    const uint8_t *from = f->payload + f->meta_bytes;
    const void *plain = from; /* values of the wire type */
    if (values == 0) return UM_OK;
    if (f->codec != UM_CODEC_NONE) {
        bool there = dev == NULL && wire == UM_F32;
        void *p = there ? to : um_arena_alloc(scratch, values * um_dtype_size(wire));
        UM_TRY(um_codec_decode(l->codec, (um_codec_id)f->codec, p, wire, values, from, coded, err));
        if (there) return UM_OK;
        plain = p;
    }
    if (dev == NULL) {
        um_to_f32(to, plain, wire, values);
        return UM_OK;
    }
    dev->ops->rows_in(dev, to, plain, wire, values);
    return dev->st == UM_OK ? UM_OK : um_dev_sync(dev, err);
}

um_status um_link_rows(um_link *l, float *to, const um_inbound *in, um_arena *scratch, um_err *err)
{
    return um_link_rows_in(l, NULL, to, in, scratch, err);
}

um_status um_link_rows_in(um_link *l, um_dev *dev, float *to, const um_inbound *in,
                          um_arena *scratch, um_err *err)
{
    const um_frame *f = &in->frame;
    const um_dtype wire = um_link_type(l, f->kind);
    size_t raw = (size_t)f->rows * f->cols * um_dtype_size(wire);
    if (f->dtype != wire)
        return UM_FAIL(err, UM_E_CORRUPT, "rows of type %s, agreed is %s", um_dtype_name(f->dtype),
                       um_dtype_name(wire));
    int64_t start = um_now_ns();
    um_mark mark = um_arena_mark(scratch);
    um_status st = rows_decode(l, dev, to, f, scratch, err);
    um_arena_reset(scratch, mark);
    l->stats.raw_bytes += raw;
    l->stats.wire_bytes += in->msg.size;
    l->stats.codec_ns += um_now_ns() - start;
    return st;
}

void um_link_error(um_link *l, um_status st, const char *text)
{
    um_err ignored = {0};
    Um__Error e = UM__ERROR__INIT;
    e.status = (uint32_t)st;
    e.text = (char *)(uintptr_t)text;
    for (int r = 0; r < l->comm->topo.n; r++)
        if (r != l->comm->rank) um_link_control(l, r, UM_KIND_ERROR, &e.base, &ignored);
}
