/* Files of JSON objects, one a line or the elements of one array, for the readers of questions and of answers. */
#pragma once

#include "core/base/json.h"

/* A text, or a number as its digits; "" for anything else. In arena. */
const char *um_eval_text(const um_json *j, um_arena *arena);
/* Calls item for each line or array element of a file that is an object. number counts from 1. */
um_status um_eval_lines(const char *path,
                        um_status (*item)(void *ctx, const um_json *object, const char *text,
                                          size_t n, long number, um_err *err),
                        void *ctx, um_err *err);
