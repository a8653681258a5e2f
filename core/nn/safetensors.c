/* See safetensors.h. A set is its files, mapped, and one list of tensors sorted by name. Only headers are read here: the data
 * pages of a checkpoint are first touched by whoever loads a tensor. */
#include "core/nn/safetensors.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    HEADER_MAX = 100000000, /* bytes of a header, and of an index: the format's own limit */
    SHARDS_MAX = 65536,
};

typedef struct shard {
    const char *path;
    um_file map;
} shard;

struct um_tensors {
    um_arena arena; /* names, paths, list */
    const char *path;
    shard *shards;
    int files;
    um_tensor *list; /* sorted by name */
    size_t n;
};

/* The tensors of one file while it is being checked. */
typedef struct parsed {
    um_tensor *list;
    size_t *from; /* offset of each in the data */
    size_t n;
} parsed;

/* --- one file --- */

static um_status shape_parse(um_tensor *t, const um_json *shape, um_err *err)
{
    if (um_json_kind_of(shape) != UM_JSON_ARRAY)
        return UM_FAIL(err, UM_E_CORRUPT, "shape is not a list");
    size_t rank = um_json_size(shape), bytes = um_dtype_size(t->dtype), most = bytes;
    if (rank > UM_MAX_DIMS) {
        return UM_FAIL(err, UM_E_CORRUPT, "%zu dimensions, allowed 0..%d", rank, UM_MAX_DIMS);
    }
    for (size_t i = 0; i < rank; i++) {
        int64_t d = um_json_int(um_json_at(shape, i), -1);
        if (d < 0)
            return UM_FAIL(err, UM_E_CORRUPT,
                           "dimension %zu of its shape is not a whole number from 0 up", i);
        /* a dimension of 0 does not excuse the others: no product of some of them may overflow anywhere */
        if (!um_mul_ok(&most, most, d > 0 ? (size_t)d : 1)) {
            return UM_FAIL(err, UM_E_CORRUPT, "its shape has too many values to count");
        }
        bytes *= (size_t)d;
        t->shape[i] = d;
    }
    t->rank = (int)rank;
    t->bytes = bytes;
    return UM_OK;
}

static um_status offsets_parse(size_t *from, const um_tensor *t, const um_json *offsets,
                               size_t data_size, um_err *err)
{
    int64_t a = um_json_int(um_json_at(offsets, 0), -1),
            b = um_json_int(um_json_at(offsets, 1), -1);
    if (um_json_kind_of(offsets) != UM_JSON_ARRAY || um_json_size(offsets) != 2 || a < 0 || b < a) {
        return UM_FAIL(err, UM_E_CORRUPT, "data_offsets is not [from, to] with 0 <= from <= to");
    }
    if ((uint64_t)b > data_size) {
        return UM_FAIL(err, UM_E_CORRUPT,
                       "data_offsets end at %" PRId64 ", the file has %zu bytes of data", b,
                       data_size);
    }
    if ((size_t)(b - a) != t->bytes) {
        char shape[96];
        um_shape_text(shape, t->rank, t->shape);
        return UM_FAIL(err, UM_E_CORRUPT, "data_offsets hold %" PRId64 " bytes, %s %s needs %zu",
                       b - a, um_dtype_name(t->dtype), shape, t->bytes);
    }
    *from = (size_t)a;
    return UM_OK;
}

static um_status tensor_parse(um_tensor *t, size_t *from, const um_json *entry, size_t data_size,
                              um_err *err)
{
    if (um_json_kind_of(entry) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_CORRUPT, "its entry is not an object");
    const char *dtype = um_json_str(um_json_get(entry, "dtype"), NULL);
    if (dtype == NULL) return UM_FAIL(err, UM_E_CORRUPT, "dtype is missing or not a string");
    int type = um_dtype_from_name(dtype);
    if (type < 0) return UM_FAIL(err, UM_E_CORRUPT, "dtype \"%.32s\" is not known", dtype);
    t->dtype = (um_dtype)type;
    UM_TRY(shape_parse(t, um_json_get(entry, "shape"), err));
    UM_TRY(offsets_parse(from, t, um_json_get(entry, "data_offsets"), data_size, err));
    if (um_json_size(entry) != 3) {
        return UM_FAIL(err, UM_E_CORRUPT,
                       "its entry has keys besides dtype, shape and data_offsets");
    }
    return UM_OK;
}

static um_status metadata_check(const um_json *metadata, um_err *err)
{
    if (um_json_kind_of(metadata) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_CORRUPT, "__metadata__ is not an object");
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(metadata, &iter, &key)) != NULL;) {
        if (um_json_kind_of(v) != UM_JSON_STRING) {
            return UM_FAIL(err, UM_E_CORRUPT, "__metadata__ \"%.64s\" is not a string", key);
        }
    }
    return UM_OK;
}

/* An (offset, index) pair, so that the tensors can be looked at in the order of their data. */
typedef struct place {
    size_t from;
    size_t i;
} place;

static int place_cmp(const void *a, const void *b)
{
    const place *p = a, *q = b;
    if (p->from != q->from) return p->from < q->from ? -1 : 1;
    return p->i < q->i ? -1 : p->i > q->i;
}

/* The data must be covered once, without overlap, hole or rest. Tensors without bytes may stand anywhere at a border. */
static um_status coverage_check(const parsed *p, size_t data_size, um_arena *scratch, um_err *err)
{
    place *at = um_arena_alloc(scratch, p->n * sizeof *at);
    size_t m = 0, end = 0;
    const char *before = NULL;
    for (size_t i = 0; i < p->n; i++) {
        if (p->list[i].bytes > 0) at[m++] = (place){p->from[i], i};
    }
    qsort(at, m, sizeof *at, place_cmp);
    for (size_t i = 0; i < m; i++) {
        const um_tensor *t = &p->list[at[i].i];
        if (at[i].from < end) {
            return UM_FAIL(err, UM_E_CORRUPT, "tensors %s and %s overlap", before, t->name);
        }
        if (at[i].from > end) {
            return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes before tensor %s belong to no tensor",
                           at[i].from - end, t->name);
        }
        end += t->bytes;
        before = t->name;
    }
    if (end == data_size) return UM_OK;
    return UM_FAIL(err, UM_E_CORRUPT, "the last %zu bytes belong to no tensor", data_size - end);
}

/* out lives in scratch, the names in arena. */
static um_status entries_parse(parsed *out, const um_json *root, const shard *file, size_t data_at,
                               um_arena *scratch, um_arena *arena, um_err *err)
{
    size_t data_size = file->map.size - data_at, room = um_json_size(root);
    parsed p = {um_arena_zero(scratch, room * sizeof *p.list),
                um_arena_alloc(scratch, room * sizeof *p.from), 0};
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(root, &iter, &key)) != NULL;) {
        if (strcmp(key, "__metadata__") == 0) {
            UM_TRY(metadata_check(v, err));
            continue;
        }
        um_tensor *t = &p.list[p.n];
        UM_TRY(
            um_wrap(err, tensor_parse(t, &p.from[p.n], v, data_size, err), "tensor %.400s", key));
        t->name = um_arena_str(arena, key);
        t->data = file->map.data + data_at + p.from[p.n];
        p.n++;
    }
    UM_TRY(coverage_check(&p, data_size, scratch, err));
    *out = p;
    return UM_OK;
}

static um_status header_parse(parsed *out, const shard *file, um_arena *scratch, um_arena *arena,
                              um_err *err)
{
    const um_file *f = &file->map;
    if (f->size < 8)
        return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes, a safetensors file has at least 8", f->size);
    uint64_t n = um_get_u64(f->data);
    if (n > HEADER_MAX) {
        return UM_FAIL(err, UM_E_CORRUPT,
                       "header of %" PRIu64 " bytes, allowed %d: not a safetensors file", n,
                       HEADER_MAX);
    }
    if (n > f->size - 8) {
        return UM_FAIL(err, UM_E_CORRUPT,
                       "header of %" PRIu64 " bytes in a file of %zu: the file is cut off", n,
                       f->size);
    }
    if (n == 0 || f->data[8] != '{')
        return UM_FAIL(err, UM_E_CORRUPT, "the header does not begin with {");
    um_json *root = NULL;
    UM_TRY(um_wrap(err, um_json_parse(&root, f->data + 8, (size_t)n, err), "header"));
    um_status st = entries_parse(out, root, file, 8 + (size_t)n, scratch, arena, err);
    um_json_free(root);
    return st;
}

/* --- the set --- */

static int name_cmp(const void *a, const void *b)
{
    return strcmp(((const um_tensor *)a)->name, ((const um_tensor *)b)->name);
}

/* Appends the tensors of shard i to the list, which has room for *cap. */
static void shard_append(um_tensors *s, int i, const parsed *p, size_t *cap)
{
    if (s->n + p->n > *cap) {
        *cap = (s->n + p->n) * 2;
        s->list = um_realloc(s->list, *cap * sizeof *s->list);
    }
    for (size_t k = 0; k < p->n; k++) {
        s->list[s->n] = p->list[k];
        s->list[s->n++].file = i;
    }
}

static um_status shard_open(um_tensors *s, int i, size_t *cap, um_err *err)
{
    shard *file = &s->shards[i];
    UM_TRY(um_file_map(&file->map, file->path, err));
    parsed p = {0};
    um_arena scratch;
    um_arena_init(&scratch, "safetensors header", 1 << 16);
    um_status st = header_parse(&p, file, &scratch, &s->arena, err);
    if (st == UM_OK) shard_append(s, i, &p, cap);
    um_arena_free(&scratch);
    return um_wrap(err, st, "%s", file->path);
}

static um_status shards_open(um_tensors *s, um_err *err)
{
    size_t cap = 0;
    for (int i = 0; i < s->files; i++) UM_TRY(shard_open(s, i, &cap, err));
    if (s->n > 0) qsort(s->list, s->n, sizeof *s->list, name_cmp);
    for (size_t i = 1; i < s->n; i++) {
        const um_tensor *a = &s->list[i - 1], *b = &s->list[i];
        if (strcmp(a->name, b->name) == 0) {
            return UM_FAIL(err, UM_E_CORRUPT, "tensor %.400s is in %s and in %s", a->name,
                           s->shards[a->file].path, s->shards[b->file].path);
        }
    }
    return UM_OK;
}

static int text_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different file names of a weight_map, sorted, as shards of the set. */
static um_status index_shards(um_tensors *s, const um_json *map, const char *dir, um_err *err)
{
    size_t n = um_json_size(map), m = 0;
    if (um_json_kind_of(map) != UM_JSON_OBJECT || n == 0) {
        return UM_FAIL(err, UM_E_CORRUPT, "weight_map is missing, empty or not an object");
    }
    const char **names = um_arena_alloc(&s->arena, n * sizeof *names), *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(map, &iter, &key)) != NULL;) {
        const char *name = um_json_str(v, "");
        if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL) {
            return UM_FAIL(err, UM_E_CORRUPT,
                           "weight_map of tensor %.400s: \"%.64s\", allowed the name of a file "
                           "beside the index",
                           key, name);
        }
        names[m++] = name;
    }
    qsort(names, n, sizeof *names, text_cmp);
    s->shards = um_arena_zero(&s->arena, n * sizeof *s->shards);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(names[i], names[i - 1]) == 0) continue;
        if (s->files == SHARDS_MAX)
            return UM_FAIL(err, UM_E_LIMIT, "weight_map names more than %d files", SHARDS_MAX);
        s->shards[s->files++].path = um_path_join(&s->arena, dir, names[i]);
    }
    return UM_OK;
}

/* Each tensor must be in the file that the index names. */
static um_status index_check(const um_tensors *s, const um_json *map, um_err *err)
{
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(map, &iter, &key)) != NULL;) {
        const char *want = um_json_str(v, "");
        const um_tensor *t = um_tensors_find(s, key);
        const char *path = t != NULL ? s->shards[t->file].path : "";
        const char *slash = strrchr(path, '/');
        if (t == NULL || strcmp(slash + 1, want) != 0) {
            return UM_FAIL(err, UM_E_CORRUPT, "tensor %.400s should be in %.64s, which has it not",
                           key, want);
        }
    }
    return UM_OK;
}

static um_status index_open(um_tensors *s, const char *index, const char *dir, um_err *err)
{
    um_json *root = NULL;
    UM_TRY(um_json_load(&root, index, HEADER_MAX, err));
    const um_json *map = um_json_get(root, "weight_map");
    um_status st = um_wrap(err, index_shards(s, map, dir, err), "%s", index);
    if (st == UM_OK) st = shards_open(s, err);
    if (st == UM_OK) st = um_wrap(err, index_check(s, map, err), "%s", index);
    um_json_free(root);
    return st;
}

static bool has_pickles(const char *dir)
{
    DIR *d = opendir(dir);
    bool found = false;
    for (struct dirent *e; d != NULL && !found && (e = readdir(d)) != NULL;) {
        size_t n = strlen(e->d_name);
        found = n > 4 && strcmp(e->d_name + n - 4, ".bin") == 0;
    }
    if (d != NULL) closedir(d);
    return found;
}

static bool is_folder(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

static um_status set_open(um_tensors *s, const char *path, um_err *err)
{
    const char *file = path;
    s->path = um_arena_str(&s->arena, path);
    if (is_folder(path)) {
        const char *index = um_path_join(&s->arena, path, "model.safetensors.index.json");
        file = um_path_join(&s->arena, path, "model.safetensors");
        if (!um_file_exists(file) && um_file_exists(index)) return index_open(s, index, path, err);
        if (!um_file_exists(file)) {
            return UM_FAIL(
                err, UM_E_MODEL,
                "%s: neither model.safetensors nor model.safetensors.index.json is there%s", path,
                has_pickles(path) ? "; its .bin files must be converted to safetensors first" : "");
        }
    }
    s->shards = um_arena_zero(&s->arena, sizeof *s->shards);
    s->shards[0].path = um_arena_str(&s->arena, file);
    s->files = 1;
    return shards_open(s, err);
}

um_status um_tensors_open(um_tensors **out, const char *path, um_err *err)
{
    um_tensors *s = um_zalloc(sizeof *s);
    um_arena_init(&s->arena, "safetensors", 1 << 16);
    um_status st = set_open(s, path, err);
    if (st == UM_OK)
        *out = s;
    else
        um_tensors_close(s);
    return st;
}

um_tensors *um_tensors_describe(const um_tensor *list, size_t n, const char *path)
{
    um_tensors *s = um_zalloc(sizeof *s);
    um_arena_init(&s->arena, "safetensors", 1 << 16);
    s->path = um_arena_str(&s->arena, path);
    s->list = n == 0 ? NULL : um_zalloc(n * sizeof *s->list);
    s->n = n;
    for (size_t i = 0; i < n; i++) {
        s->list[i] = list[i];
        s->list[i].name = um_arena_str(&s->arena, list[i].name);
        s->list[i].data = NULL;
    }
    if (n > 0) qsort(s->list, n, sizeof *s->list, name_cmp);
    return s;
}

void um_tensors_close(um_tensors *s)
{
    if (s == NULL) return;
    for (int i = 0; i < s->files; i++) um_file_unmap(&s->shards[i].map);
    um_free(s->list);
    um_arena_free(&s->arena);
    um_free(s);
}

size_t um_tensors_count(const um_tensors *s) { return s->n; }

const um_tensor *um_tensors_at(const um_tensors *s, size_t i)
{
    UM_ASSERT(i < s->n);
    return &s->list[i];
}

const um_tensor *um_tensors_find(const um_tensors *s, const char *name)
{
    um_tensor key = {.name = name};
    return s->n == 0 ? NULL : bsearch(&key, s->list, s->n, sizeof *s->list, name_cmp);
}

static bool is_float(um_dtype t)
{
    return t == UM_F32 || t == UM_BF16 || t == UM_F16 || t == UM_F64;
}

static bool shape_fits(const um_tensor *t, int rank, const int64_t *shape)
{
    if (t->rank != rank) return false;
    for (int i = 0; i < rank; i++) {
        if (shape[i] != -1 && shape[i] != t->shape[i]) return false;
    }
    return true;
}

um_status um_tensors_want(const um_tensors *s, const um_tensor **out, const char *name, int rank,
                          const int64_t *shape, um_err *err)
{
    const um_tensor *t = um_tensors_find(s, name);
    if (t == NULL) return UM_FAIL(err, UM_E_MODEL, "tensor %s: missing in %s", name, s->path);
    if (!shape_fits(t, rank, shape)) {
        char found[96], want[96];
        um_shape_text(found, t->rank, t->shape);
        um_shape_text(want, rank, shape);
        return UM_FAIL(err, UM_E_MODEL, "tensor %s in %s: shape %s, want %s", name, s->path, found,
                       want);
    }
    if (!is_float(t->dtype)) {
        return UM_FAIL(err, UM_E_MODEL, "tensor %s in %s: dtype %s, want F32, BF16, F16 or F64",
                       name, s->path, um_dtype_name(t->dtype));
    }
    *out = t;
    return UM_OK;
}

void um_tensors_forget(const um_tensors *s, const um_tensor *t)
{
    const um_file *f = &s->shards[t->file].map;
    um_file_forget(f, (size_t)(t->data - f->data), t->bytes);
}

const char *um_tensors_path(const um_tensors *s) { return s->path; }

void um_tensor_to_f32(float *out, const um_tensor *t)
{
    UM_ASSERT(is_float(t->dtype));
    um_to_f32(out, t->data, t->dtype, t->bytes / um_dtype_size(t->dtype));
}

void um_shape_text(char out[96], int rank, const int64_t *shape)
{
    size_t n = (size_t)snprintf(out, 96, "[");
    for (int i = 0; i < rank && n < 96; i++) {
        n += (size_t)snprintf(out + n, 96 - n, "%s%" PRId64, i > 0 ? "," : "", shape[i]);
    }
    if (n < 96) snprintf(out + n, 96 - n, "]");
}
