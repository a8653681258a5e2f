/* Requests as they come, from a file or a pipe. A thread of its own waits for them, cuts the bytes into items (json_lines.h) and wakes the
 * rank, which may so wait for its peers and its input at once, and goes on working while somebody is still writing.
 *
 *   file, pipe --> poll, read, cut (thread of the input) --> at most INPUT_BYTES of items --> um_input_next (thread of the rank)
 *
 * While the rank takes nothing, no more is read, so that whoever writes to the pipe waits; and a file of any length takes as much memory
 * as its longest item. */
#pragma once

#include "core/base/json_lines.h"
#include "core/base/status.h"

typedef struct um_input um_input;

/* A line, or an element of an array, with a text of its own. */
typedef struct um_input_item {
    um_json_item item;
    struct um_input_item *next;
    bool cancelled; /* for whoever holds it */
} um_input_item;

/* path "-" is standard input. wake(ctx) is called in the thread of the input when there is an item to take where there was none, and at
 * the end; it must stay callable until um_input_close. UM_E_DATA names the path. */
um_status um_input_open(um_input **out, const char *path, void (*wake)(void *ctx), void *ctx,
                        um_err *err);
/* Ends the thread, wherever it waits. Accepts NULL. */
void um_input_close(um_input *in);
/* The next item, for um_input_item_free, or NULL when none is there yet; then um_input_ended says whether one may still come. An item
 * that is too long to be kept comes with bytes > n. Never waits. UM_E_DATA when the rest cannot be read. Thread: the rank's. */
um_status um_input_next(um_input *in, um_input_item **item, um_err *err);
void um_input_item_free(um_input_item *i); /* accepts NULL */
/* No item is left, and none will come. */
bool um_input_ended(um_input *in);
/* How often the thread looked for bytes, each time until there were some: what an idle input costs. */
int um_input_looks(um_input *in);
