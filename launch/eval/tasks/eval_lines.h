/* Files of JSON objects, one a line or the elements of one array, for the readers of questions and of answers. */
#pragma once

#include "core/base/json.h"

/* A text, or a number as its digits; "" for anything else. In arena. */
const char *um_eval_text(const um_json *j, um_arena *arena);
/* Calls item for each line or array element of a file, each of at most 64 MB. text [n] is the object as it stands there; number counts
 * from 1. UM_E_DATA names the line or element: one that is no object, or what item says. */
um_status um_eval_lines(const char *path,
                        um_status (*item)(void *ctx, const um_json *object, const char *text,
                                          size_t n, long number, um_err *err),
                        void *ctx, um_err *err);
