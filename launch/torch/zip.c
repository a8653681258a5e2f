/* See zip.h. Offsets in the records that are read, little-endian:
 *
 *   end record "PK\5\6", 22 bytes           zip64 end record "PK\6\6", 56 bytes     directory entry "PK\1\2", 46 bytes
 *     4  2  this disk                        16  4  this disk                         8  2  flags
 *     6  2  disk of the directory            20  4  disk of the directory            10  2  method
 *    10  2  entries                          32  8  entries                          20  4  size in the file
 *    12  4  bytes of the directory           40  8  bytes of the directory           24  4  size
 *    16  4  where it begins                  48  8  where it begins                  28  2  bytes of the name
 *                                                                                    30  2  bytes of extra fields
 *   zip64 locator "PK\6\7", 20 bytes, right before the end record                    32  2  bytes of the comment
 *     8  8  where the zip64 end record begins                                        42  4  where the local header begins
 *
 *   local header "PK\3\4", 30 bytes: 26 2 bytes of the name, 28 2 bytes of extra fields; the data follows them.
 *   A 32-bit field of all ones means that the value is in extra field 1, which has 8 bytes each for size, size in the file,
 *   and offset. */
#include "launch/torch/zip.h"

#include "core/base/bytes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { END_BYTES = 22, END64_BYTES = 56, LOCATOR_BYTES = 20, ENTRY_BYTES = 46, LOCAL_BYTES = 30 };
#define ALL_ONES UINT32_C(0xffffffff)

typedef struct reader {
    const uint8_t *data;
    size_t size;
    um_arena *arena;
    um_err *err;
} reader;

typedef struct directory {
    uint64_t entries, bytes, from;
    uint32_t disk;
} directory;

static bool is_record(const uint8_t *p, uint8_t a, uint8_t b)
{
    return p[0] == 'P' && p[1] == 'K' && p[2] == a && p[3] == b;
}

static um_status end64_read(const reader *r, directory *d, size_t end_at)
{
    if (end_at < LOCATOR_BYTES || !is_record(r->data + end_at - LOCATOR_BYTES, 6, 7))
        return UM_OK; /* the plain record is sufficient */
    uint64_t at = um_get_u64(r->data + end_at - LOCATOR_BYTES + 8);
    if (at > end_at - LOCATOR_BYTES || end_at - LOCATOR_BYTES - at < END64_BYTES ||
        !is_record(r->data + at, 6, 6))
        return UM_FAIL(r->err, UM_E_CORRUPT, "the zip64 record is not where it should be");
    const uint8_t *p = r->data + at;
    *d = (directory){um_get_u64(p + 32), um_get_u64(p + 40), um_get_u64(p + 48),
                     um_get_u32(p + 16) | um_get_u32(p + 20)};
    return UM_OK;
}

/* The end record is at the end of the file, followed only by a comment of at most 65535 bytes. */
static um_status directory_find(const reader *r, directory *out)
{
    if (r->size < END_BYTES)
        return UM_FAIL(r->err, UM_E_CORRUPT, "%zu bytes, a ZIP file has at least %d", r->size,
                       END_BYTES);
    size_t last = r->size - END_BYTES, first = last > 65535 ? last - 65535 : 0;
    for (size_t at = last + 1; at-- > first;) {
        const uint8_t *p = r->data + at;
        if (!is_record(p, 5, 6) || um_get_u16(p + 20) != last - at) continue;
        directory d = {um_get_u16(p + 10), um_get_u32(p + 12), um_get_u32(p + 16),
                       (uint32_t)um_get_u16(p + 4) | um_get_u16(p + 6)};
        UM_TRY(end64_read(r, &d, at));
        if (d.disk != 0)
            return UM_FAIL(r->err, UM_E_DATA, "a ZIP file in several parts is not supported");
        if (d.from > at || d.bytes > at - d.from || d.entries > d.bytes / ENTRY_BYTES)
            return UM_FAIL(r->err, UM_E_CORRUPT, "the directory of the ZIP file lies outside it");
        if (d.entries > UM_ZIP_ENTRIES)
            return UM_FAIL(r->err, UM_E_LIMIT, "%" PRIu64 " entries in the ZIP file, allowed %d",
                           d.entries, UM_ZIP_ENTRIES);
        *out = d;
        return UM_OK;
    }
    return UM_FAIL(r->err, UM_E_CORRUPT,
                   "the directory at the end of the ZIP file is missing: the file is cut off");
}

typedef struct place {
    uint64_t size, stored, from;
} place;

/* Reads from extra field 1 the values that the 32-bit fields defer to it, in the order size, stored, from. */
static bool wide_read(place *p, const uint8_t *extra, size_t n)
{
    while (n >= 4) {
        size_t id = um_get_u16(extra), bytes = um_get_u16(extra + 2);
        if (bytes > n - 4) return false;
        if (id == 1) {
            uint64_t *field[] = {&p->size, &p->stored, &p->from};
            size_t at = 0;
            for (int i = 0; i < 3; i++) {
                if (*field[i] != ALL_ONES) continue;
                if (at + 8 > bytes) return false;
                *field[i] = um_get_u64(extra + 4 + at);
                at += 8;
            }
            return true;
        }
        extra += 4 + bytes;
        n -= 4 + bytes;
    }
    return p->size != ALL_ONES && p->stored != ALL_ONES && p->from != ALL_ONES;
}

/* Finds the data after the local header at p->from. */
static um_status data_find(const reader *r, um_zip_entry *e, const place *p)
{
    if (p->from > r->size || r->size - p->from < LOCAL_BYTES || !is_record(r->data + p->from, 3, 4))
        return UM_FAIL(r->err, UM_E_CORRUPT, "entry %.200s: its header is not where it should be",
                       e->name);
    const uint8_t *local = r->data + p->from;
    uint64_t at = p->from + LOCAL_BYTES + um_get_u16(local + 26) + um_get_u16(local + 28);
    if (at > r->size || p->size > r->size - at)
        return UM_FAIL(r->err, UM_E_CORRUPT, "entry %.200s: its %" PRIu64 " bytes go past the file",
                       e->name, p->size);
    e->data = r->data + at;
    e->size = (size_t)p->size;
    return UM_OK;
}

/* Reads the directory entry at *at; the directory ends at end. */
static um_status entry_read(const reader *r, um_zip_entry *e, size_t *at, size_t end)
{
    const uint8_t *p = r->data + *at;
    if (end - *at < ENTRY_BYTES || !is_record(p, 1, 2))
        return UM_FAIL(r->err, UM_E_CORRUPT, "the directory of the ZIP file is damaged");
    size_t name = um_get_u16(p + 28), extra = um_get_u16(p + 30), comment = um_get_u16(p + 32);
    if (end - *at - ENTRY_BYTES < name + extra + comment ||
        memchr(p + ENTRY_BYTES, 0, name) != NULL)
        return UM_FAIL(r->err, UM_E_CORRUPT, "the directory of the ZIP file is damaged");
    *at += ENTRY_BYTES + name + extra + comment;
    e->name = um_arena_strn(r->arena, (const char *)p + ENTRY_BYTES, name);
    if (um_get_u16(p + 8) & 1)
        return UM_FAIL(r->err, UM_E_DATA, "entry %.200s is encrypted, which is not supported",
                       e->name);
    if (um_get_u16(p + 10) != 0)
        return UM_FAIL(r->err, UM_E_DATA,
                       "entry %.200s is compressed (method %d): torch.save stores its entries; "
                       "load the file with torch and save it again",
                       e->name, um_get_u16(p + 10));
    place where = {um_get_u32(p + 24), um_get_u32(p + 20), um_get_u32(p + 42)};
    if (!wide_read(&where, p + ENTRY_BYTES + name, extra) || where.size != where.stored)
        return UM_FAIL(r->err, UM_E_CORRUPT, "entry %.200s: its sizes are damaged", e->name);
    return data_find(r, e, &where);
}

static int entry_cmp(const void *a, const void *b)
{
    return strcmp(((const um_zip_entry *)a)->name, ((const um_zip_entry *)b)->name);
}

um_status um_zip_read(um_zip *out, const uint8_t *data, size_t size, um_arena *arena, um_err *err)
{
    reader r = {data, size, arena, err};
    directory d = {0};
    UM_TRY(directory_find(&r, &d));
    um_zip z = {um_arena_zero(arena, (size_t)d.entries * sizeof *z.entry), (size_t)d.entries};
    size_t at = (size_t)d.from, end = (size_t)(d.from + d.bytes);
    for (size_t i = 0; i < z.n; i++) UM_TRY(entry_read(&r, &z.entry[i], &at, end));
    if (z.n > 0) qsort(z.entry, z.n, sizeof *z.entry, entry_cmp);
    for (size_t i = 1; i < z.n; i++) {
        if (strcmp(z.entry[i - 1].name, z.entry[i].name) == 0)
            return UM_FAIL(err, UM_E_CORRUPT, "entry %.200s is there twice", z.entry[i].name);
    }
    *out = z;
    return UM_OK;
}

const um_zip_entry *um_zip_find(const um_zip *z, const char *name)
{
    um_zip_entry key = {.name = name};
    return z->n == 0 ? NULL : bsearch(&key, z->entry, z->n, sizeof *z->entry, entry_cmp);
}
