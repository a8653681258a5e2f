/* The door to protobuf-c: the generated messages (Um__Hello and so on) and packing into frames' meta bytes.
 * Only files in proto/ and the callers of this header see generated types. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "proto/control.pb-c.h"

#define UM_CONTROL_MAX                                                                             \
    ((size_t)256 << 20) /* bytes of one packed message; an image or video travels inside one */

/* Unpacks n bytes as a message of the given descriptor, with every piece in arena: never free it. Strings are never NULL, enums
 * hold a named value. UM_E_CORRUPT names the message type; the arena is then as before. */
um_status um_control_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type,
                            const uint8_t *buf, size_t n, um_arena *arena, um_err *err);
size_t um_control_size(const ProtobufCMessage *m);
/* Packs m into buf (um_control_size bytes); returns the bytes. */
size_t um_control_pack(const ProtobufCMessage *m, uint8_t *buf);
