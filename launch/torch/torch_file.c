/* See torch_file.h. TOP/data.pkl is the pickle, TOP/data/KEY the values of storage KEY, TOP/byteorder (since torch 2.1) the word
 * little or big; TOP is any one name. Source: torch/serialization.py, caffe2/serialize/inline_container.cc. */
#include "launch/torch/torch_file.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/file_trouble.h"
#include "launch/torch/zip.h"

#include <string.h>

struct um_torch {
    um_arena arena; /* names and the tree */
    um_file map;
    um_zip zip;
    const char *top; /* with its trailing slash */
    const um_value *root;
};

/* Before torch 1.6 a file was a sequence of pickles, the first of which is the number 0x1950a86a20f9469cfc6c. */
static bool is_legacy(const um_file *f)
{
    static const uint8_t magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c,
                                    0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    return f->size >= sizeof magic && memcmp(f->data, magic, sizeof magic) == 0;
}

static um_status form_check(const um_file *f, um_err *err)
{
    if (is_legacy(f))
        return UM_FAIL(err, UM_E_DATA,
                       "written in the format that torch had before 1.6; save it again with: "
                       "python3 -c \"import sys, torch; torch.save(torch.load(sys.argv[1], "
                       "map_location='cpu'), sys.argv[1])\" FILE");
    char why[UM_TROUBLE_TEXT];
    bool zip = f->size >= 4 && memcmp(f->data, "PK\3\4", 4) == 0;
    bool pickle = f->size > 0 && f->data[0] == 0x80;
    if (!zip && !pickle && um_file_trouble(why, f->data, f->size))
        return UM_FAIL(err, UM_E_DATA, "%s", why);
    if (!zip) return UM_FAIL(err, UM_E_DATA, "not a file that torch.save wrote: it is no ZIP file");
    return UM_OK;
}

/* Finds the entry TOP/data.pkl and sets f->top. */
static const um_zip_entry *pickle_find(um_torch *f)
{
    static const char name[] = "/data.pkl";
    for (size_t i = 0; i < f->zip.n; i++) {
        const um_zip_entry *e = &f->zip.entry[i];
        const char *slash = strchr(e->name, '/');
        if (slash == NULL || strcmp(slash, name) != 0) continue;
        f->top = um_arena_strn(&f->arena, e->name, (size_t)(slash + 1 - e->name));
        return e;
    }
    return NULL;
}

static um_status order_check(um_torch *f, um_err *err)
{
    const um_zip_entry *e = um_zip_find(&f->zip, um_arena_fmt(&f->arena, "%sbyteorder", f->top));
    if (e == NULL || (e->size == 6 && memcmp(e->data, "little", 6) == 0)) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "written on a big-endian machine, which is not supported");
}

static um_status read_all(um_torch *f, const char *path, um_err *err)
{
    UM_TRY(um_file_map(&f->map, path, err));
    UM_TRY(form_check(&f->map, err));
    UM_TRY(um_zip_read(&f->zip, f->map.data, f->map.size, &f->arena, err));
    const um_zip_entry *pickle = pickle_find(f);
    if (pickle == NULL)
        return UM_FAIL(err, UM_E_DATA, "not a file that torch.save wrote: it has no data.pkl");
    UM_TRY(order_check(f, err));
    return um_pickle_read(&f->root, pickle->data, pickle->size, &f->arena, err);
}

um_status um_torch_open(um_torch **out, const char *path, um_err *err)
{
    um_torch *f = um_zalloc(sizeof *f);
    um_arena_init(&f->arena, "torch file", 1 << 16);
    um_status st = read_all(f, path, err);
    if (st == UM_OK)
        *out = f;
    else
        um_torch_close(f);
    return um_wrap(err, st, "%s", path);
}

void um_torch_close(um_torch *f)
{
    if (f == NULL) return;
    um_file_unmap(&f->map);
    um_arena_free(&f->arena);
    um_free(f);
}

const um_value *um_torch_root(const um_torch *f) { return f->root; }

um_status um_torch_data(const um_torch *f, const uint8_t **out, const um_value *tensor, um_err *err)
{
    const um_value *s = tensor->storage;
    char name[512];
    size_t bytes, size = um_dtype_size(s->dtype), room = sizeof name;
    UM_ASSERT(tensor->kind == UM_VALUE_TENSOR);
    size_t top = strlen(f->top), key = strlen(s->text);
    if (top + key + 6 > room) return UM_FAIL(err, UM_E_CORRUPT, "a storage's name is too long");
    memcpy(name, f->top, top);
    memcpy(name + top, "data/", 5);
    memcpy(name + top + 5, s->text, key + 1);
    const um_zip_entry *e = um_zip_find(&f->zip, name);
    if (e == NULL) return UM_FAIL(err, UM_E_CORRUPT, "the storage %.200s is missing", name);
    if (!um_mul_ok(&bytes, (size_t)s->number, size) || bytes > e->size)
        return UM_FAIL(err, UM_E_CORRUPT, "the storage %.200s has %zu bytes, its tensors need more",
                       name, e->size);
    /* an empty tensor may start anywhere, even past the end */
    size_t offset = (size_t)(tensor->number < s->number ? tensor->number : 0);
    *out = e->data + offset * size;
    return UM_OK;
}

void um_torch_forget(const um_torch *f, const uint8_t *data, size_t bytes)
{
    um_file_forget(&f->map, (size_t)(data - f->map.data), bytes);
}
