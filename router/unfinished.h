/* Router 0's record of the requests that are not finished: where each works, and what its line said. It holds what the routers' windows
 * hold, so it is bounded by them; nothing is left of a request that is finished. */
#pragma once

#include "router/request/request.h"

typedef struct um_unfinished_request {
    uint64_t number; /* in the job */
    int router;      /* index among the routers */
    size_t bytes;    /* of its JSON */
    um_request from; /* id, number and element of its line; nothing else is set */
    bool cancelled;  /* its router was told */
    struct um_unfinished_request *by_number, *by_id; /* next in the bucket */
} um_unfinished_request;

enum { UM_UNFINISHED_BUCKETS = 1024 };

/* Zero to begin. */
typedef struct um_unfinished {
    um_unfinished_request *numbers[UM_UNFINISHED_BUCKETS], *ids[UM_UNFINISHED_BUCKETS];
    int n;
} um_unfinished;

/* A copy of id is kept; NULL: the request's number in the input. */
um_unfinished_request *um_unfinished_add(um_unfinished *u, uint64_t number, int router,
                                         const um_request_source *from, const char *id);
/* NULL: it is not there. */
um_unfinished_request *um_unfinished_find(const um_unfinished *u, uint64_t number);
/* The next request with this id behind `last`, in no order; the first when last is NULL. NULL: there is none. */
um_unfinished_request *um_unfinished_named(const um_unfinished *u, const char *id,
                                           const um_unfinished_request *last);
void um_unfinished_remove(um_unfinished *u, um_unfinished_request *r);
void um_unfinished_free(um_unfinished *u);
