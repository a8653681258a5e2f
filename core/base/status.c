/* See status.h. */
#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

um_status um_fail(um_err *err, um_status st, const char *fmt, ...)
{
    if (err == NULL) return st;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return st;
}

um_status um_wrap(um_err *err, um_status st, const char *fmt, ...)
{
    if (st == UM_OK || err == NULL) return st;
    um_err old = *err;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used < sizeof err->msg) snprintf(err->msg + used, sizeof err->msg - used, ": %s", old.msg);
    return st;
}

um_status um_model_fault(um_status st)
{
    bool files = st == UM_E_CORRUPT || st == UM_E_IO || st == UM_E_LIMIT || st == UM_E_DATA;
    return files ? UM_E_MODEL : st;
}

int um_exit_code(um_status st)
{
    switch (st) {
    case UM_OK:
        return 0;
    case UM_E_USAGE:
        return 2;
    case UM_E_MODEL:
        return 3;
    case UM_E_DATA:
        return 4;
    case UM_E_SAVED:
        return 75;
    default:
        return 1;
    }
}

um_status um_exit_status(int code)
{
    for (um_status st = UM_E_USAGE; st <= UM_E_DATA; st++)
        if (um_exit_code(st) == code) return st;
    return UM_E_PEER;
}

void um_assert_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "unimoe: internal error: %s:%d: %s\n", file, line, expr);
    abort();
}
