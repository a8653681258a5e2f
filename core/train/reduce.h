/* Sums of gradients on their way between routers. A vector crosses in pieces, and its receiver grants room for the next ones, so that no
 * more than a few pieces are under way whatever the vector's length: nothing is sent that nobody waits for.
 *
 *   sender                        receiver
 *     ◄─ room for 4 pieces ─────    waits for the nodes of the sender
 *     ── node, piece 0 ─────────►   into the device's memory
 *     ── node, piece 1 ─────────►
 *     ◄─ room for 2 more ───────
 *     ...
 *     ── no more nodes ─────────►
 *
 * Frames (docs/WIRE.md, reduce): layer and micro-batch are level and index of the node, meta is the place of its first value. Always f32.
 * Thread: main. */
#pragma once

#include "core/comm/link.h"
#include "core/train/grad_tree.h"

typedef struct um_reduce um_reduce;

/* For vectors of `values` floats. From here on the link's reduce frames come here. */
um_reduce *um_reduce_open(um_link *l, um_dev *dev, size_t values);
void um_reduce_close(um_reduce *r); /* accepts NULL */

/* Brings the sums of all routers to router 0: afterwards its tree has the nodes of all. Collective over the routers. */
um_status um_reduce_gather(um_reduce *r, um_grad_tree *t, uint64_t step, um_err *err);
/* Brings the only node of router 0's tree (or none) to the trees of all routers, which lose what they had. Collective over the routers. */
um_status um_reduce_spread(um_reduce *r, um_grad_tree *t, uint64_t step, um_err *err);
