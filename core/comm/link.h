/* A link: frames over a transport, with the rules that all roles share.
 *
 * - Every frame that comes in is checked (frame.h); source and epoch must fit. A bad frame is an error that names the peer.
 * - An ERROR frame becomes an error with the status and the text of the peer, and marks that this rank only follows
 *   (um_comm.follows).
 * - While a rank waits, it looks at the silence that its pulse has counted (pulse.h). A peer that has shown no sign of life for the
 *   deadline is UM_E_PEER naming it: routers watch everybody, the others watch the routers. A peer that lives and works is never
 *   called silent, however long its answer takes.
 * - Progress is watched apart from life: whoever waits for answers says what is owed (um_link_owes), and a peer that has owed one for
 *   longer than --stall-ms, while nothing else came of it, is UM_E_PEER naming it and what it owes.
 * Thread: the rank's main thread. */
#pragma once

#include "core/comm/comm.h"
#include "core/tensor/ops.h"
#include "proto/codec.h"
#include "proto/control.h"
#include "proto/frame.h"

typedef struct um_link_stats {
    uint64_t rows, pairs; /* token rows and (token, expert) pairs that crossed, both directions */
    uint64_t raw_bytes,
        wire_bytes;  /* rows in the wire type before the codec; data frames as sent */
    uint64_t frames; /* data frames */
    int64_t codec_ns, wait_ns, compute_ns;
} um_link_stats;

/* A frame that came in, lent until um_link_release. */
typedef struct um_inbound {
    um_msg msg;
    um_frame frame;
} um_inbound;

/* What takes in the frames of one kind. The frame is lent for the call. */
typedef um_status (*um_link_take)(void *ctx, const um_inbound *in, um_err *err);

/* An answer that has not come yet. */
typedef struct um_owed {
    int peer;
    /* when it was asked for, or when something else came of the peer after that */
    int64_t since_ns;
    /* it may take so much longer, since it may itself wait for an answer: whoever waits for that reports first */
    int64_t grace_ns;
    char what[96]; /* "the combine frame of step 5, layer 3, micro-batch 0" */
} um_owed;
/* Fills in what has been owed for the longest time; false: nothing is. */
typedef bool (*um_link_owed)(void *ctx, um_owed *out);
enum { UM_LINK_WAITERS = 8 };

typedef struct um_link {
    um_comm *comm;
    um_codec *codec;
    um_dtype wire; /* type of rows on the wire: f32 or bf16 */
    uint32_t epoch;
    uint64_t credit; /* bytes of rows under way with one expert rank, and of one frame, at most */
    int64_t deadline_ns; /* 0 until um_link_watch: nobody is watched */
    int64_t stall_ns;    /* 0: answers may take for ever */
    int64_t looked_ns;   /* when it looked last at what is owed */
    int64_t present_ns;  /* since then it has looked without a gap */
    const char *phase;   /* for messages: what this rank is doing */
    uint32_t layer;
    uint64_t step;
    int64_t worked;   /* when it last received or sent a frame that is work */
    int64_t yield_us; /* of the transport, while work is near; idle ranks sleep at once */
    um_inbound *kept; /* frames put aside by um_link_defer */
    int n_kept, cap_kept;
    um_link_take taker[UM_KINDS]; /* or NULL: um_link_handle */
    void *taker_ctx[UM_KINDS];
    um_link_owed waiter[UM_LINK_WAITERS];
    void *waiter_ctx[UM_LINK_WAITERS];
    um_link_stats stats;
} um_link;

void um_link_open(um_link *l, um_comm *comm);
void um_link_close(um_link *l); /* not the comm */
/* Starts the pulse; from here on peers are watched. Called before joining with this rank's --deadline-ms, then by um_link_agree. */
um_status um_link_watch(um_link *l, int64_t deadline_ms, um_err *err);
/* --stall-ms of the job: 0 is for ever. */
void um_link_stall(um_link *l, int64_t stall_ms);
/* From now on owed is asked what is owed, whenever this rank waits for a frame. At most UM_LINK_WAITERS. */
void um_link_owes(um_link *l, um_link_owed owed, void *ctx);
void um_link_owes_end(um_link *l, const void *ctx);
/* After the plan: wire type, codec, credit, deadline. */
um_status um_link_agree(um_link *l, um_dtype wire, um_codec_id codec, int zstd_level,
                        uint64_t credit, int64_t deadline_ms, uint32_t epoch, um_err *err);

/* The next frame (kept ones first). UM_E_TIMEOUT after timeout_us without one; a silent peer is UM_E_PEER. timeout_us < 0: no end.
 * wait time is counted in stats. */
um_status um_link_next(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err);
/* The same, past the kept ones: for somebody who waits for a particular frame and keeps the others. */
um_status um_link_next_received(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err);
/* From now on take is called with every frame of `kind` as it comes in, whoever receives; no receiver sees it. NULL: receivers
 * again. */
void um_link_handle(um_link *l, um_kind kind, um_link_take take, void *ctx);
/* As um_link_next_received, but when a frame came that um_link_handle has a taker for, UM_OK with *out empty. */
um_status um_link_next_any(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err);
/* As um_link_next, but UM_E_TIMEOUT also as soon as um_comm_wake was called since the last um_link_wait that said so: for a loop that
 * has more to look at than frames. Frames that are here come first. */
um_status um_link_wait(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err);
void um_link_defer(um_link *l, um_inbound *in); /* takes it over */
void um_link_release(um_link *l, um_inbound *in);

/* The next frame, which must be of `kind`. Frames of the kind `late` (0: none), which nobody wants any more, are dropped; any other is
 * UM_E_CORRUPT that names its sender. timeout_us < 0: no end. */
um_status um_link_expect(um_link *l, um_inbound *out, um_kind kind, um_kind late,
                         int64_t timeout_us, um_err *err);
/* One frame of `kind` from every other rank, in any order; take is called with each. A rank that sends two is UM_E_CORRUPT. Says in the
 * log who is still owed when it takes long. UM_E_TIMEOUT names them after `seconds` (0: no end, as long as they live). */
um_status um_link_collect(um_link *l, um_kind kind, um_kind late, int64_t seconds,
                          um_link_take take, void *ctx, um_err *err);
/* UM_E_CORRUPT: "result frame of expert/1 (rank 2, host a), want counters". */
um_status um_link_unwanted(const um_link *l, const um_inbound *in, const char *wanted, um_err *err);

/* A control message to peer. UM_E_LIMIT above UM_CONTROL_MAX: nothing is sent. */
um_status um_link_control(um_link *l, int peer, um_kind kind, const ProtobufCMessage *m,
                          um_err *err);
/* Unpacks the control message of a frame. */
um_status um_link_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type,
                         const um_inbound *in, um_arena *arena, um_err *err);

/* A data frame: meta bytes, then n x cols f32 values, rounded once to the wire type and encoded. rows may be NULL when n is 0. They lie
 * in the device's memory when dev is given, and then index (device) may select them. */
typedef struct um_data_frame {
    um_kind kind;
    uint32_t layer;
    uint64_t step;
    uint32_t batch;
    const uint8_t *meta;
    uint32_t meta_bytes;
    um_dev *dev;          /* NULL: rows are host memory */
    const float *rows;    /* [n, cols], or with index any number of rows */
    const int32_t *index; /* [n] or NULL */
    uint32_t n, cols;
} um_data_frame;
/* The type of the rows of a kind on the wire: the one that was agreed, but f32 for sums of gradients, which are never rounded. */
um_dtype um_link_type(const um_link *l, um_kind kind);
/* Values of the agreed type that one such frame holds at most: what --credit allows, and what is left of the largest frame beside meta
 * bytes and the few that a codec may add. */
size_t um_link_values_max(const um_link *l);
um_status um_link_send_rows(um_link *l, int peer, const um_data_frame *f, um_arena *scratch,
                            um_err *err);
/* Decodes the rows of a data frame into to[rows, cols], f32: host memory, and the device's. */
um_status um_link_rows(um_link *l, float *to, const um_inbound *in, um_arena *scratch, um_err *err);
um_status um_link_rows_in(um_link *l, um_dev *dev, float *to, const um_inbound *in,
                          um_arena *scratch, um_err *err);

/* Reports to every rank (as far as possible) that this one cannot go on. */
void um_link_error(um_link *l, um_status st, const char *text);
