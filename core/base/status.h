/* Status codes and the fixed-size error message that travels with them.
 *
 * Whoever first decides that something is an error writes the message (UM_FAIL); callers only add context on the way up
 * (um_wrap). Outputs are set only on success. Library code never exits and never prints. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef enum um_status {
    UM_OK = 0,
    UM_E_USAGE,   /* a flag, an option or a call that does not exist or does not fit */
    UM_E_MODEL,   /* a model directory or checkpoint that cannot be used */
    UM_E_DATA,    /* a request, image or sample that cannot be used */
    UM_E_CORRUPT, /* bytes that break their own format (file or frame) */
    UM_E_LIMIT,   /* over a documented limit */
    UM_E_IO,      /* the operating system refused */
    UM_E_MEMORY,  /* out of memory */
    UM_E_TIMEOUT, /* a peer was silent for too long */
    UM_E_PEER,    /* a peer reported an error or is gone */
    UM_E_STOPPED, /* asked to stop */
    UM_E_SAVED,   /* asked to stop, and did after saving its work: goes on when started again */
} um_status;

typedef struct um_err {
    char msg[1024];
    int signal; /* of UM_E_STOPPED: what asked for it, the exit code is 128 + signal; of UM_E_PEER: what killed a rank; 0 = none */
} um_err;

/* Writes the message, truncating it at the end. Returns st. err may be NULL. Thread: any (err is the caller's). */
um_status um_fail(um_err *err, um_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* On UM_OK a no-op. Else puts "context: " before the message. Returns st. */
um_status um_wrap(um_err *err, um_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* What st is when it came from reading a model's files: UM_E_MODEL for damaged, missing and unreadable ones alike. */
um_status um_model_fault(um_status st);

/* Exit code of a program that ended with st: 0 ok, 1 runtime, 2 usage, 3 model, 4 data, 75 saved (EX_TEMPFAIL of sysexits.h). */
int um_exit_code(um_status st);
/* What the exit code of a program that failed means: the first status with that code, UM_E_PEER for 1 and for codes that are not ours. */
um_status um_exit_status(int code);

#define UM_FAIL(err, st, ...) um_fail((err), (st), __VA_ARGS__)

/* The sole macro that may return: gives up this function with the status of a call that failed. */
#define UM_TRY(expr)                                                                               \
    do {                                                                                           \
        um_status um_try_status = (expr);                                                          \
        if (um_try_status != UM_OK) return um_try_status;                                          \
    } while (0)

/* Our own mistakes. Anything from a file, socket, peer, user or environment is an error, not an assert.
 * UM_ASSERT is compiled out of release builds. UM_CHECK stays in every build: it guards writes into memory whose size follows from
 * the configuration or a request (capacity of a list, of a key/value cache, of a token's slots), where a mistake elsewhere would
 * otherwise become a write past the end. Use it once per call, not once per element. */
void um_assert_failed(const char *expr, const char *file, int line) __attribute__((noreturn));
#define UM_CHECK(expr) ((expr) ? (void)0 : um_assert_failed(#expr, __FILE__, __LINE__))
#ifdef UM_RELEASE
#define UM_ASSERT(expr) ((void)0)
#else
#define UM_ASSERT(expr) ((expr) ? (void)0 : um_assert_failed(#expr, __FILE__, __LINE__))
#endif
#ifdef UM_SLOW_CHECKS
#define UM_ASSERT_SLOW(expr) UM_ASSERT(expr)
#else
#define UM_ASSERT_SLOW(expr) ((void)0)
#endif
