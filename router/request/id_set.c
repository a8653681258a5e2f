/* See id_set.h. */
#include "router/request/id_set.h"

#include "core/base/arena.h"

/* FNV-1a with a final mix (splitmix64): slots are chosen by the low bits. Never 0. */
static uint64_t hash_of(const char *id)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *id != '\0'; id++) h = (h ^ (unsigned char)*id) * UINT64_C(1099511628211);
    h = (h ^ h >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ h >> 27) * UINT64_C(0x94d049bb133111eb);
    h ^= h >> 31;
    return h == 0 ? 1 : h;
}

static int32_t *bucket_of(um_id_set *s, uint64_t h) { return &s->head[h % UM_ID_SET_MAX]; }

/* Forgets the id at this place. */
static void forget(um_id_set *s, int32_t place)
{
    int32_t *at = bucket_of(s, s->hash[place]);
    while (*at != place + 1) at = &s->next[*at - 1];
    *at = s->next[place];
}

bool um_id_set_add(um_id_set *s, const char *id)
{
    uint64_t h = hash_of(id);
    if (s->hash == NULL) {
        s->hash = um_zalloc(UM_ID_SET_MAX * sizeof *s->hash);
        s->head = um_zalloc(UM_ID_SET_MAX * sizeof *s->head);
        s->next = um_zalloc(UM_ID_SET_MAX * sizeof *s->next);
    }
    int32_t *bucket = bucket_of(s, h), place = (int32_t)(s->n % UM_ID_SET_MAX);
    for (int32_t p = *bucket; p > 0; p = s->next[p - 1])
        if (s->hash[p - 1] == h) return true;
    if (s->hash[place] != 0) forget(s, place);
    s->hash[place] = h;
    s->next[place] = *bucket;
    *bucket = place + 1;
    s->n++;
    return false;
}

void um_id_set_free(um_id_set *s)
{
    um_free(s->hash);
    um_free(s->head);
    um_free(s->next);
    *s = (um_id_set){0};
}
