/* The door to protobuf-c: the generated messages (Um__Hello and so on), and packing them into the meta bytes of frames. Only files in
 * proto/ and the callers of this header see generated types. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "proto/control.pb-c.h"

#define UM_CONTROL_MAX                                                                             \
    ((size_t)256 << 20) /* maximum bytes of one packed message; images and videos are sent in one */

/* Unpacks n bytes as a message of the given descriptor, entirely in arena; the caller must not free it. Strings are never NULL, and
 * enums have a named value. UM_E_CORRUPT names the message type; the arena is then unchanged. */
um_status um_control_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type,
                            const uint8_t *buf, size_t n, um_arena *arena, um_err *err);
size_t um_control_size(const ProtobufCMessage *m);
/* Packs m into buf (um_control_size bytes); returns the number of bytes. */
size_t um_control_pack(const ProtobufCMessage *m, uint8_t *buf);
