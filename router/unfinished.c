/* See unfinished.h. */
#include "router/unfinished.h"

#include "core/base/arena.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* FNV-1a. */
static unsigned bucket_of_id(const char *id)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *id != '\0'; id++) h = (h ^ (unsigned char)*id) * UINT64_C(1099511628211);
    return (unsigned)((h ^ h >> 32) % UM_UNFINISHED_BUCKETS);
}

static unsigned bucket_of(uint64_t number) { return (unsigned)(number % UM_UNFINISHED_BUCKETS); }

um_unfinished_request *um_unfinished_add(um_unfinished *u, uint64_t number, int router,
                                         const um_request_source *from, const char *id)
{
    char digits[24];
    um_unfinished_request *r = um_zalloc(sizeof *r);
    snprintf(digits, sizeof digits, "%" PRIu64, from->number);
    *r = (um_unfinished_request){
        .number = number,
        .router = router,
        .bytes = from->n,
        .from = {.id = um_strdup(id != NULL ? id : digits),
                 .number = from->number,
                 .element = from->element},
        .by_number = u->numbers[bucket_of(number)],
    };
    u->numbers[bucket_of(number)] = r;
    um_unfinished_request **ids = &u->ids[bucket_of_id(r->from.id)];
    r->by_id = *ids;
    *ids = r;
    u->n++;
    return r;
}

um_unfinished_request *um_unfinished_find(const um_unfinished *u, uint64_t number)
{
    um_unfinished_request *r = u->numbers[bucket_of(number)];
    while (r != NULL && r->number != number) r = r->by_number;
    return r;
}

um_unfinished_request *um_unfinished_named(const um_unfinished *u, const char *id,
                                           const um_unfinished_request *last)
{
    um_unfinished_request *r = last == NULL ? u->ids[bucket_of_id(id)] : last->by_id;
    while (r != NULL && strcmp(r->from.id, id) != 0) r = r->by_id;
    return r;
}

void um_unfinished_remove(um_unfinished *u, um_unfinished_request *r)
{
    um_unfinished_request **at = &u->numbers[bucket_of(r->number)];
    while (*at != r) at = &(*at)->by_number;
    *at = r->by_number;
    at = &u->ids[bucket_of_id(r->from.id)];
    while (*at != r) at = &(*at)->by_id;
    *at = r->by_id;
    u->n--;
    um_free((char *)(uintptr_t)r->from.id);
    um_free(r);
}

void um_unfinished_free(um_unfinished *u)
{
    for (int i = 0; i < UM_UNFINISHED_BUCKETS; i++)
        while (u->numbers[i] != NULL) um_unfinished_remove(u, u->numbers[i]);
}
