/* See id_set.h. Open addressing, at most half full. */
#include "router/request/id_set.h"

#include "core/base/arena.h"

#include <string.h>

enum { IDS_MAX = 1 << 22 }; /* 64 MiB of slots */

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

/* The slot that holds h, or the empty one where it belongs. */
static uint64_t *slot_of(const um_id_set *s, uint64_t h)
{
    size_t i = (size_t)h & (s->cap - 1);
    while (s->slot[i] != 0 && s->slot[i] != h) i = (i + 1) & (s->cap - 1);
    return &s->slot[i];
}

static void grow(um_id_set *s)
{
    um_id_set old = *s;
    s->cap = old.cap == 0 ? 1024 : 2 * old.cap;
    s->slot = um_zalloc(s->cap * sizeof *s->slot);
    for (size_t i = 0; i < old.cap; i++)
        if (old.slot[i] != 0) *slot_of(s, old.slot[i]) = old.slot[i];
    um_free(old.slot);
}

bool um_id_set_add(um_id_set *s, const char *id)
{
    uint64_t h = hash_of(id);
    if (s->n < IDS_MAX && 2 * (s->n + 1) > s->cap) grow(s);
    uint64_t *slot = slot_of(s, h);
    if (*slot == h) return true;
    if (s->n < IDS_MAX) {
        *slot = h;
        s->n++;
    }
    return false;
}

void um_id_set_free(um_id_set *s)
{
    um_free(s->slot);
    *s = (um_id_set){0};
}
