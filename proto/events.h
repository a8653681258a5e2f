/* Event files as TensorBoard reads them, as bytes: protobuf messages (events.proto), each in a record of TensorFlow's TFRecord format.
 *
 *   u64 length, u32 masked CRC-32C of these 8 bytes, message [length], u32 masked CRC-32C of the message       little-endian
 *
 * A CRC c is masked as rotate right(c, 15) + 0xa282ead8. A file begins with um_events_begin. Thread: any. */
#pragma once

#include "core/base/text.h"

typedef struct um_event_scalar {
    const char *tag; /* "train/loss": TensorBoard groups by what stands before the slash */
    double value;
} um_event_scalar;

/* Appends the two events that a file begins with: the version of the format, and the start of a session, which makes all events of steps
 * >= step void that other files of the folder have. wall: seconds since 1970. */
void um_events_begin(um_text *out, double wall, int64_t step);
/* Appends one event with the values of a step; n 0: nothing. */
void um_events_scalars(um_text *out, double wall, int64_t step, const um_event_scalar *list,
                       size_t n);
