/* A link: frames over a transport, with the rules that all roles batch. It owns what a rank knows of its peers' liveness.
 *
 * - Every frame that comes in is checked (frame.h); source and epoch must fit. A bad frame is an error that names the peer.
 * - STEP frames ("I am alive") are consumed here; an ERROR frame becomes UM_E_PEER with the peer's own text.
 * - A rank that works long calls um_link_heartbeat between pieces of work; a rank that waits beats by itself. Routers beat to all
 *   other ranks, experts and encoders to the routers. A rank that was not heard of for the deadline is a UM_E_TIMEOUT naming it:
 *   routers watch everybody, the others watch the routers.
 * Thread: the rank's main thread. */
#pragma once

#include "core/comm/comm.h"
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

typedef struct um_link {
    um_comm *comm;
    um_codec *codec;
    um_dtype wire; /* type of rows on the wire: f32 or bf16 */
    uint32_t epoch;
    uint64_t credit;     /* bytes of a data frame's rows at most */
    int64_t deadline_ns; /* 0 until the plan is known: then nobody is watched */
    const char *phase;   /* for messages: what this rank is doing */
    uint32_t layer;
    uint64_t step;
    int64_t *heard;   /* [ranks] when a frame of that rank last came */
    int64_t beaten;   /* when this rank last told that it lives */
    int64_t looked;   /* when it last looked at the transport */
    int64_t worked;   /* when it last got or sent a frame that is work */
    int64_t yield_us; /* of the transport, while work is near; idle ranks sleep at once */
    um_inbound *kept; /* frames put aside by um_link_defer */
    int n_kept, cap_kept;
    um_link_stats stats;
} um_link;

void um_link_open(um_link *l, um_comm *comm);
void um_link_close(um_link *l); /* not the comm */
/* After the plan: wire type, codec, credit, deadline; from here on peers are watched. */
um_status um_link_agree(um_link *l, um_dtype wire, um_codec_id codec, int zstd_level,
                        uint64_t credit, int64_t deadline_ms, uint32_t epoch, um_err *err);

/* The next frame (kept ones first). UM_E_TIMEOUT after timeout_us without one; a silent peer is UM_E_PEER. timeout_us < 0: no end.
 * wait time is counted in stats. */
um_status um_link_next(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err);
/* The same, past the kept ones: for somebody who waits for a particular frame and keeps the others. */
um_status um_link_next_received(um_link *l, um_inbound *out, int64_t timeout_us, um_err *err);
void um_link_defer(um_link *l, um_inbound *in); /* takes it over */
void um_link_release(um_link *l, um_inbound *in);

/* A control message to peer. */
um_status um_link_control(um_link *l, int peer, um_kind kind, const ProtobufCMessage *m,
                          um_err *err);
/* Unpacks the control message of a frame. */
um_status um_link_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type,
                         const um_inbound *in, um_arena *arena, um_err *err);

/* A data frame: meta bytes, then rows x cols f32 values, rounded once to the wire type and encoded. rows may be NULL when 0. */
typedef struct um_data_frame {
    um_kind kind;
    uint32_t layer;
    uint64_t step;
    const uint8_t *meta;
    uint32_t meta_bytes;
    const float *rows; /* [n, cols] */
    uint32_t n, cols;
} um_data_frame;
/* Values that one such frame holds at most: what --credit allows, and what is left of the largest frame beside meta bytes and the
 * few that a codec may add. */
size_t um_link_values_max(const um_link *l);
um_status um_link_send_rows(um_link *l, int peer, const um_data_frame *f, um_arena *scratch,
                            um_err *err);
/* Decodes the rows of a data frame into to[rows, cols], f32. */
um_status um_link_rows(um_link *l, float *to, const um_inbound *in, um_arena *scratch, um_err *err);

/* Between pieces of long work: tells the others that this rank lives, if it is time. Cheap otherwise. */
um_status um_link_heartbeat(um_link *l, um_err *err);
/* Tells every rank (as far as possible) that this one cannot go on. */
void um_link_error(um_link *l, um_status st, const char *text);
